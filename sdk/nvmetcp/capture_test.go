package nvmetcp

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/capture"
	"github.com/mooring-io/mooring/sdk/nvme"
)

var update = flag.Bool("update", false, "write the fields that are found in the captures into them")

// captured reads a capture in testdata: PDUs of a Linux host and a target, in order.
func captured(t testing.TB, path string) capture.File {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := capture.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return f
}

func captures(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	return paths
}

// TestCaptures parses what a Linux host and two targets sent, compares the fields with those that
// the capture says are there, and encodes each PDU again: digests, padding and all must come out
// byte for byte.
func TestCaptures(t *testing.T) {
	for _, path := range captures(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			f := captured(t, path)
			c := conversation{digests: strings.Contains(path, "digests")}
			for i := range f.Records {
				r := &f.Records[i]
				fields := c.check(t, r)
				if *update {
					r.Fields = fields
				} else if !slices.Equal(r.Fields, fields) {
					t.Errorf("%s: fields\n\t%s\nwant\n\t%s", r.Name, strings.Join(fields, "\n\t"), strings.Join(r.Fields, "\n\t"))
				}
			}
			c.complete(t)
			if *update && !t.Failed() {
				if err := os.WriteFile(path, f.Append(nil), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// conversation is what is known of a connection while its capture is read.
type conversation struct {
	digests          bool // the capture is one with both
	host, controller Link
	req              ICReq
	r2t              R2T
	seen             map[string]int
}

// check judges one PDU and returns its fields.
func (c *conversation) check(t *testing.T, r *capture.Record) []string {
	t.Helper()
	h, _, err := ParseHeader(r.Bytes)
	if err != nil || int(h.PLEN) != len(r.Bytes) {
		t.Fatalf("%s: %d bytes, header %+v, %v", r.Name, len(r.Bytes), h, err)
	}
	if c.seen == nil {
		c.seen = map[string]int{}
		c.controller.From = Controller
	}
	from, _, _ := strings.Cut(r.Name, ",")
	c.seen[from]++
	link := &c.host
	if strings.HasPrefix(r.Name, "controller ") {
		link = &c.controller
	}
	if te := link.Check(h); te != nil {
		t.Errorf("%s: refused: %v", r.Name, te)
	}
	if link.HeaderDigest && h.Has(FlagHeaderDigest) {
		if te := CheckHeaderDigest(r.Bytes, int(h.HLEN)); te != nil {
			t.Errorf("%s: %v", r.Name, te)
		}
	}
	n := link.DataLen(h)
	data := r.Bytes[h.PDO : uint32(h.PDO)+n]
	fields, again := c.parse(t, r, h, data)
	if n > 0 {
		again = append(again, data...)
		if h.Has(FlagDataDigest) {
			again = AppendDigest(again, Digest(data))
		}
	}
	if !bytes.Equal(again, r.Bytes) {
		t.Errorf("%s: encoded again\n%x\nwas\n%x", r.Name, again, r.Bytes)
	}
	return fields
}

// parse returns the fields of a PDU, and it encoded again up to its data.
func (c *conversation) parse(t *testing.T, r *capture.Record, h Header, data []byte) (fields []string, again []byte) {
	t.Helper()
	prefixes := func(parse func([]byte) error) {
		for n := range int(h.HLEN) {
			if err := parse(r.Bytes[:n:n]); !errors.Is(err, nvme.ErrTruncated) {
				t.Fatalf("%s: %d bytes: %v", r.Name, n, err)
			}
		}
	}
	switch h.Type {
	case TypeICReq:
		p, _, err := ParseICReq(r.Bytes)
		prefixes(func(b []byte) error { _, _, err := ParseICReq(b); return err })
		if te := p.Check(); err != nil || te != nil || p.HeaderDigest != c.digests || p.DataDigest != c.digests {
			t.Errorf("%s: %+v: %v, %v", r.Name, p, err, te)
		}
		c.req = p
		return capture.Fields(p), p.Append(nil)
	case TypeICResp:
		p, _, err := ParseICResp(r.Bytes)
		prefixes(func(b []byte) error { _, _, err := ParseICResp(b); return err })
		if te := p.Check(c.req); err != nil || te != nil {
			t.Errorf("%s: %+v: %v, %v", r.Name, p, err, te)
		}
		c.host, c.controller = Links(c.req, p, 16<<10) // what Linux's target takes, ours takes 8 KiB
		return capture.Fields(p), p.Append(nil)
	case TypeCapsuleCmd:
		p, _, err := ParseCapsuleCmd(r.Bytes)
		prefixes(func(b []byte) error { _, _, err := ParseCapsuleCmd(b); return err })
		if err != nil || len(data) > 0 && p.Command.SGL1() != nvme.InCapsule(0, uint32(len(data))) {
			t.Errorf("%s: %d bytes of data, %+v, %v", r.Name, len(data), p.Command.SGL1(), err)
		}
		return append(capture.Fields(h), commandFields(p.Command)...), c.host.AppendCapsuleCmd(nil, p.Command, uint32(len(data)))
	case TypeCapsuleResp:
		p, _, err := ParseCapsuleResp(r.Bytes)
		prefixes(func(b []byte) error { _, _, err := ParseCapsuleResp(b); return err })
		if err != nil || p.Completion.Status() != nvme.StatusSuccess {
			t.Errorf("%s: %v, %v", r.Name, p.Completion.Status(), err)
		}
		return append(capture.Fields(h), capture.Fields(struct {
			CID  nvme.CommandID
			SQHD uint16
		}{p.Completion.CID(), p.Completion.SQHD()})...), c.controller.AppendCapsuleResp(nil, p.Completion)
	case TypeR2T:
		p, _, err := ParseR2T(r.Bytes)
		prefixes(func(b []byte) error { _, _, err := ParseR2T(b); return err })
		if te := p.Check(Expect{End: 64 << 10}); err != nil || te != nil {
			t.Errorf("%s: %+v: %v, %v", r.Name, p, err, te)
		}
		c.r2t = p
		return capture.Fields(p), c.controller.AppendR2T(nil, p)
	case TypeH2CData:
		p, _, err := ParseData(r.Bytes)
		prefixes(func(b []byte) error { _, _, err := ParseData(b); return err })
		if te := c.host.CheckData(p, Expect{End: uint64(c.r2t.Length)}); err != nil || te != nil || p.TTAG != c.r2t.TTAG || p.CCCID != c.r2t.CCCID {
			t.Errorf("%s: %+v for %+v: %v, %v", r.Name, p, c.r2t, err, te)
		}
		return capture.Fields(p), c.host.AppendData(nil, p)
	case TypeC2HData:
		p, _, err := ParseData(r.Bytes)
		prefixes(func(b []byte) error { _, _, err := ParseData(b); return err })
		if te := c.controller.CheckData(p, Expect{End: nvme.IdentifySize}); err != nil || te != nil {
			t.Errorf("%s: %+v: %v, %v", r.Name, p, err, te)
		}
		return capture.Fields(p), c.controller.AppendData(nil, p)
	default:
		t.Fatalf("%s: PDU of type %v", r.Name, h.Type)
		return nil, nil
	}
}

// commandFields are the fields of a command that say how its data travels.
func commandFields(c *nvme.Command) []string {
	return capture.Fields(struct {
		Opcode nvme.Opcode
		CID    nvme.CommandID
		SGL1   nvme.SGL
	}{c.Opcode(), c.CID(), c.SGL1()})
}

// complete asks for every PDU that a Linux host and a target exchange when all is well.
func (c *conversation) complete(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"host ICReq", "controller ICResp", "host CapsuleCmd", "controller CapsuleResp",
		"controller C2HData", "controller R2T", "host H2CData",
	} {
		if c.seen[name] == 0 {
			t.Errorf("the capture has no %s", name)
		}
	}
	if c.seen["host CapsuleCmd"] < 4 {
		t.Errorf("%d command capsules, want Connect, Property Get, Identify and Write", c.seen["host CapsuleCmd"])
	}
}

// TestLinuxHost holds what is known of Linux's host without asking this package's decoder: its
// source (drivers/nvme/host/tcp.c of 6.1) asks for one R2T, no alignment beyond 4 bytes, queues of
// 32 entries on the Admin queue, and puts what fits behind the command.
func TestLinuxHost(t *testing.T) {
	for _, path := range captures(t) {
		f := captured(t, path)
		digests := byte(0)
		if strings.Contains(path, "digests") {
			digests = 3
		}
		for _, want := range []struct {
			record string
			at     int
			bytes  []byte
		}{
			{"host ICReq", 8, []byte{0, 0, 0, digests, 0, 0, 0, 0}},                         // PFV, HPDA, DGST, MAXR2T. TCP 3.6.2.2
			{"host CapsuleCmd, fabrics connect, admin queue, with data", 52, []byte{31, 0}}, // SQSIZE. Base 6.3
			{"host CapsuleCmd, fabrics connect, admin queue, with data", 56, []byte{0x88, 0x13, 0, 0}},
			{"host CapsuleCmd, fabrics property-get 00h", 8, []byte{0x7f, 0x40}},
			{"host CapsuleCmd, io write, with data", 8, []byte{1, 0x40}},
			{"host H2CData, io write", 1, []byte{digests | 4}}, // LAST_PDU: all 64 KiB at once
			{"host H2CData, io write", 16, []byte{0, 0, 1, 0}}, // DATAL. TCP 3.6.2.8
		} {
			i := slices.IndexFunc(f.Records, func(r capture.Record) bool { return r.Name == want.record })
			if i < 0 {
				t.Errorf("%s: no %s", path, want.record)
				continue
			}
			if got := f.Records[i].Bytes[want.at : want.at+len(want.bytes)]; !bytes.Equal(got, want.bytes) {
				t.Errorf("%s: %s: % x at %d, want % x", path, want.record, got, want.at, want.bytes)
			}
		}
	}
}
