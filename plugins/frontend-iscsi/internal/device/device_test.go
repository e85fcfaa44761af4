package device

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
	"github.com/mooring-io/mooring/sdk/scsi"
)

const initiator = "iqn.2026-11.com.example:host"

// A read returns what was written, by all forms of both, with buffers smaller and larger than one transfer.
func TestReadWrite(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	for i, c := range []struct {
		write, read scsi.Opcode
		lba         uint64
		blocks      uint32
	}{
		{scsi.Write6, scsi.Read6, 7, 3},
		{scsi.Write6, scsi.Read6, 512, 256}, // which the CDB says as 0
		{scsi.Write10, scsi.Read10, 1, 1},
		{scsi.Write12, scsi.Read12, 100, 33},
		{scsi.Write16, scsi.Read16, 8, 4000}, // more than one buffer
		{scsi.WriteVerify10, scsi.Read16, 3, 9},
		{scsi.WriteVerify16, scsi.Read10, 3, 9},
	} {
		data := pattern(int(c.blocks)*512, byte(i))
		p.good(0, cdb(c.write, c.lba, c.blocks, 0), data, 0)
		if got := p.good(0, cdb(c.read, c.lba, c.blocks, 0), nil, len(data)); !bytes.Equal(got, data) {
			t.Errorf("%v, %v: other data is read than was written", c.write, c.read)
		}
		if !bytes.Equal(r.content(1, int(c.lba)*512, len(data)), data) {
			t.Errorf("%v: other data is on the volume than was written", c.write)
		}
	}
}

// An initiator that expects to move less than a command names moves that, and is told what was left.
func TestShortTransfers(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	before := pattern(4*512, 1)
	p.good(0, cdb(scsi.Write10, 0, 4, 0), before, 0)
	c := p.do(0, cdb(scsi.Read10, 0, 4, 0), nil, 700)
	if c.status != scsi.StatusGood || !bytes.Equal(c.in, before[:700]) || c.total != 4*512 {
		t.Errorf("read of 700 bytes: %v, %d bytes of %d", c.status, len(c.in), c.total)
	}
	part := pattern(700, 9)
	if c = p.do(0, cdb(scsi.Write10, 0, 4, 0), part, 0); c.status != scsi.StatusGood || c.total != 4*512 {
		t.Errorf("write of 700 bytes: %v, total %d", c.status, c.total)
	}
	if want := append(slices.Clone(part), before[700:]...); !bytes.Equal(r.content(1, 0, 4*512), want) {
		t.Error("a write of less than its blocks touched what lies beyond")
	}
}

// Commands that change data have the effect that their section of SBC-3 says.
func TestEffects(t *testing.T) {
	const bs = 512
	for name, c := range map[string]struct {
		cdb  []byte
		out  []byte
		want func(before []byte) []byte // of the first 16 blocks
	}{
		"WRITE SAME (10)":                    {cdb(scsi.WriteSame10, 2, 3, 0), pattern(bs, 5), func(b []byte) []byte { copy(b[2*bs:], bytes.Repeat(pattern(bs, 5), 3)); return b }},
		"WRITE SAME (16) of zeros":           {cdb(scsi.WriteSame16, 2, 3, 0), make([]byte, bs), func(b []byte) []byte { clear(b[2*bs : 5*bs]); return b }},
		"WRITE SAME (16) without data":       {cdb(scsi.WriteSame16, 8, 8, scsi.FlagUnmap|scsi.FlagNoData), nil, func(b []byte) []byte { clear(b[8*bs : 16*bs]); return b }},
		"UNMAP of a whole grain and of less": {hexCDB("42 00 00000000 00 0028 00"), unmapList(8, 8, 1, 2), func(b []byte) []byte { clear(b[8*bs : 16*bs]); clear(b[bs : 3*bs]); return b }},
		"UNMAP of nothing":                   {hexCDB("42 00 00000000 00 0008 00"), unmapList(), func(b []byte) []byte { return b }},
		"ORWRITE": {cdb(scsi.OrWrite, 1, 2, 0), bytes.Repeat([]byte{0x81}, 2*bs), func(b []byte) []byte {
			for i := bs; i < 3*bs; i++ {
				b[i] |= 0x81
			}
			return b
		}},
		"COMPARE AND WRITE":  {cdb(scsi.CompareAndWrite, 4, 1, 0), append(pattern(16*bs, 7)[4*bs:5*bs:5*bs], pattern(bs, 8)...), func(b []byte) []byte { copy(b[4*bs:], pattern(bs, 8)); return b }},
		"VERIFY with data":   {cdb(scsi.Verify10, 4, 1, 2), pattern(16*bs, 7)[4*bs : 5*bs], func(b []byte) []byte { return b }},
		"VERIFY without":     {cdb(scsi.Verify16, 4, 12, 0), nil, func(b []byte) []byte { return b }},
		"PRE-FETCH":          {cdb(scsi.Prefetch10, 0, 4, 0), nil, func(b []byte) []byte { return b }},
		"SYNCHRONIZE CACHE":  {cdb(scsi.SynchronizeCache16, 0, 0, 0), nil, func(b []byte) []byte { return b }},
		"a write of nothing": {cdb(scsi.Write10, 3, 0, 0), nil, func(b []byte) []byte { return b }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.login(initiator)
			before := pattern(16*bs, 7)
			p.good(0, cdb(scsi.Write10, 0, 16, 0), before, 0)
			p.good(0, c.cdb, c.out, 0)
			if got := r.content(1, 0, 16*bs); !bytes.Equal(got, c.want(before)) {
				t.Error("the volume has not what it should have")
			}
		})
	}
}

