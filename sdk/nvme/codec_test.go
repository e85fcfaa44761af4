package nvme

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

// codec is one structure, seen through the three functions that all have.
type codec struct {
	name    string
	section string
	size    int // bytes; of the sample if the structure varies
	sample  []byte
	// reencode parses b and returns what Append, and Len, make of the result.
	reencode func(b []byte) (out []byte, length, used int, v any, err error)
}

type structure interface {
	Append([]byte) []byte
	Len() int
}

func codecOf[T structure](name, section string, size int, sample T, parse func([]byte) (T, int, error)) codec {
	return codec{name, section, size, sample.Append(nil), func(b []byte) ([]byte, int, int, any, error) {
		v, n, err := parse(b)
		if err != nil {
			return nil, 0, n, nil, err
		}
		return v.Append(nil), v.Len(), n, v, nil
	}}
}

func pointer[T any](parse func([]byte) (T, int, error)) func([]byte) (*T, int, error) {
	return func(b []byte) (*T, int, error) {
		v, n, err := parse(b)
		return &v, n, err
	}
}

func statusOf(extended bool) func([]byte) (ReservationStatus, int, error) {
	return func(b []byte) (ReservationStatus, int, error) { return ParseReservationStatus(b, extended) }
}

func codecs() []codec {
	uuid := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	cmd := Connect{CID: 7, SGL: InCapsule(0, ConnectDataSize), Entries: 32, KeepAlive: 5000}.Command()
	cqe := MakeCompletion(7, 3, StatusInvalidField.WithDNR())
	regs := []Registrant{{1, true, HostID(uuid), 0x1122}, {DynamicControllerID, false, HostID{9}, 0x3344}}
	return []codec{
		codecOf("Command", "Base 3.3.3.1", 64, &cmd, ParseCommand),
		codecOf("Completion", "Base 3.3.3.2", 16, &cqe, ParseCompletion),
		codecOf("SGL", "Base 4.1.2", 16, TransportSGL(4096), ParseSGL),
		codecOf("ConnectData", "Base 6.3", 1024, ConnectData{uuid, 0xffff, "nqn.2026-11.io.mooring:dev", "nqn.2014-08.org.nvmexpress:uuid:1"}, ParseConnectData),
		codecOf("IdentifyController", "Base 5.17.2.1", 4096, IdentifyController{SerialNumber: "S1", ModelNumber: "Mooring", SubsystemNQN: DiscoveryNQN, AbortLimit: 4, AtomicWriteNormal: 8}, ParseIdentifyController),
		codecOf("IdentifyNamespace", "NVM 4.1.5.1", 4096, IdentifyNamespace{Size: 1 << 21, Formats: []LBAFormat{{0, 9, 0}, {0, 12, 1}}, FormatIndex: 1, NGUID: uuid}, ParseIdentifyNamespace),
		codecOf("IndependentNamespace", "Base 5.17.2.8", 4096, IndependentNamespace{ANAGroup: 5, Status: NamespaceReady}, ParseIndependentNamespace),
		codecOf("NVMNamespace", "NVM 4.1.5.3", 4096, NVMNamespace{StorageTagMask: 5}, ParseNVMNamespace),
		codecOf("NVMController", "NVM 4.1.5.4", 4096, NVMController{DatasetRanges: 255, DatasetBlocks: 1 << 40}, ParseNVMController),
		codecOf("NSList", "Base 5.17.2.2", 4096, NSList{1, 5, 9}, ParseNSList),
		codecOf("ChangedNSList", "Base 5.16.1.5", 4096, ChangedNSList{NSIDs: []NSID{2, 3}}, ParseChangedNSList),
		codecOf("ControllerList", "Base 4.4.1", 4096, ControllerList{1, 2, 0xffef}, ParseControllerList),
		codecOf("IOCommandSets", "Base 5.17.2.21", 4096, IOCommandSets{1}, ParseIOCommandSets),
		codecOf("NamespaceIDs", "Base 5.17.2.3", 4096, NamespaceIDs{EUI64: [8]byte{1}, NGUID: uuid, UUID: uuid, HasCommandSet: true}, ParseNamespaceIDs),
		codecOf("SupportedLogs", "Base 5.16.1.1", 1024, &SupportedLogs{2: LogSupported}, pointer(ParseSupportedLogs)),
		codecOf("ErrorEntry", "Base 5.16.1.2", 64, ErrorEntry{Count: 1, Status: StatusWriteFault}, ParseErrorEntry),
		codecOf("SMARTLog", "Base 5.16.1.3", 512, SMARTLog{Temperature: 300, DataRead: Uint128{1, 2}}, ParseSMARTLog),
		codecOf("FirmwareSlotLog", "Base 5.16.1.4", 512, FirmwareSlotLog{Active: 1, Revisions: [7]string{"0.1"}}, ParseFirmwareSlotLog),
		codecOf("CommandEffectsLog", "Base 5.16.1.6", 4096, &CommandEffectsLog{IO: [256]Effects{1: EffectSupported | EffectContent}}, pointer(ParseCommandEffectsLog)),
		codecOf("FeatureEffectsLog", "Base 5.16.1.18", 1024, &FeatureEffectsLog{7: EffectSupported | EffectOnController}, pointer(ParseFeatureEffectsLog)),
		codecOf("ReservationNotification", "Base 5.16.1.24", 64, ReservationNotification{1, ReservationReleased, 2, 3}, ParseReservationNotification),
		codecOf("ANALog", "Base 5.16.1.13", 16+32+8+32, ANALog{3, []ANAGroup{{1, 2, ANAOptimized, []NSID{1, 4}}, {2, 3, ANAChange, nil}}}, ParseANALog),
		codecOf("DiscoveryHeader", "Base 5.16.1.23", 1024, DiscoveryHeader{Generation: 3, Records: 2}, ParseDiscoveryHeader),
		codecOf("DiscoveryEntry", "Base 5.16.1.23", 1024, DiscoveryEntry{Transport: TransportTCP, Service: "4420", NQN: DiscoveryNQN, Address: "127.0.0.1"}, ParseDiscoveryEntry),
		codecOf("HostBehavior", "Base 5.27.1.18", 512, HostBehavior{AdvancedRetry: true}, ParseHostBehavior),
		codecOf("Timestamp", "Base 5.27.1.11", 8, Timestamp{1 << 40, true, TimestampSet}, ParseTimestamp),
		codecOf("DatasetRange", "NVM 3.2.3.1", 16, DatasetRange{0, 8, 1 << 33}, ParseDatasetRange),
		codecOf("ReservationKeys", "Base 7.2", 16, ReservationKeys{1, 2}, ParseReservationKeys),
		codecOf("ReservationRelease", "Base 7.4", 8, ReservationKey(3), ParseReservationRelease),
		codecOf("ReservationStatus", "Base 7.5", 24+24, ReservationStatus{Generation: 9, Type: ReservationWriteExclusive, Registrants: regs[1:]}, statusOf(false)),
		codecOf("ReservationStatusExtended", "Base 7.5", 64+2*64, ReservationStatus{Extended: true, Generation: 9, Persistent: true, Registrants: regs}, statusOf(true)),
	}
}

