package nvme

// CNS says which data structure an Identify asks for. Base 5.17.1, Figure 273
type CNS uint8

// Identify data structures.
const (
	CNSNamespace              CNS = 0x00 // IdentifyNamespace
	CNSController             CNS = 0x01 // IdentifyController
	CNSActiveNamespaces       CNS = 0x02 // NSList above the command's NSID
	CNSNamespaceDescriptors   CNS = 0x03 // NamespaceIDs
	CNSNVMSets                CNS = 0x04
	CNSNamespaceForSet        CNS = 0x05 // NVMNamespace, for the NVM command set
	CNSControllerForSet       CNS = 0x06 // NVMController, for the NVM command set
	CNSActiveNamespacesForSet CNS = 0x07 // NSList
	CNSNamespaceIndependent   CNS = 0x08 // IndependentNamespace
	CNSAllocatedNamespaces    CNS = 0x10 // NSList
	CNSAllocatedNamespace     CNS = 0x11 // IdentifyNamespace
	CNSControllersOfNamespace CNS = 0x12 // ControllerList
	CNSControllers            CNS = 0x13 // ControllerList
	CNSPrimaryCapabilities    CNS = 0x14
	CNSSecondaryControllers   CNS = 0x15
	CNSNamespaceGranularity   CNS = 0x16
	CNSUUIDs                  CNS = 0x17
	CNSDomains                CNS = 0x18
	CNSEnduranceGroups        CNS = 0x19
	CNSAllocatedForSet        CNS = 0x1a // NSList
	CNSAllocatedNamespaceSet  CNS = 0x1b
	CNSIOCommandSets          CNS = 0x1c // IOCommandSets
)

// IdentifySize is the length of every Identify data structure in bytes. Base 5.17
const IdentifySize = 4096

// CommandSet identifies an I/O command set (CSI). Base 5.17.2.3, Figure 274
type CommandSet uint8

// I/O command sets.
const (
	CommandSetIDNVM      CommandSet = 0
	CommandSetIDKeyValue CommandSet = 1
	CommandSetIDZoned    CommandSet = 2
)

// Identify is the Identify command. Base 5.17
type Identify struct {
	NSID       NSID
	CNS        CNS
	Controller ControllerID // CNTID
	SpecificID uint16       // CNSSID
	CommandSet CommandSet   // CSI
	UUIDIndex  uint8        // 7 bits
}

// ParseIdentify unpacks an Identify; the caller has looked at the opcode.
func ParseIdentify(c *Command) Identify {
	return Identify{
		NSID: c.NSID(), CNS: CNS(c.CDW10()), Controller: ControllerID(c.CDW10() >> 16),
		SpecificID: uint16(c.CDW11()), CommandSet: CommandSet(c.CDW11() >> 24),
		UUIDIndex: uint8(c.CDW14() & 0x7f),
	}
}

// Command packs an Identify, without CID and data pointer.
func (i Identify) Command() Command {
	c := command(AdminIdentify, i.NSID)
	c.SetCDW10(uint32(i.CNS) | uint32(i.Controller)<<16)
	c.SetCDW11(uint32(i.SpecificID) | uint32(i.CommandSet)<<24)
	c.SetCDW14(uint32(i.UUIDIndex & 0x7f))
	return c
}

// LogID says which log page a Get Log Page asks for (LID). Base 5.16.1, Figure 202
type LogID uint8