// unmapList is the parameter list of UNMAP for ranges of LBA and blocks.
func unmapList(ranges ...uint32) []byte {
	n := len(ranges) / 2 * 16
	b := binary.BigEndian.AppendUint16(nil, uint16(6+n))
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, 0, 0, 0, 0)
	for i := 0; i < len(ranges); i += 2 {
		b = binary.BigEndian.AppendUint64(b, uint64(ranges[i]))
		b = binary.BigEndian.AppendUint32(b, ranges[i+1])
		b = append(b, 0, 0, 0, 0)
	}
	return b
}

// Wrong commands end with the sense data of their rule, point at the field, and change nothing.
func TestWrongCommands(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	inCDB := func(at uint16) scsi.Field { return scsi.Field{Valid: true, Byte: at} }
	inList := func(at uint16) scsi.Field { return scsi.Field{Valid: true, List: true, Byte: at} }
	for name, c := range map[string]struct {
		lun   byte
		cdb   []byte
		out   []byte
		asc   scsi.ASC
		field scsi.Field
	}{
		"an opcode that is none":                {0, hexCDB("c0 00 00 00 00 00"), nil, scsi.ASCInvalidOpcode, scsi.Field{}},
		"a service action that is none":         {0, hexCDB("9e 1f 0000000000000000 00000000 00 00"), nil, scsi.ASCInvalidFieldInCDB, inCDB(1)},
		"a unit that is not there":              {7, hexCDB("00 00 00 00 00 00"), nil, scsi.ASCNoSuchUnit, scsi.Field{}},
		"NACA":                                  {0, hexCDB("00 00 00 00 00 04"), nil, scsi.ASCInvalidFieldInCDB, inCDB(5)},
		"protection information":                {0, cdb(scsi.Read10, 0, 1, 0x20), nil, scsi.ASCInvalidFieldInCDB, inCDB(1)},
		"a read beyond the end":                 {0, cdb(scsi.Read10, rigBlocks, 1, 0), nil, scsi.ASCLBAOutOfRange, scsi.Field{}},
		"a read across the end":                 {0, cdb(scsi.Read16, rigBlocks-1, 2, 0), nil, scsi.ASCLBAOutOfRange, scsi.Field{}},
		"an LBA that overflows":                 {0, cdb(scsi.Read16, 1<<64-1, 2, 0), nil, scsi.ASCLBAOutOfRange, scsi.Field{}},
		"a flush beyond the end":                {0, cdb(scsi.SynchronizeCache10, rigBlocks+1, 1, 0), nil, scsi.ASCLBAOutOfRange, scsi.Field{}},
		"VERIFY with BYTCHK 2":                  {0, cdb(scsi.Verify10, 0, 1, 4), pattern(512, 0), scsi.ASCInvalidFieldInCDB, inCDB(1)},
		"WRITE SAME of no blocks":               {0, cdb(scsi.WriteSame16, 0, 0, 0), pattern(512, 0), scsi.ASCInvalidFieldInCDB, inCDB(10)},
		"WRITE SAME with ANCHOR":                {0, cdb(scsi.WriteSame16, 0, 1, scsi.FlagAnchor|scsi.FlagUnmap), pattern(512, 0), scsi.ASCInvalidFieldInCDB, inCDB(1)},
		"COMPARE AND WRITE of too much":         {0, cdb(scsi.CompareAndWrite, 0, 255, 0), pattern(255*1024, 0), scsi.ASCInvalidFieldInCDB, inCDB(13)},
		"COMPARE AND WRITE without all data":    {0, cdb(scsi.CompareAndWrite, 0, 1, 0), pattern(512, 0), scsi.ASCInvalidFieldInUnit, scsi.Field{}},
		"UNMAP beyond the end":                  {0, hexCDB("42 00 00000000 00 0018 00"), unmapList(rigBlocks, 1), scsi.ASCLBAOutOfRange, scsi.Field{}},
		"UNMAP with ANCHOR":                     {0, hexCDB("42 01 00000000 00 0018 00"), unmapList(0, 1), scsi.ASCInvalidFieldInCDB, inCDB(1)},
		"UNMAP with half a list":                {0, hexCDB("42 00 00000000 00 0007 00"), pattern(7, 0), scsi.ASCParameterListLength, scsi.Field{}},
		"a page that is none":                   {0, hexCDB("12 01 ff 00ff 00"), nil, scsi.ASCInvalidFieldInCDB, inCDB(2)},
		"a page code without EVPD":              {0, hexCDB("12 00 83 00ff 00"), nil, scsi.ASCInvalidFieldInCDB, inCDB(2)},
		"saved mode pages":                      {0, hexCDB("1a 00 ff 00 ff 00"), nil, scsi.ASCSavingNotSupported, scsi.Field{}},
		"a mode page that is none":              {0, hexCDB("1a 00 05 00 ff 00"), nil, scsi.ASCInvalidFieldInCDB, inCDB(2)},
		"MODE SELECT of what cannot be changed": {0, hexCDB("15 10 00 00 10 00"), hexCDB("00000000 0a0a 00 20 00 00 00 00 ff ff 00 00"), scsi.ASCInvalidFieldInList, inList(7)},
		"MODE SELECT, the page too short":       {0, hexCDB("15 10 00 00 08 00"), hexCDB("00000000 0a02 0010"), scsi.ASCInvalidFieldInList, inList(5)},
		"REPORT LUNS into too little":           {0, hexCDB("a0 00 00 000000 0000000f 00 00"), nil, scsi.ASCInvalidFieldInCDB, inCDB(6)},
		"PERSISTENT RESERVE OUT of a bad type":  {0, hexCDB("5f 01 09 0000 00000018 00"), make([]byte, 24), scsi.ASCInvalidFieldInCDB, inCDB(2)},
		"PERSISTENT RESERVE OUT of a bad scope": {0, hexCDB("5f 01 11 0000 00000018 00"), make([]byte, 24), scsi.ASCInvalidFieldInCDB, inCDB(2)},
		"PERSISTENT RESERVE OUT, list too long": {0, hexCDB("5f 00 00 0000 00000019 00"), make([]byte, 25), scsi.ASCParameterListLength, scsi.Field{}},
		"RESERVE (6) of an extent":              {0, hexCDB("16 01 00 0000 00"), nil, scsi.ASCInvalidFieldInCDB, inCDB(1)},
		"a copy of a descriptor that is none":   {0, hexCDB("83 00 0000000000000000 00000030 00 00"), append(hexCDB("00 00 0020 00000000 00000000 00000000"), make([]byte, 32)...), scsi.ASCUnsupportedTarget, scsi.Field{}},
		"results of a copy that was not made":   {0, hexCDB("84 00 55 00000000000000 00000100 00 00"), nil, scsi.ASCInvalidFieldInCDB, inCDB(2)},
	} {
		in := 0
		if len(c.out) == 0 {
			in = 1 << 16
		}
		before := r.content(1, 0, rigBlocks*512)
		got := p.do(c.lun, c.cdb, c.out, in)
		key := scsi.ASCKey{Key: scsi.IllegalRequest, ASC: c.asc}
		field := got.sense.Field
		field.Bit = 0
		if got.status != scsi.StatusCheckCondition || got.sense.Key != key || field != c.field || len(got.in) > 0 {
			t.Errorf("%s: %v, %v, field %+v, %d bytes; want %v, field %+v", name, got.status, got.sense.Key, got.sense.Field, len(got.in), key, c.field)
		}
		if !bytes.Equal(r.content(1, 0, rigBlocks*512), before) {
			t.Fatalf("%s: the volume was changed", name)
		}
	}
}

