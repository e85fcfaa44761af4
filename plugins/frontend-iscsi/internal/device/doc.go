// Package device is the SCSI device server: targets and logical units as initiators see them, I_T
// nexuses, and the tasks on them. It owns what a command means, whether it is allowed, which block
// requests it becomes, with which status it ends, and the unit attentions in between. It does not
// own bytes in CDBs and parameter lists (sdk/scsi), the SCSI transport (package portal), the I/O
// threads and rings (sdk/block), nor any truth about volumes, initiators, paths and reservations:
// that comes from the core.
//
// Editions cited: SPC-4 revision 37, SBC-3 revision 36, SAM-5 revision 21.
//
// # Threads
//
// A nexus belongs to one I/O thread and every method of Nexus, Task and Port runs on it. What a
// command needs of a logical unit is an immutable view that is replaced as a whole. What all
// nexuses of a logical unit share, its mode pages, is guarded by a mutex that no read or write
// takes. Calls to the core run in goroutines of the Server, which post their results back and are
// joined by Server.Run.
//
// # Life of a task
//
// Every Task that Nexus.Get returns is released once by the transport:
//
//	t := n.Get()
//	t.LUN, t.CDB, … = … // and t.Data, if what the initiator sends lies in the pool already
//	n.Begin(t)          // t.Out says how much data the command takes; maybe t.Refused or t.Parked
//	                    // Parked: wait for Port.Ready(t) before moving data
//	                    // not Refused: fill t.Data with t.Out bytes
//	n.Execute(t)        // also for a refused task
//	Port.Complete(t)    // the transport sends data, status and sense, then
//	t.Release()
//
// An aborted task comes back by Port.Complete as well, with Aborted set and nothing to be sent.
package device
