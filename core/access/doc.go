// Package access turns I/O on volumes into I/O on extents, or forwards it to the node
// that drives the volume.
//
// It owns the reactor (one locked OS thread that drains every plugin's
// submission rings and drives the extent stores), the volume handles granted to
// plugins, the order of overlapping commands, and the check of reservations and
// leases on every command. It owns no truth: volumes, leases and reservations
// come from Meta, what is on disk belongs to package extent, and what nodes say to each
// other to package peer. It does not know which protocol a host speaks.
//
// # Who owns what
//
// All state of clients, ports, grants, volumes and commands is owned by the
// reactor goroutine; nothing on the path of an I/O is locked or shared. Other
// goroutines reach it by Reactor.Do, which runs a function there. Work that may
// block (leases, creating and sealing extents) is done by a small set of control
// goroutines that Access starts and joins.
//
// # The life of a command
//
// A command enters by its port, which copies and checks its entry. If it changes data and
// came to an access point that is not its host's optimized one, it waits at the door of its
// grant, where it counts for nothing else, until the path is moved there; only then does it
// begin, under the epoch that the path has by then. Likewise it waits while its volume is given
// up for another node. From then on it is at a store, at the node that drives its volume, or parked
// in exactly one list: behind an overlapping command, for an extent, for bounce memory, for
// the lease, for that node, or for the next turn. Another node's command enters in the same way,
// from its connection in place of a ring. A parked command holds nothing at a disk, so it can be
// dropped at any moment, by an abort, a revoked handle, the end of its client or, once it
// has begun, a higher path epoch. Whatever ends its wait moves it to the list for the next
// turn, where path epoch, reservation and lease are looked at again before it goes on;
// nothing goes on from within another command's completion.
package access