// How a request ends that goes wrong in the core is what the initiator hears; the node's own trouble is to be retried.
func TestStatuses(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	check := func(k scsi.SenseKey, a scsi.ASC) scsi.ASCKey { return scsi.ASCKey{Key: k, ASC: a} }
	type outcome struct {
		status scsi.Status
		key    scsi.ASCKey
	}
	condition := func(k scsi.SenseKey, a scsi.ASC) outcome { return outcome{scsi.StatusCheckCondition, check(k, a)} }
	for status, want := range map[ring.Status]struct{ read, write outcome }{
		ring.StatusMediaError:          {condition(scsi.MediumError, scsi.ASCUnrecoveredRead), condition(scsi.MediumError, scsi.ASCWriteError)},
		ring.StatusReservationConflict: {outcome{status: scsi.StatusReservationConflict}, outcome{status: scsi.StatusReservationConflict}},
		ring.StatusNoSpace:             {condition(scsi.HardwareError, scsi.ASCInternalTargetFailure), condition(scsi.DataProtect, scsi.ASCSpaceAllocationFailed)},
		ring.StatusPathLost:            {outcome{status: scsi.StatusBusy}, outcome{status: scsi.StatusBusy}},
		ring.StatusRetry:               {outcome{status: scsi.StatusBusy}, outcome{status: scsi.StatusBusy}},
		ring.StatusAborted:             {condition(scsi.AbortedCommand, scsi.ASCNone), condition(scsi.AbortedCommand, scsi.ASCNone)},
		ring.StatusInternal:            {condition(scsi.HardwareError, scsi.ASCInternalTargetFailure), condition(scsi.HardwareError, scsi.ASCInternalTargetFailure)},
		ring.StatusWriteLost:           {condition(scsi.MediumError, scsi.ASCWriteError), condition(scsi.MediumError, scsi.ASCWriteError)},
	} {
		r.core.Intercept(func(*ring.Entry) (ring.Status, bool) { return status, true })
		read := p.do(0, cdb(scsi.Read10, 0, 1, 0), nil, 512)
		write := p.do(0, cdb(scsi.Write10, 0, 1, 0), make([]byte, 512), 0)
		if got := (outcome{read.status, read.sense.Key}); got != want.read || len(read.in) > 0 {
			t.Errorf("a read that ends with %v: %v, want %v", status, got, want.read)
		}
		if got := (outcome{write.status, write.sense.Key}); got != want.write {
			t.Errorf("a write that ends with %v: %v, want %v", status, got, want.write)
		}
	}
	r.core.Intercept(nil)
	p.good(0, cdb(scsi.Read10, 0, 1, 0), nil, 512)
	c := p.do(0, cdb(scsi.CompareAndWrite, 0, 1, 0), append(bytes.Repeat([]byte{0}, 100), pattern(924, 3)...), 0)
	if c.sense.Key != check(scsi.Miscompare, scsi.ASCMiscompare) || !c.sense.HasInfo || c.sense.Info > 512 {
		t.Errorf("COMPARE AND WRITE of other data: %v, %+v", c.status, c.sense)
	}
}

