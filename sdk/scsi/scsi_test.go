package scsi

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func cdb(t testing.TB, s string) *[16]byte {
	t.Helper()
	var c [16]byte
	copy(c[:], unhex(t, s))
	return &c
}

// SBC-3 5.10 to 5.41: where LBA, length and flags stand in CDBs of each length.
func TestAccess(t *testing.T) {
	for _, x := range []struct {
		name, cdb string
		want      Access
	}{
		{"READ (6)", "08 1f ff fe 05 00", Access{LBA: 0x1ffffe, Blocks: 5}},
		{"READ (6) of 256 blocks", "08 00 00 01 00 00", Access{LBA: 1, Blocks: 256}},
		{"WRITE (6)", "0a 00 01 02 01 00", Access{LBA: 0x102, Blocks: 1}},
		{"READ (10)", "28 18 01 02 03 04 00 05 06 00", Access{LBA: 0x01020304, Blocks: 0x506, Flags: 0x18}},
		{"WRITE SAME (10)", "41 08 01 02 03 04 00 05 06 00", Access{LBA: 0x01020304, Blocks: 0x506, Flags: 0x08}},
		{"WRITE (12)", "aa e0 01 02 03 04 05 06 07 08 00 00", Access{LBA: 0x01020304, Blocks: 0x05060708, Flags: 0xe0}},
		{"READ (16)", "88 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 00 00", Access{LBA: 0x0102030405060708, Blocks: 0x090a0b0c}},
		{"VERIFY (16)", "8f 02 00 00 00 00 00 00 00 08 00 00 00 01 00 00", Access{LBA: 8, Blocks: 1, Flags: 0x02}},
		{"COMPARE AND WRITE", "89 00 00 00 00 00 00 00 00 08 00 00 00 02 00 00", Access{LBA: 8, Blocks: 2}},
	} {
		c := cdb(t, x.cdb)
		if got := ParseAccess(c); got != x.want {
			t.Errorf("%s: %+v, want %+v", x.name, got, x.want)
		}
		if x.want.Blocks != 256 {
			if got := x.want.CDB(Opcode(c[0])); got != *c {
				t.Errorf("%s: made %x, want %x", x.name, got, *c)
			}
		}
	}
	if (Access{Flags: 0x06}).ByteCheck() != 3 || (Access{Flags: 0x12}).ByteCheck() != 1 {
		t.Error("BYTCHK")
	}
}

func TestLengths(t *testing.T) {
	for s, want := range map[string]uint32{
		"03 00 00 00 12 00":                               0x12,
		"12 01 83 01 02 00":                               0x102,
		"1a 00 3f 00 ff 00":                               0xff,
		"5a 00 3f 00 00 00 00 01 02 00":                   0x102,
		"5e 00 00 00 00 00 00 01 02 00":                   0x102,
		"37 00 00 00 00 00 00 01 02 00":                   0x102,
		"a0 00 00 00 00 00 01 02 03 04 00 00":             0x01020304,
		"a3 0c 00 00 00 00 01 02 03 04 00 00":             0x01020304,
		"b7 00 00 00 00 00 01 02 03 04 00 00":             0x01020304,
		"9e 10 00 00 00 00 00 00 00 00 01 02 03 04 00 00": 0x01020304,
		"84 03 00 00 00 00 00 00 00 00 01 02 03 04 00 00": 0x01020304,
		"28 00 00 00 00 00 00 00 01 00":                   0,
	} {
		if got := AllocationLength(cdb(t, s)); got != want {
			t.Errorf("allocation length of %s: %#x, want %#x", s, got, want)
		}
	}
	for s, want := range map[string]uint32{
		"15 10 00 00 18 00":                               0x18,
		"55 10 00 00 00 00 00 01 02 00":                   0x102,
		"42 00 00 00 00 00 00 01 02 00":                   0x102,
		"1d 04 00 01 02 00":                               0x102,
		"5f 00 00 00 00 01 02 03 04 00":                   0x01020304,
		"83 00 00 00 00 00 00 00 00 00 01 02 03 04 00 00": 0x01020304,
		"08 00 00 00 01 00":                               0,
	} {
		if got := ParameterListLength(cdb(t, s)); got != want {
			t.Errorf("parameter list length of %s: %#x, want %#x", s, got, want)
		}
	}
	for o, want := range map[Opcode]int{TestUnitReady: 6, Read10: 10, ModeSense10: 10, Read16: 16, Read12: 12, 0x7f: 0} {
		if CDBLen(o) != want {
			t.Errorf("the CDB of opcode %#x has %d bytes, want %d", uint8(o), CDBLen(o), want)
		}
	}
}

