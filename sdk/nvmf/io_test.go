package nvmf

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i/512) + byte(i)
	}
	return b
}

// Every way in which data reaches the target, and back.
func TestWriteThenRead(t *testing.T) {
	for _, tc := range []struct {
		name           string
		late, zeroCopy bool
		capsule        bool
		nsid           nvme.NSID
		blockBytes     int
		threads        int
	}{
		{"in the capsule", false, false, true, 1, 4096, 1},
		{"in the capsule, in the pool already", false, true, true, 1, 4096, 1},
		{"fetched", true, false, false, 1, 4096, 1},
		{"blocks of 512", true, false, false, 2, 512, 1},
		{"I/O queue on another thread", true, false, false, 1, 4096, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, withThreads(tc.threads))
			h := r.connect(1)
			c := h.io[0]
			c.late, c.zeroCopy = tc.late, tc.zeroCopy
			n := 2 * tc.blockBytes
			want := pattern(7, n)
			w := rw(nvme.IOWrite, tc.nsid, 3, 2, n)
			if tc.capsule {
				w = inCapsule(w, n)
			}
			c.ok(w, want)
			if got := c.ok(rw(nvme.IORead, tc.nsid, 3, 2, n), nil).data; !bytes.Equal(got, want) {
				t.Error("read something else than was written")
			}
			stored := make([]byte, n)
			r.volumes[uint32(tc.nsid)].ReadAt(stored, int64(3*tc.blockBytes))
			if !bytes.Equal(stored, want) {
				t.Error("the volume has something else than was written")
			}
		})
	}
}

// What is wrong with an I/O command, by its own fields.
func TestIORefused(t *testing.T) {
	r := newRig(t)
	r.export(func(s *proto.Subsystem) {}) // a generation later
	h := r.connect(1)
	c := h.io[0]
	const last = 8<<20/4096 - 1
	with := func(c nvme.Command, fn func(*nvme.Command)) nvme.Command {
		fn(&c)
		return c
	}
	read := rw(nvme.IORead, 1, 0, 1, 4096)
	for _, tc := range []struct {
		rule   string
		cmd    nvme.Command
		data   []byte
		status nvme.Status
	}{
		{"unknown opcode", plain(0x7d, 1), nil, nvme.StatusInvalidOpcode},
		{"write uncorrectable is not supported", plain(nvme.IOWriteUncorrectable, 1), nil, nvme.StatusInvalidOpcode},
		{"copy is not supported", plain(nvme.IOCopy, 1), nil, nvme.StatusInvalidOpcode},
		{"namespace 0", rw(nvme.IORead, 0, 0, 1, 4096), nil, nvme.StatusInvalidNamespace},
		{"namespace above NN", rw(nvme.IORead, 17, 0, 1, 4096), nil, nvme.StatusInvalidNamespace},
		{"namespace inactive", rw(nvme.IORead, 9, 0, 1, 4096), nil, nvme.StatusInvalidField},
		{"broadcast namespace", plain(nvme.IOFlush, nvme.BroadcastNSID), nil, nvme.StatusInvalidNamespace},
		{"first block behind the end", rw(nvme.IORead, 1, last+1, 1, 4096), nil, nvme.StatusLBAOutOfRange},
		{"last block behind the end", rw(nvme.IORead, 1, last, 2, 8192), nil, nvme.StatusLBAOutOfRange},
		{"range wraps", rw(nvme.IORead, 1, ^nvme.LBA(0), 2, 8192), nil, nvme.StatusLBAOutOfRange},
		{"write zeroes behind the end", rw(nvme.IOWriteZeroes, 1, last, 2, 0), nil, nvme.StatusLBAOutOfRange},
		{"verify behind the end", rw(nvme.IOVerify, 1, last, 2, 0), nil, nvme.StatusLBAOutOfRange},
		{"more than MDTS", rw(nvme.IORead, 1, 0, 257, 257*4096), nil, nvme.StatusInvalidField},
		{"PRPs", with(read, func(c *nvme.Command) { c.SetPSDT(nvme.PSDTPRP) }), nil, nvme.StatusInvalidField},
		{"reserved PSDT", with(read, func(c *nvme.Command) { c.SetPSDT(nvme.PSDTReserved) }), nil, nvme.StatusInvalidField},
		{"SGL shorter than the data", rw(nvme.IORead, 1, 0, 2, 4096), nil, nvme.StatusInvalidSGLLength},
		{"keyed SGL over TCP", with(read, func(c *nvme.Command) { c.SetSGL1(nvme.SGL{Type: nvme.SGLKeyedDataBlock, Length: 4096}) }), nil, nvme.StatusInvalidSGLType},
		{"bit bucket", with(read, func(c *nvme.Command) { c.SetSGL1(nvme.SGL{Type: nvme.SGLBitBucket, Length: 4096}) }), nil, nvme.StatusInvalidSGLType},
		{"segment", with(read, func(c *nvme.Command) { c.SetSGL1(nvme.SGL{Type: nvme.SGLLastSegment, Length: 16}) }), nil, nvme.StatusInvalidSGLType},
		{"read into the capsule", inCapsule(read, 4096), nil, nvme.StatusInvalidSGLType},
		{"capsule shorter than its SGL", inCapsule(rw(nvme.IOWrite, 1, 0, 1, 0), 4096), make([]byte, 512), nvme.StatusInvalidSGLOffset},
		{"offset within the capsule", with(read, func(c *nvme.Command) {
			c.SetOpcode(nvme.IOWrite)
			c.SetSGL1(nvme.InCapsule(512, 4096))
		}), make([]byte, 4096), nvme.StatusInvalidSGLOffset},
		{"reserved fuse", with(read, func(c *nvme.Command) { c.SetFuse(nvme.FuseReserved) }), nil, nvme.StatusInvalidField},
		{"dataset range behind the end", datasetCommand(1, nvme.DatasetDeallocate), datasetRanges(last, 2), nvme.StatusLBAOutOfRange},
		{"dataset data too short", fromHost(datasetCommand(2, nvme.DatasetDeallocate), 16), make([]byte, 16), nvme.StatusInvalidSGLLength},
		{"property on an I/O queue", propertyGet(nvme.PropertyCAP), nil, nvme.StatusInvalidField},
		{"authentication", nvme.Auth{Type: nvme.FabricsAuthSend}.Command(), nil, nvme.StatusInvalidOpcode},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if a := c.fails(tc.status, tc.cmd, tc.data); !a.Status().DNR() {
				t.Error("Do Not Retry is clear")
			}
		})
	}
}

