// Package portal is iSCSI on the target's side: it owns sessions and their one connection each, the
// way of data between PDUs and tasks, sequence numbers, discovery, and what the protocol says of
// errors. It does not own sockets (sdk/stream), PDU layouts (sdk/iscsi), the login's stages (package
// login), nor the meaning of commands (package device).
//
// A session is a connection and belongs to one I/O thread, on which everything about it happens.
// Immediate data of a command that lies in the receive window stays there until the command is done;
// other data goes from the socket into the command's buffer, but for what came along with its header.
// Data leaves from the command's buffer, its headers with those of other answers.
//
// Error recovery level 0: a connection on which order is lost is closed, and the session with it.
//
// Edition cited: RFC 7143.
package portal
