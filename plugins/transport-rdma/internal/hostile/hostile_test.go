//go:build rdma && guest

package hostile

import (
	"bytes"
	"testing"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/cm"
	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/verbs"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// Each reason for which a request is refused arrives at the host. RDMA 3.1
func TestRejects(t *testing.T) {
	with := func(change func(*cm.Request)) offer {
		r := request(1, 32)
		change(&r)
		return offer{private: r.Append(nil), served: 1}
	}
	for _, c := range []struct {
		name string
		o    offer
		want cm.Status
	}{
		// The connection manager pads private data with zeros, so that a cut request is one of zeros.
		{"no private data", offer{served: 1}, cm.InvalidEntries},
		{"format 1", with(func(r *cm.Request) { r.Format = 1 }), cm.InvalidFormat},
		{"queue above", with(func(r *cm.Request) { r.Queue = 0xffff }), cm.InvalidQueue},
		{"one entry", with(func(r *cm.Request) { r.Entries = 1 }), cm.InvalidEntries},
		{"entries above", with(func(r *cm.Request) { r.Entries, r.Receives = 0xffff, 0xffff }), cm.InvalidEntries},
		{"too few receives", with(func(r *cm.Request) { r.Receives = 3 }), cm.InvalidReceives},
		{"no RDMA READ served", offer{private: request(1, 32).Append(nil)}, cm.InvalidIRD},
		{"reserved controller", with(func(r *cm.Request) { r.Controller = nvme.MaxControllerID + 1 }), cm.InvalidController},
		{"all bits set", offer{private: bytes.Repeat([]byte{0xff}, 32), served: 1}, cm.InvalidFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, got := dial(t, c.o); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// What the kernel's host never sends: several keyed descriptors, whatever the number of RDMA READs that the host serves.
func TestDescriptors(t *testing.T) {
	for _, served := range []int{1, 16} {
		h := connect(t, 32, offer{private: request(1, 32).Append(nil), served: served})
		q := h.io
		pieces := func(off int, sizes ...int) (list []nvme.SGL) {
			for _, n := range sizes {
				list = append(list, q.keyed(off, n))
				off += n
			}
			return list
		}
		many := func(n, size int) []int {
			sizes := make([]int, n)
			for i := range sizes {
				sizes[i] = size
			}
			return sizes
		}
		for i, sizes := range [][]int{{4096}, {1, 4095}, {100, 0, 3000, 996}, many(16, 256), many(16, 16384), {4096, 4096}} {
			total := 0
			for _, n := range sizes {
				total += n
			}
			pattern(q.data(0, total), served+i)
			q.ok(segment(q.rw(nvme.IOWrite, 256*i, 0, total), pieces(0, sizes...)...))
			clear(q.data(1<<20, total))
			q.ok(q.rw(nvme.IORead, 256*i, 1<<20, total), nil)
			same(t, q.data(1<<20, total), q.data(0, total))
			clear(q.data(1<<20, total+4096))
			q.ok(segment(q.rw(nvme.IORead, 256*i, 0, total), pieces(1<<20, sizes...)...))
			same(t, q.data(1<<20, total), q.data(0, total))
			same(t, q.data(1<<20+total, 4096), make([]byte, 4096)) // and not a byte more
		}
		// Several under way, which share the RDMA READs that there may be.
		for i := range 8 {
			pattern(q.data(i*65536, 65536), 77+i)
			q.send(segment(q.rw(nvme.IOWrite, 2048+16*i, 0, 65536), pieces(i*65536, many(16, 4096)...)...))
		}
		if !q.until(func() bool { return len(q.done) == 8 || q.over }) || q.over {
			t.Fatalf("%d of 8 writes completed", len(q.done))
		}
		for id, a := range q.done {
			if !a.Status().OK() {
				t.Errorf("write: %v", a.Status())
			}
			delete(q.done, id)
		}
		q.ok(q.rw(nvme.IORead, 2048, 1<<20, 8*65536), nil)
		same(t, q.data(1<<20, 8*65536), q.data(0, 8*65536))
	}
}

// A key that is to be invalidated is, and is good for nothing afterwards. RDMA 3.3.2
func TestInvalidate(t *testing.T) {
	for _, op := range []nvme.Opcode{nvme.IORead, nvme.IOWrite} {
		h := connect(t, 32, proper(1, 32))
		q := h.io
		w, err := q.id.NewWindow()
		must(t, err)
		q.wins++ // it keeps the domain from being closed cleanly
		q.room--
		key, err := w.Bind(verbs.WR{ID: idSend, Offset: dataAt, Length: 8192})
		must(t, err)
		sgl := q.keyed(0, 4096)
		sgl.Key = key
		cmd := q.rw(op, 0, 0, 8192)
		for range 2 { // it is good until somebody asks for the other
			q.ok(segment(cmd, q.keyed(8192, 4096), sgl))
		}
		sgl.Subtype = nvme.SGLInvalidateKey
		q.ok(segment(cmd, q.keyed(8192, 4096), sgl))
		q.send(segment(cmd, q.keyed(8192, 4096), sgl))
		q.ends()
		must(t, w.Close())
		q.wins--
	}
}

// What is wrong with a command's descriptors is its status, and the queue pair goes on.
func TestWrongDescriptors(t *testing.T) {
	q := connect(t, 32, proper(1, 32)).io
	read := q.rw(nvme.IORead, 0, 0, 4096)
	sgl := func(s nvme.SGL) nvme.Command { c := read; c.SetSGL1(s); return c }
	q.fails(nvme.StatusInvalidSGLType, sgl(nvme.SGL{Type: nvme.SGLTransportData, Subtype: nvme.SGLTransport, Length: 4096}), nil)
	q.fails(nvme.StatusInvalidSGLType, sgl(nvme.SGL{Type: nvme.SGLLastSegment, Length: 16}), nil)
	q.fails(nvme.StatusInvalidSGLType, sgl(nvme.InCapsule(0, 4096)), nil)
	q.fails(nvme.StatusInvalidSGLLength, sgl(q.keyed(0, 4095)), nil)
	q.fails(nvme.StatusInvalidSGLSegment, sgl(nvme.SGL{Type: nvme.SGLLastSegment, Subtype: nvme.SGLOffset, Length: 1 << 30}), nil)
	list := make([]nvme.SGL, 17)
	for i := range list {
		list[i] = q.keyed(0, 256)
	}
	for _, c := range []struct {
		want nvme.Status
		list []nvme.SGL
	}{
		{nvme.StatusInvalidSGLCount, list},
		{nvme.StatusInvalidSGLLength, list[:15]},
		{nvme.StatusInvalidSGLType, []nvme.SGL{list[0], {Type: nvme.SGLSegment, Length: 4096}}},
		{nvme.StatusInvalidSGLSegment, nil},
	} {
		cmd, more := segment(read, c.list...)
		q.fails(c.want, cmd, more)
	}
	q.ok(read, nil)
}

// What ends the queue pair, and nothing else: the next case connects anew.
func TestFaults(t *testing.T) {
	badKey := func(q *queuePair, s nvme.SGL) nvme.SGL { s.Key ^= 0x55aa00; return s }
	for _, c := range []struct {
		name string
		do   func(q *queuePair)
	}{
		{"empty capsule", func(q *queuePair) { q.capsule(nil) }},
		{"capsule a byte too short", func(q *queuePair) { q.capsule(make([]byte, nvme.CommandSize-1)) }},
		{"capsule a byte too long", func(q *queuePair) { q.capsule(make([]byte, nvme.CommandSize+4096+1)) }},
		{"key that is none, read", func(q *queuePair) {
			cmd := q.rw(nvme.IORead, 0, 0, 4096)
			cmd.SetSGL1(badKey(q, cmd.SGL1()))
			q.send(cmd, nil)
		}},
		{"key that is none, write", func(q *queuePair) {
			cmd := q.rw(nvme.IOWrite, 0, 0, 4096)
			cmd.SetSGL1(badKey(q, cmd.SGL1()))
			q.send(cmd, nil)
		}},
		{"the last key is none, read", func(q *queuePair) {
			q.send(segment(q.rw(nvme.IORead, 0, 0, 16384), q.keyed(0, 4096), q.keyed(4096, 4096), badKey(q, q.keyed(8192, 8192))))
		}},
		{"the last key is none, write", func(q *queuePair) {
			q.send(segment(q.rw(nvme.IOWrite, 0, 0, 16384), q.keyed(0, 4096), q.keyed(4096, 4096), badKey(q, q.keyed(8192, 8192))))
		}},
		{"the first key is none, others wait behind it", func(q *queuePair) {
			for range 8 {
				q.send(segment(q.rw(nvme.IOWrite, 0, 0, 16384), badKey(q, q.keyed(0, 4096)), q.keyed(4096, 4096), q.keyed(8192, 8192)))
			}
		}},
		{"memory beyond the key's", func(q *queuePair) {
			cmd := q.rw(nvme.IOWrite, 0, 0, 4096)
			sgl := q.keyed(0, 4096)
			sgl.Address += memBytes
			cmd.SetSGL1(sgl)
			q.send(cmd, nil)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := connect(t, 32, proper(1, 32))
			c.do(h.io)
			h.io.ends()
			h.admin.ok(nvme.PropertyGet{Size: 4, Offset: nvme.PropertyCSTS}.Command(), nil)
		})
	}
	t.Run("more commands than the queue has entries", func(t *testing.T) {
		q := connectAdmin(t, 3, 0, offer{}).admin
		for range 4 { // requests for events stay
			var c nvme.Command
			c.SetOpcode(nvme.AdminAsyncEventRequest)
			q.send(c, nil)
		}
		q.ends()
	})
}

// Hosts that go away, or never come: memory and queue pairs of theirs come back, which the script looks at.
func TestLeaving(t *testing.T) {
	t.Run("half-open", func(t *testing.T) {
		for range 8 {
			dial(t, proper(nvme.AdminQueue, 32)) // and no Connect
		}
	})
	t.Run("disconnect in mid-transfer", func(t *testing.T) {
		for i := range 6 {
			h := connect(t, 32, offer{private: request(1, 32).Append(nil), served: 1 + i})
			for n := range 16 {
				op := []nvme.Opcode{nvme.IOWrite, nvme.IORead}[(n+i)%2]
				h.io.send(segment(h.io.rw(op, 4096+64*n, 0, 256<<10), h.io.keyed(0, 100<<10), h.io.keyed(100<<10, 156<<10)))
			}
			if i%2 == 0 {
				must(t, h.io.id.Disconnect())
				h.io.ends()
			} else {
				h.io.close() // without a word
			}
			h.admin.close()
		}
	})
	q := connect(t, 32, proper(1, 32)).io
	q.ok(q.rw(nvme.IORead, 0, 0, 4096), nil)
}