// An SGL longer than the data is allowed (SGLS bit 18).
func TestLongerSGL(t *testing.T) {
	c := newRig(t).connect(1).io[0]
	if a := c.ok(rw(nvme.IORead, 1, 0, 1, 65536), nil); len(a.data) != 4096 {
		t.Errorf("%d bytes sent", len(a.data))
	}
}

func TestKeyedSGLOverRDMA(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	c := r.dialAt(0, "ap1", nvme.TransportRDMA)
	c.ok(connectCommand(1, 32, 0).Command(), connectData(h.id).Append(nil))
	cmd := rw(nvme.IORead, 1, 0, 1, 4096)
	c.fails(nvme.StatusInvalidSGLType, cmd, nil)
	for _, st := range []nvme.SGLSubtype{nvme.SGLAddress, nvme.SGLInvalidateKey} {
		cmd.SetSGL1(nvme.SGL{Type: nvme.SGLKeyedDataBlock, Subtype: st, Length: 4096})
		c.ok(cmd, nil)
	}
}

// Several keyed descriptors come as a segment in the capsule. Base 4.1.2, NVMe/RDMA 3.3.2
func TestSGLSegment(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	c := r.dialAt(0, "ap1", nvme.TransportRDMA)
	c.ok(connectCommand(1, 32, 0).Command(), connectData(h.id).Append(nil))
	keyed := func(n, key uint32) nvme.SGL {
		return nvme.SGL{Type: nvme.SGLKeyedDataBlock, Address: uint64(key) << 12, Length: n, Key: key}
	}
	many := func(n int, d nvme.SGL) (all []nvme.SGL) {
		for range n {
			all = append(all, d)
		}
		return all
	}
	invalidate := keyed(2048, 2)
	invalidate.Subtype = nvme.SGLInvalidateKey
	segment := func(n uint32) nvme.SGL {
		return nvme.SGL{Type: nvme.SGLLastSegment, Subtype: nvme.SGLOffset, Length: n}
	}
	const none = uint32(0xffffffff) // the segment is as long as what came
	for _, tc := range []struct {
		name   string
		list   []nvme.SGL
		sgl    nvme.SGL
		status nvme.Status
	}{
		{"two", []nvme.SGL{keyed(2048, 1), invalidate}, segment(none), nvme.StatusSuccess},
		{"one", []nvme.SGL{keyed(4096, 1)}, segment(none), nvme.StatusSuccess},
		{"longer than the data", []nvme.SGL{keyed(4096, 1), keyed(4096, 2)}, segment(none), nvme.StatusSuccess},
		{"some of no length", []nvme.SGL{keyed(0, 1), keyed(4096, 2), keyed(0, 3)}, segment(none), nvme.StatusSuccess},
		{"as many as there may be", many(MaxDescriptors, keyed(256, 1)), segment(none), nvme.StatusSuccess},
		{"one more", many(MaxDescriptors+1, keyed(256, 1)), segment(none), nvme.StatusInvalidSGLCount},
		{"part of what came", []nvme.SGL{keyed(4096, 1), keyed(1, 2)}, segment(16), nvme.StatusSuccess},
		{"no descriptor", nil, segment(none), nvme.StatusInvalidSGLSegment},
		{"half a descriptor", []nvme.SGL{keyed(4096, 1), keyed(4096, 1)}, segment(24), nvme.StatusInvalidSGLSegment},
		{"more than came", []nvme.SGL{keyed(4096, 1)}, segment(32), nvme.StatusInvalidSGLSegment},
		{"far more than came", []nvme.SGL{keyed(4096, 1)}, segment(0xfffffff0), nvme.StatusInvalidSGLSegment},
		{"not at the capsule's data", []nvme.SGL{keyed(4096, 1)}, nvme.SGL{Type: nvme.SGLLastSegment, Subtype: nvme.SGLOffset, Address: 16, Length: 16}, nvme.StatusInvalidSGLOffset},
		{"in host memory", []nvme.SGL{keyed(4096, 1)}, nvme.SGL{Type: nvme.SGLLastSegment, Length: 16}, nvme.StatusInvalidSGLType},
		{"not the last segment", []nvme.SGL{keyed(4096, 1)}, nvme.SGL{Type: nvme.SGLSegment, Subtype: nvme.SGLOffset, Length: 16}, nvme.StatusInvalidSGLType},
		{"a segment within", []nvme.SGL{keyed(4096, 1), segment(16)}, segment(none), nvme.StatusInvalidSGLType},
		{"data in the capsule", []nvme.SGL{nvme.InCapsule(0, 4096)}, segment(none), nvme.StatusInvalidSGLType},
		{"unknown subtype", []nvme.SGL{{Type: nvme.SGLKeyedDataBlock, Subtype: 3, Length: 4096}}, segment(none), nvme.StatusInvalidSGLType},
		{"a byte too short", []nvme.SGL{keyed(2048, 1), keyed(2047, 2)}, segment(none), nvme.StatusInvalidSGLLength},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var came []byte
			for _, d := range tc.list {
				came = d.Append(came)
			}
			if tc.sgl.Length == none {
				tc.sgl.Length = uint32(len(came))
			}
			cmd := rw(nvme.IORead, 1, 0, 1, 4096)
			cmd.SetSGL1(tc.sgl)
			a := c.do(cmd, came)
			if a.Status().Code() != tc.status.Code() {
				t.Fatalf("%v, want %v", a.Status(), tc.status)
			}
			if tc.status.OK() && !slices.Equal(a.descriptors, tc.list[:tc.sgl.Length/nvme.SGLSize]) {
				t.Errorf("descriptors %+v of %+v", a.descriptors, tc.list)
			}
		})
	}
	// The next life of a command has none of the former's.
	cmd := rw(nvme.IOFlush, 1, 0, 0, 0)
	if a := c.do(cmd, nil); len(a.descriptors) != 0 {
		t.Errorf("flush has descriptors %+v", a.descriptors)
	}
	if got := h.identifyController(); got.MaxDescriptors != 1 {
		t.Errorf("MSDBD %d over TCP, want 1", got.MaxDescriptors)
	}
}

