package nvme

// ControllerType is CNTRLTYPE. Base 5.17.2.1
type ControllerType uint8

// Controller types.
const (
	ControllerIO        ControllerType = 1
	ControllerDiscovery ControllerType = 2
	ControllerAdmin     ControllerType = 3
)

// Bits of IdentifyController.MultiPath (CMIC).
const (
	MultiPathPorts       uint8 = 1 << 0 // the subsystem may have more than one port
	MultiPathControllers uint8 = 1 << 1 // the subsystem may have more than one controller
	MultiPathANA         uint8 = 1 << 3 // Asymmetric Namespace Access reporting
)

// Bits of IdentifyController.Attributes (CTRATT).
const (
	AttributeExtendedHostID   uint32 = 1 << 0
	AttributeNVMSets          uint32 = 1 << 2
	AttributeEnduranceGroups  uint32 = 1 << 4
	AttributeTrafficKeepAlive uint32 = 1 << 6 // TBKAS: any command restarts the keep alive timer
	AttributeUUIDList         uint32 = 1 << 9
	AttributeMultiDomain      uint32 = 1 << 10
	AttributeExtendedLBA      uint32 = 1 << 15 // ELBAS
)

// Bits of IdentifyController.AdminCommands (OACS).
const (
	AdminSupportsSecurity    uint16 = 1 << 0
	AdminSupportsFormat      uint16 = 1 << 1
	AdminSupportsFirmware    uint16 = 1 << 2
	AdminSupportsNSManage    uint16 = 1 << 3
	AdminSupportsSelfTest    uint16 = 1 << 4
	AdminSupportsDirectives  uint16 = 1 << 5
	AdminSupportsLBAStatus   uint16 = 1 << 9
	AdminSupportsLockdown    uint16 = 1 << 10
	AdminSupportsDoorbellBuf uint16 = 1 << 8
)

// Bits of IdentifyController.LogPages (LPA).
const (
	LogPageSMARTPerNamespace uint8 = 1 << 0
	LogPageCommandEffects    uint8 = 1 << 1
	LogPageExtendedData      uint8 = 1 << 2 // 32-bit length and 64-bit offset
	LogPageTelemetry         uint8 = 1 << 3
	LogPagePersistentEvent   uint8 = 1 << 4
	LogPageSupportedPages    uint8 = 1 << 5 // pages 00h, 12h and 13h
)

// Bits of IdentifyController.IOCommands (ONCS).
const (
	IOSupportsCompare            uint16 = 1 << 0
	IOSupportsWriteUncorrectable uint16 = 1 << 1
	IOSupportsDatasetManagement  uint16 = 1 << 2
	IOSupportsWriteZeroes        uint16 = 1 << 3
	IOSupportsSaveSelect         uint16 = 1 << 4 // Save and Select fields of Features commands
	IOSupportsReservations       uint16 = 1 << 5
	IOSupportsTimestamp          uint16 = 1 << 6
	IOSupportsVerify             uint16 = 1 << 7
	IOSupportsCopy               uint16 = 1 << 8
)

// FusedCompareWrite is the bit of IdentifyController.Fused (FUSES).
const FusedCompareWrite uint16 = 1 << 0

// Values of IdentifyController.WriteCache (VWC).
const (
	WriteCachePresent     uint8 = 1 << 0
	WriteCacheFlushNotAll uint8 = 2 << 1 // Flush with BroadcastNSID fails
	WriteCacheFlushAll    uint8 = 3 << 1 // Flush with BroadcastNSID flushes all namespaces
	WriteCacheFlushMask   uint8 = 3 << 1
)

// Bits of IdentifyController.ANACapabilities (ANACAP).
const (
	ANACapOptimized      uint8 = 1 << 0
	ANACapNonOptimized   uint8 = 1 << 1
	ANACapInaccessible   uint8 = 1 << 2
	ANACapPersistentLoss uint8 = 1 << 3
	ANACapChange         uint8 = 1 << 4
	ANACapFixedGroup     uint8 = 1 << 6 // ANAGRPID does not change while attached
	ANACapManagedGroup   uint8 = 1 << 7 // Namespace Management takes an ANAGRPID
)

