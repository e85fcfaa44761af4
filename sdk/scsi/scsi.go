// Package scsi has the commands, sense data and parameter lists of SCSI disks: what stands in a CDB,
// and the bytes that go with it either way. It is a codec, the same for every SCSI transport; it
// owns no state, and decides nothing.
//
// Parse functions return views into the bytes that they are given. Append functions append whole
// structures; a device server cuts them to the allocation length.
//
// Editions cited: SPC-4 revision 37, SBC-3 revision 36, SAM-5 revision 21.
package scsi

import (
	"encoding/binary"
	"fmt"
)

var be = binary.BigEndian

// Opcode is the first byte of a CDB.
type Opcode uint8

// Opcodes of a disk. SPC-4 table E.2
const (
	TestUnitReady      Opcode = 0x00
	RequestSense       Opcode = 0x03
	Read6              Opcode = 0x08
	Write6             Opcode = 0x0a
	Inquiry            Opcode = 0x12
	ModeSelect6        Opcode = 0x15
	Reserve6           Opcode = 0x16
	Release6           Opcode = 0x17
	ModeSense6         Opcode = 0x1a
	StartStopUnit      Opcode = 0x1b
	SendDiagnostic     Opcode = 0x1d
	PreventAllow       Opcode = 0x1e
	ReadCapacity10     Opcode = 0x25
	Read10             Opcode = 0x28
	Write10            Opcode = 0x2a
	WriteVerify10      Opcode = 0x2e
	Verify10           Opcode = 0x2f
	Prefetch10         Opcode = 0x34
	SynchronizeCache10 Opcode = 0x35
	ReadDefectData10   Opcode = 0x37
	WriteSame10        Opcode = 0x41
	Unmap              Opcode = 0x42
	LogSense           Opcode = 0x4d
	ModeSelect10       Opcode = 0x55
	Reserve10          Opcode = 0x56
	Release10          Opcode = 0x57
	ModeSense10        Opcode = 0x5a
	PersistentIn       Opcode = 0x5e
	PersistentOut      Opcode = 0x5f
	ExtendedCopy       Opcode = 0x83
	ReceiveCopyResults Opcode = 0x84
	Read16             Opcode = 0x88
	CompareAndWrite    Opcode = 0x89
	Write16            Opcode = 0x8a
	OrWrite            Opcode = 0x8b
	WriteVerify16      Opcode = 0x8e
	Verify16           Opcode = 0x8f
	Prefetch16         Opcode = 0x90
	SynchronizeCache16 Opcode = 0x91
	WriteSame16        Opcode = 0x93
	WriteAtomic16      Opcode = 0x9c
	ServiceActionIn16  Opcode = 0x9e
	ReportLUNs         Opcode = 0xa0
	MaintenanceIn      Opcode = 0xa3
	MaintenanceOut     Opcode = 0xa4
	Read12             Opcode = 0xa8
	Write12            Opcode = 0xaa
	WriteVerify12      Opcode = 0xae
	Verify12           Opcode = 0xaf
	ReadDefectData12   Opcode = 0xb7
)

// Service actions.
const (
	ReadCapacity16          uint8 = 0x10 // of ServiceActionIn16
	GetLBAStatus            uint8 = 0x12
	ReportTargetPortGroups  uint8 = 0x0a // of MaintenanceIn
	ReportSupportedOpcodes  uint8 = 0x0c
	ReportSupportedTaskMgmt uint8 = 0x0d
	SetTargetPortGroups     uint8 = 0x0a // of MaintenanceOut
)

// ServiceAction is the one of a CDB whose opcode has service actions.
func ServiceAction(cdb []byte) uint8 { return cdb[1] & 0x1f }

// CDBLen is the length of a CDB with this opcode in bytes; 0 if the opcode does not tell.
func CDBLen(o Opcode) int { return [8]int{6, 10, 10, 0, 16, 12, 0, 0}[o>>5] }

// Status is how a command ended. SAM-5 5.3.1
type Status uint8

// The statuses.
const (
	StatusGood                Status = 0x00
	StatusCheckCondition      Status = 0x02
	StatusConditionMet        Status = 0x04
	StatusBusy                Status = 0x08
	StatusReservationConflict Status = 0x18
	StatusTaskSetFull         Status = 0x28
	StatusTaskAborted         Status = 0x40
)

// String names the status.
func (s Status) String() string {
	switch s {
	case StatusGood:
		return "good"
	case StatusCheckCondition:
		return "check condition"
	case StatusConditionMet:
		return "condition met"
	case StatusBusy:
		return "busy"
	case StatusReservationConflict:
		return "reservation conflict"
	case StatusTaskSetFull:
		return "task set full"
	case StatusTaskAborted:
		return "task aborted"
	}
	return fmt.Sprintf("status %02xh", uint8(s))
}

// ShortError says that a parameter list is shorter than what it should hold.
type ShortError struct {
	What       string
	Have, Want int // bytes
}

func (e *ShortError) Error() string {
	return fmt.Sprintf("%s: %d bytes, %d are needed", e.What, e.Have, e.Want)
}

func need(what string, b []byte, n int) error {
	if len(b) < n {
		return &ShortError{what, len(b), n}
	}
	return nil
}

// grow appends n zero bytes and returns both all and those.
func grow(b []byte, n int) (all, tail []byte) {
	for range n {
		b = append(b, 0)
	}
	return b, b[len(b)-n:]
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

// putASCII fills p with s, padded with spaces.
func putASCII(p []byte, s string) {
	n := copy(p, s)
	for i := n; i < len(p); i++ {
		p[i] = ' '
	}
}