func TestSizes(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.name, func(t *testing.T) {
			_, length, used, _, err := c.reencode(c.sample)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.sample) != c.size || length != c.size || used != c.size {
				t.Errorf("%s: appended %d, Len %d, parsed %d, want %d bytes", c.section, len(c.sample), length, used, c.size)
			}
		})
	}
}

func TestEveryPrefixFailsCleanly(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.name, func(t *testing.T) {
			for n := range c.size {
				_, _, used, _, err := c.reencode(c.sample[:n:n])
				if !errors.Is(err, ErrTruncated) || used != 0 {
					t.Fatalf("%d of %d bytes: used %d, err %v", n, c.size, used, err)
				}
			}
		})
	}
}

// TestRoundTrip parses arbitrary bytes: what Append makes of them must parse to the same value
// and append to the same bytes, into a dirty buffer as well.
func TestRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewChaCha8([32]byte{1}))
	for _, c := range codecs() {
		t.Run(c.name, func(t *testing.T) {
			checkStable(t, c, c.sample)
			for range 50 {
				b := bytes.Clone(c.sample)
				for i := range b {
					if rnd.IntN(2) == 0 {
						b[i] = byte(rnd.Uint32())
					}
				}
				checkStable(t, c, b)
			}
		})
	}
}

func checkStable(t *testing.T, c codec, b []byte) {
	t.Helper()
	first, length, used, v, err := c.reencode(b)
	if err != nil {
		if used != 0 || !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrMalformed) {
			t.Fatalf("%s: used %d, err %v", c.name, used, err)
		}
		return
	}
	if used > len(b) || length != len(first) {
		t.Fatalf("%s: used %d of %d, Len %d, appended %d", c.name, used, len(b), length, len(first))
	}
	second, _, _, w, err := c.reencode(first)
	if err != nil {
		t.Fatalf("%s: parse of appended: %v", c.name, err)
	}
	if !reflect.DeepEqual(v, w) || !bytes.Equal(first, second) {
		t.Fatalf("%s: not stable\n%+v\n%+v", c.name, v, w)
	}
}

