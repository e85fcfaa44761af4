package nvmetcp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// kind is one PDU seen through its parse, Append and Len.
type kind struct {
	name     string
	size     int // bytes that Parse needs
	sample   []byte
	reencode func(b []byte) (out []byte, length, used int, v any, err error)
}

type pdu interface {
	Append([]byte) []byte
	Len() int
}

func kindOf[T pdu](name string, size int, sample []byte, parse func([]byte) (T, int, error)) kind {
	return kind{name, size, sample, func(b []byte) ([]byte, int, int, any, error) {
		v, n, err := parse(b)
		if err != nil {
			return nil, 0, n, nil, err
		}
		return v.Append(nil), v.Len(), n, v, nil
	}}
}

func kinds() []kind {
	l := Link{HeaderDigest: true, DataDigest: true, Align: 64}
	req, resp := NewICReq(), NewICResp()
	req.HeaderDigest, req.MaxR2T, resp.Align = true, 16, 64
	cmd := nvme.Connect{Queue: 1, Entries: 128, SGL: nvme.InCapsule(0, 1024)}.Command()
	cqe := nvme.MakeCompletion(5, 6, nvme.StatusSuccess)
	return []kind{
		kindOf("Header", HeaderSize, Header{TypeR2T, 0, 24, 0, 24}.Append(nil), ParseHeader),
		kindOf("ICReq", ICSize, req.Append(nil), ParseICReq),
		kindOf("ICResp", ICSize, resp.Append(nil), ParseICResp),
		kindOf("TermReq", TermReqSize+72, NewTermReq(Controller, ErrPDO, make([]byte, 72)).Append(nil), ParseTermReq),
		kindOf("CapsuleCmd", CapsuleCmdSize, l.AppendCapsuleCmd(nil, &cmd, 1024), ParseCapsuleCmd),
		kindOf("CapsuleResp", CapsuleRespSize, l.AppendCapsuleResp(nil, &cqe), ParseCapsuleResp),
		kindOf("H2CData", DataSize, l.AppendData(nil, Data{Header{Type: TypeH2CData, Flags: FlagLast}, 5, 6, 4096, 512}), ParseData),
		kindOf("C2HData", DataSize, l.AppendData(nil, Data{Header{Type: TypeC2HData, Flags: FlagLast | FlagSuccess}, 5, 0, 0, 4096}), ParseData),
		kindOf("R2T", R2TSize, l.AppendR2T(nil, R2T{CCCID: 5, TTAG: 6, Offset: 0, Length: 8192}), ParseR2T),
	}
}

func TestSizes(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			out, length, used, _, err := k.reencode(k.sample)
			if err != nil {
				t.Fatal(err)
			}
			if used != k.size || length != k.size || !bytes.Equal(out, k.sample[:k.size]) {
				t.Errorf("used %d, Len %d, want %d\n%x\n%x", used, length, k.size, out, k.sample)
			}
		})
	}
}

func TestEveryPrefixFailsCleanly(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			for n := range k.size {
				if _, _, used, _, err := k.reencode(k.sample[:n:n]); !errors.Is(err, nvme.ErrTruncated) || used != 0 {
					t.Fatalf("%d of %d bytes: used %d, err %v", n, k.size, used, err)
				}
			}
		})
	}
}

func checkStable(t *testing.T, k kind, b []byte) {
	t.Helper()
	first, length, used, v, err := k.reencode(b)
	if err != nil {
		if used != 0 || !errors.Is(err, nvme.ErrTruncated) && !errors.Is(err, nvme.ErrMalformed) {
			t.Fatalf("%s: used %d, err %v", k.name, used, err)
		}
		return
	}
	if used > len(b) || length != len(first) || length != used {
		t.Fatalf("%s: used %d of %d, Len %d, appended %d", k.name, used, len(b), length, len(first))
	}
	_, _, _, w, err := k.reencode(first)
	if err != nil || !reflect.DeepEqual(v, w) {
		t.Fatalf("%s: not stable (%v)\n%+v\n%+v", k.name, err, v, w)
	}
}

func TestRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewChaCha8([32]byte{2}))
	for _, k := range kinds() {
		for range 100 {
			b := bytes.Clone(k.sample)
			for i := range b {
				if rnd.IntN(3) == 0 {
					b[i] = byte(rnd.Uint32())
				}
			}
			checkStable(t, k, b)
		}
	}
}

