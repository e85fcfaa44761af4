// Package transport is the NVMe/RDMA transport: it owns connections, what a command holds while
// its data moves, and the memory that capsules come into. It does not own the libraries' objects
// (verbs), private data (cm), the meaning of commands, queues or controllers (sdk/nvmf), nor I/O
// threads (sdk/block).
//
// A connection is a queue pair, and everything about it happens on its I/O thread. All connections
// of a thread on one device share a domain: the thread's pool, registered once and for local access
// alone; a shared receive queue, whose slots lie in the pool; one completion queue, whose
// descriptor the thread polls with everything else. Data of a read goes from the pool to the host
// by RDMA WRITE, data of a write into the pool by RDMA READ, or it came with the capsule and stays
// in its slot: this package copies none of it, but where one queue holds too many slots.
//
// Work requests are gathered and posted once a turn.
//
// Edition cited: NVM Express RDMA Transport Specification 1.0 ("RDMA").
package transport
