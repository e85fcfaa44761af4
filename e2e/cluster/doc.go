// Package cluster tests a cluster of agents as processes on this machine, with the project's own host: how it is
// formed, and what the death of nodes does. It needs neither root nor QEMU, and builds the binaries that it runs.
package cluster
