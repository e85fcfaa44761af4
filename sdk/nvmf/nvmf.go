// Package nvmf is the NVMe-oF front end of a data plugin, the same for every fabric. It owns
// subsystems as hosts see them, discovery, controllers and queue pairs: what a command means,
// whether it is allowed, which block requests it becomes and with which status it ends. It does
// not own bytes on the wire (packages nvme and the transports), sockets, memory regions or
// polling (the transports), the I/O threads and rings (package block), nor any truth about
// volumes, hosts, paths and reservations: that comes from the core.
//
// Editions cited: NVM Express Base Specification 2.0 ("Base"), NVM Command Set Specification
// 1.0 ("NVM").
//
// # Threads
//
// A queue pair belongs to one I/O thread (block.Thread) and every method of Queue, Command and
// Conn runs on it. A controller's state belongs to the I/O thread of its Admin queue. What an
// I/O queue needs of it (its namespaces, their handles and ANA states) is an immutable view that
// the controller posts to the queue's thread whenever it changes. Nothing on the path of a read
// or a write takes a lock or allocates. Calls to the core run in goroutines of the Target, which
// post their results back and are joined by Target.Run.
//
// # Life of a command
//
// Every Command that Queue.Get returns is released once by the transport:
//
//	c := q.Get()        // nil: the host overran its queue, which is being closed
//	copy(c.SQE[:], …)   // and c.InCapsule, c.Data if the payload lies in the pool already
//	q.Begin(c)          // c.Transfer, c.Length and c.Data say what moves; maybe c.Refused or c.Parked
//	                    // Parked: wait for Conn.Ready(c) before moving data
//	                    // FromHost and not Refused: fill c.Data
//	q.Execute(c)        // also for a refused command, at once
//	Conn.Complete(c)    // the transport sends data and completion, then
//	c.Release()
//
// When the connection is lost the transport calls Queue.Gone, releases what it has not executed,
// and releases the others as Complete hands them back.
package nvmf
