// Package transport is the NVMe/TCP transport: it owns listeners, connections, the controller's
// half of the transport's state machine, and the way of payload between sockets and the pool. It
// does not own PDU layouts (sdk/nvmetcp), the meaning of commands, queues or controllers
// (sdk/nvmf), nor I/O threads (sdk/block).
//
// A connection is a queue pair. It belongs to the I/O thread that it was given to when it was
// accepted, and everything about it happens on that thread: no locks, no channels, no allocation
// per command. Thread 0 accepts.
//
// Receiving. A thread has one receive window, a chunk of its pool that all its connections read
// into in turn; what in-capsule data commands refer to stays there until they are done, and the
// next chunk is taken. Data of an H2CData goes from the socket into the command's buffer, but for
// what came along with its header. An idle connection holds no buffer.
//
// Sending. Headers, digests and responses are gathered in an arena, payload is referred to; the
// whole turn's output of a connection leaves with one writev. A response capsule and the header
// of the next C2HData are one vector.
//
// Edition cited: NVM Express TCP Transport Specification 1.0 ("TCP").
package transport