// How the core ends a request is how the command ends.
func TestBlockStatus(t *testing.T) {
	r := newRig(t)
	c := r.connect(1).io[0]
	for _, tc := range []struct {
		block       block.Status
		read, write nvme.Status
		dnr         bool
	}{
		{block.StatusOK, nvme.StatusSuccess, nvme.StatusSuccess, false},
		{block.StatusMediaError, nvme.StatusUnrecoveredReadError, nvme.StatusWriteFault, false},
		{block.StatusReservationConflict, nvme.StatusReservationConflict, nvme.StatusReservationConflict, true},
		{block.StatusOutOfRange, nvme.StatusLBAOutOfRange, nvme.StatusLBAOutOfRange, true},
		{block.StatusNoSpace, nvme.StatusInternalError, nvme.StatusCapacityExceeded, false},
		{block.StatusPathLost, nvme.StatusANATransition, nvme.StatusANATransition, false},
		{block.StatusRetry, nvme.StatusANATransition, nvme.StatusANATransition, false},
		{block.StatusAborted, nvme.StatusAbortPreempt, nvme.StatusAbortPreempt, false},
		{block.StatusInternal, nvme.StatusInternalError, nvme.StatusInternalError, false},
		{block.StatusInvalidField, nvme.StatusInvalidField, nvme.StatusInvalidField, true},
		{block.StatusWriteLost, nvme.StatusWriteFault, nvme.StatusWriteFault, true},
		{block.Status(200), nvme.StatusInternalError, nvme.StatusInternalError, false},
	} {
		t.Run(tc.block.String(), func(t *testing.T) {
			r.blocks.Intercept(func(*ring.Entry) (ring.Status, bool) { return tc.block, true })
			a := c.fails(tc.read, rw(nvme.IORead, 1, 0, 1, 4096), nil)
			if a.Status().DNR() != tc.dnr {
				t.Errorf("read: Do Not Retry is %v", a.Status().DNR())
			}
			if !a.Status().OK() && a.data != nil {
				t.Error("data was sent with an error")
			}
			c.fails(tc.write, rw(nvme.IOWrite, 1, 0, 1, 4096), make([]byte, 4096))
			if a.Status().IsPath() && a.Status().DNR() {
				t.Error("a path status forbids to retry")
			}
		})
	}
}

