// Package verbs is what of rdma-core (libibverbs, librdmacm) the transport needs: it owns the
// libraries' objects and the layout of what crosses to C. It does not own threads, memory that is
// registered, nor any protocol. It is the only use of cgo in the project, and is compiled with
// the build tag rdma; without it every call returns ErrAbsent.
//
// Nothing here blocks: the file descriptors of channels, domains and devices are to be polled.
// An object and all its methods belong to one thread, which is its channel's.
package verbs

import (
	"errors"
	"unsafe"
)

// ErrAbsent is returned by a binary that was built without rdma-core.
var ErrAbsent = errors.New("this program was built without rdma-core; with its headers installed, make build builds it (Debian: apt-get install libibverbs-dev librdmacm-dev)")

// EventKind is what happened to an ID. The numbers are those of rdma_cma.h.
type EventKind uint32

// Kinds of events.
const (
	AddrResolved EventKind = iota
	AddrError
	RouteResolved
	RouteError
	ConnectRequest
	ConnectResponse
	ConnectError
	Unreachable
	Rejected
	Established
	Disconnected
	DeviceRemoval
	MulticastJoin
	MulticastError
	AddrChange
	TimewaitExit
)

// String names the kind.
func (k EventKind) String() string {
	names := [...]string{
		"address resolved", "address not resolved", "route resolved", "no route", "connect request",
		"connect response", "connect error", "unreachable", "rejected", "established", "disconnected",
		"device removed", "multicast join", "multicast error", "address changed", "time wait over",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown event"
}

// Event is one of a Channel.
type Event struct {
	Kind   EventKind
	ID     *ID // that it is about; the listener's, if Kind is ConnectRequest
	New    *ID // of a ConnectRequest: in no channel's care yet, see Channel.Adopt
	Status int // of what failed
	// Of ConnectRequest, ConnectResponse and Rejected.
	PrivateData        []byte
	InitiatorDepth     int // RDMA READs that the peer can serve at a time
	ResponderResources int // RDMA READs that the peer wants to have served at a time
}

// Kinds of asynchronous events of a device, as in verbs.h.
const (
	AsyncCQError        = 0
	AsyncQPFatal        = 1
	AsyncQPRequestError = 2
	AsyncQPAccessError  = 3
	AsyncDeviceFatal    = 8
	AsyncPortActive     = 9
	AsyncPortError      = 10
	AsyncGIDChange      = 18
	AsyncSRQError       = 14
	AsyncLastWQEReached = 16
)

// Op is what a WR does.
type Op uint32

// Operations. SendInvalidate has the peer's key WR.Key invalidated on arrival.
const (
	Send Op = iota
	SendInvalidate
	RDMAWrite
	RDMARead
)

// Flags of a WR.
const (
	Signaled uint32 = 1 << iota // a Completion says when it is done
	Inline                      // the data is taken by Post
)

// WR is one work request. Local memory is named by its offset in the domain's.
type WR struct {
	ID     uint64 // comes back in the Completion
	Offset uint64 // of the local memory
	Remote uint64 // address of the peer's, for RDMAWrite and RDMARead
	Length uint32
	Key    uint32 // the peer's
	Op     Op
	Flags  uint32
}

// Completion is the end of a WR.
type Completion struct {
	ID     uint64 // of the WR
	Status WCStatus
	Bytes  uint32 // received
	QP     uint32 // number
	_      uint32
}

const (
	_ = uint(unsafe.Sizeof(WR{}) - 40)
	_ = uint(40 - unsafe.Sizeof(WR{}))
	_ = uint(unsafe.Sizeof(Completion{}) - 24)
	_ = uint(24 - unsafe.Sizeof(Completion{}))
)

// WCStatus is how a WR ended; 0 is well. The numbers are those of verbs.h.
type WCStatus uint32

// Statuses that are told apart.
const (
	WCSuccess         WCStatus = 0
	WCFlushed         WCStatus = 5
	WCRemoteAccess    WCStatus = 10
	WCRetryExceeded   WCStatus = 12
	WCRNRRetryExceded WCStatus = 13
)

// String names the status.
func (s WCStatus) String() string {
	names := [...]string{
		"success", "local length error", "local QP operation error", "local EEC operation error", "local protection error",
		"flushed", "memory window bind error", "bad response", "local access error", "remote invalid request",
		"remote access error", "remote operation error", "transport retries exceeded", "receiver not ready for too long",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return "error"
}

// Link is what kind of port an ID is bound to.
type Link struct {
	IWARP    bool
	Ethernet bool
	MTU      int // bytes, of the path
}

// GID types, as in verbs.h.
const (
	GIDTypeIB     = 0
	GIDTypeRoCEv1 = 1
	GIDTypeRoCEv2 = 2
)

// DomainConfig is what a Domain is made of.
type DomainConfig struct {
	Memory   []byte // stays the caller's, and must stay in place
	Receives int    // of the shared receive queue; 0: there is none, as at a host
	Remote   bool   // peers may name the memory, as at a host
	Sends    int    // of all queue pairs together, at most
}

// Limits are a device's.
type Limits struct {
	Device     string // its name
	CQEntries  int
	SRQEntries int
	QPEntries  int
	ReadDepth  int // RDMA READs that a queue pair can have under way
}
