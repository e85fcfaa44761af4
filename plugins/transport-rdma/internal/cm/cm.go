// Package cm is the private data with which NVMe/RDMA queue pairs are connected: layouts, and why
// a request is refused. Codec only, no I/O.
//
// Edition cited: NVM Express RDMA Transport Specification 1.0 ("RDMA").
package cm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// Lengths in bytes.
const (
	RequestSize = 32
	AcceptSize  = 32
	RejectSize  = 4
)

// Port is where NVMe/RDMA listens unless said otherwise.
const Port = 4420

var le = binary.LittleEndian

// ErrShort is returned for private data that is cut off.
var ErrShort = errors.New("private data is too short")

// Request is what a host sends along to make a queue pair. RDMA 3.1
type Request struct {
	Format     uint16 // 0
	Queue      nvme.QueueID
	Receives   int // HRQSIZE: receives that the host has posted
	Entries    int // HSQSIZE, a count here: commands that the host may have outstanding
	Controller nvme.ControllerID
}

// ParseRequest decodes private data; what follows the request is padding.
func ParseRequest(b []byte) (Request, int, error) {
	if len(b) < RequestSize {
		return Request{}, 0, fmt.Errorf("connect request of %d bytes: %w", len(b), ErrShort)
	}
	return Request{
		Format: le.Uint16(b), Queue: nvme.QueueID(le.Uint16(b[2:])),
		Receives: int(le.Uint16(b[4:])), Entries: int(le.Uint16(b[6:])) + 1,
		Controller: nvme.ControllerID(le.Uint16(b[8:])),
	}, RequestSize, nil
}

// Append appends the wire form.
func (r Request) Append(b []byte) []byte {
	b = le.AppendUint16(b, r.Format)
	b = le.AppendUint16(b, uint16(r.Queue))
	b = le.AppendUint16(b, uint16(r.Receives))
	b = le.AppendUint16(b, uint16(r.Entries-1))
	b = le.AppendUint16(b, uint16(r.Controller))
	return append(b, make([]byte, RequestSize-10)...)
}

// Len is RequestSize.
func (r Request) Len() int { return RequestSize }

// Accept is the answer to a Request that is granted. RDMA 3.1
type Accept struct {
	Format  uint16 // 0
	Entries int    // CRQSIZE: capsules that the controller can receive
}

// ParseAccept decodes private data.
func ParseAccept(b []byte) (Accept, int, error) {
	if len(b) < AcceptSize {
		return Accept{}, 0, fmt.Errorf("connect accept of %d bytes: %w", len(b), ErrShort)
	}
	return Accept{Format: le.Uint16(b), Entries: int(le.Uint16(b[2:]))}, AcceptSize, nil
}

// Append appends the wire form.
func (a Accept) Append(b []byte) []byte {
	b = le.AppendUint16(b, a.Format)
	b = le.AppendUint16(b, uint16(a.Entries))
	return append(b, make([]byte, AcceptSize-4)...)
}

// Len is AcceptSize.
func (a Accept) Len() int { return AcceptSize }

// Reject is the answer to a Request that is refused. RDMA 3.1
type Reject struct {
	Format uint16 // 0
	Status Status
}

// ParseReject decodes private data.
func ParseReject(b []byte) (Reject, int, error) {
	if len(b) < RejectSize {
		return Reject{}, 0, fmt.Errorf("connect reject of %d bytes: %w", len(b), ErrShort)
	}
	return Reject{Format: le.Uint16(b), Status: Status(le.Uint16(b[2:]))}, RejectSize, nil
}

// Append appends the wire form.
func (r Reject) Append(b []byte) []byte {
	b = le.AppendUint16(b, r.Format)
	return le.AppendUint16(b, uint16(r.Status))
}

// Len is RejectSize.
func (r Reject) Len() int { return RejectSize }

// Status is why a request is refused. RDMA 3.1
type Status uint16

// Reasons.
const (
	OK                Status = 0
	InvalidLength     Status = 1
	InvalidFormat     Status = 2
	InvalidQueue      Status = 3
	InvalidEntries    Status = 4 // HSQSIZE
	InvalidReceives   Status = 5 // HRQSIZE
	NoResources       Status = 6
	InvalidIRD        Status = 7
	InvalidORD        Status = 8
	InvalidController Status = 9
)

// String names the reason.
func (s Status) String() string {
	names := [...]string{
		"success", "invalid private data length", "invalid record format", "invalid queue ID", "invalid host send queue size",
		"invalid host receive queue size", "no resources", "invalid inbound read depth", "invalid outbound read depth",
		"invalid controller ID",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status %d", uint16(s))
}

// adminEntries is the most that an Admin queue can have over RDMA. RDMA 3.1
const adminEntries = 32

// Limits are what a Request is judged by.
type Limits struct {
	Queues  int // I/O queues of a controller
	Entries int // of an I/O queue
}

// Offer is what the connection manager says beside the private data.
type Offer struct {
	Reads  int // RDMA READs of ours that the host can serve at a time
	Served int // RDMA READs of the host's that we are to serve at a time
}

// maxReads is what fits the connection manager's field.
const maxReads = 255

// Judge decodes a request and says what is wrong with it, or OK. The first rule that it breaks
// counts.
func Judge(private []byte, o Offer, l Limits) (Request, Status) {
	r, _, err := ParseRequest(private)
	if err != nil {
		return r, InvalidLength
	}
	io := r.Queue != nvme.AdminQueue
	switch {
	case r.Format != 0:
		return r, InvalidFormat
	case int(r.Queue) > l.Queues:
		return r, InvalidQueue
	case r.Entries < nvme.MinQueueEntries, !io && r.Entries > adminEntries, io && r.Entries > l.Entries:
		return r, InvalidEntries
	case r.Receives < r.Entries-1: // one entry of a queue stays free, so that many responses can come
		return r, InvalidReceives
	case o.Reads == 0: // no data of a write could be fetched
		return r, InvalidIRD
	case o.Served > maxReads:
		return r, InvalidORD
	case io && r.Controller > nvme.MaxControllerID, !io && r.Controller > nvme.MaxControllerID && r.Controller < nvme.StaticControllerID:
		return r, InvalidController
	}
	return r, OK
}