// Flags of commands reach the core; a volatile volume that the host takes for durable is
// written through.
func TestFlags(t *testing.T) {
	var seen atomic.Pointer[ring.Entry]
	setup := func(t *testing.T, volatile bool) (*rig, *fakeConn) {
		r := newRig(t)
		if volatile {
			r.export(func(s *proto.Subsystem) { s.Namespaces[0].Durability = proto.Durability_DURABILITY_VOLATILE })
			r.eventually("exports arrive", func() bool {
				return r.target.currentExports().generation >= 1 || r.target.currentExports().subsystem(testNQN).GetGeneration() == 1
			})
		}
		h := r.connect(1)
		r.blocks.Intercept(func(e *ring.Entry) (ring.Status, bool) {
			c := *e
			seen.Store(&c)
			return 0, false
		})
		h.io[0].r = r
		return r, h.io[0]
	}
	fua := func(c nvme.Command) nvme.Command { c.SetFUA(true); return c }
	deac := func(c nvme.Command) nvme.Command { c.SetDeallocate(true); return c }
	block4k := make([]byte, 4096)
	t.Run("durable volume", func(t *testing.T) {
		_, c := setup(t, false)
		for _, tc := range []struct {
			cmd   nvme.Command
			data  []byte
			op    ring.Op
			flags ring.Flags
		}{
			{rw(nvme.IORead, 1, 1, 1, 4096), nil, ring.OpRead, 0},
			{fua(rw(nvme.IORead, 1, 1, 1, 4096)), nil, ring.OpRead, ring.FlagFUA},
			{rw(nvme.IOWrite, 1, 1, 1, 4096), block4k, ring.OpWrite, 0},
			{fua(rw(nvme.IOWrite, 1, 1, 1, 4096)), block4k, ring.OpWrite, ring.FlagFUA},
			{rw(nvme.IOWriteZeroes, 1, 1, 1, 0), nil, ring.OpWriteZeroes, 0},
			{deac(rw(nvme.IOWriteZeroes, 1, 1, 1, 0)), nil, ring.OpWriteZeroes, ring.FlagDeallocate},
			{deac(fua(rw(nvme.IOWriteZeroes, 1, 1, 1, 0))), nil, ring.OpWriteZeroes, ring.FlagDeallocate | ring.FlagFUA},
			{rw(nvme.IOVerify, 1, 1, 1, 0), nil, ring.OpVerify, 0},
			{rw(nvme.IOCompare, 1, 1, 1, 4096), block4k, ring.OpCompare, 0},
		} {
			c.ok(tc.cmd, tc.data)
			last := seen.Load()
			if last.Op != tc.op || last.Flags != tc.flags || last.Offset != 4096 || last.Length != 4096 {
				t.Errorf("core got %v flags %x at %d+%d, want %v flags %x", last.Op, last.Flags, last.Offset, last.Length, tc.op, tc.flags)
			}
		}
		c.ok(plain(nvme.IOFlush, 1), nil)
		last := seen.Load()
		if last.Op != ring.OpFlush || last.Offset|last.Length != 0 {
			t.Errorf("flush is %+v", last)
		}
	})
	t.Run("volatile volume with its cache off", func(t *testing.T) {
		r, c := setup(t, true)
		h := &host{fakeConn: r.conns[0]}
		c.ok(rw(nvme.IOWrite, 1, 1, 1, 4096), block4k)
		if f := seen.Load().Flags; f != 0 {
			t.Errorf("flags %x with the cache on", f)
		}
		h.ok(setFeature(nvme.FeatureWriteCache, 0, 0), nil)
		r.eventually("writes go through", func() bool {
			c.ok(rw(nvme.IOWrite, 1, 1, 1, 4096), block4k)
			return seen.Load().Flags == ring.FlagFUA
		})
	})
	t.Run("volatile volume that came after the host was told that there is no cache", func(t *testing.T) {
		r, c := setup(t, false)
		r.export(func(s *proto.Subsystem) { s.Namespaces[0].Durability = proto.Durability_DURABILITY_VOLATILE })
		r.eventually("writes go through", func() bool {
			c.ok(rw(nvme.IOWrite, 1, 1, 1, 4096), block4k)
			return seen.Load().Flags == ring.FlagFUA
		})
	})
}