// A unit says one and the same of itself wherever it is asked.
func TestIdentity(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	std := p.good(0, hexCDB("12 00 00 00ff 00"), nil, 255)
	if std[0] != 0 || string(std[8:16]) != "MOORING " || string(std[16:32]) != "VOLUME          " || std[7]&2 == 0 {
		t.Errorf("INQUIRY: % x", std)
	}
	list := p.good(0, hexCDB("12 01 00 00ff 00"), nil, 255)
	if want := hexCDB("00 00 0008 00 80 83 86 8f b0 b1 b2"); !bytes.Equal(list, want) {
		t.Errorf("VPD pages: % x, want % x", list, want)
	}
	id := unhex("6ba7b8109dad11d180b400c04fd430c8")
	if page := p.good(0, hexCDB("12 01 83 03ff 00"), nil, 1023); !bytes.Contains(page, append([]byte{0x01, 0x02, 0, 16}, id...)) ||
		!bytes.Contains(page, append([]byte{0x01, 0x0a, 0, 18, 0x10, 0}, id...)) || !bytes.Contains(page, []byte(testTarget+",t,0x0001")) {
		t.Errorf("device identification: % x", page)
	}
	if n := p.good(0, hexCDB("12 01 80 00ff 00"), nil, 255); string(n[4:]) != "6ba7b8109dad11d180b400c04fd430c8" {
		t.Errorf("serial number %q", n[4:])
	}
	if gone := p.good(9, hexCDB("12 00 00 00ff 00"), nil, 255); gone[0] != 0x7f {
		t.Errorf("INQUIRY of a unit that is not there: %02x", gone[0])
	}
	for lun, want := range map[byte]struct {
		last  uint64
		block uint32
		shift byte // of the physical block
	}{0: {rigBlocks - 1, 512, 3}, 3: {255, 4096, 0}} {
		c := p.good(lun, hexCDB("9e 10 0000000000000000 00000020 00 00"), nil, 32)
		if binary.BigEndian.Uint64(c) != want.last || binary.BigEndian.Uint32(c[8:]) != want.block || c[13]&0xf != want.shift || c[14]&0xc0 != 0xc0 {
			t.Errorf("LUN %d: READ CAPACITY (16): % x", lun, c)
		}
		if c = p.good(lun, hexCDB("25 00 00000000 0000 00 00"), nil, 8); uint64(binary.BigEndian.Uint32(c)) != want.last || binary.BigEndian.Uint32(c[4:]) != want.block {
			t.Errorf("LUN %d: READ CAPACITY (10): % x", lun, c)
		}
	}
	if luns := p.good(0, hexCDB("a0 00 00 000000 00000100 00 00"), nil, 256); !bytes.Equal(luns, hexCDB("00000010 00000000 0000000000000000 0003000000000000")) {
		t.Errorf("REPORT LUNS: % x", luns)
	}
	// An allocation length cuts the answer short, whatever it is.
	for n := range 40 {
		c := p.do(0, []byte{0x12, 0, 0, 0, byte(n), 0}, nil, 255)
		if want := std[:min(n, len(std))]; c.status != scsi.StatusGood || !bytes.Equal(c.in, want) {
			t.Errorf("INQUIRY with an allocation length of %d: %d bytes", n, len(c.in))
		}
	}
}