// TestAppendOverwritesDirtyCapacity guards against reserved bytes that leak what the buffer held.
func TestAppendOverwritesDirtyCapacity(t *testing.T) {
	dirty := bytes.Repeat([]byte{0xaa}, 8192)
	for _, v := range []structure{
		IdentifyController{}, IdentifyNamespace{}, ConnectData{}, NSList{}, NamespaceIDs{}, SMARTLog{},
		ANALog{Groups: []ANAGroup{{}}}, ReservationStatus{Registrants: []Registrant{{}}}, DiscoveryEntry{},
	} {
		fresh, reused := v.Append(nil), v.Append(dirty[:0])
		if !bytes.Equal(fresh, reused) {
			t.Errorf("%T: %d bytes differ from a fresh buffer", v, len(reused))
		}
		for i := range dirty {
			dirty[i] = 0xaa
		}
	}
}

func FuzzCodecs(f *testing.F) {
	all := codecs()
	for i, c := range all {
		f.Add(byte(i), c.sample)
	}
	for _, path := range captures {
		for _, r := range captured(f, path).Records {
			for i, c := range all { // each that makes the same of it again
				if out, _, _, _, err := c.reencode(r.Bytes); err == nil && len(out) > 0 && bytes.HasPrefix(r.Bytes, out) {
					f.Add(byte(i), r.Bytes)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		checkStable(t, all[int(which)%len(all)], b)
	})
}

// FuzzCommands checks that commands unpack and pack to the same meaning.
func FuzzCommands(f *testing.F) {
	for _, k := range commandKinds {
		c := k.sample
		f.Add(c[:])
	}
	for _, path := range captures {
		for _, r := range captured(f, path).Records {
			if len(r.Bytes) == CommandSize {
				f.Add(r.Bytes)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := ParseCommand(b)
		if err != nil {
			return
		}
		for _, k := range commandKinds {
			once := k.repack(c)
			if twice := k.repack(&once); once != twice {
				t.Fatalf("%s: not stable\n%x\n%x", k.name, once, twice)
			}
		}
	})
}

var commandKinds = []struct {
	name   string
	sample Command
	repack func(*Command) Command
}{
	{"connect", Connect{Entries: 128, Queue: 1}.Command(), func(c *Command) Command { return ParseConnect(c).Command() }},
	{"property get", PropertyGet{Size: 8}.Command(), func(c *Command) Command { return ParsePropertyGet(c).Command() }},
	{"property set", PropertySet{Size: 4, Offset: PropertyCC, Value: 1}.Command(), func(c *Command) Command { return ParsePropertySet(c).Command() }},
	{"disconnect", Disconnect{}.Command(), func(c *Command) Command { return ParseDisconnect(c).Command() }},
	{"auth", Auth{Type: FabricsAuthSend, Protocol: 0xe9}.Command(), func(c *Command) Command { return ParseAuth(c).Command() }},
	{"identify", Identify{NSID: 1, CNS: CNSControllers}.Command(), func(c *Command) Command { return ParseIdentify(c).Command() }},
	{"get log page", GetLogPage{LID: LogANA, Length: 1 << 20}.Command(), func(c *Command) Command { return ParseGetLogPage(c).Command() }},
	{"abort", Abort{1, 2}.Command(), func(c *Command) Command { return ParseAbort(c).Command() }},
	{"get features", Features{Opcode: AdminGetFeatures, Select: 3}.Command(), func(c *Command) Command { return ParseFeatures(c).Command() }},
	{"dataset management", DatasetManagement{1, 256, DatasetDeallocate}.Command(), func(c *Command) Command { return ParseDatasetManagement(c).Command() }},
	{"reservation", ReservationCommand{Opcode: IOReservationAcquire, Type: 1}.Command(), func(c *Command) Command { return ParseReservationCommand(c).Command() }},
	{"reservation report", ReservationReport{1, 4096, true}.Command(), func(c *Command) Command { return ParseReservationReport(c).Command() }},
}
