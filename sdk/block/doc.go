// Package block is what a data plugin sees of a volume: requests on a handle that
// the core granted, buffers in memory shared with the core, and a Thread that moves
// both.
//
// It owns the plugin's end of the rings, the pool's allocation and the I/O thread's
// event loop. It does not know how a handle is obtained (the control protocol), nor
// any protocol that hosts speak.
//
// # One thread, no locks
//
// A Thread is one operating system thread. It waits on the plugin's sockets, the
// core's doorbell and timers at once, and calls back: everything that belongs to a
// Thread (its Pool, the Requests submitted to it, what the callbacks touch) is used
// on that thread only, so that nothing needs a lock. Post is the way in from
// elsewhere. A callback must not block: it would stop every connection of the
// thread.
//
// A turn of the loop runs, in this order: callbacks of ready files, Done of completed
// requests, posted functions, expired timers, parked buffer waits, OnTurn hooks; then
// everything submitted during the turn is shown to the core at once.
package block