// The list of what is supported names each command, and what it says of a command is what is looked at.
func TestSupportedCommands(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	b := p.good(0, hexCDB("a3 0c 00 00 0000 0000ffff 00 00"), nil, 0xffff)
	if n := int(binary.BigEndian.Uint32(b)); n != len(b)-4 || n != 8*len(all) {
		t.Fatalf("%d bytes say they are %d, for %d commands", len(b), n, len(all))
	}
	for d := b[4:]; len(d) > 0; d = d[8:] {
		opcode, action, has := d[0], binary.BigEndian.Uint16(d[2:]), d[5]&1 != 0
		option := byte(1)
		if has {
			option = 2
		}
		one := p.good(0, []byte{0xa3, 0x0c, option, opcode, byte(action >> 8), byte(action), 0, 0, 1, 0, 0, 0}, nil, 256)
		if one[1]&7 != 3 || one[4] != opcode || int(binary.BigEndian.Uint16(d[6:])) != len(one)-4 {
			t.Errorf("command %02x/%02x: % x", opcode, action, one)
		}
	}
	none := p.good(0, hexCDB("a3 0c 01 c1 0000 00000100 00 00"), nil, 256)
	if none[1]&7 != 1 {
		t.Errorf("a command that is none: % x", none)
	}
}

// Sessions hear once of what changes: the size, the list of units, modes, resets.
func TestUnitAttentions(t *testing.T) {
	r := newRig(t)
	a, b := r.login(initiator), r.login(initiator+"-2")
	ready := make([]byte, 6)
	attended := func(p *port, lun byte, asc scsi.ASC) {
		t.Helper()
		for { // until the server has taken the update over
			if c := p.do(lun, ready, nil, 0); c.status != scsi.StatusGood {
				if c.sense.Key != (scsi.ASCKey{Key: scsi.UnitAttention, ASC: asc}) {
					t.Fatalf("%v, want the unit attention %04x", c.sense.Key, asc)
				}
				p.good(lun, ready, nil, 0)
				return
			}
		}
	}
	r.units[1].Resize(rigBlocks * 1024)
	r.export(nil)
	attended(a, 0, scsi.ASCCapacityChanged)
	attended(b, 0, scsi.ASCCapacityChanged)
	if c := a.good(0, hexCDB("25 00 00000000 0000 00 00"), nil, 8); binary.BigEndian.Uint32(c) != 2*rigBlocks-1 {
		t.Errorf("the last LBA is %d", binary.BigEndian.Uint32(c))
	}

	r.export(func(x *proto.Target) { x.Units = x.Units[:1] })
	attended(a, 0, scsi.ASCReportedLUNsChanged)
	if c := a.do(3, ready, nil, 0); c.sense.Key.ASC != scsi.ASCNoSuchUnit {
		t.Errorf("a unit that is gone: %v, %v", c.status, c.sense.Key)
	}
	// Whoever has read the list knows what changed, and an INQUIRY takes nothing away. SPC-4 6.33, SAM-5 5.14
	b.good(0, hexCDB("12 00 00 00ff 00"), nil, 255)
	b.good(0, hexCDB("a0 00 00 000000 00000100 00 00"), nil, 256)
	b.good(0, ready, nil, 0)

	// Modes belong to all; who changes them is not told.
	a.good(0, hexCDB("15 10 00 00 10 00"), hexCDB("00000000 0a0a 04 10 00 00 00 00 ff ff 00 00"), 0)
	a.good(0, ready, nil, 0)
	attended(b, 0, scsi.ASCModeParametersChanged)

	done := make(chan struct{})
	r.thread.Post(func() { a.nexus.ResetUnit([8]byte{}, func() { close(done) }) })
	<-done
	attended(a, 0, scsi.ASCUnitReset)
	attended(b, 0, scsi.ASCUnitReset)
	if m := a.good(0, hexCDB("1a 08 0a 00 ff 00"), nil, 255); m[6]&4 != 0 {
		t.Error("modes outlive a reset")
	}
}

