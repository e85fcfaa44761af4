// Package transport is the NVMe/TCP transport: it owns the controller's half of the transport's
// state machine and what a command holds while its data moves. It does not own sockets, listeners
// or the receive window (sdk/stream), PDU layouts (sdk/nvmetcp), the meaning of commands, queues
// or controllers (sdk/nvmf), nor I/O threads (sdk/block).
//
// A connection is a queue pair, and everything about it happens on its I/O thread. What in-capsule
// data commands refer to stays in the receive window until they are done; data of an H2CData goes
// from the socket into the command's buffer, but for what came along with its header. A response
// capsule and the header of the next C2HData are one vector.
//
// Edition cited: NVM Express TCP Transport Specification 1.0 ("TCP").
package transport