// Bits of IdentifyController.SGLs (SGLS).
const (
	SGLsAnyAlignment   uint32 = 1 << 0
	SGLsDwordAlignment uint32 = 2 << 0
	SGLsKeyed          uint32 = 1 << 2
	SGLsBitBucket      uint32 = 1 << 16
	SGLsLonger         uint32 = 1 << 18 // an SGL may be longer than the data
	SGLsMetadata       uint32 = 1 << 19
	SGLsOffset         uint32 = 1 << 20 // Address may be an offset: in-capsule data
	SGLsTransport      uint32 = 1 << 21 // Transport SGL Data Block
)

// FabricsStaticControllers is the bit of IdentifyController.FabricsAttributes (FCATT): clear
// for the dynamic controller model.
const FabricsStaticControllers uint8 = 1 << 0

// FabricsDisconnectSupported is the bit of IdentifyController.FabricsCommands (OFCS).
const FabricsDisconnectSupported uint16 = 1 << 0

// Entry sizes for IdentifyController.SQEntrySizes and CQEntrySizes: smallest in bits 3:0,
// largest in bits 7:4, as powers of two.
const (
	SQEntrySizes uint8 = 0x66
	CQEntrySizes uint8 = 0x44
)

// KeepAliveUnit is what IdentifyController.KeepAliveGranularity counts, in milliseconds.
const KeepAliveUnit = 100

// PowerStates is how many power state descriptors there is room for.
const PowerStates = 32

// IdentifyController is the Identify Controller data structure, for I/O and discovery
// controllers alike. Base 5.17.2.1, Figure 275; NVM 4.1.5.2
type IdentifyController struct {
	VendorID          uint16 // VID, PCI
	SubsystemVendorID uint16 // SSVID
	SerialNumber      string // SN, 20 bytes of ASCII
	ModelNumber       string // MN, 40 bytes of ASCII
	FirmwareRevision  string // FR, 8 bytes of ASCII
	ArbitrationBurst  uint8  // RAB, log2 of commands
	IEEE              [3]byte
	MultiPath         uint8        // CMIC
	MaxTransferShift  uint8        // MDTS: 2^n minimum pages (CAP.MPSMIN); 0 for no limit
	Controller        ControllerID // CNTLID
	Version           Version      // VER
	RTD3Resume        uint32       // microseconds
	RTD3Entry         uint32       // microseconds
	AsyncEvents       AsyncEvents  // OAES
	Attributes        uint32       // CTRATT
	ReadRecovery      uint16       // RRLS
	Type              ControllerType
	FRUGUID           [16]byte  // FGUID
	RetryDelays       [3]uint16 // CRDT1 to CRDT3, in 100 ms

	SubsystemReport     uint8 // NVMSR
	VPDWriteCycles      uint8 // VWCI
	ManagementEndpoint  uint8 // MEC
	AdminCommands       uint16
	AbortLimit          uint16 // ACL as a count, 1 to 256
	AsyncEventLimit     uint16 // AERL as a count, 1 to 256
	Firmware            uint8  // FRMW: slots in bits 3:1, bit 0 slot 1 read only
	LogPages            uint8  // LPA
	ErrorLogEntries     uint16 // ELPE as a count, 1 to 256
	PowerStateCount     uint16 // NPSS as a count, 1 to 32
	AdminVendorConfig   uint8  // AVSCC
	AutoPowerState      uint8  // APSTA
	WarningTemperature  uint16 // WCTEMP, kelvin
	CriticalTemperature uint16 // CCTEMP, kelvin
	FirmwareActivation  uint16 // MTFA, in 100 ms
	HostMemPreferred    uint32 // HMPRE, in 4 KiB
	HostMemMinimum      uint32 // HMMIN, in 4 KiB
	TotalCapacity       Uint128
	UnallocatedCapacity Uint128
	ReplayProtected     uint32 // RPMBS
	SelfTestMinutes     uint16 // EDSTT
	SelfTestOptions     uint8  // DSTO
	FirmwareGranularity uint8  // FWUG
	// KeepAliveGranularity is KAS, in KeepAliveUnit; 0 for no keep alive.
	KeepAliveGranularity uint16
	ThermalManagement    uint16     // HCTMA
	MinTemperature       uint16     // MNTMT
	MaxTemperature       uint16     // MXTMT
	Sanitize             uint32     // SANICAP
	HostMemMinEntry      uint32     // HMMINDS
	HostMemMaxEntries    uint16     // HMMAXD
	MaxNVMSet            NVMSetID   // NSETIDMAX
	MaxEnduranceGroup    uint16     // ENDGIDMAX
	ANATransitionTime    uint8      // ANATT, seconds
	ANACapabilities      uint8      // ANACAP
	MaxANAGroup          ANAGroupID // ANAGRPMAX
	ANAGroupCount        uint32     // NANAGRPID
	PersistentEventSize  uint32     // PELS
	Domain               uint16
	MaxEnduranceCapacity Uint128 // MEGCAP

	SQEntrySizes        uint8  // SQES
	CQEntrySizes        uint8  // CQES
	MaxCommands         uint16 // MAXCMD: outstanding per I/O queue; required over fabrics
	MaxNSID             NSID   // NN: highest NSID that may be valid
	IOCommands          uint16 // ONCS
	Fused               uint16 // FUSES
	FormatAttributes    uint8  // FNA
	WriteCache          uint8  // VWC
	AtomicWriteNormal   uint32 // AWUN as a count of blocks, 1 to 65,536
	AtomicWritePower    uint32 // AWUPF as a count of blocks, 1 to 65,536
	IOVendorConfig      uint8  // ICSVSCC
	WriteProtection     uint8  // NWPC
	AtomicCompareWrite  uint32 // ACWU as a count of blocks, 1 to 65,536; 1 if not supported
	CopyFormats         uint16 // CDFS
	SGLs                uint32 // SGLS
	MaxNamespaces       uint32 // MNAN
	MaxDomainAttached   Uint128
	MaxControllerAttach uint32 // MAXCNA
	SubsystemNQN        string // SUBNQN

	CommandCapsule    uint32 // IOCCSZ, in 16 bytes: 4 for the command alone
	ResponseCapsule   uint32 // IORCSZ, in 16 bytes: 1
	CapsuleDataOffset uint16 // ICDOFF, in 16 bytes: 0 for NVMe/TCP
	FabricsAttributes uint8  // FCATT
	MaxDescriptors    uint8  // MSDBD: most SGL data descriptors, 0 for no limit
	FabricsCommands   uint16 // OFCS

	PowerState [PowerStates]PowerState
}