// A write cache that may be turned off is: what is written then is durable.
func TestWriteCache(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	forced := make(chan bool, 8)
	r.core.Intercept(func(e *ring.Entry) (ring.Status, bool) {
		if e.Op == ring.OpWrite {
			forced <- e.Flags&ring.FlagFUA != 0
		}
		return 0, false
	})
	wce := func(lun byte) bool { return p.good(lun, hexCDB("1a 08 08 00 ff 00"), nil, 255)[6]&4 != 0 }
	write := func(lun, flags byte, size int) bool {
		p.good(lun, cdb(scsi.Write10, 0, 1, flags), make([]byte, size), 0)
		return <-forced
	}
	if wce(0) || !wce(3) {
		t.Error("WCE is not the volumes' durability")
	}
	if write(3, 0, 4096) || !write(3, scsi.FlagFUA, 4096) {
		t.Error("FUA is not what the command says")
	}
	off := append(hexCDB("00000000 0812 00"), make([]byte, 17)...)
	p.good(3, hexCDB("15 10 00 00 18 00"), off, 0)
	if wce(3) || !write(3, 0, 4096) {
		t.Error("a write cache that was turned off is used")
	}
	if c := p.do(0, hexCDB("15 10 00 00 18 00"), append(hexCDB("00000000 0812 04"), make([]byte, 17)...), 0); c.sense.Key.ASC != scsi.ASCInvalidFieldInList {
		t.Errorf("a cache was turned on that is not there: %v, %v", c.status, c.sense.Key)
	}
}

// A unit that was write protected is written by nobody, and read by all.
func TestWriteProtect(t *testing.T) {
	r := newRig(t)
	a := r.login(initiator)
	b := r.login(initiator + "-2")
	a.good(0, hexCDB("15 10 00 00 10 00"), hexCDB("00000000 0a0a 00 10 08 00 00 00 ff ff 00 00"), 0)
	b.take(0, scsi.ASCModeParametersChanged)
	for _, p := range []*port{a, b} {
		for _, c := range []*call{
			p.do(0, cdb(scsi.Write10, 0, 1, 0), make([]byte, 512), 0), p.do(0, cdb(scsi.WriteSame16, 0, 1, scsi.FlagNoData), nil, 0),
			p.do(0, hexCDB("42 00 00000000 00 0018 00"), unmapList(0, 1), 0),
		} {
			if c.sense.Key != (scsi.ASCKey{Key: scsi.DataProtect, ASC: scsi.ASCWriteProtected}) {
				t.Errorf("%v, %v", c.status, c.sense.Key)
			}
		}
		p.good(0, cdb(scsi.Read10, 0, 1, 0), nil, 512)
	}
}

// An aborted task is not answered, and what aborted it is answered when nothing of it is under way.
func TestAbort(t *testing.T) {
	r := newRig(t)
	a, b := r.login(initiator), r.login(initiator+"-2")
	held := func(n int) {
		t.Helper()
		for r.core.Held() < n {
			if t.Context().Err() != nil {
				t.Fatal("no command arrives")
			}
		}
	}
	r.core.Hold()
	mine, other, theirs := a.start(0, cdb(scsi.Read10, 0, 1, 0), nil, 512), a.start(3, cdb(scsi.Read10, 0, 1, 0), nil, 4096), b.start(0, cdb(scsi.Write10, 0, 1, 0), make([]byte, 512), 0)
	held(3)
	done := make(chan struct{})
	r.thread.Post(func() {
		if !a.nexus.AbortTaskSet([8]byte{}, func() { close(done) }) {
			t.Error("no such unit")
		}
	})
	<-done
	select {
	case <-mine.done:
	default:
		t.Error("ABORT TASK SET was answered before its task had ended")
	}
	if !mine.aborted {
		t.Error("the task did not end aborted")
	}
	for _, c := range []*call{other, theirs} {
		select {
		case <-c.done:
			t.Error("a task of another unit or initiator was aborted")
		default:
		}
	}
	done = make(chan struct{})
	r.thread.Post(func() { a.nexus.ClearTaskSet([8]byte{}, func() { close(done) }) })
	<-done
	if !theirs.wait(t).aborted {
		t.Error("CLEAR TASK SET left a task of another initiator")
	}
	r.core.Release()
	if c := other.wait(t); c.aborted || c.status != scsi.StatusGood {
		t.Errorf("the task of another unit: %v", c.status)
	}
	b.take(0, scsi.ASCCommandsCleared)
	a.good(0, make([]byte, 6), nil, 0)
}