func TestWriteZeroesAndVerify(t *testing.T) {
	c := newRig(t).connect(1).io[0]
	c.ok(rw(nvme.IOWrite, 1, 0, 4, 16384), pattern(1, 16384))
	c.ok(rw(nvme.IOWriteZeroes, 1, 1, 2, 0), nil)
	got := c.ok(rw(nvme.IORead, 1, 0, 4, 16384), nil).data
	want := pattern(1, 16384)
	clear(want[4096:12288])
	if !bytes.Equal(got, want) {
		t.Error("write zeroes did not zero its range")
	}
	c.ok(rw(nvme.IOVerify, 1, 0, 2048, 0), nil) // not bound by MDTS
}

func TestCompare(t *testing.T) {
	c := newRig(t).connect(1).io[0]
	c.ok(rw(nvme.IOWrite, 1, 5, 1, 4096), pattern(3, 4096))
	c.ok(rw(nvme.IOCompare, 1, 5, 1, 4096), pattern(3, 4096))
	c.fails(nvme.StatusCompareFailure, rw(nvme.IOCompare, 1, 5, 1, 4096), pattern(4, 4096))
}

func datasetCommand(ranges int, attributes uint8) nvme.Command {
	return fromHost(nvme.DatasetManagement{NSID: 1, Ranges: ranges, Attributes: attributes}.Command(), ranges*16)
}

// datasetRanges makes ranges of first block and length by turns.
func datasetRanges(v ...uint64) []byte {
	var b []byte
	for i := 0; i < len(v); i += 2 {
		b = nvme.DatasetRange{Start: nvme.LBA(v[i]), Blocks: uint32(v[i+1])}.Append(b)
	}
	return b
}

