// Package access turns I/O on volumes into I/O on extents.
//
// It owns the reactor (one locked OS thread that drains every plugin's
// submission rings and drives the extent stores), the volume handles granted to
// plugins, the order of overlapping commands, and the check of reservations and
// leases on every command. It owns no truth: volumes, leases and reservations
// come from Meta, and what is on disk belongs to package extent. It does not know
// which protocol a host speaks.
//
// # Who owns what
//
// All state of clients, ports, grants, volumes and commands is owned by the
// reactor goroutine; nothing on the path of an I/O is locked or shared. Other
// goroutines reach it by Reactor.Do, which runs a function there. Work that may
// block (leases, creating and sealing extents) is done by a small set of control
// goroutines that Access starts and joins.
package access