// Reservations are the core's: what commands conflict with them is SPC-4's table 67.
func TestReservationConflicts(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	other := &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_NVME, Name: "nqn.2014-08.org.example:x", HostId: make([]byte, 16)}
	me := &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: initiator, HostId: []byte{1, 0, 0, 0, 0, 0}}
	held := func(kind proto.ReservationType, mine bool) *proto.ReservationState {
		s := &proto.ReservationState{Generation: 3, Type: kind, Registrants: []*proto.Registrant{{Host: other, Key: 7, Holder: true}}}
		if mine {
			s.Registrants = append(s.Registrants, &proto.Registrant{Host: me, Key: 9})
		}
		return s
	}
	const sense, ready, inquiry, keys = "1a 00 3f 00 ff 00", "00 00 00 00 00 00", "12 00 00 00ff 00", "5e 00 0000000000 00ff 00"
	for name, c := range map[string]struct {
		state *proto.ReservationState
		cdb   string
		ok    bool
	}{
		"MODE SENSE, write exclusive":                  {held(proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE, false), sense, true},
		"MODE SENSE, exclusive access":                 {held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS, false), sense, false},
		"MODE SENSE, exclusive access, registered":     {held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS, true), sense, false},
		"MODE SENSE, registrants only, registered":     {held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS, true), sense, true},
		"MODE SENSE, registrants only, not registered": {held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS, false), sense, false},
		"TEST UNIT READY, exclusive access":            {held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS, false), ready, true},
		"INQUIRY, exclusive access":                    {held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS, false), inquiry, true},
		"READ KEYS, exclusive access":                  {held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS, false), keys, true},
		"TEST UNIT READY, RESERVE (6) of another":      {&proto.ReservationState{Unit: other}, ready, false},
		"READ KEYS, RESERVE (6) of another":            {&proto.ReservationState{Unit: other}, keys, false},
		"INQUIRY, RESERVE (6) of another":              {&proto.ReservationState{Unit: other}, inquiry, true},
		"MODE SENSE, RESERVE (6) of our own":           {&proto.ReservationState{Unit: me}, sense, true},
		"MODE SENSE, nothing reserved":                 {&proto.ReservationState{}, sense, true},
	} {
		r.stub.set(c.state, proto.ReserveResult_RESERVE_OK)
		got := p.do(0, hexCDB(c.cdb), nil, 255)
		want := scsi.StatusReservationConflict
		if c.ok {
			want = scsi.StatusGood
		}
		if got.status != want {
			t.Errorf("%s: %v, want %v", name, got.status, want)
		}
	}
	r.stub.set(held(proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS, true), proto.ReserveResult_RESERVE_OK)
	if b := p.good(0, hexCDB(keys), nil, 255); !bytes.Equal(b, hexCDB("00000003 00000010 0000000000000007 0000000000000009")) {
		t.Errorf("READ KEYS: % x", b)
	}
	if b := p.good(0, hexCDB("5e 01 0000000000 00ff 00"), nil, 255); !bytes.Equal(b, hexCDB("00000003 00000010 0000000000000007 00000000 00 06 0000")) {
		t.Errorf("READ RESERVATION: % x", b)
	}
}

// PERSISTENT RESERVE OUT is one request to the core, which decides.
func TestPersistentOut(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	list := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 5), 6)
	list = append(list, 0, 0, 0, 0, 1, 0, 0, 0) // APTPL
	for action, want := range map[byte]*proto.ReserveRequest{
		0: {Action: proto.ReserveAction_RESERVE_REGISTER, Persistence: proto.PersistenceChange_PERSISTENCE_SET},
		1: {Action: proto.ReserveAction_RESERVE_ACQUIRE}, 2: {Action: proto.ReserveAction_RESERVE_RELEASE}, 3: {Action: proto.ReserveAction_RESERVE_CLEAR},
		4: {Action: proto.ReserveAction_RESERVE_PREEMPT}, 5: {Action: proto.ReserveAction_RESERVE_PREEMPT_ABORT},
		6: {Action: proto.ReserveAction_RESERVE_REGISTER, IgnoreKey: true, Persistence: proto.PersistenceChange_PERSISTENCE_SET},
	} {
		for result, status := range map[proto.ReserveResult]scsi.Status{
			proto.ReserveResult_RESERVE_OK: scsi.StatusGood, proto.ReserveResult_RESERVE_CONFLICT: scsi.StatusReservationConflict,
			proto.ReserveResult_RESERVE_INVALID: scsi.StatusCheckCondition, proto.ReserveResult_RESERVE_RETRY: scsi.StatusBusy,
		} {
			r.stub.set(nil, result)
			c := p.do(0, []byte{0x5f, action, 0x05, 0, 0, 0, 0, 0, 24, 0}, list, 0)
			if c.status != status {
				t.Errorf("action %d with %v: %v, want %v", action, result, c.status, status)
			}
			asked := r.stub.asked()
			if len(asked) != 1 {
				t.Fatalf("action %d: %d requests", action, len(asked))
			}
			got := asked[0]
			if got.Action != want.Action || got.IgnoreKey != want.IgnoreKey || got.Persistence != want.Persistence || got.CurrentKey != 5 || got.NewKey != 6 || got.Nsid != 1 {
				t.Errorf("action %d: %v", action, got)
			}
			if got.Action == proto.ReserveAction_RESERVE_ACQUIRE && got.Type != proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS {
				t.Errorf("type %v", got.Type)
			}
		}
	}
}