// NVM 3.2.3
func TestDatasetManagement(t *testing.T) {
	r := newRig(t)
	c := r.connect(1).io[0]
	fill := func() { c.ok(rw(nvme.IOWrite, 1, 0, 256, 1<<20), pattern(9, 1<<20)) }
	check := func(what string, zero func(block int) bool) {
		t.Helper()
		got := c.ok(rw(nvme.IORead, 1, 0, 256, 1<<20), nil).data
		want := pattern(9, 1<<20)
		for i := range 256 {
			if zero(i) {
				clear(want[i*4096:][:4096])
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: wrong blocks", what)
		}
	}
	fill()
	c.ok(datasetCommand(3, nvme.DatasetDeallocate), datasetRanges(1, 1, 10, 0, 20, 30))
	check("three ranges, one empty", func(i int) bool { return i == 1 || i >= 20 && i < 50 })
	fill()
	c.ok(datasetCommand(2, nvme.DatasetIntegralRead), datasetRanges(1, 1, 20, 30))
	check("hints alone", func(int) bool { return false })
	c.fails(nvme.StatusLBAOutOfRange, datasetCommand(2, nvme.DatasetDeallocate), datasetRanges(1, 1, 2048, 1))
	check("one range of two is bad", func(int) bool { return false })
	var all []uint64
	for i := range uint64(256) {
		all = append(all, i, 1)
	}
	c.ok(datasetCommand(256, nvme.DatasetDeallocate), datasetRanges(all...))
	check("256 ranges", func(int) bool { return true })
	// An error ends the command.
	var n atomic.Int64
	r.blocks.Intercept(func(*ring.Entry) (ring.Status, bool) { return ring.StatusRetry, n.Add(1) == 2 })
	c.fails(nvme.StatusANATransition, datasetCommand(3, nvme.DatasetDeallocate), datasetRanges(1, 1, 2, 1, 3, 1))
	if n.Load() != 2 {
		t.Errorf("%d ranges reached the core, want 2", n.Load())
	}
}

// fusedPair is a Compare and a Write of one block of namespace 1.
func fusedPair(lba nvme.LBA) (compare, write nvme.Command) {
	compare, write = rw(nvme.IOCompare, 1, lba, 1, 4096), rw(nvme.IOWrite, 1, lba, 1, 4096)
	compare.SetFuse(nvme.FuseFirst)
	write.SetFuse(nvme.FuseSecond)
	return compare, write
}

// Base 3.4.2, NVM 2.1.4
func TestCompareAndWrite(t *testing.T) {
	r := newRig(t)
	c := r.connect(1).io[0]
	old, new4k := pattern(1, 4096), pattern(2, 4096)
	read := func() []byte { return c.ok(rw(nvme.IORead, 1, 7, 1, 4096), nil).data }
	for _, late := range []bool{false, true} {
		c.late = late
		c.ok(rw(nvme.IOWrite, 1, 7, 1, 4096), old)
		compare, write := fusedPair(7)
		a, b := c.post(compare, old), c.post(write, new4k)
		if a, b := c.get(a), c.get(b); !a.Status().OK() || !b.Status().OK() {
			t.Fatalf("equal: %v, %v", a.Status(), b.Status())
		}
		if !bytes.Equal(read(), new4k) {
			t.Error("equal, but not written")
		}
		a, b = c.post(compare, old), c.post(write, old)
		if a, b := c.get(a), c.get(b); a.Status().Code() != nvme.StatusCompareFailure || b.Status().Code() != nvme.StatusAbortFailedFused {
			t.Fatalf("different: %v, %v", a.Status(), b.Status())
		}
		if !bytes.Equal(read(), new4k) {
			t.Error("different, but written")
		}
	}
	zc := r.conns[1]
	zc.zeroCopy, zc.late = true, false
	compare, write := fusedPair(7)
	a, b := c.post(inCapsule(compare, 4096), new4k), c.post(inCapsule(write, 4096), old)
	if a, b := c.get(a), c.get(b); !a.Status().OK() || !b.Status().OK() {
		t.Fatalf("in the capsule: %v, %v", a.Status(), b.Status())
	}
	if !bytes.Equal(read(), old) {
		t.Error("in the capsule: not written")
	}
}

func TestFusedRules(t *testing.T) {
	compare, write := fusedPair(7)
	data := make([]byte, 4096)
	single := rw(nvme.IORead, 1, 0, 1, 4096)
	with := func(c nvme.Command, fn func(*nvme.Command)) nvme.Command { fn(&c); return c }
	for _, tc := range []struct {
		rule string
		cmds []nvme.Command
		want []nvme.Status
	}{
		{"second alone", []nvme.Command{write}, []nvme.Status{nvme.StatusAbortMissingFused}},
		{"another command between", []nvme.Command{compare, single, write},
			[]nvme.Status{nvme.StatusAbortMissingFused, nvme.StatusSuccess, nvme.StatusAbortMissingFused}},
		{"two firsts", []nvme.Command{compare, compare, write},
			[]nvme.Status{nvme.StatusAbortMissingFused, nvme.StatusSuccess, nvme.StatusSuccess}},
		{"first refused", []nvme.Command{with(compare, func(c *nvme.Command) { c.SetNSID(99) }), write},
			[]nvme.Status{nvme.StatusInvalidNamespace, nvme.StatusAbortFailedFused}},
		{"second refused", []nvme.Command{compare, with(write, func(c *nvme.Command) { c.SetNSID(99) })},
			[]nvme.Status{nvme.StatusAbortFailedFused, nvme.StatusInvalidNamespace}},
		{"ranges differ", []nvme.Command{compare, with(write, func(c *nvme.Command) { c.SetStartLBA(8) })},
			[]nvme.Status{nvme.StatusInvalidField, nvme.StatusInvalidField}},
		{"first is no compare", []nvme.Command{with(single, func(c *nvme.Command) { c.SetFuse(nvme.FuseFirst) }), write},
			[]nvme.Status{nvme.StatusInvalidField, nvme.StatusAbortFailedFused}},
		{"second is no write", []nvme.Command{compare, with(single, func(c *nvme.Command) { c.SetFuse(nvme.FuseSecond) })},
			[]nvme.Status{nvme.StatusInvalidField, nvme.StatusInvalidField}},
		{"more than ACWU", []nvme.Command{
			with(rw(nvme.IOCompare, 1, 0, 2, 8192), func(c *nvme.Command) { c.SetFuse(nvme.FuseFirst) }),
			with(rw(nvme.IOWrite, 1, 0, 2, 8192), func(c *nvme.Command) { c.SetFuse(nvme.FuseSecond) }),
		}, []nvme.Status{nvme.StatusAtomicWriteUnitExceeded, nvme.StatusAbortFailedFused}},
	} {
		for _, late := range []bool{false, true} {
			t.Run(tc.rule, func(t *testing.T) {
				c := newRig(t).connect(1).io[0]
				c.late = late
				var answers []chan answer
				for _, cmd := range tc.cmds {
					answers = append(answers, c.post(cmd, data))
				}
				for i, ch := range answers {
					if a := c.get(ch); a.Status().Code() != tc.want[i] {
						t.Errorf("command %d: %v, want %v", i, a.Status(), tc.want[i])
					}
				}
			})
		}
	}
}

// A command whose data the transport could not get ends without effect, and its fused half too.
func TestFail(t *testing.T) {
	r := newRig(t)
	c := r.connect(1).io[0]
	compare, write := fusedPair(1)
	for _, tc := range []struct {
		rule string
		cmds []nvme.Command // the last one fails
		want []nvme.Status
	}{
		{"write", []nvme.Command{rw(nvme.IOWrite, 1, 0, 1, 4096)}, []nvme.Status{nvme.StatusTransientTransportError}},
		{"first half", []nvme.Command{compare}, []nvme.Status{nvme.StatusTransientTransportError}},
		{"second half", []nvme.Command{compare, write}, []nvme.Status{nvme.StatusAbortFailedFused, nvme.StatusTransientTransportError}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			var answers []chan answer
			for i, cmd := range tc.cmds {
				ch := make(chan answer, 1)
				answers = append(answers, ch)
				onThread(c.thread, func() bool {
					k := c.q.Get()
					k.SQE = cmd
					k.SQE.SetCID(nvme.CommandID(1000 + i))
					c.wait[k.SQE.CID()] = ch
					c.q.Begin(k)
					if i == len(tc.cmds)-1 {
						c.q.Fail(k, nvme.StatusTransientTransportError)
					} else {
						c.q.Execute(k)
					}
					return true
				})
			}
			for i, ch := range answers {
				if a := c.get(ch); a.Status().Code() != tc.want[i] {
					t.Errorf("command %d: %v, want %v", i, a.Status(), tc.want[i])
				}
			}
		})
	}
	// The first half failed above: a second half that follows it fails as well.
	onThread(c.thread, func() bool {
		k := c.q.Get()
		k.SQE = compare
		k.SQE.SetCID(2000)
		c.q.Begin(k)
		c.q.Fail(k, nvme.StatusTransientTransportError)
		return true
	})
	c.fails(nvme.StatusAbortFailedFused, write, make([]byte, 4096))
	r.blocks.Intercept(func(*ring.Entry) (ring.Status, bool) { t.Error("a failed command reached the core"); return 0, false })
}

