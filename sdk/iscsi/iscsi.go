// Package iscsi has the protocol data units of iSCSI, how they stand on the wire, and the keys and
// rules of its negotiation. It is a codec: bytes in, values out and back; it owns no socket, no
// clock and no state of a session. What a CDB says is package scsi's.
//
// Every PDU begins with a basic header segment of 48 bytes, then come additional header segments, a
// header digest, data, padding to 4 bytes and a data digest; all but the first are optional. Parse
// functions read the basic header segment and take the rest for somebody else's.
//
// Edition cited: RFC 7143.
package iscsi

import (
	"encoding/binary"
	"fmt"
)

// Port is the well-known port. 14
const Port = 3260

// HeaderSize is the length of a basic header segment in bytes. 11.2.1
const HeaderSize = 48

// MaxAHSBytes is the most that all additional header segments together can have. 11.2.1.5
const MaxAHSBytes = 255 * 4

// MaxDataBytes is the most that a data segment can have. 11.2.1.6
const MaxDataBytes = 1<<24 - 1

var be = binary.BigEndian

// Opcode says what a PDU is. 11.2.1.2
type Opcode uint8

// Opcodes of initiators.
const (
	OpNopOut        Opcode = 0x00
	OpSCSICommand   Opcode = 0x01
	OpTaskRequest   Opcode = 0x02
	OpLoginRequest  Opcode = 0x03
	OpTextRequest   Opcode = 0x04
	OpDataOut       Opcode = 0x05
	OpLogoutRequest Opcode = 0x06
	OpSNACK         Opcode = 0x10
)

// Opcodes of targets.
const (
	OpNopIn          Opcode = 0x20
	OpSCSIResponse   Opcode = 0x21
	OpTaskResponse   Opcode = 0x22
	OpLoginResponse  Opcode = 0x23
	OpTextResponse   Opcode = 0x24
	OpDataIn         Opcode = 0x25
	OpLogoutResponse Opcode = 0x26
	OpR2T            Opcode = 0x31
	OpAsyncMessage   Opcode = 0x32
	OpReject         Opcode = 0x3f
)

var opcodeNames = map[Opcode]string{
	OpNopOut: "NOP-Out", OpSCSICommand: "SCSI Command", OpTaskRequest: "Task Management Function Request",
	OpLoginRequest: "Login Request", OpTextRequest: "Text Request", OpDataOut: "SCSI Data-Out",
	OpLogoutRequest: "Logout Request", OpSNACK: "SNACK Request",
	OpNopIn: "NOP-In", OpSCSIResponse: "SCSI Response", OpTaskResponse: "Task Management Function Response",
	OpLoginResponse: "Login Response", OpTextResponse: "Text Response", OpDataIn: "SCSI Data-In",
	OpLogoutResponse: "Logout Response", OpR2T: "Ready To Transfer", OpAsyncMessage: "Asynchronous Message",
	OpReject: "Reject",
}

// String names the PDU.
func (o Opcode) String() string {
	if s, ok := opcodeNames[o]; ok {
		return s
	}
	return fmt.Sprintf("opcode %#02x", uint8(o))
}

// FromTarget says which way the PDU goes.
func (o Opcode) FromTarget() bool { return o >= 0x20 }

// TaskTag names a task, or a transfer of one. 11.2.1.8
type TaskTag uint32

// NoTag is the reserved value of both tags.
const NoTag TaskTag = 0xffff_ffff

// SN is a serial number: it wraps, and is compared as RFC 1982 says.
type SN uint32

// Before says whether s comes before o.
func (s SN) Before(o SN) bool { return int32(s-o) < 0 }

// LUN is the 8-byte field of a PDU; package scsi knows what is in it.
type LUN [8]byte

// ISID is the initiator's part of a session identifier. 11.12.5
type ISID [6]byte

// String is the ISID in hexadecimal, as it stands in a SCSI initiator port's name. 4.3.3
func (i ISID) String() string { return fmt.Sprintf("%012x", [6]byte(i)) }

// Window is what every PDU of a target tells of its command window. 11.4.7
type Window struct {
	StatSN   SN
	ExpCmdSN SN
	MaxCmdSN SN
}

func (w Window) put(p []byte) {
	be.PutUint32(p[24:], uint32(w.StatSN))
	be.PutUint32(p[28:], uint32(w.ExpCmdSN))
	be.PutUint32(p[32:], uint32(w.MaxCmdSN))
}

func parseWindow(p []byte) Window {
	return Window{SN(be.Uint32(p[24:])), SN(be.Uint32(p[28:])), SN(be.Uint32(p[32:]))}
}

// Order is what every PDU of an initiator but Data-Out and SNACK tells of its place. 11.2.1.1
type Order struct {
	Immediate bool
	CmdSN     SN
	ExpStatSN SN
}

func (o Order) put(p []byte) {
	if o.Immediate {
		p[0] |= immediateBit
	}
	be.PutUint32(p[24:], uint32(o.CmdSN))
	be.PutUint32(p[28:], uint32(o.ExpStatSN))
}

func parseOrder(p []byte) Order {
	return Order{p[0]&immediateBit != 0, SN(be.Uint32(p[24:])), SN(be.Uint32(p[28:]))}
}

// ShortError says that there are fewer bytes than a structure has.
type ShortError struct {
	What       string
	Have, Want int // bytes
}

func (e *ShortError) Error() string {
	return fmt.Sprintf("%s: %d bytes, %d are needed", e.What, e.Have, e.Want)
}

func short(o Opcode, b []byte) error { return &ShortError{o.String(), len(b), HeaderSize} }

// begin appends an empty header and returns both what it was appended to and the header.
func begin(b []byte, o Opcode, flags byte, dataBytes int) (all, p []byte) {
	b = append(b, zeros[:]...)
	p = b[len(b)-HeaderSize:]
	p[0], p[1] = byte(o), flags
	p[5], p[6], p[7] = byte(dataBytes>>16), byte(dataBytes>>8), byte(dataBytes)
	return b, p
}

var zeros [HeaderSize]byte

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}
