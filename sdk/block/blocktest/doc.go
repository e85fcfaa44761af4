// Package blocktest runs block.Threads without a core: it serves volumes that live in
// memory on the core's end of real rings, so that a transport or a front end can be
// tested in one process, without root.
//
// It owns the volumes and the goroutine that serves each ring. It has no leases,
// reservations or disks; Intercept and Hold stand in for what goes wrong there.
package blocktest
