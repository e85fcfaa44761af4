// Package stream moves bytes between TCP sockets and the memory of I/O threads, for any protocol
// that a data plugin speaks over TCP. It owns listeners, the spreading of connections over
// threads, the way of payload from sockets into the pool and back, and the orderly end of a
// connection. It does not own the bytes' meaning: that is a Handler's, one for each connection.
//
// A connection belongs to the I/O thread that it was given to when it was accepted, and everything
// about it happens on that thread: no locks, no channels, no allocation per message. The first
// thread accepts.
//
// Receiving. A thread has one receive window, a chunk of its pool that all its connections read
// into in turn; payload that a handler keeps stays there until it is released, and the next chunk
// is taken. Payload that is known to come next goes from the socket to where the handler wants it.
// An idle connection holds no buffer.
//
// Sending. Headers are gathered in an arena, payload is referred to; the whole turn's output of a
// connection leaves with one writev.
package stream