func FuzzPDUs(f *testing.F) {
	all := kinds()
	for i, k := range all {
		f.Add(byte(i), k.sample)
	}
	for _, path := range captures(f) {
		for _, r := range captured(f, path).Records {
			i := slices.IndexFunc(all, func(k kind) bool { return strings.HasPrefix(strings.SplitN(r.Name, " ", 2)[1], k.name) })
			f.Add(byte(i), r.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		checkStable(t, all[int(which)%len(all)], b)
	})
}

// FuzzCheck asks of every header that Check accepts that its lengths add up, so that a reader
// who relies on them stays within the PDU, and that laying out the same PDU is accepted too.
func FuzzCheck(f *testing.F) {
	for _, k := range kinds() {
		f.Add(k.sample, byte(1), byte(1), byte(15))
	}
	for _, path := range captures(f) {
		for _, r := range captured(f, path).Records {
			f.Add(r.Bytes, byte(0), byte(3), byte(0))
			f.Add(r.Bytes, byte(1), byte(0), byte(0))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, from, digests, pda byte) {
		h, _, err := ParseHeader(b)
		if err != nil {
			return
		}
		l := Link{
			From: Peer(from & 1), HeaderDigest: digests&1 != 0, DataDigest: digests&2 != 0,
			Align: alignOf(pda & 31), MaxInCapsule: 8192,
		}
		if l.Check(h) != nil {
			return
		}
		head, data := l.HeaderLen(h), l.DataLen(h)
		if head < HeaderSize || head > MaxHeaderSize+DigestSize || uint32(head)+data > h.PLEN {
			t.Fatalf("%+v %+v: header %d, data %d", l, h, head, data)
		}
		if data > 0 && h.Type != TypeH2CTermReq && h.Type != TypeC2HTermReq && int(h.PDO) < head {
			t.Fatalf("%+v: data within the header", h)
		}
		if data < 1<<31 {
			if te := l.Check(l.Header(h.Type, 0, data)); te != nil {
				t.Fatalf("%+v %+v: own layout refused: %v", l, h, te)
			}
		}
	})
}

// TestGolden holds whole PDUs, byte by byte, against TCP 3.6.2.
func TestGolden(t *testing.T) {
	cqe := nvme.MakeCompletion(0x0102, 3, nvme.StatusSuccess)
	var cmd nvme.Command
	cmd.SetOpcode(nvme.IORead)
	cmd.SetCID(0x0102)
	digests := Link{HeaderDigest: true, DataDigest: true}
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"ICReq as Linux sends it, both digests, one R2T", func() []byte { // TCP 3.6.2.2
			p := NewICReq()
			p.HeaderDigest, p.DataDigest = true, true
			return p.Append(nil)
		}(), "00 00 80 00 80000000 0000 00 03 00000000" + strings.Repeat("00", 112)},
		{"ICResp, data aligned to 64 bytes, 128 KiB per H2CData", func() []byte { // TCP 3.6.2.3
			p := NewICResp()
			p.Align, p.MaxH2CData = 64, 128<<10
			return p.Append(nil)
		}(), "01 00 80 00 80000000 0000 0f 00 00000200" + strings.Repeat("00", 112)},
		{"CapsuleResp", new(Link).AppendCapsuleResp(nil, &cqe), // TCP 3.6.2.7
			"05 00 18 00 18000000 0000000000000000 0300 0000 0201 0000"},
		{"CapsuleCmd with 8 bytes of data, aligned to 16", (&Link{Align: 16}).AppendCapsuleCmd(nil, &cmd, 8), // TCP 3.6.2.6
			"04 00 48 50 58000000 02 00 0201" + strings.Repeat("00", 60) + strings.Repeat("00", 8)},
		{"C2HData, last, success", new(Link).AppendData(nil, Data{Header{Type: TypeC2HData, Flags: FlagLast | FlagSuccess}, 0x0102, 9, 0, 512}), // TCP 3.6.2.9
			"07 0c 18 18 18020000 0201 0000 00000000 00020000 00000000"},
		{"H2CData, last", new(Link).AppendData(nil, Data{Header{Type: TypeH2CData, Flags: FlagLast}, 0x0102, 9, 512, 512}), // TCP 3.6.2.8
			"06 04 18 18 18020000 0201 0900 00020000 00020000 00000000"},
		{"H2CData, 64-byte alignment needs 40 bytes of padding", (&Link{Align: 64}).AppendData(nil, Data{Header: Header{Type: TypeH2CData}, Length: 4}), // TCP 3.3, Figure 8
			"06 00 18 40 44000000 0000 0000 00000000 04000000 00000000" + strings.Repeat("00", 40)},
		{"R2T", new(Link).AppendR2T(nil, R2T{CCCID: 0x0102, TTAG: 9, Offset: 512, Length: 1024}), // TCP 3.6.2.10
			"09 00 18 00 18000000 0201 0900 00020000 00040000 00000000"},
		{"R2T with header digest", digests.AppendR2T(nil, R2T{}), // TCP 3.3.1.1
			"09 01 18 00 1c000000 0000 0000 00000000 00000000 00000000" +
				hex.EncodeToString(AppendDigest(nil, Digest(append([]byte{9, 1, 0x18, 0, 0x1c}, make([]byte, 19)...))))},
		{"C2HTermReq names the field and holds the header", NewTermReq(Controller, ErrHLEN, []byte{4, 0, 72, 0, 72, 0, 0, 0}).Append(nil), // TCP 3.6.2.5
			"03 00 18 00 20000000 0100 02000000 00000000000000000000 0400480048000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if want := unhex(t, tt.want); !bytes.Equal(tt.got, want) {
				t.Errorf("got  %x\nwant %x", tt.got, want)
			}
		})
	}
}

