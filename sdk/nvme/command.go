package nvme

// CommandSize is the length of a submission queue entry in bytes. Base 3.3.3.1
const CommandSize = 64

// Command is a submission queue entry in wire form. A *Command is a view: it aliases the
// buffer it was parsed from and is valid as long as that buffer is; every accessor is a plain
// load or store. Copy the value (it is an array) to keep it longer. Base 3.3.3.1
type Command [CommandSize]byte

// Offsets within a command.
const (
	offOpcode = 0
	offFlags  = 1
	offCID    = 2
	offNSID   = 4
	offMPTR   = 16
	offSGL1   = 24
	offCDW10  = 40
)

// ParseCommand returns the command in the first 64 bytes of b, aliasing b.
func ParseCommand(b []byte) (*Command, int, error) {
	if len(b) < CommandSize {
		return nil, 0, need("command", b, CommandSize)
	}
	return (*Command)(b), CommandSize, nil
}

// Append appends the wire form.
func (c *Command) Append(b []byte) []byte { return append(b, c[:]...) }

// Len is CommandSize.
func (c *Command) Len() int { return CommandSize }

// Fuse says which part of a fused operation a command is. Base 3.4.2
type Fuse uint8

// Parts of a fused operation.
const (
	FuseNone     Fuse = 0
	FuseFirst    Fuse = 1
	FuseSecond   Fuse = 2
	FuseReserved Fuse = 3
)

// PSDT says how a command describes its data. Over fabrics it is always PSDTSGL or
// PSDTSGLSegment. Base 3.3.3.1
type PSDT uint8

// Ways to describe data.
const (
	PSDTPRP        PSDT = 0 // PRPs; not over fabrics
	PSDTSGL        PSDT = 1 // SGL; metadata, if any, is one contiguous buffer
	PSDTSGLSegment PSDT = 2 // SGL; metadata, if any, has an SGL segment of its own
	PSDTReserved   PSDT = 3
)

// Opcode returns byte 0.
func (c *Command) Opcode() Opcode { return Opcode(c[offOpcode]) }

// SetOpcode stores byte 0.
func (c *Command) SetOpcode(o Opcode) { c[offOpcode] = byte(o) }

// Fuse returns the fused-operation part.
func (c *Command) Fuse() Fuse { return Fuse(c[offFlags] & 3) }

// SetFuse stores the fused-operation part.
func (c *Command) SetFuse(f Fuse) { c[offFlags] = c[offFlags]&^3 | byte(f)&3 }

// PSDT returns the kind of data pointer.
func (c *Command) PSDT() PSDT { return PSDT(c[offFlags] >> 6) }

// SetPSDT stores the kind of data pointer.
func (c *Command) SetPSDT(p PSDT) { c[offFlags] = c[offFlags]&^0xc0 | byte(p)<<6 }

// CID returns the command identifier.
func (c *Command) CID() CommandID { return CommandID(le.Uint16(c[offCID:])) }

// SetCID stores the command identifier.
func (c *Command) SetCID(id CommandID) { le.PutUint16(c[offCID:], uint16(id)) }

// NSID returns the namespace identifier. Fabrics commands have a FabricsType in its place.
func (c *Command) NSID() NSID { return NSID(le.Uint32(c[offNSID:])) }

// SetNSID stores the namespace identifier.
func (c *Command) SetNSID(n NSID) { le.PutUint32(c[offNSID:], uint32(n)) }

// FabricsType returns byte 4 of a Fabrics command. Base 6
func (c *Command) FabricsType() FabricsType { return FabricsType(c[offNSID]) }

// SetFabricsType stores byte 4 of a Fabrics command.
func (c *Command) SetFabricsType(t FabricsType) { c[offNSID] = byte(t) }

// MetadataPointer returns bytes 16 to 23.
func (c *Command) MetadataPointer() uint64 { return le.Uint64(c[offMPTR:]) }

// SGL1 returns the data pointer as an SGL descriptor.
func (c *Command) SGL1() SGL { return parseSGL(c[offSGL1 : offSGL1+SGLSize]) }

// SetSGL1 stores the data pointer.
func (c *Command) SetSGL1(s SGL) { s.put(c[offSGL1 : offSGL1+SGLSize]) }

