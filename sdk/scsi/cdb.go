package scsi

// Access is what the commands that name a range of blocks ask for. SBC-3 5
type Access struct {
	LBA    uint64
	Blocks uint32
	Flags  byte // byte 1 of the CDB; 0 for the 6-byte commands
}

// Bits of Access.Flags. Which of them a command has is the command's.
const (
	FlagProtect   byte = 0xe0 // RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT
	FlagDPO       byte = 0x10
	FlagFUA       byte = 0x08
	FlagByteCheck byte = 0x06 // BYTCHK, a number
	FlagAnchor    byte = 0x10 // of WRITE SAME and UNMAP's neighbour in byte 1
	FlagUnmap     byte = 0x08 // of WRITE SAME
	FlagNoData    byte = 0x01 // NDOB of WRITE SAME (16)
	FlagImmediate byte = 0x02 // IMMED of PRE-FETCH and SYNCHRONIZE CACHE
)

// ByteCheck is the BYTCHK field.
func (a Access) ByteCheck() uint8 { return a.Flags & FlagByteCheck >> 1 }

// ParseAccess decodes the range of a 6, 10, 12 or 16-byte CDB of the READ, WRITE, VERIFY, WRITE AND
// VERIFY, WRITE SAME, ORWRITE, PRE-FETCH or SYNCHRONIZE CACHE kind, and of COMPARE AND WRITE. The
// CDB has 16 bytes, whatever its length.
func ParseAccess(cdb *[16]byte) Access {
	switch o := Opcode(cdb[0]); o >> 5 {
	case 0:
		n := uint32(cdb[4])
		if n == 0 {
			n = 256
		}
		return Access{LBA: uint64(cdb[1]&0x1f)<<16 | uint64(be.Uint16(cdb[2:])), Blocks: n}
	case 1, 2:
		return Access{LBA: uint64(be.Uint32(cdb[2:])), Blocks: uint32(be.Uint16(cdb[7:])), Flags: cdb[1]}
	case 5:
		return Access{LBA: uint64(be.Uint32(cdb[2:])), Blocks: be.Uint32(cdb[6:]), Flags: cdb[1]}
	default:
		if o == CompareAndWrite {
			return Access{LBA: be.Uint64(cdb[2:]), Blocks: uint32(cdb[13]), Flags: cdb[1]}
		}
		return Access{LBA: be.Uint64(cdb[2:]), Blocks: be.Uint32(cdb[10:]), Flags: cdb[1]}
	}
}

// CDB makes the CDB of such a command. LBA and Blocks must fit.
func (a Access) CDB(o Opcode) (cdb [16]byte) {
	cdb[0], cdb[1] = byte(o), a.Flags
	switch o >> 5 {
	case 0:
		cdb[1], cdb[2], cdb[3], cdb[4] = byte(a.LBA>>16)&0x1f, byte(a.LBA>>8), byte(a.LBA), byte(a.Blocks)
	case 1, 2:
		be.PutUint32(cdb[2:], uint32(a.LBA))
		be.PutUint16(cdb[7:], uint16(a.Blocks))
	case 5:
		be.PutUint32(cdb[2:], uint32(a.LBA))
		be.PutUint32(cdb[6:], a.Blocks)
	default:
		be.PutUint64(cdb[2:], a.LBA)
		if o == CompareAndWrite {
			cdb[13] = byte(a.Blocks)
		} else {
			be.PutUint32(cdb[10:], a.Blocks)
		}
	}
	return cdb
}

// AllocationLength is how much parameter data a command takes at most, for the commands that
// return some. SPC-4 4.2.5.6
func AllocationLength(cdb *[16]byte) uint32 {
	switch o := Opcode(cdb[0]); o {
	case RequestSense, ModeSense6:
		return uint32(cdb[4])
	case Inquiry:
		return uint32(be.Uint16(cdb[3:]))
	case ModeSense10, LogSense, PersistentIn, ReadDefectData10:
		return uint32(be.Uint16(cdb[7:]))
	case ReportLUNs, MaintenanceIn, ReadDefectData12:
		return be.Uint32(cdb[6:])
	case ServiceActionIn16, ReceiveCopyResults:
		return be.Uint32(cdb[10:])
	}
	return 0
}

// ParameterListLength is how much parameter data comes with a command, for the commands that need
// some. SPC-4 4.2.5.5
func ParameterListLength(cdb *[16]byte) uint32 {
	switch o := Opcode(cdb[0]); o {
	case ModeSelect6:
		return uint32(cdb[4])
	case SendDiagnostic:
		return uint32(be.Uint16(cdb[3:]))
	case ModeSelect10, Unmap:
		return uint32(be.Uint16(cdb[7:]))
	case PersistentOut:
		return be.Uint32(cdb[5:])
	case MaintenanceOut:
		return be.Uint32(cdb[6:])
	case ExtendedCopy:
		return be.Uint32(cdb[10:])
	}
	return 0
}
