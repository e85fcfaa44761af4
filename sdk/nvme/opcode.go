package nvme

import "fmt"

// Opcode is byte 0 of a command. The same value means one thing on the Admin queue and
// another on an I/O queue, so constants and names come in sets.
type Opcode uint8

// OpcodeFabrics marks a Fabrics command on any queue; its FabricsType says which. Base 6
const OpcodeFabrics Opcode = 0x7f

// Admin commands. Base 5
const (
	AdminDeleteIOSQ         Opcode = 0x00
	AdminCreateIOSQ         Opcode = 0x01
	AdminGetLogPage         Opcode = 0x02
	AdminDeleteIOCQ         Opcode = 0x04
	AdminCreateIOCQ         Opcode = 0x05
	AdminIdentify           Opcode = 0x06
	AdminAbort              Opcode = 0x08
	AdminSetFeatures        Opcode = 0x09
	AdminGetFeatures        Opcode = 0x0a
	AdminAsyncEventRequest  Opcode = 0x0c
	AdminNSManagement       Opcode = 0x0d
	AdminFirmwareCommit     Opcode = 0x10
	AdminFirmwareDownload   Opcode = 0x11
	AdminDeviceSelfTest     Opcode = 0x14
	AdminNSAttachment       Opcode = 0x15
	AdminKeepAlive          Opcode = 0x18
	AdminDirectiveSend      Opcode = 0x19
	AdminDirectiveReceive   Opcode = 0x1a
	AdminVirtualization     Opcode = 0x1c
	AdminMISend             Opcode = 0x1d
	AdminMIReceive          Opcode = 0x1e
	AdminCapacityManagement Opcode = 0x20
	AdminLockdown           Opcode = 0x24
	AdminDoorbellBuffer     Opcode = 0x7c
	AdminFormatNVM          Opcode = 0x80
	AdminSecuritySend       Opcode = 0x81
	AdminSecurityReceive    Opcode = 0x82
	AdminSanitize           Opcode = 0x84
	AdminGetLBAStatus       Opcode = 0x86
)

// I/O commands of the NVM command set. NVM 3.2, Base 7
const (
	IOFlush               Opcode = 0x00
	IOWrite               Opcode = 0x01
	IORead                Opcode = 0x02
	IOWriteUncorrectable  Opcode = 0x04
	IOCompare             Opcode = 0x05
	IOWriteZeroes         Opcode = 0x08
	IODatasetManagement   Opcode = 0x09
	IOVerify              Opcode = 0x0c
	IOReservationRegister Opcode = 0x0d
	IOReservationReport   Opcode = 0x0e
	IOReservationAcquire  Opcode = 0x11
	IOReservationRelease  Opcode = 0x15
	IOCopy                Opcode = 0x19
)

// Direction says which way the data of a command travels. Base 3.3.3.1, opcode bits 1:0
type Direction uint8

// Directions as encoded in an opcode (or FabricsType).
const (
	NoTransfer       Direction = 0
	HostToController Direction = 1
	ControllerToHost Direction = 2
	Bidirectional    Direction = 3
)

// Direction returns the data transfer direction that the opcode encodes.
// For OpcodeFabrics ask the FabricsType instead.
func (o Opcode) Direction() Direction { return Direction(o & 3) }

// IsVendor reports whether an Admin opcode is vendor specific.
func (o Opcode) IsVendor() bool { return o >= 0xc0 }

var adminNames = map[Opcode]string{
	AdminDeleteIOSQ: "delete-io-sq", AdminCreateIOSQ: "create-io-sq", AdminGetLogPage: "get-log-page",
	AdminDeleteIOCQ: "delete-io-cq", AdminCreateIOCQ: "create-io-cq", AdminIdentify: "identify",
	AdminAbort: "abort", AdminSetFeatures: "set-features", AdminGetFeatures: "get-features",
	AdminAsyncEventRequest: "async-event-request", AdminNSManagement: "ns-management",
	AdminFirmwareCommit: "firmware-commit", AdminFirmwareDownload: "firmware-download",
	AdminDeviceSelfTest: "device-self-test", AdminNSAttachment: "ns-attachment",
	AdminKeepAlive: "keep-alive", AdminDirectiveSend: "directive-send",
	AdminDirectiveReceive: "directive-receive", AdminVirtualization: "virtualization",
	AdminMISend: "mi-send", AdminMIReceive: "mi-receive",
	AdminCapacityManagement: "capacity-management", AdminLockdown: "lockdown",
	AdminDoorbellBuffer: "doorbell-buffer", AdminFormatNVM: "format-nvm",
	AdminSecuritySend: "security-send", AdminSecurityReceive: "security-receive",
	AdminSanitize: "sanitize", AdminGetLBAStatus: "get-lba-status", OpcodeFabrics: "fabrics",
}

var ioNames = map[Opcode]string{
	IOFlush: "flush", IOWrite: "write", IORead: "read", IOWriteUncorrectable: "write-uncorrectable",
	IOCompare: "compare", IOWriteZeroes: "write-zeroes", IODatasetManagement: "dataset-management",
	IOVerify: "verify", IOReservationRegister: "reservation-register",
	IOReservationReport: "reservation-report", IOReservationAcquire: "reservation-acquire",
	IOReservationRelease: "reservation-release", IOCopy: "copy", OpcodeFabrics: "fabrics",
}

// AdminName names an opcode met on the Admin queue.
func (o Opcode) AdminName() string { return opcodeName(adminNames, o) }

// IOName names an opcode met on an I/O queue.
func (o Opcode) IOName() string { return opcodeName(ioNames, o) }

func opcodeName(names map[Opcode]string, o Opcode) string {
	if s, ok := names[o]; ok {
		return s
	}
	return fmt.Sprintf("opcode %02xh", uint8(o))
}