// A first half without a second is ended with its queue.
func TestLonelyFirstHalf(t *testing.T) {
	r := newRig(t)
	c := r.connect(1).io[0]
	compare, _ := fusedPair(1)
	c.post(compare, make([]byte, 4096))
	c.ok(propertyless(), nil)
	c.gone()
}

// propertyless is a command of another kind, which does not disturb a fused pair.
func propertyless() nvme.Command { return nvme.Disconnect{}.Command() }

// Commands wait for memory rather than fail, and each gets it.
func TestPoolExhausted(t *testing.T) {
	r := newRig(t, withPool(1<<20), withLimits(Limits{MaxTransfer: 256 << 10}))
	h := r.connect(2)
	r.blocks.Hold()
	var answers []chan answer
	h.io[0].late, h.io[1].late = true, true
	for range 20 {
		for _, c := range h.io {
			answers = append(answers, c.post(rw(nvme.IORead, 1, 0, 64, 256<<10), nil), c.post(rw(nvme.IOWrite, 1, 0, 16, 65536), make([]byte, 65536)))
		}
	}
	onThread(r.threads[0], func() bool { return true })
	r.eventually("the pool is in use", func() bool {
		return onThread(r.threads[0], func() int { return r.threads[0].Pool().InUse() }) > 512<<10
	})
	r.blocks.Release()
	for _, ch := range answers {
		if a := h.get(ch); !a.Status().OK() {
			t.Fatal(a.Status())
		}
	}
}

// Queues whose hosts let them wait, however many commands they have, leave room for another one.
func TestStalledQueuesLeaveRoom(t *testing.T) {
	r := newRig(t, withPool(4<<20), withLimits(Limits{MaxTransfer: 128 << 10}))
	h := r.connect(4)
	for _, c := range h.io[:3] {
		c.thread.Post(func() {
			for i := range 30 {
				k := c.q.Get()
				k.SQE = rw(nvme.IOWrite, 1, 0, 32, 128<<10)
				k.SQE.SetCID(nvme.CommandID(1000 + i))
				c.payload[k] = nil
				c.q.Begin(k) // and its data never comes
			}
		})
		onThread(c.thread, func() bool { return true })
	}
	held := onThread(r.threads[0], func() int { return r.threads[0].Pool().InUse() })
	if held < 2<<20 {
		t.Errorf("the stalled queues hold %d bytes", held)
	}
	for range 100 {
		h.io[3].ok(rw(nvme.IORead, 1, 0, 32, 128<<10), nil)
		h.io[3].ok(rw(nvme.IOWrite, 1, 0, 32, 128<<10), make([]byte, 128<<10))
	}
	for _, c := range h.io[:3] {
		c.gone()
	}
}

