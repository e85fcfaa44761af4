// Package node tests a node as a process, with the project's own host: what needs neither root nor a kernel's
// initiator; only what mounts file systems needs root. It builds the binaries that it runs by itself.
package node