// Log pages.
const (
	LogSupportedPages          LogID = 0x00 // SupportedLogs
	LogError                   LogID = 0x01 // ErrorEntry, one after the other
	LogSMART                   LogID = 0x02 // SMARTLog
	LogFirmwareSlot            LogID = 0x03 // FirmwareSlotLog
	LogChangedNamespaces       LogID = 0x04 // ChangedNSList
	LogCommandEffects          LogID = 0x05 // CommandEffectsLog
	LogSelfTest                LogID = 0x06
	LogTelemetryHost           LogID = 0x07
	LogTelemetryController     LogID = 0x08
	LogEnduranceGroup          LogID = 0x09
	LogANA                     LogID = 0x0c // ANALog
	LogPersistentEvent         LogID = 0x0d
	LogLBAStatus               LogID = 0x0e
	LogFeatureEffects          LogID = 0x12 // FeatureEffectsLog
	LogDiscovery               LogID = 0x70 // DiscoveryHeader and DiscoveryEntry
	LogReservationNotification LogID = 0x80 // ReservationNotification
	LogSanitizeStatus          LogID = 0x81
)

// ANAGroupsOnly is the log specific parameter of LogANA that leaves out namespaces (RGO).
// Base 5.16.1.13
const ANAGroupsOnly uint8 = 1

// GetLogPage is the Get Log Page command. Base 5.16
type GetLogPage struct {
	NSID        NSID
	LID         LogID
	Specific    uint8      // LSP, 7 bits
	RetainEvent bool       // RAE: the asynchronous event stays masked
	Length      uint64     // bytes: 4 times the dword count, 4 to 16 GiB
	SpecificID  uint16     // LSI
	Offset      uint64     // LPO: bytes, or entries if OffsetIndex
	OffsetIndex bool       // OT
	CommandSet  CommandSet // CSI
	UUIDIndex   uint8      // 7 bits
}

// ParseGetLogPage unpacks a Get Log Page; the caller has looked at the opcode.
func ParseGetLogPage(c *Command) GetLogPage {
	d10, d11, d14 := c.CDW10(), c.CDW11(), c.CDW14()
	return GetLogPage{
		NSID: c.NSID(), LID: LogID(d10), Specific: uint8(d10>>8) & 0x7f, RetainEvent: bit(d10, 1<<15),
		Length:     (uint64(d10>>16|d11<<16) + 1) * 4,
		SpecificID: uint16(d11 >> 16), Offset: le.Uint64(c[48:]),
		OffsetIndex: bit(d14, 1<<23), CommandSet: CommandSet(d14 >> 24), UUIDIndex: uint8(d14 & 0x7f),
	}
}

// Command packs a Get Log Page, without CID and data pointer. Length must be a multiple of 4.
func (g GetLogPage) Command() Command {
	c := command(AdminGetLogPage, g.NSID)
	numd := uint32(max(g.Length/4, 1) - 1)
	d10 := uint32(g.LID) | uint32(g.Specific&0x7f)<<8 | numd<<16
	if g.RetainEvent {
		d10 |= 1 << 15
	}
	c.SetCDW10(d10)
	c.SetCDW11(numd>>16 | uint32(g.SpecificID)<<16)
	le.PutUint64(c[48:], g.Offset)
	d14 := uint32(g.UUIDIndex&0x7f) | uint32(g.CommandSet)<<24
	if g.OffsetIndex {
		d14 |= 1 << 23
	}
	c.SetCDW14(d14)
	return c
}

// Abort is the Abort command. Base 5.1
type Abort struct {
	Queue QueueID
	CID   CommandID // of the command to abort
}

// ParseAbort unpacks an Abort; the caller has looked at the opcode.
func ParseAbort(c *Command) Abort {
	return Abort{Queue: QueueID(c.CDW10()), CID: CommandID(c.CDW10() >> 16)}
}

// Command packs an Abort, without its own CID.
func (a Abort) Command() Command {
	c := command(AdminAbort, 0)
	c.SetCDW10(uint32(a.Queue) | uint32(a.CID)<<16)
	return c
}

// AbortDone and AbortNotDone are DW0 of a completed Abort.
const (
	AbortDone    uint32 = 0 // the command was aborted
	AbortNotDone uint32 = 1 // it was not: it completes in its own way
)

func command(o Opcode, n NSID) Command {
	var c Command
	c.SetOpcode(o)
	c.SetPSDT(PSDTSGL)
	c.SetNSID(n)
	return c
}
