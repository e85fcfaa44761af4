// Package hostio is what our hosts do with their connections, whatever they speak: a loop that one thread
// turns, and the bytes that a socket has still to send. It knows no protocol, and does not connect.
//
// A Loop calls its sockets on the goroutine that turns it: no locks, no channels, one writev and few
// readv per turn.
package hostio
