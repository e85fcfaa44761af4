package nvmf

import (
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// Conn is what a transport supplies for one queue pair. The front end calls it on the queue's
// I/O thread only, possibly from within Begin, Execute or Gone.
type Conn interface {
	// Complete hands c back with its result in c.CQE. The transport sends
	// c.Data.Bytes()[:c.Length] if c.SendsData(), then the completion, then calls c.Release. On
	// a connection that is gone it only releases.
	Complete(c *Command)
	// Ready says that a command which Begin had parked may go on: it has its buffer, or it is
	// refused.
	Ready(c *Command)
	// Close ends the connection; the transport answers with Queue.Gone, from within Close or
	// later on the same thread. Completions handed over before are still sent if that can be
	// done without waiting for the host. It may be called more than once.
	Close(reason error)
}

// ConnInfo describes a new connection.
type ConnInfo struct {
	Thread        *block.Thread      // the I/O thread that the connection belongs to
	AccessPointID string             // of the listener that accepted it
	TransportType nvme.TransportType // for SGL rules and discovery
	LocalURL      string             // scheme://address:port that the host connected to
	Peer          string             // the host's transport address, for events and logs
	InCapsuleData int                // bytes of data that an I/O command capsule may carry
}

// Transfer says which way the data of a command moves.
type Transfer uint8

// Directions of a transfer.
const (
	TransferNone Transfer = iota
	TransferFromHost
	TransferToHost
)

// String names the direction.
func (t Transfer) String() string {
	switch t {
	case TransferNone:
		return "none"
	case TransferFromHost:
		return "from host"
	case TransferToHost:
		return "to host"
	}
	return "unknown"
}