// EXTENDED COPY moves blocks between units of different block sizes, and its result can be asked for once.
func TestExtendedCopy(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	data := pattern(3*4096, 1)
	p.good(3, cdb(scsi.Write10, 10, 3, 0), data, 0)
	cscd := func(id string) []byte {
		d := append([]byte{0xe4, 0, 0, 0, 0x01, 0x02, 0, 16}, unhex(id)...)
		return append(d, make([]byte, 8)...)
	}
	list := []byte{0x21, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0}
	list = append(list, cscd("7ba7b8109dad11d180b400c04fd430c8")...)
	list = append(list, cscd("6ba7b8109dad11d180b400c04fd430c8")...)
	segment := []byte{2, 0, 0, 0x18, 0, 0, 0, 1, 0, 0, 0, 3} // 3 blocks of the source
	segment = binary.BigEndian.AppendUint64(segment, 10)
	segment = binary.BigEndian.AppendUint64(segment, 40)
	list = append(list, segment...)
	p.good(0, []byte{0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(list)), 0, 0}, list, 0)
	if !bytes.Equal(r.content(1, 40*512, len(data)), data) {
		t.Error("what was copied is not there")
	}
	status := hexCDB("84 00 21 00000000000000 00000100 00 00")
	if res := p.good(0, status, nil, 256); len(res) < 12 || res[4]&0x7f != 1 || binary.BigEndian.Uint16(res[5:]) != 1 {
		t.Errorf("RECEIVE COPY STATUS: % x", res)
	}
	if c := p.do(0, status, nil, 256); c.status != scsi.StatusCheckCondition {
		t.Error("the result of a copy is told twice")
	}
}

// Many commands at once, more than the pool has memory for, all end.
func TestParked(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	data := pattern(1<<20, 3)
	var calls []*call
	for range 16 {
		calls = append(calls, p.start(0, cdb(scsi.Write10, 0, 2048, 0), data, 0), p.start(0, cdb(scsi.Read10, 2048, 2048, 0), nil, 1<<20))
	}
	for _, c := range calls {
		if c.wait(t); c.status != scsi.StatusGood {
			t.Errorf("%v, %v", c.status, c.sense)
		}
	}
	if !bytes.Equal(r.content(1, 0, len(data)), data) {
		t.Error("other data is on the volume than was written")
	}
}

// A session that ends while commands are under way leaves nothing, and the core hears of it when all have ended.
func TestGone(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	r.core.Hold()
	calls := []*call{p.start(0, cdb(scsi.Read10, 0, 1, 0), nil, 512), p.start(0, cdb(scsi.Write10, 0, 1, 0), make([]byte, 512), 0)}
	for r.core.Held() < 2 {
		if t.Context().Err() != nil {
			t.Fatal("no command arrives")
		}
	}
	r.thread.Post(p.nexus.Gone)
	for _, c := range calls {
		if !c.wait(t).aborted {
			t.Error("a command of a session that is gone ends as if it were there")
		}
	}
	r.core.Release()
}

// The core may end a session.
func TestEnded(t *testing.T) {
	r := newRig(t)
	p := r.login(initiator)
	r.stub.updates <- &proto.Update{Update: &proto.Update_End{End: &proto.AssociationEnd{Association: p.nexus.association, Reason: "not allowed any more"}}}
	if err := <-p.closed; err == nil || err.Error() != "the core ended the association: not allowed any more" {
		t.Error(err)
	}
}

// No CDB and no data, whatever it is, breaks the server or leaves memory behind.
func FuzzCommands(f *testing.F) {
	for _, c := range all {
		f.Add(append(append([]byte{0}, c.Usage...), make([]byte, 64)...))
	}
	f.Add(append([]byte{3}, append(hexCDB("42 00 00000000 00 0028 00"), unmapList(8, 8, 1, 2)...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1 {
			return
		}
		lun := b[0] & 3
		b = b[1:]
		n := min(len(b), scsi.CDBLen(scsi.Opcode(append(b, 0)[0])), 16)
		c, out := b[:n], b[n:]
		r := newRig(t)
		p := r.login(initiator)
		p.do(lun, c, out, 0)
		p.do(lun, c, nil, 4096)
		p.do(lun, c, nil, 0)
		switch code := scsi.Opcode(append(c, 0)[0]); {
		case code == scsi.Reserve6, code == scsi.ModeSelect6, code == scsi.ModeSelect10:
		default:
			if got := p.do(0, make([]byte, 6), nil, 0); got.status != scsi.StatusGood {
				t.Errorf("a unit is not ready: %v, %v", got.status, got.sense)
			}
		}
	})
}
