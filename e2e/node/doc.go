// Package node tests a node as a process, with the project's own host: what needs neither root nor a kernel's
// initiator. It builds the binaries that it runs by itself.
package node
