// Package nvme is the codec of NVM Express: it owns the byte layout of commands, completions,
// status codes, properties, and of the Identify, log page, feature and reservation data
// structures that a 2.0 I/O controller or discovery controller exchanges with a host. It does
// not own any state: no queue, controller, namespace, clock, socket or logger lives here, and
// it never judges whether a command is allowed, only what its bytes say.
//
// Editions cited: NVM Express Base Specification 2.0 ("Base"), NVM Command Set Specification
// 1.0 ("NVM"). All fields are little-endian. Zero-based wire fields (NLB, SQSIZE, NSIZE...)
// are plain counts in this package's API.
//
// Command and Completion are views: they point into the caller's buffer and copy nothing. All
// other structures are plain values; where a Parse function returns slices that alias its
// input, its comment says so. Reserved bytes are ignored by Parse and zero after Append.
package nvme

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrTruncated reports input shorter than the structure it should hold.
	ErrTruncated = errors.New("truncated")
	// ErrMalformed reports input whose fields contradict each other or the standard.
	ErrMalformed = errors.New("malformed")
)

// NSID identifies a namespace. 0 means none. Base 3.2.1.2
type NSID uint32

// BroadcastNSID addresses all namespaces. Base 3.2.1.2
const BroadcastNSID NSID = 0xffff_ffff

// ControllerID identifies a controller within its subsystem (CNTLID). Base 3.1
type ControllerID uint16

const (
	// StaticControllerID in a Connect asks for any controller of a static model. Base 6.3
	StaticControllerID ControllerID = 0xfffe
	// DynamicControllerID in a Connect asks for a new controller. Base 6.3
	DynamicControllerID ControllerID = 0xffff
	// MaxControllerID is the highest identifier that a controller can bear. Base 3.1
	MaxControllerID ControllerID = 0xffef
)

// QueueID identifies a queue pair within its controller. 0 is the Admin queue pair.
type QueueID uint16

// AdminQueue is the Admin queue pair.
const AdminQueue QueueID = 0

// CommandID identifies an outstanding command within its submission queue (CID).
type CommandID uint16

// LBA is the address of a logical block within a namespace.
type LBA uint64

// BlockCount is a number of logical blocks; a count, never zero-based.
type BlockCount uint64

// ANAGroupID identifies an ANA group. 0 means none. Base 8.1
type ANAGroupID uint32

// NVMSetID identifies an NVM set. 0 means none.
type NVMSetID uint16

// EnduranceGroupID identifies an endurance group. 0 means none.
type EnduranceGroupID uint16

// HostID is the 128-bit extended host identifier. All zero means none. Base 5.27.1.25
type HostID [16]byte

// IsZero reports whether the identifier is cleared.
func (h HostID) IsZero() bool { return h == HostID{} }

// String formats the identifier as a UUID.
func (h HostID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// Uint128 is a 128-bit unsigned integer.
type Uint128 struct{ Hi, Lo uint64 }

var le = binary.LittleEndian

func need(what string, b []byte, n int) error {
	if len(b) < n {
		return fmt.Errorf("%s: %w: %d of %d bytes", what, ErrTruncated, len(b), n)
	}
	return nil
}

func malformed(what, why string) error {
	return fmt.Errorf("%s: %w: %s", what, ErrMalformed, why)
}

// grow appends n zero bytes to b and returns the longer slice and the appended part.
func grow(b []byte, n int) (whole, added []byte) {
	l := len(b)
	if cap(b)-l >= n {
		whole = b[:l+n]
		clear(whole[l:])
	} else {
		whole = append(b, make([]byte, n)...)
	}
	return whole, whole[l:]
}

func parse128(b []byte) Uint128                                  { return Uint128{Lo: le.Uint64(b), Hi: le.Uint64(b[8:])} }
func (u Uint128) put(b []byte)                                   { le.PutUint64(b, u.Lo); le.PutUint64(b[8:], u.Hi) }
func bit[T ~uint8 | ~uint16 | ~uint32 | ~uint64](v, mask T) bool { return v&mask != 0 }

// toZeroBased turns a count into a zero-based wire field. A count of zero cannot be expressed;
// it is sent as one, the least that the field can say.
func toZeroBased[T ~uint8 | ~uint16 | ~uint32, N ~uint8 | ~uint16 | ~uint32 | ~uint64](n N) T {
	if n == 0 {
		return 0
	}
	return T(n - 1)
}

// parseASCII returns a field padded with spaces or NULs as a string.
func parseASCII(b []byte) string {
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	return string(b)
}

// putASCII writes s left-justified and padded with spaces, cut to the field. Base 1.4.2
func putASCII(b []byte, s string) {
	n := copy(b, s)
	for ; n < len(b); n++ {
		b[n] = ' '
	}
}

// parseUTF8 returns a NUL-terminated field without its terminator. Base 1.4.2
func parseUTF8(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// putUTF8 writes s padded with NULs, cut to the field.
func putUTF8(b []byte, s string) { clear(b[copy(b, s):]) }
