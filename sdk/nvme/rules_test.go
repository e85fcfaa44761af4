package nvme

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func commandOf(fill func(*Command)) []byte {
	var c Command
	fill(&c)
	return c[:]
}

func completionOf(fill func(*Completion)) []byte {
	var c Completion
	fill(&c)
	return c[:]
}

func packed(c Command) []byte { return c[:] }

// TestLayout places one field at a time and looks for it where the standard has it; all other
// bytes must be zero. The name is the rule.
func TestLayout(t *testing.T) {
	ctrl := IdentifyController{}.Append(nil)
	ns := IdentifyNamespace{}.Append(nil)
	for _, tt := range []struct {
		name, section string
		got           []byte
		base          []byte // what stands there without the field; nil for zeros
		at            int
		want          string // hex
	}{
		{"opcode is byte 0", "Base 3.3.3.1", commandOf(func(c *Command) { c.SetOpcode(IORead) }), nil, 0, "02"},
		{"fuse is bits 1:0 of byte 1", "Base 3.3.3.1", commandOf(func(c *Command) { c.SetFuse(FuseSecond) }), nil, 1, "02"},
		{"PSDT is bits 7:6 of byte 1", "Base 3.3.3.1", commandOf(func(c *Command) { c.SetPSDT(PSDTSGL) }), nil, 1, "40"},
		{"CID is bytes 3:2", "Base 3.3.3.1", commandOf(func(c *Command) { c.SetCID(0x1234) }), nil, 2, "3412"},
		{"NSID is bytes 7:4", "Base 3.3.3.1", commandOf(func(c *Command) { c.SetNSID(0x01020304) }), nil, 4, "04030201"},
		{"SGL1 is bytes 39:24", "Base 3.3.3.1", commandOf(func(c *Command) { c.SetSGL1(TransportSGL(0x1000)) }), nil, 24, "0000000000000000 00100000 000000 5a"},
		{"SLBA is CDW10 and CDW11", "NVM 3.2.4", commandOf(func(c *Command) { c.SetStartLBA(0x0102030405060708) }), nil, 40, "0807060504030201"},
		{"NLB is zero-based", "NVM 3.2.4", commandOf(func(c *Command) { c.SetBlocks(8) }), nil, 48, "0700"},
		{"NLB holds 65,536 blocks", "NVM 3.2.4", commandOf(func(c *Command) { c.SetBlocks(MaxBlocks) }), nil, 48, "ffff"},
		{"FUA is bit 30 of CDW12", "NVM 3.2.6", commandOf(func(c *Command) { c.SetFUA(true) }), nil, 51, "40"},
		{"DEAC is bit 25 of CDW12", "NVM 3.2.8", commandOf(func(c *Command) { c.SetDeallocate(true) }), nil, 51, "02"},
		{"CDW15 is bytes 63:60", "Base 3.3.3.1", commandOf(func(c *Command) { c.SetCDW15(1) }), nil, 60, "01000000"},

		{"DW0 is bytes 3:0", "Base 3.3.3.2", completionOf(func(c *Completion) { c.SetDW0(0x01020304) }), nil, 0, "04030201"},
		{"a property value is bytes 7:0", "Base 6.5", completionOf(func(c *Completion) { c.SetResult64(0x0102030405060708) }), nil, 0, "0807060504030201"},
		{"SQHD is bytes 9:8", "Base 3.3.3.2", completionOf(func(c *Completion) { c.SetSQHD(0x0102) }), nil, 8, "0201"},
		{"CID of a completion is bytes 13:12", "Base 3.3.3.2", completionOf(func(c *Completion) { c.SetCID(0x0102) }), nil, 12, "0201"},
		{"status is bits 15:1 of bytes 15:14", "Base 3.3.3.2.1", completionOf(func(c *Completion) { c.SetStatus(StatusANAInaccessible.WithDNR()) }), nil, 14, "0486"},
		{"More is bit 30 of DW3, CRD bits 29:28", "Base 3.3.3.2.1", completionOf(func(c *Completion) { c.SetStatus(StatusCommandInterrupted.WithMore().WithCRD(2)) }), nil, 14, "4260"},

		{"a keyed length has 24 bits", "Base 4.1.2", SGL{Type: SGLKeyedDataBlock, Address: 1, Length: 0x030201, Key: 0x07060504}.Append(nil), nil, 0, "0100000000000000 010203 04050607 40"},
		{"an in-capsule offset has subtype 1", "Base 4.1.2", InCapsule(0, 512).Append(nil), nil, 8, "00020000 000000 01"},

		{"QID is bytes 43:42", "Base 6.3", packed(Connect{Queue: 3}.Command()), packed(Connect{}.Command()), 42, "0300"},
		{"SQSIZE is zero-based", "Base 6.3", packed(Connect{Entries: 128}.Command()), packed(Connect{}.Command()), 44, "7f00"},
		{"CATTR is byte 46", "Base 6.3", packed(Connect{Attributes: ConnectDisableSQFlow}.Command()), packed(Connect{}.Command()), 46, "04"},
		{"KATO is bytes 51:48", "Base 6.3", packed(Connect{KeepAlive: 5000}.Command()), packed(Connect{}.Command()), 48, "88130000"},
		{"CNTLID of connect data is bytes 17:16", "Base 6.3", ConnectData{Controller: 0xffff}.Append(nil), nil, 16, "ffff"},
		{"SUBNQN of connect data is at 256", "Base 6.3", ConnectData{SubsystemNQN: "a"}.Append(nil), nil, 256, "61"},
		{"HOSTNQN of connect data is at 512", "Base 6.3", ConnectData{HostNQN: "a"}.Append(nil), nil, 512, "61"},
		{"an 8-byte property has ATTRIB 1", "Base 6.5", packed(PropertyGet{Size: 8}.Command()), packed(PropertyGet{Size: 4}.Command()), 40, "01"},
		{"a property value is bytes 55:48", "Base 6.6", packed(PropertySet{Size: 4, Value: 0x460001}.Command()), packed(PropertySet{Size: 4}.Command()), 48, "0100460000000000"},

		{"NUMD is split over CDW10 and CDW11", "Base 5.16", packed(GetLogPage{Length: 4 * 0x00030002}.Command()), packed(GetLogPage{}.Command()), 42, "0100 0300"},
		{"LPO is CDW12 and CDW13", "Base 5.16", packed(GetLogPage{Offset: 1 << 32}.Command()), packed(GetLogPage{}.Command()), 52, "01"},
		{"CSI of Identify is CDW11 bits 31:24", "Base 5.17", packed(Identify{CommandSet: 2}.Command()), packed(Identify{}.Command()), 47, "02"},
		{"NR of DSM is zero-based", "NVM 3.2.3", packed(DatasetManagement{Ranges: 256}.Command()), packed(DatasetManagement{}.Command()), 40, "ff"},
		{"CPTPL is CDW10 bits 31:30", "Base 7.3", packed(ReservationCommand{Opcode: IOReservationRegister, Persist: PersistSet}.Command()), packed(ReservationCommand{Opcode: IOReservationRegister}.Command()), 43, "c0"},
		{"RTYPE is CDW10 bits 15:8", "Base 7.2", packed(ReservationCommand{Opcode: IOReservationAcquire, Type: 6}.Command()), packed(ReservationCommand{Opcode: IOReservationAcquire}.Command()), 41, "06"},

		{"MDTS is byte 77", "Base 5.17.2.1", IdentifyController{MaxTransferShift: 5}.Append(nil), ctrl, 77, "05"},
		{"CNTRLTYPE is byte 111", "Base 5.17.2.1", IdentifyController{Type: ControllerDiscovery}.Append(nil), ctrl, 111, "02"},
		{"AERL is zero-based", "Base 5.17.2.1", IdentifyController{AsyncEventLimit: 4}.Append(nil), ctrl, 259, "03"},
		{"KAS is bytes 321:320", "Base 5.17.2.1", IdentifyController{KeepAliveGranularity: 10}.Append(nil), ctrl, 320, "0a00"},
		{"ANACAP is byte 343", "Base 5.17.2.1", IdentifyController{ANACapabilities: 0x1f}.Append(nil), ctrl, 343, "1f"},
		{"ANAGRPMAX is bytes 347:344", "Base 5.17.2.1", IdentifyController{MaxANAGroup: 7}.Append(nil), ctrl, 344, "07000000"},
		{"NANAGRPID is bytes 351:348", "Base 5.17.2.1", IdentifyController{ANAGroupCount: 7}.Append(nil), ctrl, 348, "07000000"},
		{"NN is bytes 519:516", "Base 5.17.2.1", IdentifyController{MaxNSID: 9}.Append(nil), ctrl, 516, "09000000"},
		{"AWUN is zero-based", "NVM 4.1.5.2", IdentifyController{AtomicWriteNormal: 8}.Append(nil), ctrl, 526, "0700"},
		{"SGLS is bytes 539:536", "Base 5.17.2.1", IdentifyController{SGLs: SGLsTransport | SGLsOffset | SGLsAnyAlignment}.Append(nil), ctrl, 536, "01003000"},
		{"MNAN is bytes 543:540", "Base 5.17.2.1", IdentifyController{MaxNamespaces: 9}.Append(nil), ctrl, 540, "09000000"},
		{"SUBNQN is at 768", "Base 5.17.2.1", IdentifyController{SubsystemNQN: "nqn"}.Append(nil), ctrl, 768, "6e716e"},
		{"IOCCSZ is at 1792", "Base 5.17.2.1", IdentifyController{CommandCapsule: 516}.Append(nil), ctrl, 1792, "04020000"},
		{"MSDBD is byte 1803", "Base 5.17.2.1", IdentifyController{MaxDescriptors: 1}.Append(nil), ctrl, 1803, "01"},
		{"power state 1 is at 2080", "Base 5.17.2.1", IdentifyController{PowerState: [32]PowerState{1: {MaxPower: 3}}}.Append(nil), ctrl, 2080, "0300"},

		{"FLBAS holds the low index bits in 3:0, the high ones in 6:5", "NVM 4.1.5.1", IdentifyNamespace{FormatIndex: 0x25}.Append(nil), ns, 26, "45"},
		{"FLBAS bit 4 is extended metadata", "NVM 4.1.5.1", IdentifyNamespace{MetadataEnd: true}.Append(nil), ns, 26, "10"},
		{"DLFEAT is byte 33", "NVM 4.1.5.1", IdentifyNamespace{Deallocate: 9}.Append(nil), ns, 33, "09"},
		{"NPDG is zero-based", "NVM 4.1.5.1", IdentifyNamespace{PreferredDiscard: 8}.Append(nil), ns, 68, "0700"},
		{"ANAGRPID is bytes 95:92", "NVM 4.1.5.1", IdentifyNamespace{ANAGroup: 3}.Append(nil), ns, 92, "03000000"},
		{"NGUID is at 104", "NVM 4.1.5.1", IdentifyNamespace{NGUID: [16]byte{7}}.Append(nil), ns, 104, "07"},
		{"LBAF0 is at 128, LBADS its third byte", "NVM 4.1.5.1", IdentifyNamespace{Formats: []LBAFormat{{8, 12, 2}}}.Append(nil), ns, 128, "0800 0c 02"},
		{"NLBAF is zero-based", "NVM 4.1.5.1", IdentifyNamespace{Formats: make([]LBAFormat, 2)}.Append(nil), ns, 25, "01"},

		{"an asynchronous event is type, info, page", "Base 5.2.1", le.AppendUint32(nil, EventANAChange.DW0()), nil, 0, "02030c00"},
		{"a discovery change is F0h", "Base 5.2.1", le.AppendUint32(nil, EventDiscovery.DW0()), nil, 0, "02f07000"},
		{"an invalid Connect parameter in the data sets IATTR", "Base 6.3", le.AppendUint32(nil, InvalidConnectSubsystem.DW0()), nil, 0, "00010100"},
		{"an invalid SQSIZE is at 44", "Base 6.3", le.AppendUint32(nil, InvalidConnectEntries.DW0()), nil, 0, "2c000000"},
		{"number of queues is zero-based, twice", "Base 5.27.1.5", le.AppendUint32(nil, QueueCounts{128, 127}.Value()), nil, 0, "7f007e00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := bytes.Clone(tt.base)
			if want == nil {
				want = make([]byte, len(tt.got))
			}
			copy(want[tt.at:], unhex(t, tt.want))
			if !bytes.Equal(tt.got, want) {
				t.Errorf("%s: bytes from %d are % x, want %s", tt.section, tt.at, tt.got[tt.at:min(tt.at+16, len(tt.got))], tt.want)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	page := func(at int, b ...byte) []byte {
		p := make([]byte, IdentifySize)
		copy(p[at:], b)
		return p
	}
	for _, tt := range []struct {
		name  string
		parse func() error
		want  error
	}{
		{"more than 64 LBA formats", func() error { _, _, err := ParseIdentifyNamespace(page(25, 64)); return err }, ErrMalformed},           // NVM 4.1.5.1
		{"controller list longer than its page", func() error { _, _, err := ParseControllerList(page(0, 0, 8)); return err }, ErrMalformed}, // Base 4.4.1
		{"NGUID of 8 bytes", func() error { _, _, err := ParseNamespaceIDs(page(0, 2, 8)); return err }, ErrMalformed},                       // Base 5.17.2.3
		{"EUI64 of 16 bytes", func() error { _, _, err := ParseNamespaceIDs(page(0, 1, 16)); return err }, ErrMalformed},
		{"descriptors that run past the page", func() error {
			p := page(0)
			for at := 0; at+4 < len(p); at += 4 + 255 {
				p[at], p[at+1] = 9, 255
			}
			_, _, err := ParseNamespaceIDs(p)
			return err
		}, ErrMalformed},
		{"ANA log that claims 65,535 groups", func() error { _, _, err := ParseANALog(page(8, 0xff, 0xff)); return err }, ErrTruncated},
		{"ANA group that claims 4 G namespaces", func() error {
			p := page(8, 1)
			le.PutUint32(p[20:], 0xffff_ffff)
			_, _, err := ParseANALog(p)
			return err
		}, ErrTruncated},
		{"reservation status that claims 65,535 registrants", func() error { _, _, err := ParseReservationStatus(page(5, 0xff, 0xff), true); return err }, ErrTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.parse(); !errors.Is(err, tt.want) {
				t.Errorf("err = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestLists(t *testing.T) {
	long := make([]NSID, MaxNSList+1)
	for i := range long {
		long[i] = NSID(i + 1)
	}
	got, _, err := ParseChangedNSList(ChangedNSList{NSIDs: long}.Append(nil))
	if err != nil || !got.Many || got.NSIDs != nil {
		t.Errorf("more than 1,024 changed namespaces (Base 5.16.1.5): %+v, %v", got, err)
	}
	full, _, err := ParseNSList(NSList(long).Append(nil))
	if err != nil || len(full) != MaxNSList || full[MaxNSList-1] != MaxNSList {
		t.Errorf("namespace list is cut to its page: %d, %v", len(full), err)
	}
	log := ANALog{Groups: []ANAGroup{{ID: 1, State: ANAOptimized, NSIDs: []NSID{1}}}}
	rgo, n, err := ParseANALog(log.AppendGroupsOnly(nil))
	if err != nil || n != 48 || len(rgo.Groups[0].NSIDs) != 0 || len(log.Groups[0].NSIDs) != 1 {
		t.Errorf("groups only (Base 5.16.1.13): %+v, %d, %v", rgo, n, err)
	}
}

func TestStatus(t *testing.T) {
	s := StatusANATransition.WithCRD(3).WithMore()
	if s.SCT() != StatusPath || s.SC() != 3 || s.CRD() != 3 || !s.More() || s.DNR() || !s.IsPath() {
		t.Errorf("%#x: fields do not come back", uint16(s))
	}
	if s.WithDNR().Code() != StatusANATransition || !errors.Is(s.WithDNR(), StatusANATransition) {
		t.Error("flags change what a status is")
	}
	if StatusSuccess.Err() != nil || Status(0).WithMore().Err() != nil || s.Err() == nil {
		t.Error("Err is nil for success only")
	}
	if got := StatusInvalidField.WithDNR().Error(); got != "nvme status: invalid field in command (0/02h, do not retry)" {
		t.Error(got)
	}
	if got := MakeStatus(StatusVendor, 0xff).String(); got != "unknown (7/ffh)" {
		t.Error(got)
	}
}

func TestProperties(t *testing.T) {
	c := Capabilities{MaxQueueEntries: 1024, ContiguousQueues: true, ReadyTimeout: 30, CommandSets: CommandSetNVM | CommandSetIO, ReadyWithMedia: true}
	if v := c.Uint64(); v != 0x0800_0820_1e01_03ff || ParseCapabilities(v) != c {
		t.Errorf("CAP = %#x (Base 3.1.3.1), back %+v", v, ParseCapabilities(v))
	}
	cc := MakeConfig(SelectAll).WithShutdown(ShutdownNormal)
	if cc != 0x0046_4061 || !cc.Enable() || cc.CommandSet() != SelectAll || cc.Shutdown() != ShutdownNormal ||
		cc.SQEntryShift() != 6 || cc.CQEntryShift() != 4 || cc.WithEnable(false).Enable() {
		t.Errorf("CC = %#x (Base 3.1.3.5)", uint32(cc))
	}
	st := CSTSReady.WithShutdown(CSTSShutdownComplete)
	if st != 9 || !st.ShutdownComplete() || !st.Ready() || st.Fatal() {
		t.Errorf("CSTS = %#x (Base 3.1.3.6)", uint32(st))
	}
	if Version20.String() != "2.0" || MakeVersion(1, 2, 1).String() != "1.2.1" || MakeVersion(2, 0, 0) != Version20 {
		t.Error("VS (Base 3.1.3.2)")
	}
	for _, p := range []Property{PropertyCAP, PropertyVS, PropertyCC, PropertyCSTS, PropertyNSSR, PropertyCRTO} {
		if want := 4 + 4*boolInt(p == PropertyCAP); p.Size() != want {
			t.Errorf("%s has %d bytes, want %d", p, p.Size(), want)
		}
	}
	if Property(4).Size() != 0 {
		t.Error("an offset within CAP is no property")
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestValidNQN(t *testing.T) { // Base 4.5
	for _, tt := range []struct {
		name string
		nqn  string
		want bool
	}{
		{"discovery", DiscoveryNQN, true},
		{"uuid form", "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", true},
		{"own", "nqn.2026-11.io.mooring:dev", true},
		{"UTF-8", "nqn.2026-11.io.mooring:münchen", true},
		{"223 bytes", "nqn.2026-11." + strings.Repeat("a", 211), true},
		{"224 bytes", "nqn.2026-11." + strings.Repeat("a", 212), false},
		{"empty", "", false},
		{"date only", "nqn.2026-11.", false},
		{"no prefix", "iqn.2026-11.io.mooring", false},
		{"letters in date", "nqn.2o26-11.io.mooring", false},
		{"no dash", "nqn.2026.11.io.mooring", false},
		{"no dot after date", "nqn.2026-11-io.mooring", false},
		{"control character", "nqn.2026-11.io\n", false},
		{"broken UTF-8", "nqn.2026-11.io\xff", false},
	} {
		if got := ValidNQN(tt.nqn); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestFeatureValues(t *testing.T) {
	for v := range uint32(1 << 10) {
		x := v * 0x9e3779b1
		for name, back := range map[string]uint32{
			"arbitration": ParseArbitration(ParseArbitration(x).Value()).Value() ^ ParseArbitration(x).Value(),
			"queues":      ParseQueueCounts(x).Value() ^ x,
			"power":       ParsePower(x).Value() ^ x&0xff,
			"coalescing":  ParseInterruptCoalescing(x).Value() ^ x&0xffff,
			"vector":      ParseInterruptVector(x).Value() ^ x&0x1ffff,
			"recovery":    ParseErrorRecovery(x).Value() ^ x&0x1ffff,
		} {
			if back != 0 {
				t.Fatalf("%s of %#x does not come back", name, x)
			}
		}
	}
	if ParseTemperature(0x001f0123) != (Temperature{0x0123, 0xf, true}) { // Base 5.27.1.3
		t.Error("temperature threshold")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	sq, cq := make([]byte, CommandSize), make([]byte, CompletionSize)
	out := make([]byte, 0, 256)
	var sum uint64
	if n := testing.AllocsPerRun(100, func() {
		c, _, _ := ParseCommand(sq)
		c.SetCID(c.CID() + 1)
		c.SetSGL1(TransportSGL(4096))
		sum += uint64(c.Opcode()) + uint64(c.StartLBA()) + uint64(c.Blocks()) + uint64(c.SGL1().Length)
		e, _, _ := ParseCompletion(cq)
		e.SetStatus(StatusANATransition)
		sum += uint64(e.Status())
		r := MakeCompletion(c.CID(), 1, StatusSuccess)
		out = r.Append(c.Append(out[:0]))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	_ = sum
}