// PowerState is a power state descriptor. Base 5.17.2.1, Figure 276
type PowerState struct {
	MaxPower        uint16 // MP, in Scale
	Flags           uint8  // bit 0 MXPS (scale 0.0001 W instead of 0.01 W), bit 1 NOPS
	EntryLatency    uint32 // ENLAT, microseconds
	ExitLatency     uint32 // EXLAT, microseconds
	ReadThroughput  uint8  // RRT
	ReadLatency     uint8  // RRL
	WriteThroughput uint8  // RWT
	WriteLatency    uint8  // RWL
	IdlePower       uint16 // IDLP
	IdleScale       uint8  // IPS, bits 7:6
	ActivePower     uint16 // ACTP
	ActiveScale     uint8  // APS in bits 7:6, APW in bits 2:0
}

// ParseIdentifyController decodes the first 4,096 bytes of b. Nothing in the result aliases b.
func ParseIdentifyController(b []byte) (IdentifyController, int, error) {
	var id IdentifyController
	n, err := parseFixed("identify controller", &id, b, IdentifySize)
	return id, n, err
}

// Append appends the wire form; a string longer than its field is cut.
func (id IdentifyController) Append(b []byte) []byte { return appendFixed(b, &id, IdentifySize) }

// Len is IdentifySize.
func (id IdentifyController) Len() int { return IdentifySize }

func (id *IdentifyController) fields(l layout) {
	num(l, 0, &id.VendorID)
	num(l, 2, &id.SubsystemVendorID)
	l.ascii(4, 20, &id.SerialNumber)
	l.ascii(24, 40, &id.ModelNumber)
	l.ascii(64, 8, &id.FirmwareRevision)
	num(l, 72, &id.ArbitrationBurst)
	l.bytes(73, id.IEEE[:])
	num(l, 76, &id.MultiPath)
	num(l, 77, &id.MaxTransferShift)
	num(l, 78, &id.Controller)
	num(l, 80, &id.Version)
	num(l, 84, &id.RTD3Resume)
	num(l, 88, &id.RTD3Entry)
	num(l, 92, &id.AsyncEvents)
	num(l, 96, &id.Attributes)
	num(l, 100, &id.ReadRecovery)
	num(l, 111, &id.Type)
	l.bytes(112, id.FRUGUID[:])
	for i := range id.RetryDelays {
		num(l, 128+2*i, &id.RetryDelays[i])
	}
	id.adminFields(l)
	id.nvmFields(l)
	for i := range id.PowerState {
		id.PowerState[i].fields(layout{l.b[2048+32*i : 2080+32*i], l.write})
	}
}