// TestDigest has the examples of RFC 3720 B.4, whose CRC32C is the same.
func TestDigest(t *testing.T) {
	up := make([]byte, 32)
	for i := range up {
		up[i] = byte(i)
	}
	for _, tt := range []struct {
		data []byte
		want string
	}{
		{make([]byte, 32), "aa36918a"},
		{bytes.Repeat([]byte{0xff}, 32), "43aba862"},
		{up, "4e79dd46"},
	} {
		if got := hex.EncodeToString(AppendDigest(nil, Digest(tt.data))); got != tt.want {
			t.Errorf("digest of %x is %s, want %s", tt.data, got, tt.want)
		}
		if UpdateDigest(UpdateDigest(0, tt.data[:5]), tt.data[5:]) != Digest(tt.data) {
			t.Error("digest in two pieces differs")
		}
	}
	l := Link{HeaderDigest: true}
	b := l.AppendR2T(nil, R2T{Length: 4})
	if te := CheckHeaderDigest(b, R2TSize); te != nil {
		t.Error(te)
	}
	b[20] ^= 1
	te := CheckHeaderDigest(b, R2TSize)
	if te == nil || te.FES != FESHeaderDigest || te.FEI != le.Uint32(b[24:]) { // TCP 3.6.2.5: FEI is what was received
		t.Errorf("broken header digest: %v", te)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	l := Link{From: Host, HeaderDigest: true, DataDigest: true, Align: 64, MaxInCapsule: 8192}
	var cmd nvme.Command
	cqe := nvme.MakeCompletion(1, 2, nvme.StatusSuccess)
	in := l.AppendCapsuleCmd(nil, &cmd, 4096)
	h2c := l.AppendData(nil, Data{Header: Header{Type: TypeH2CData, Flags: FlagLast}, Length: 4096})
	out := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		h, _, _ := ParseHeader(in)
		if te := l.Check(h); te != nil {
			t.Fatal(te)
		}
		if te := CheckHeaderDigest(in, int(h.HLEN)); te != nil {
			t.Fatal(te)
		}
		c, _, _ := ParseCapsuleCmd(in)
		d, _, _ := ParseData(h2c)
		if te := l.CheckData(d, Expect{0, 4096, 1 << 17}); te != nil {
			t.Fatal(te)
		}
		out = l.AppendCapsuleResp(out[:0], &cqe)
		out = l.AppendData(out, Data{Header: Header{Type: TypeC2HData}, CCCID: c.Command.CID(), Length: 4096})
		out = l.AppendR2T(out, R2T{CCCID: c.Command.CID(), Length: 4096})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkReceive(b *testing.B) {
	l := Link{From: Host, MaxInCapsule: 8192}
	var cmd nvme.Command
	in := l.AppendCapsuleCmd(nil, &cmd, 4096)
	for b.Loop() {
		h, _, _ := ParseHeader(in)
		if l.Check(h) != nil || l.DataLen(h) != 4096 {
			b.Fatal("refused")
		}
		if c, _, _ := ParseCapsuleCmd(in); c.Command.CID() != 0 {
			b.Fatal("wrong command")
		}
	}
}

func BenchmarkSend(b *testing.B) {
	l := Link{From: Controller}
	cqe := nvme.MakeCompletion(1, 2, nvme.StatusSuccess)
	out := make([]byte, 0, 256)
	for b.Loop() {
		out = l.AppendData(out[:0], Data{Header: Header{Type: TypeC2HData, Flags: FlagLast}, Length: 4096})
		out = l.AppendCapsuleResp(out, &cqe)
	}
}