func TestParkedCommandsOfLostQueue(t *testing.T) {
	r := newRig(t, withPool(1<<20), withLimits(Limits{MaxTransfer: 256 << 10}))
	h := r.connect(2)
	r.blocks.Hold()
	for range 20 {
		h.io[0].post(rw(nvme.IORead, 1, 0, 64, 256<<10), nil)
	}
	onThread(r.threads[0], func() bool { return true })
	h.io[0].gone()
	r.blocks.Release()
	h.io[1].ok(rw(nvme.IORead, 1, 0, 64, 256<<10), nil)
}

func TestDataTimeout(t *testing.T) {
	r := newRig(t, withLimits(Limits{DataTimeout: 20e6}))
	h := r.connect(1)
	c := h.io[0]
	c.thread.Post(func() {
		cmd := rw(nvme.IOWrite, 1, 0, 1, 4096)
		k := c.q.Get()
		k.SQE = cmd
		c.payload[k] = nil
		c.q.Begin(k) // and its data never comes
	})
	c.waitClosed(ErrDataTimeout)
}

// Shrinking under I/O: what the view allows but the volume has not is out of range.
func TestRangeEndMoves(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	c := h.io[0]
	r.volumes[1].Resize(16 << 20)
	c.fails(nvme.StatusLBAOutOfRange, rw(nvme.IORead, 1, 3000, 1, 4096), nil)
	r.export(func(s *proto.Subsystem) { s.Namespaces[0].SizeBytes = 16 << 20 })
	r.eventually("the new size is seen", func() bool { return c.do(rw(nvme.IORead, 1, 3000, 1, 4096), nil).Status().OK() })
	r.volumes[1].Resize(4 << 20)
	c.fails(nvme.StatusLBAOutOfRange, rw(nvme.IORead, 1, 3000, 1, 4096), nil)
}

// Reads and writes allocate nothing, the turns of the loop included.
func TestNoAllocation(t *testing.T) {
	r := newRig(t)
	c := r.connect(1).io[0]
	done := make(chan bool, 1)
	bench := &benchConn{thread: c.thread, q: c.q, done: func() { done <- true }}
	onThread(c.thread, func() bool { c.q.conn = bench; return true })
	for _, op := range []nvme.Opcode{nvme.IORead, nvme.IOWrite, nvme.IOFlush} {
		cmd := rw(op, 1, 1, 1, 4096)
		run := func() { bench.start(&cmd) }
		n := testing.AllocsPerRun(200, func() {
			c.thread.Post(run)
			<-done
		})
		if n > 0 || !bench.failed.OK() {
			t.Errorf("opcode %02xh: %v allocations per command, %v", uint8(op), n, bench.failed)
		}
	}
	onThread(c.thread, func() bool { c.q.conn = c; return true })
}

// benchConn is a transport without a host, that sends a command again when it completes.
type benchConn struct {
	thread *block.Thread
	q      *Queue
	left   int // commands to send again
	failed nvme.Status
	done   func()
}

func (b *benchConn) start(cmd *nvme.Command) {
	c := b.q.Get()
	c.SQE = *cmd
	b.q.Begin(c)
	if !c.Parked {
		b.q.Execute(c)
	}
}

func (b *benchConn) Complete(c *Command) {
	if !c.Status().OK() {
		b.failed = c.Status()
	}
	c.Release() // and c is the next one that Get returns, with its SQE
	if b.left == 0 || !b.failed.OK() {
		b.done()
		return
	}
	b.left--
	b.start(&c.SQE)
}

func (b *benchConn) Ready(c *Command)   { b.q.Execute(c) }
func (b *benchConn) Close(reason error) { b.q.Gone(reason) }

// BenchmarkFrontEnd keeps 32 commands under way against volumes in memory, ring and loop included.
func BenchmarkFrontEnd(b *testing.B) {
	for _, op := range []nvme.Opcode{nvme.IORead, nvme.IOWrite, nvme.IOFlush} {
		b.Run(op.IOName(), func(b *testing.B) {
			const depth = 32
			r := newRig(b)
			c := r.connect(1).io[0]
			done := make(chan bool, depth)
			bench := &benchConn{thread: c.thread, q: c.q, left: b.N, done: func() { done <- true }}
			onThread(c.thread, func() bool { c.q.conn = bench; return true })
			b.ReportAllocs()
			b.ResetTimer()
			c.thread.Post(func() {
				for i := range nvme.CommandID(depth) {
					cmd := rw(op, 1, nvme.LBA(i), 1, 4096)
					cmd.SetCID(i)
					bench.start(&cmd)
				}
			})
			for range depth {
				<-done
			}
			b.StopTimer()
			onThread(c.thread, func() bool { c.q.conn = c; return true })
			if !bench.failed.OK() {
				b.Error(bench.failed)
			}
		})
	}
}