func (id *IdentifyController) adminFields(l layout) {
	num(l, 253, &id.SubsystemReport)
	num(l, 254, &id.VPDWriteCycles)
	num(l, 255, &id.ManagementEndpoint)
	num(l, 256, &id.AdminCommands)
	l.count8(258, &id.AbortLimit)
	l.count8(259, &id.AsyncEventLimit)
	num(l, 260, &id.Firmware)
	num(l, 261, &id.LogPages)
	l.count8(262, &id.ErrorLogEntries)
	l.count8(263, &id.PowerStateCount)
	num(l, 264, &id.AdminVendorConfig)
	num(l, 265, &id.AutoPowerState)
	num(l, 266, &id.WarningTemperature)
	num(l, 268, &id.CriticalTemperature)
	num(l, 270, &id.FirmwareActivation)
	num(l, 272, &id.HostMemPreferred)
	num(l, 276, &id.HostMemMinimum)
	l.u128(280, &id.TotalCapacity)
	l.u128(296, &id.UnallocatedCapacity)
	num(l, 312, &id.ReplayProtected)
	num(l, 316, &id.SelfTestMinutes)
	num(l, 318, &id.SelfTestOptions)
	num(l, 319, &id.FirmwareGranularity)
	num(l, 320, &id.KeepAliveGranularity)
	num(l, 322, &id.ThermalManagement)
	num(l, 324, &id.MinTemperature)
	num(l, 326, &id.MaxTemperature)
	num(l, 328, &id.Sanitize)
	num(l, 332, &id.HostMemMinEntry)
	num(l, 336, &id.HostMemMaxEntries)
	num(l, 338, &id.MaxNVMSet)
	num(l, 340, &id.MaxEnduranceGroup)
	num(l, 342, &id.ANATransitionTime)
	num(l, 343, &id.ANACapabilities)
	num(l, 344, &id.MaxANAGroup)
	num(l, 348, &id.ANAGroupCount)
	num(l, 352, &id.PersistentEventSize)
	num(l, 356, &id.Domain)
	l.u128(368, &id.MaxEnduranceCapacity)
}

func (id *IdentifyController) nvmFields(l layout) {
	num(l, 512, &id.SQEntrySizes)
	num(l, 513, &id.CQEntrySizes)
	num(l, 514, &id.MaxCommands)
	num(l, 516, &id.MaxNSID)
	num(l, 520, &id.IOCommands)
	num(l, 522, &id.Fused)
	num(l, 524, &id.FormatAttributes)
	num(l, 525, &id.WriteCache)
	l.count16(526, &id.AtomicWriteNormal)
	l.count16(528, &id.AtomicWritePower)
	num(l, 530, &id.IOVendorConfig)
	num(l, 531, &id.WriteProtection)
	l.count16(532, &id.AtomicCompareWrite)
	num(l, 534, &id.CopyFormats)
	num(l, 536, &id.SGLs)
	num(l, 540, &id.MaxNamespaces)
	l.u128(544, &id.MaxDomainAttached)
	num(l, 560, &id.MaxControllerAttach)
	l.utf8(768, NQNFieldSize, &id.SubsystemNQN)
	num(l, 1792, &id.CommandCapsule)
	num(l, 1796, &id.ResponseCapsule)
	num(l, 1800, &id.CapsuleDataOffset)
	num(l, 1802, &id.FabricsAttributes)
	num(l, 1803, &id.MaxDescriptors)
	num(l, 1804, &id.FabricsCommands)
}

func (p *PowerState) fields(l layout) {
	num(l, 0, &p.MaxPower)
	num(l, 3, &p.Flags)
	num(l, 4, &p.EntryLatency)
	num(l, 8, &p.ExitLatency)
	num(l, 12, &p.ReadThroughput)
	num(l, 13, &p.ReadLatency)
	num(l, 14, &p.WriteThroughput)
	num(l, 15, &p.WriteLatency)
	num(l, 16, &p.IdlePower)
	num(l, 18, &p.IdleScale)
	num(l, 20, &p.ActivePower)
	num(l, 22, &p.ActiveScale)
}