func TestSense(t *testing.T) {
	invalid := ASCKey{IllegalRequest, ASCInvalidFieldInCDB}
	for _, x := range []struct {
		name        string
		sense       Sense
		fixed, desc string
	}{
		{"nothing", Sense{}, "70 00 00 00000000 0a 00000000 0000 00 000000", "72 00 0000 000000 00"},
		{
			"a field of the CDB", Sense{Key: invalid, Field: Field{Valid: true, Byte: 2, Bit: 7}},
			"70 00 05 00000000 0a 00000000 2400 00 cf0002", "72 05 2400 000000 08 02 06 0000 cf0002 00",
		},
		{
			"a field of the list", Sense{Key: ASCKey{IllegalRequest, ASCInvalidFieldInList}, Field: Field{Valid: true, List: true, Byte: 258, Bit: -1}},
			"70 00 05 00000000 0a 00000000 2600 00 800102", "72 05 2600 000000 08 02 06 0000 800102 00",
		},
		{
			"an LBA", Sense{Key: ASCKey{MediumError, ASCUnrecoveredRead}, HasInfo: true, Info: 0x01020304},
			"f0 00 03 01020304 0a 00000000 1100 00 000000", "72 03 1100 000000 0c 00 0a 80 00 0000000001020304",
		},
		{
			"an LBA that is too large", Sense{Key: ASCKey{MediumError, ASCUnrecoveredRead}, HasInfo: true, Info: 0x0102030405060708},
			"70 00 03 00000000 0a 00000000 1100 00 000000", "72 03 1100 000000 0c 00 0a 80 00 0102030405060708",
		},
	} {
		fixed, desc := x.sense.Append(nil, false), x.sense.Append(nil, true)
		if !bytes.Equal(fixed, unhex(t, x.fixed)) {
			t.Errorf("%s: fixed %x, want %s", x.name, fixed, x.fixed)
		}
		if !bytes.Equal(desc, unhex(t, x.desc)) {
			t.Errorf("%s: descriptors %x, want %s", x.name, desc, x.desc)
		}
		if got, err := ParseSense(desc); err != nil || got != x.sense {
			t.Errorf("%s: read back from descriptors %+v, %v", x.name, got, err)
		}
		if got, err := ParseSense(fixed); err != nil || got != x.sense && x.sense.Info <= 0xffff_ffff {
			t.Errorf("%s: read back from the fixed format %+v, %v", x.name, got, err)
		}
		for i := range 8 {
			if _, err := ParseSense(fixed[:i]); err == nil {
				t.Errorf("%d bytes are sense data", i)
			}
		}
	}
	if _, err := ParseSense(make([]byte, 18)); err == nil {
		t.Error("response code 0 is sense data")
	}
}

// SAM-5 4.7
func TestLUN(t *testing.T) {
	for s, want := range map[string]LUN{
		"0000000000000000": 0, "0007000000000000": 7, "00ff000000000000": 255, "4001000000000000": 1, "4100000000000000": 256, "7fff000000000000": MaxLUN,
	} {
		if l, ok := ParseLUN([8]byte(unhex(t, s))); !ok || l != want {
			t.Errorf("%s: %d, %t", s, l, ok)
		}
	}
	for _, s := range []string{"0100000000000000", "0000000100000000", "8000000000000000", "c101000000000000", "0000000000000001"} {
		if l, ok := ParseLUN([8]byte(unhex(t, s))); ok {
			t.Errorf("%s is LUN %d", s, l)
		}
	}
	list := []LUN{0, 5, 255, 256, 1000}
	b := AppendLUNs(nil, list)
	if want := unhex(t, "00000028 00000000 0000000000000000 0005000000000000 00ff000000000000 4100000000000000 43e8000000000000"); !bytes.Equal(b, want) {
		t.Errorf("list %x", b)
	}
	if got, err := ParseLUNs(b); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ParseLUNs(b[:7]); err == nil {
		t.Error("a list without a header")
	}
}