// CDW10 to CDW15 return the command-specific dwords.
func (c *Command) CDW10() uint32 { return le.Uint32(c[40:]) }

// CDW11 returns bytes 44 to 47.
func (c *Command) CDW11() uint32 { return le.Uint32(c[44:]) }

// CDW12 returns bytes 48 to 51.
func (c *Command) CDW12() uint32 { return le.Uint32(c[48:]) }

// CDW13 returns bytes 52 to 55.
func (c *Command) CDW13() uint32 { return le.Uint32(c[52:]) }

// CDW14 returns bytes 56 to 59.
func (c *Command) CDW14() uint32 { return le.Uint32(c[56:]) }

// CDW15 returns bytes 60 to 63.
func (c *Command) CDW15() uint32 { return le.Uint32(c[60:]) }

// SetCDW10 stores bytes 40 to 43.
func (c *Command) SetCDW10(v uint32) { le.PutUint32(c[40:], v) }

// SetCDW11 stores bytes 44 to 47.
func (c *Command) SetCDW11(v uint32) { le.PutUint32(c[44:], v) }

// SetCDW12 stores bytes 48 to 51.
func (c *Command) SetCDW12(v uint32) { le.PutUint32(c[48:], v) }

// SetCDW13 stores bytes 52 to 55.
func (c *Command) SetCDW13(v uint32) { le.PutUint32(c[52:], v) }

// SetCDW14 stores bytes 56 to 59.
func (c *Command) SetCDW14(v uint32) { le.PutUint32(c[56:], v) }

// SetCDW15 stores bytes 60 to 63.
func (c *Command) SetCDW15(v uint32) { le.PutUint32(c[60:], v) }

// Read, Write, Compare, Write Zeroes, Verify and Write Uncorrectable share this layout. NVM 3.2

const (
	cdw12Deallocate  = 1 << 25 // Write Zeroes only
	cdw12FUA         = 1 << 30
	cdw12LimitedTry  = 1 << 31
	cdw12PRINFOShift = 26
)

// MaxBlocks is the most logical blocks that one I/O command can name.
const MaxBlocks BlockCount = 1 << 16

// StartLBA returns the first logical block (SLBA, CDW10 and CDW11).
func (c *Command) StartLBA() LBA { return LBA(le.Uint64(c[offCDW10:])) }

// SetStartLBA stores SLBA.
func (c *Command) SetStartLBA(l LBA) { le.PutUint64(c[offCDW10:], uint64(l)) }

// Blocks returns the number of logical blocks, 1 to 65,536 (NLB, CDW12 bits 15:0).
func (c *Command) Blocks() BlockCount { return BlockCount(le.Uint16(c[48:])) + 1 }

// SetBlocks stores NLB; n must be 1 to MaxBlocks.
func (c *Command) SetBlocks(n BlockCount) { le.PutUint16(c[48:], toZeroBased[uint16](n)) }

// FUA reports Force Unit Access.
func (c *Command) FUA() bool { return bit(c.CDW12(), cdw12FUA) }

// SetFUA sets or clears Force Unit Access.
func (c *Command) SetFUA(on bool) { c.setCDW12Bit(cdw12FUA, on) }

// LimitedRetry reports the LR bit.
func (c *Command) LimitedRetry() bool { return bit(c.CDW12(), cdw12LimitedTry) }

// Deallocate reports the DEAC bit of Write Zeroes. NVM 3.2.8
func (c *Command) Deallocate() bool { return bit(c.CDW12(), cdw12Deallocate) }

// SetDeallocate sets or clears DEAC.
func (c *Command) SetDeallocate(on bool) { c.setCDW12Bit(cdw12Deallocate, on) }

// ProtectionInfo returns PRINFO: PRACT in bit 3, PRCHK in bits 2:0. NVM 3.2
func (c *Command) ProtectionInfo() uint8 { return uint8(c.CDW12()>>cdw12PRINFOShift) & 0xf }

func (c *Command) setCDW12Bit(mask uint32, on bool) {
	v := c.CDW12() &^ mask
	if on {
		v |= mask
	}
	c.SetCDW12(v)
}