func TestInquiry(t *testing.T) {
	q := InquiryData{TPGS: TPGSImplicit, ThirdPartyCopy: true, Vendor: "MOORING", Product: "VOLUME", Revision: "0.1", Versions: []uint16{VersionSAM5, VersionISCSI}}
	b := q.Append(nil)
	want := unhex(t, `00 00 06 12 45 18 00 02 4d4f4f52494e4720 564f4c554d4520202020202020202020 302e3120
		0000000000000000000000000000000000000000 0000 00a0 0960 0000 0000 0000 0000 0000 0000`)
	if !bytes.Equal(b, want) {
		t.Errorf("%x\n%x", b, want)
	}
	if got, err := ParseInquiry(b); err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range 36 {
		if _, err := ParseInquiry(b[:i]); err == nil {
			t.Errorf("%d bytes are INQUIRY data", i)
		}
	}
	if got, err := ParseInquiry(b[:36]); err != nil || got.Product != "VOLUME" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVPD(t *testing.T) {
	if got := SupportedPages(VPDDeviceID, VPDSupportedPages, VPDBlockLimits); !bytes.Equal(got, []byte{0, 0x83, 0xb0}) {
		t.Errorf("pages %x", got)
	}
	b := AppendVPD(nil, UnitConnected, VPDSerialNumber, []byte("abc"))
	if !bytes.Equal(b, unhex(t, "00 80 0003 616263")) {
		t.Errorf("%x", b)
	}
	if p, c, err := ParseVPD(b); err != nil || p != VPDSerialNumber || string(c) != "abc" {
		t.Errorf("%v %q %v", p, c, err)
	}
	for i := range b {
		if _, _, err := ParseVPD(b[:i]); err == nil {
			t.Errorf("%d bytes are a page", i)
		}
	}
	d := Designator{OfPort, DesignatorSCSIName, true, SCSIName("iqn.a:b")}
	b = d.Append(nil)
	if !bytes.Equal(b, unhex(t, "53 98 00 08 69716e2e613a6200")) {
		t.Errorf("%x", b)
	}
	if got, n, err := ParseDesignator(append(b, 1)); err != nil || n != len(b) || !reflect.DeepEqual(got, d) {
		t.Errorf("%+v, %d, %v", got, n, err)
	}
	for i := range b {
		if _, _, err := ParseDesignator(b[:i]); err == nil {
			t.Errorf("%d bytes are a designator", i)
		}
	}
	l := BlockLimits{16, 8, 2048, 1024, 4, 0xffff_ffff, 256, 8, 1 << 33}
	b = l.Append(nil)
	if got, err := ParseBlockLimits(b); err != nil || got != l || len(b) != 0x3c {
		t.Errorf("%+v, %v", got, err)
	}
	if !bytes.Equal(b[:40], unhex(t, "01 10 0008 00000800 00000400 00000004 ffffffff 00000100 00000008 80000000 0000000200000000")) {
		t.Errorf("%x", b)
	}
	if len(ExtendedInquiry()) != 60 || len(Characteristics()) != 60 || len(Provisioning()) != 4 {
		t.Error("lengths of pages")
	}
}

func TestCapacity(t *testing.T) {
	c := Capacity{LastLBA: 0x1_0000_0000, BlockBytes: 512, PhysicalShift: 3, Thin: true, ReadsZeros: true}
	b := c.Append16(nil)
	if !bytes.Equal(b, append(unhex(t, "0000000100000000 00000200 00 03 c0 00"), make([]byte, 16)...)) {
		t.Errorf("%x", b)
	}
	if got, err := ParseCapacity16(b); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	if got := c.Append10(nil); !bytes.Equal(got, unhex(t, "ffffffff 00000200")) {
		t.Errorf("%x", got)
	}
	if got, err := ParseCapacity10(unhex(t, "00000007 00001000")); err != nil || got != (Capacity{LastLBA: 7, BlockBytes: 4096}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got := AppendLBAStatus(nil, []LBAStatus{{1, 2, Mapped}, {3, 4, Deallocated}}); !bytes.Equal(got, unhex(t, `
		00000024 00000000 0000000000000001 00000002 00 000000 0000000000000003 00000004 01 000000`)) {
		t.Errorf("%x", got)
	}
}

func TestUnmap(t *testing.T) {
	ranges := []UnmapRange{{1, 2}, {1 << 40, 0xffff_ffff}}
	b := AppendUnmap(nil, ranges)
	if !bytes.Equal(b, unhex(t, "0026 0020 00000000 0000000000000001 00000002 00000000 0000010000000000 ffffffff 00000000")) {
		t.Errorf("%x", b)
	}
	d, err := ParseUnmap(b)
	if err != nil || UnmapRanges(d) != 2 || UnmapRangeAt(d, 0) != ranges[0] || UnmapRangeAt(d, 1) != ranges[1] {
		t.Errorf("%x, %v", d, err)
	}
	if d, err := ParseUnmap(b[:30]); err != nil || UnmapRanges(d) != 1 {
		t.Errorf("a list cut short has %d ranges, %v", UnmapRanges(d), err)
	}
	for i := range 8 {
		if _, err := ParseUnmap(b[:i]); err == nil {
			t.Errorf("%d bytes are a list", i)
		}
	}
}

func TestModes(t *testing.T) {
	pages := Mode{Page: ModeCaching, Content: []byte{4, 0}}.Append(nil)
	for _, x := range []struct {
		h    ModeHeader
		ten  bool
		want string
	}{
		{ModeHeader{DPOFUA: true}, false, "07 00 10 00 0802 0400"},
		{ModeHeader{WriteProtected: true, HasBlock: true, Blocks: 0x01020304, BlockBytes: 512}, false, "0f 00 80 08 01020304 00000200 0802 0400"},
		{ModeHeader{DPOFUA: true, HasBlock: true, Blocks: 1 << 33, BlockBytes: 4096}, true, "0012 00 10 00 00 0008 ffffffff 00001000 0802 0400"},
		{ModeHeader{DPOFUA: true, HasBlock: true, Long: true, Blocks: 1 << 33, BlockBytes: 4096}, true, "001a 00 10 01 00 0010 0000000200000000 00000000 00001000 0802 0400"},
	} {
		b := x.h.Append(nil, x.ten, pages)
		if want := unhex(t, x.want); !bytes.Equal(b[:len(want)-4], want[:len(want)-4]) && !bytes.Equal(b, want) {
			t.Errorf("%x, want %x", b, want)
		}
		h, n, err := ParseModeHeader(b, x.ten)
		if x.h.Blocks > 0xffff_ffff && !x.h.Long {
			x.h.Blocks = 0xffff_ffff
		}
		if err != nil || h != x.h {
			t.Errorf("%+v, %v, want %+v", h, err, x.h)
		}
		m, used, err := ParseMode(b[n:])
		if err != nil || n+used != len(b) || m.Page != ModeCaching || !bytes.Equal(m.Content, []byte{4, 0}) {
			t.Errorf("%+v, %v", m, err)
		}
		for i := range n {
			if _, _, err := ParseModeHeader(b[:i], x.ten); err == nil {
				t.Errorf("%d bytes are a header", i)
			}
		}
		for i := n; i < len(b); i++ {
			if _, _, err := ParseMode(b[n:i]); err == nil {
				t.Errorf("%d bytes are a page", i-n)
			}
		}
	}
	if m, n, err := ParseMode(unhex(t, "4a 01 0002 0102")); err != nil || n != 6 || m.Page != ModeControl || m.Subpage != 1 || len(m.Content) != 2 {
		t.Errorf("a page with a subpage: %+v, %d, %v", m, n, err)
	}
	if got := ParseModeSense(cdb(t, "5a 18 48 ff 00 00 00 00 ff 00")); got != (ModeSense{ModeCaching, 0xff, ChangeableValues, true, true}) {
		t.Errorf("%+v", got)
	}
	if got := ParseModeSense(cdb(t, "1a 18 3f 00 ff 00")); got != (ModeSense{ModeAllPages, 0, CurrentValues, true, false}) {
		t.Errorf("%+v", got)
	}
}

func TestPersistent(t *testing.T) {
	p := PersistentParameters{Key: 1, ActionKey: 2, SpecPorts: true, PowerLoss: true}
	b := p.Append(nil)
	if !bytes.Equal(b, unhex(t, "0000000000000001 0000000000000002 00000000 09 00 0000")) {
		t.Errorf("%x", b)
	}
	if got, err := ParsePersistent(b); err != nil || got != p {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range b {
		if _, err := ParsePersistent(b[:i]); err == nil {
			t.Errorf("%d bytes are a list", i)
		}
	}
	id := AppendTransportID(nil, "iqn.2026-11.a:b", "00023d000001")
	if want := append(unhex(t, "45 00 0024"), "iqn.2026-11.a:b,i,0x00023d000001\x00\x00\x00\x00"...); !bytes.Equal(id, want) {
		t.Errorf("%x, want %x", id, want)
	}
	if short := AppendTransportID(nil, "iqn.a", ""); len(short) != 24 || short[0] != 5 || short[3] != 20 {
		t.Errorf("%x", short)
	}
	s := PersistentStatus{7, WriteExclusive, []PersistentRegistrant{{0xa, true, []byte{5, 0, 0, 0}, 1}, {0xb, false, []byte{5, 0, 0, 0}, 1}}}
	if got := s.AppendKeys(nil); !bytes.Equal(got, unhex(t, "00000007 00000010 000000000000000a 000000000000000b")) {
		t.Errorf("%x", got)
	}
	if got := s.AppendHolder(nil); !bytes.Equal(got, unhex(t, "00000007 00000010 000000000000000a 00000000 00 01 0000")) {
		t.Errorf("%x", got)
	}
	if got := s.AppendFull(nil); !bytes.Equal(got, unhex(t, `00000007 00000038
		000000000000000a 00000000 01 01 00000000 0001 00000004 05000000
		000000000000000b 00000000 00 00 00000000 0001 00000004 05000000`)) {
		t.Errorf("%x", got)
	}
	s.Type = ExclusiveAccessAllRegistrants
	if got := s.AppendHolder(nil); !bytes.Equal(got, unhex(t, "00000007 00000010 0000000000000000 00000000 00 08 0000")) {
		t.Errorf("%x", got)
	}
	s.Type = PersistentNone
	if got := s.AppendHolder(nil); !bytes.Equal(got, unhex(t, "00000007 00000000")) {
		t.Errorf("%x", got)
	}
	if got := AppendPersistentCapabilities(nil, true); !bytes.Equal(got, unhex(t, "0008 11 91 ea 01 0000")) {
		t.Errorf("%x", got)
	}
	for v := range PersistentType(16) {
		if v.Valid() != strings.Contains("1 3 5 6 7 8", string('0'+rune(v))) {
			t.Errorf("type %d", v)
		}
	}
}

func TestMaintenance(t *testing.T) {
	groups := []PortGroup{{1, ActiveOptimized, true, []uint16{1}}, {2, Standby, false, []uint16{2, 3}}}
	b := AppendPortGroups(nil, false, 0, groups)
	if !bytes.Equal(b, unhex(t, "0000001c 80 8f 0001 00 02 00 01 0000 0001 02 8f 0002 00 02 00 02 0000 0002 0000 0003")) {
		t.Errorf("%x", b)
	}
	if got, err := ParsePortGroups(b); err != nil || !reflect.DeepEqual(got, groups) {
		t.Errorf("%+v, %v", got, err)
	}
	if b := AppendPortGroups(nil, true, 5, groups); !bytes.Equal(b[:8], unhex(t, "00000020 10 05 0000")) {
		t.Errorf("%x", b)
	}
	c := Command{Opcode: MaintenanceIn, HasAction: true, ServiceAction: 0x0c, Usage: []byte{0xa3, 0x0c, 0x87}}
	if got := AppendAllCommands(nil, false, []Command{c}); !bytes.Equal(got, unhex(t, "00000008 a3 00 000c 00 01 0003")) {
		t.Errorf("%x", got)
	}
	if got := AppendAllCommands(nil, true, []Command{c}); !bytes.Equal(got, unhex(t, "00000014 a3 00 000c 00 03 0003 000a 00000000000000000000")) {
		t.Errorf("%x", got)
	}
	if got := AppendOneCommand(nil, true, &c); !bytes.Equal(got, unhex(t, "00 83 0003 a30c87 000a 00000000000000000000")) {
		t.Errorf("%x", got)
	}
	if got := AppendOneCommand(nil, true, nil); !bytes.Equal(got, unhex(t, "00 01 0000")) {
		t.Errorf("%x", got)
	}
	if got := ParseReportCommands(cdb(t, "a3 0c 83 9e 00 10 00 00 10 00 00 00")); got != (ReportCommands{true, 3, ServiceActionIn16, 0x10}) {
		t.Errorf("%+v", got)
	}
	if got := AppendTaskMgmt(nil, true, CanAbortTask|CanResetUnit); len(got) != 16 || got[0] != 0x88 || got[3] != 12 {
		t.Errorf("%x", got)
	}
	if got := AppendTaskMgmt(nil, false, CanAbortTask); !bytes.Equal(got, []byte{0x80, 0, 0, 0}) {
		t.Errorf("%x", got)
	}
}

func TestCopy(t *testing.T) {
	h := CopyHeader{ListID: 3, Usage: 2, CSCDBytes: 32, SegmentBytes: 28}
	b := h.Append(nil)
	if got, err := ParseCopyHeader(b); err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
	c := CSCD{Code: CSCDIdentification, Designator: Designator{Type: DesignatorEUI64, ID: []byte("0123456789abcdef")}, BlockBytes: 4096}
	cb := c.Append(nil)
	if !bytes.Equal(cb, append(unhex(t, "e4 00 0000 01 02 00 10"), "0123456789abcdef\x00\x00\x00\x00\x00\x00\x10\x00"...)) {
		t.Errorf("%x", cb)
	}
	if got, err := ParseCSCD(cb); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v, %v", got, err)
	}
	s := Segment{Code: SegmentBlocks, Source: 0, Destination: 1, Blocks: 0xffff, FromLBA: 1, ToLBA: 1 << 40, ByDestination: true}
	sb := s.Append(nil)
	if !bytes.Equal(sb, unhex(t, "02 02 0018 0000 0001 0000 ffff 0000000000000001 0000010000000000")) {
		t.Errorf("%x", sb)
	}
	if got, n, err := ParseSegment(sb); err != nil || n != SegmentSize || got != s {
		t.Errorf("%+v, %d, %v", got, n, err)
	}
	for _, x := range []struct {
		b     []byte
		parse func([]byte) error
	}{
		{b, func(b []byte) error { _, err := ParseCopyHeader(b); return err }},
		{cb, func(b []byte) error { _, err := ParseCSCD(b); return err }},
		{sb, func(b []byte) error { _, _, err := ParseSegment(b); return err }},
	} {
		for i := range x.b {
			if x.parse(x.b[:i]) == nil {
				t.Errorf("%d of %d bytes suffice", i, len(x.b))
			}
		}
	}
	l := CopyLimits{MaxCSCDs: 64, MaxSegments: 32, MaxListBytes: 4080, MaxSegment: 1 << 20, MaxConcurrent: 1, GranularityLog: 12}
	p := l.AppendOperatingParameters(nil)
	if len(p) != 46 || p[3] != 42 || p[43] != 2 || p[44] != SegmentBlocks || p[45] != CSCDIdentification || p[9] != 64 || p[11] != 32 {
		t.Errorf("%x", p)
	}
	if got := (CopyResult{1, 2, 3}).Append(nil); !bytes.Equal(got, unhex(t, "00000008 01 0002 01 00000003")) {
		t.Errorf("%x", got)
	}
	if v := l.AppendThirdPartyCopy(nil); !bytes.Equal(v[:12], unhex(t, "0001 0008 07 830100 84020003")) {
		t.Errorf("%x", v)
	}
}

// FuzzParameters parses anything as every parameter list that an initiator, or a device, may send.
func FuzzParameters(f *testing.F) {
	f.Add(AppendUnmap(nil, []UnmapRange{{1, 2}}))
	h := ModeHeader{HasBlock: true, BlockBytes: 512}
	f.Add(h.Append(nil, true, Mode{Page: ModeControl, Content: make([]byte, 10)}.Append(nil)))
	f.Add(PersistentParameters{Key: 1}.Append(nil))
	f.Add(CopyHeader{CSCDBytes: 32}.Append(nil))
	f.Add(CSCD{Code: CSCDIdentification, Designator: Designator{Type: DesignatorEUI64, ID: make([]byte, 16)}}.Append(nil))
	f.Add(Segment{Code: SegmentBlocks}.Append(nil))
	f.Add(AppendLUNs(nil, []LUN{1, 300}))
	f.Add((&Sense{HasInfo: true}).Append(nil, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseUnmap(b); err == nil {
			for i := range UnmapRanges(d) {
				_ = UnmapRangeAt(d, i)
			}
		}
		for _, ten := range []bool{false, true} {
			if _, n, err := ParseModeHeader(b, ten); err == nil && n > len(b) {
				t.Fatalf("pages begin at %d of %d", n, len(b))
			}
		}
		for rest := b; ; {
			m, n, err := ParseMode(rest)
			if err != nil {
				break
			}
			if n < 2 || len(m.Content) > n {
				t.Fatalf("a page of %d bytes", n)
			}
			rest = rest[n:]
		}
		if p, err := ParsePersistent(b); err == nil {
			if again, err := ParsePersistent(p.Append(nil)); err != nil || again != p {
				t.Fatalf("%+v, then %+v, %v", p, again, err)
			}
		}
		if c, err := ParseCSCD(b); err == nil && c.Code == CSCDIdentification {
			if again, err := ParseCSCD(c.Append(nil)); err != nil || !reflect.DeepEqual(c, again) {
				t.Fatalf("%+v, then %+v, %v", c, again, err)
			}
		}
		if s, n, err := ParseSegment(b); err == nil && s.Code == SegmentBlocks {
			if again, _, err := ParseSegment(s.Append(nil)); err != nil || again != s || n < 4 {
				t.Fatalf("%+v, then %+v, %v", s, again, err)
			}
		}
		if s, err := ParseSense(b); err == nil {
			if again, err := ParseSense(s.Append(nil, true)); err != nil || again != s {
				t.Fatalf("%+v, then %+v, %v", s, again, err)
			}
		}
		if d, n, err := ParseDesignator(b); err == nil {
			if again, m, err := ParseDesignator(d.Append(nil)); err != nil || n != m || !reflect.DeepEqual(d, again) {
				t.Fatalf("%+v, then %+v, %v", d, again, err)
			}
		}
		_, _ = ParseCopyHeader(b)
		_, _ = ParseLUNs(b)
		_, _ = ParseInquiry(b)
		_, _, _ = ParseVPD(b)
		_, _ = ParsePortGroups(b)
		_, _ = ParseBlockLimits(b)
		_, _ = ParseCapacity16(b)
		_, _ = ParseCapacity10(b)
	})
}
