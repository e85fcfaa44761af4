package access

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/ring"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i)*7 + byte(i>>8)*13
	}
	return b
}

// Many hosts count up one number each by compare-and-write; no increment is lost.
func TestCompareAndWriteIsAtomic(t *testing.T) {
	r := newRig(t, rigOptions{seed: 1})
	v := r.volume(testExtent, 512, false)
	const hosts, each = 4, 60
	var wg sync.WaitGroup
	for i := range hosts {
		p := r.plugin(fmt.Sprint("p", i))
		h := p.grant(v, fmt.Sprint("host", i), 1)
		wg.Go(func() {
			for n := 0; n < each; {
				have, s := p.read(h, 512, 512)
				if s != block.StatusOK {
					t.Error(s)
					return
				}
				next := bytes.Clone(have)
				binary.LittleEndian.PutUint64(next, binary.LittleEndian.Uint64(have)+1)
				f := p.wait(p.start(block.OpCompareAndWrite, h, 512, 512, append(have, next...)))
				switch {
				case f.Status == block.StatusOK:
					n++
				case f.Status != block.StatusCompareFailed || f.Info != 512:
					t.Errorf("%v at %d", f.Status, f.Info)
					return
				}
			}
		})
	}
	wg.Wait()
	p := r.plugin("reader")
	b, _ := p.read(p.grant(v, "reader", 1), 512, 512)
	if n := binary.LittleEndian.Uint64(b); n != hosts*each {
		t.Errorf("counted to %d, want %d", n, hosts*each)
	}
	r.settled(v)
}

// The sizes at which a command is cut: extents, what a store takes at once, chunks.
func TestLargeCommands(t *testing.T) {
	for _, size := range []int64{testExtent, 8 << 20} {
		r := newRig(t, rigOptions{seed: 2, extent: size, stores: 2})
		v := r.volume(16<<20, 512, false)
		p := r.plugin("p")
		h := p.grant(v, "host", 1)
		data := pattern(4<<20, 1)
		for _, at := range []uint64{0, 8<<20 - 4096, 3<<20 + 512} {
			if s := p.write(h, at, data); s != block.StatusOK {
				t.Fatalf("write at %d: %v", at, s)
			}
			if got, s := p.read(h, at, 4<<20); s != block.StatusOK || !bytes.Equal(got, data) {
				t.Fatalf("read at %d: %v", at, s)
			}
			p.want("compare", p.wait(p.start(block.OpCompare, h, at, 4<<20, data)), block.StatusOK)
		}
		p.want("verify", p.start(block.OpVerify, h, 512, 16<<20-512, nil), block.StatusOK)
		p.want("too much at once", p.start(block.OpWrite, h, 0, 4<<20+512, make([]byte, 4<<20+512)), block.StatusInvalidField)
		p.want("write zeroes", p.start(block.OpWriteZeroes, h, 512, 16<<20-1024, nil), block.StatusOK)
		got, _ := p.read(h, 0, 1024)
		if !bytes.Equal(got, append(bytes.Clone(data[:512]), make([]byte, 512)...)) {
			t.Error("write zeroes went beyond its range, or not to its end")
		}
		p.want("discard", p.start(block.OpDiscard, h, 0, 16<<20, nil), block.StatusOK)
		r.settled(v)
	}
}

func TestRanges(t *testing.T) {
	r := newRig(t, rigOptions{seed: 3})
	v := r.volume(testExtent+4096, 4096, false)
	p := r.plugin("p")
	h := p.grant(v, "host", 1)
	for _, tc := range []struct {
		at, n uint64
		want  block.Status
	}{
		{0, 4096, block.StatusOK}, {testExtent, 4096, block.StatusOK}, {0, testExtent + 4096, block.StatusOK},
		{512, 4096, block.StatusInvalidField}, {0, 512, block.StatusInvalidField},
		{testExtent + 4096, 4096, block.StatusOutOfRange}, {testExtent, 8192, block.StatusOutOfRange},
		{math.MaxInt64 - 8191, 4096, block.StatusOutOfRange}, {4096, math.MaxInt64 - 8191, block.StatusOutOfRange},
	} {
		for _, op := range []block.Op{block.OpDiscard, block.OpWriteZeroes, block.OpVerify} {
			if f := p.wait(p.start(op, h, tc.at, tc.n, nil)); f.Status != tc.want {
				t.Errorf("%v of %d at %d: %v, want %v", op, tc.n, tc.at, f.Status, tc.want)
			}
		}
	}
	r.settled(v)
}

// hold keeps requests from the disk until release.
func (r *rig) hold() {
	r.on(func() { r.queue.shut = true })
	r.t.Cleanup(r.release) // a test that failed meanwhile can end
}

func (r *rig) release() { r.on(r.queue.open) }

// atDisk waits until n requests are kept from the disk.
func (r *rig) atDisk(n int) {
	r.t.Helper()
	r.until("a request reaches the disk", func() bool { return len(r.queue.kept) >= n })
}

func (r *rig) parkedBehind(v *Volume, n int) {
	r.t.Helper()
	r.until("commands wait behind another", func() bool { return v.order.parked.n == n })
}

func ended(f *flight) bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// prepared is a rig with one volume whose first extents are allocated, and a plugin.
func prepared(t *testing.T, o rigOptions) (*rig, *Volume, *plugin, block.Handle) {
	r := newRig(t, o)
	v := r.volume(4*testExtent, 512, false)
	p := r.plugin("p")
	h := p.grant(v, "host", 1)
	if s := p.write(h, 0, pattern(4*testExtent, 9)); s != block.StatusOK {
		t.Fatal(s)
	}
	return r, v, p, h
}

func TestRevoke(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 4})
	other := r.plugin("other")
	oh := other.grant(v, "other", 1)
	r.hold()
	atDisk := p.start(block.OpWrite, h, 0, 512, pattern(512, 1))
	r.atDisk(1)
	behind := p.start(block.OpWrite, h, 512, 512, pattern(512, 2))
	theirs := other.start(block.OpWrite, oh, 1024, 512, pattern(512, 3))
	r.parkedBehind(v, 2)

	short, cancel := context.WithCancel(r.ctx)
	result := make(chan error)
	go func() { result <- p.client.Revoke(short, Handle(h), Handle(h)) }()
	p.want("parked command of a revoked handle", behind, block.StatusPathLost)
	p.want("command after it", p.start(block.OpRead, h, 0, 512, make([]byte, 512)), block.StatusPathLost)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("Revoke returned %v with a command at the disk", err)
	}
	if ended(atDisk) || ended(theirs) {
		t.Fatal("commands ended without the disk")
	}
	go func() { result <- p.client.Revoke(r.ctx, Handle(h)) }()
	r.release()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	p.want("command at the disk", atDisk, block.StatusOK)
	other.want("command of another plugin behind it", theirs, block.StatusOK)
	again := p.grant(v, "host", 1)
	if again.Index != h.Index || again.Generation == h.Generation {
		t.Errorf("handle %v after %v", again, h)
	}
	p.want("stale handle", p.start(block.OpRead, h, 0, 512, make([]byte, 512)), block.StatusPathLost)
	got, _ := p.read(again, 0, 2048)
	if want := append(append(pattern(512, 1), pattern(4*testExtent, 9)[512:1024]...), pattern(512, 3)...); !bytes.Equal(got[:1536], want) {
		t.Error("wrong data")
	}
	r.settled(v)
}

func TestClose(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 5})
	other := r.plugin("other")
	oh := other.grant(v, "other", 1)
	r.hold()
	p.start(block.OpWrite, h, 0, 512, pattern(512, 1))
	r.atDisk(1)
	p.start(block.OpWrite, h, 512, 512, pattern(512, 2))
	theirs := other.start(block.OpWrite, oh, 1024, 512, pattern(512, 3))
	r.parkedBehind(v, 2)
	short, cancel := context.WithCancel(r.ctx)
	result := make(chan error)
	go func() { result <- p.client.Close(short) }()
	r.parkedBehind(v, 1)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("Close returned %v with a command at the disk", err)
	}
	if _, err := p.client.Grant(r.ctx, v, Host{}, Path{Epoch: 1}, nil); !errors.Is(err, ErrStopped) {
		t.Errorf("Grant on a closing client: %v", err)
	}
	r.release()
	r.must(p.client.Close(r.ctx))
	other.want("command behind that of a closed client", theirs, block.StatusOK)
	got, _ := other.read(oh, 0, 1536)
	if want := append(append(pattern(512, 1), pattern(4*testExtent, 9)[512:1024]...), pattern(512, 3)...); !bytes.Equal(got, want) {
		t.Error("wrong data")
	}
	r.until("grants are gone", func() bool { return v.users == 1 })
	r.settled(v)
}

func TestAbort(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 6})
	r.hold()
	atDisk := p.start(block.OpWrite, h, 0, 512, pattern(512, 1))
	r.atDisk(1)
	second := p.start(block.OpWrite, h, 512, 512, pattern(512, 2))
	third := p.start(block.OpWrite, h, 1024, 512, pattern(512, 3))
	r.parkedBehind(v, 2)
	for _, f := range []*flight{second, atDisk} {
		p.thread.Post(func() { p.thread.Abort(&f.Request) })
	}
	p.want("aborted while parked", second, block.StatusAborted)
	r.parkedBehind(v, 1)
	// Their tags are used again while the first is still at the disk.
	for range 300 {
		f := p.start(block.OpWrite, h, 512, 512, pattern(512, 4))
		r.parkedBehind(v, 2)
		p.thread.Post(func() { p.thread.Abort(&f.Request) })
		p.want("aborted while parked", f, block.StatusAborted)
	}
	r.on(func() {
		if n := len(p.client.ports[0].spare); n > 8 {
			t.Errorf("%d commands are kept for use again", n)
		}
	})
	r.release()
	p.want("aborted at the disk", atDisk, block.StatusOK)
	p.want("behind both", third, block.StatusOK)
	r.settled(v)
}

// hostile is a plugin that writes its submission ring by itself.
type hostile struct {
	*ring.PluginEnd
	entries []byte // of the submission ring
}

const hostileEntries = 8

func (r *rig) hostile(c *Client) *hostile {
	r.t.Helper()
	h := &hostile{}
	_, err := c.OpenRings(r.ctx, Rings{Threads: 1, Entries: hostileEntries, PoolBytes: 1 << 20}, func(d ring.Descriptors) error {
		d, err := d.Dup()
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(d.Submission, &st); err != nil {
			return err
		}
		mem, err := unix.Mmap(d.Submission, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		r.t.Cleanup(func() { r.must(unix.Munmap(mem)) })
		h.entries = mem[len(mem)-hostileEntries*64:]
		h.PluginEnd, err = ring.Attach(d)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return h
}

// A plugin that breaks its ring loses it; others go on, behind its commands too. What
// it has at the disk ends before its memory goes.
func TestHostilePlugin(t *testing.T) {
	spoil := func(at int, v byte) func(*hostile, *ring.Entry) {
		return func(x *hostile, e *ring.Entry) {
			x.Submit(e)
			x.entries[3*64+at] = v // its fourth
		}
	}
	cases := map[string]func(*hostile, *ring.Entry){
		"handle never granted": func(x *hostile, e *ring.Entry) { e.Handle = 7; x.Submit(e) },
		"handle far away":      func(x *hostile, e *ring.Entry) { e.Handle = math.MaxUint32; x.Submit(e) },
		"operation":            spoil(0, 200),
		"flags":                spoil(1, 0x80),
		"tag out of range":     spoil(5, 1),
		"buffer outside":       spoil(0x27, 0x7f),
		"tag in flight": func(x *hostile, e *ring.Entry) {
			x.Submit(e)
			copy(x.entries[3*64+4:][:4], x.entries[4:8])
		},
	}
	r, v, p, h := prepared(t, rigOptions{seed: 7})
	for name, spoil := range cases {
		c, broken := r.newClient(name)
		x := r.hostile(c)
		good, err := c.Grant(r.ctx, v, Host{Name: name}, Path{Epoch: 1}, nil)
		r.must(err)
		r.hold()
		mine := p.start(block.OpWrite, h, 0, 512, pattern(512, 1))
		r.atDisk(1)
		// One of its commands is at the disk, one waits behind another plugin's, and one
		// of another's waits behind that.
		e := ring.Entry{Op: ring.OpWrite, Handle: good.Index, HandleGeneration: good.Generation, Offset: testExtent, Length: 4096, PoolLength: 4096}
		x.Submit(&e)
		e.Offset, e.Length, e.PoolLength = 0, 512, 512
		x.Submit(&e)
		e = ring.Entry{Op: ring.OpFlush, Handle: good.Index, HandleGeneration: good.Generation}
		x.Submit(&e)
		x.Publish()
		r.parkedBehind(v, 1)
		theirs := p.start(block.OpWrite, h, 512, 512, pattern(512, 2))
		r.parkedBehind(v, 2)
		e = ring.Entry{Op: ring.OpRead, Handle: good.Index, HandleGeneration: good.Generation, Length: 4096, PoolLength: 4096}
		spoil(x, &e)
		x.Publish()
		if err := <-broken; err == nil {
			t.Errorf("%s: no reason", name)
		}
		r.on(func() {
			if len(c.ports) != 1 || c.ports[0].busy != 1 || len(c.ports[0].end.Pool()) == 0 {
				t.Errorf("%s: the ring went before what was at the disk", name)
			}
		})
		r.release()
		p.want("command of another plugin", mine, block.StatusOK)
		p.want("command of another plugin", theirs, block.StatusOK)
		r.must(c.Close(r.ctx))
		r.must(x.Close())
	}
	if got, s := p.read(h, 0, 512); s != block.StatusOK || !bytes.Equal(got, pattern(512, 1)) {
		t.Errorf("%v, or the hostile write was done", s)
	}
	r.settled(v)
}

// flip stands for another process, which the race detector does not see.
//
//go:norace
func flip(p *byte, v byte) { *p = v }

// A plugin may change what it has compared while it is compared.
func TestCompareWhileChanging(t *testing.T) {
	const n = 64 << 10
	want, stop := make([]byte, n), make(chan struct{})
	var plugin sync.WaitGroup
	plugin.Go(func() {
		for i := byte(0); ; i ^= 1 {
			select {
			case <-stop:
				return
			default:
				flip(&want[n-1], i)
			}
		}
	})
	for range 2000 {
		o := &op{vol: &Volume{blockSize: 512}, range_: span{0, n}, bounce: make([]byte, n)}
		if o.compare(want) == (o.status == ring.StatusCompareFailed) || o.info != 0 && o.info != n-512 {
			t.Fatalf("%v at %d", o.status, o.info)
		}
	}
	close(stop)
	plugin.Wait()
}

// While the lease is out, commands are held; they go on when it is renewed, or end as
// retryable.
func TestLeaseHolds(t *testing.T) {
	clock := &fakeClock{}
	clock.ns.Store(1)
	r, v, p, h := prepared(t, rigOptions{seed: 9, clock: clock, holdFor: time.Minute})
	r.meta.deadline.Store(100)
	clock.ns.Store(100)
	held := func(n int) { r.until("commands are held", func() bool { return r.access.held.n == n }) }
	w := p.start(block.OpWrite, h, 0, 512, pattern(512, 1))
	rd := p.start(block.OpRead, h, 0, 512, make([]byte, 512))
	fl := p.start(block.OpFlush, h, 0, 0, nil)
	held(3)
	r.meta.deadline.Store(math.MaxInt64)
	for _, f := range []*flight{w, rd, fl} {
		p.want("held command after the renewal", f, block.StatusOK)
	}
	r.meta.deadline.Store(0)
	late, dropped := p.start(block.OpRead, h, 0, 512, make([]byte, 512)), p.start(block.OpRead, h, 0, 512, make([]byte, 512))
	held(2)
	p.thread.Post(func() { p.thread.Abort(&dropped.Request) })
	p.want("aborted while held", dropped, block.StatusAborted)
	clock.ns.Store(int64(2 * time.Minute))
	p.want("held for too long", late, block.StatusRetry)
	r.meta.deadline.Store(math.MaxInt64)
	r.settled(v)
}

// What the lease does not outlive is not answered with what was done or seen.
func TestLeaseEndsAtTheDisk(t *testing.T) {
	clock := &fakeClock{}
	clock.ns.Store(1)
	r, v, p, h := prepared(t, rigOptions{seed: 10, clock: clock, holdFor: time.Minute})
	for _, tc := range []struct {
		op   block.Op
		data []byte
	}{
		{block.OpRead, make([]byte, 4096)}, {block.OpWrite, pattern(4096, 5)}, {block.OpWrite, pattern(512, 5)},
		{block.OpCompare, make([]byte, 4096)}, {block.OpCompareAndWrite, make([]byte, 8192)}, {block.OpVerify, nil}, {block.OpWriteZeroes, nil},
	} {
		r.meta.deadline.Store(clock.ns.Load() + 10)
		r.hold()
		n := max(512, uint64(len(tc.data)))
		if tc.op == block.OpCompareAndWrite {
			n /= 2
		} else if tc.data == nil {
			n = 4096
		}
		f := p.start(tc.op, h, 0, n, tc.data)
		r.atDisk(1)
		clock.ns.Add(10)
		r.release()
		p.want(fmt.Sprintf("%v of %d bytes", tc.op, n), f, block.StatusRetry)
		r.meta.deadline.Store(math.MaxInt64)
	}
	r.settled(v)
}

// readers lets reads through, and the writes of some.
type readers map[string]bool

func (g readers) AllowsRead(Host) bool    { return true }
func (g readers) AllowsWrite(h Host) bool { return g[h.Name] }

func TestGuardFences(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 11})
	other := r.plugin("other")
	oh := other.grant(v, "other", 1)
	r.hold()
	atDisk := p.start(block.OpWrite, h, 0, 512, pattern(512, 1))
	r.atDisk(1)
	behind := p.start(block.OpWrite, h, 512, 512, pattern(512, 2))
	theirs := other.start(block.OpWrite, oh, 1024, 512, pattern(512, 3))
	r.parkedBehind(v, 2)
	result := make(chan error)
	go func() { result <- v.SetGuard(r.ctx, readers{"other": true}) }()
	r.until("the guard is there", func() bool { return v.guard != nil })
	p.want("write against a reservation", p.start(block.OpWriteZeroes, h, testExtent, 4096, nil), block.StatusReservationConflict)
	p.want("flush against a reservation", p.start(block.OpFlush, h, 0, 0, nil), block.StatusReservationConflict)
	select {
	case err := <-result:
		t.Fatalf("SetGuard returned %v with a former command at the disk", err)
	default:
	}
	r.release()
	r.must(<-result)
	if !ended(atDisk) || !ended(behind) || !ended(theirs) {
		// Their completions may be on their way to the plugin still, not at the disk.
		r.settled(v)
	}
	p.want("at the disk", atDisk, block.StatusOK)
	p.want("parked before the reservation", behind, block.StatusReservationConflict)
	other.want("parked, of the holder", theirs, block.StatusOK)
	if _, s := p.read(h, 0, 512); s != block.StatusOK {
		t.Error(s)
	}
	r.must(v.SetGuard(r.ctx, nil))
	if s := p.write(h, 0, pattern(512, 4)); s != block.StatusOK {
		t.Error(s)
	}
	r.settled(v)
}

// The first command of a new path epoch is served only when nothing older that changes
// data is at a disk any more; what is parked of it never gets there.
func TestPathEpochFences(t *testing.T) {
	for _, raise := range []string{"grant", "set"} {
		t.Run(raise, func(t *testing.T) {
			r, v, p, h := prepared(t, rigOptions{seed: 12})
			other := r.plugin("other")
			later := other.grant(v, "host", 1) // the same host by another way
			stranger := other.grant(v, "stranger", 1)
			r.hold()
			atDisk := p.start(block.OpWrite, h, 0, 512, pattern(512, 1))
			r.atDisk(1)
			behind := p.start(block.OpWrite, h, 512, 512, pattern(512, 2))
			theirs := other.start(block.OpWrite, stranger, 1024, 512, pattern(512, 3))
			r.parkedBehind(v, 2)
			result := make(chan error)
			go func() {
				var err error
				if raise == "grant" {
					var x Handle
					x, err = other.client.Grant(r.ctx, v, Host{Protocol: meta.NVMe, Name: "host"}, Path{Epoch: 2}, nil)
					later = block.Handle(x)
				} else {
					err = other.client.SetPath(r.ctx, Handle(later), Path{Epoch: 2})
				}
				result <- err
			}()
			p.want("parked command of the former path", behind, block.StatusPathLost)
			early := p.start(block.OpWriteZeroes, h, testExtent, 4096, nil)
			r.atDoor(Handle(h), p.client, 1)
			select {
			case err := <-result:
				t.Fatalf("raised (%v) with an older command at the disk", err)
			default:
			}
			r.release()
			r.must(<-result)
			r.until("nothing older is under way", func() bool { return v.host(Host{Protocol: meta.NVMe, Name: "host"}).changing == 0 })
			p.want("command at the disk", atDisk, block.StatusOK)
			other.want("command of another host", theirs, block.StatusOK)
			if s := other.write(later, 0, pattern(512, 4)); s != block.StatusOK {
				t.Errorf("write on the new path: %v", s)
			}
			if _, s := p.read(h, 0, 512); s != block.StatusOK {
				t.Errorf("read on the former path: %v", s)
			}
			r.must(p.client.SetPath(r.ctx, Handle(h), Path{Epoch: 2}))
			p.want("new command on the former path when that has caught up", early, block.StatusOK)
			if s := p.write(h, 0, pattern(512, 4)); s != block.StatusOK {
				t.Errorf("write on the path that has caught up: %v", s)
			}
			r.settled(v)
		})
	}
}

func TestResize(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 13, stores: 2})
	data := pattern(4*testExtent, 9)
	const small = testExtent + 8192
	r.hold()
	last := p.start(block.OpWrite, h, 3*testExtent, 512, pattern(512, 1))
	r.atDisk(1)
	result := make(chan error)
	go func() { result <- r.access.Shrink(r.ctx, v, small) }()
	r.until("it is smaller", func() bool { return v.size == small })
	p.want("beyond the end", p.start(block.OpDiscard, h, small, 4096, nil), block.StatusOutOfRange)
	r.release()
	r.must(<-result)
	p.want("admitted before", last, block.StatusOK)
	id := func(i uint32) extent.ID { return extent.ID{Volume: v.id, Index: i} }
	r.on(func() {
		for i := range uint32(4) {
			if here := r.stores[i%2].Extent(id(i)) != nil; here != (i < 2) {
				t.Errorf("extent %d exists: %v", i, here)
			}
		}
	})
	r.must(v.Grow(r.ctx, 4*testExtent))
	got, s := p.read(h, 0, 4*testExtent)
	if s != block.StatusOK || !bytes.Equal(got, append(bytes.Clone(data[:small]), make([]byte, 4*testExtent-small)...)) {
		t.Errorf("after growing again: %v, or other data", s)
	}
	if s := p.write(h, 3*testExtent, data[:512]); s != block.StatusOK {
		t.Errorf("write to what grew again: %v (%s)", s, v.stats.Trouble)
	}
	// A shrink that was begun in another life: the volume was opened with its new size.
	r.must(p.client.Revoke(r.ctx, Handle(h)))
	r.must(r.access.CloseVolume(r.ctx, v.id))
	again, err := r.access.Open(r.ctx, Geometry{ID: v.id, Size: small, BlockSize: 512})
	r.must(err)
	r.must(r.access.Shrink(r.ctx, again, small))
	r.on(func() {
		if again.stats.Trouble != "" {
			t.Error(again.stats.Trouble)
		}
		if r.stores[1].Extent(id(3)) != nil {
			t.Error("an extent beyond the end was left")
		}
	})
	r.settled(v, again)
}

// Grow and Shrink at once, under I/O.
func TestResizeUnderWrites(t *testing.T) {
	r := newRig(t, rigOptions{seed: 14})
	v := r.volume(4*testExtent, 512, false)
	p := r.plugin("p")
	h := p.grant(v, "host", 1)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for n := range 15 {
				if i == 0 {
					r.must(r.access.Shrink(r.ctx, v, int64(1+n%3)*testExtent-4096))
				} else {
					r.must(v.Grow(r.ctx, 4*testExtent))
				}
			}
		})
	}
	var flying []*flight
	for n := range uint64(400) {
		f := p.start(block.OpWrite, h, n%7*testExtent/2+512, 1024, pattern(1024, byte(n)))
		if flying = append(flying, f); len(flying) == 16 {
			for _, f := range flying {
				if p.wait(f); f.Status != block.StatusOK && f.Status != block.StatusOutOfRange {
					t.Errorf("%v", f.Status)
				}
			}
			flying = nil
		}
	}
	wg.Wait()
	r.settled(v)
}

func TestAllocationFails(t *testing.T) {
	r := newRig(t, rigOptions{seed: 15})
	v := r.volume(4*testExtent, 512, false)
	p := r.plugin("p")
	h := p.grant(v, "host", 1)
	for _, tc := range []struct {
		err  error
		want block.Status
	}{
		{errors.New("no quorum"), block.StatusPathLost}, {extent.ErrNoSpace, block.StatusNoSpace},
	} {
		r.meta.onAllocate(func() error { return tc.err })
		if s := p.write(h, testExtent-512, pattern(1024, 1)); s != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, s, tc.want)
		}
		st, err := r.access.Stats(r.ctx)
		r.must(err)
		if tr := st.Volumes[0].Trouble; !strings.Contains(tr, tc.err.Error()) {
			t.Errorf("trouble is %q, not %v", tr, tc.err)
		}
	}
	if got, s := p.read(h, 0, 4*testExtent); s != block.StatusOK || !bytes.Equal(got, make([]byte, 4*testExtent)) {
		t.Errorf("reading what could not be written: %v", s)
	}
	// An answer that is lost says nothing: the next attempt finds out.
	r.meta.onAllocate(nil)
	r.meta.onConfirm(func() error { return errors.New("connection lost") })
	if s := p.write(h, testExtent, pattern(512, 1)); s != block.StatusPathLost {
		t.Errorf("extent that was not surely confirmed: %v", s)
	}
	r.meta.onConfirm(nil)
	if s := p.write(h, testExtent, pattern(512, 1)); s != block.StatusOK {
		t.Errorf("extent that was confirmed after all: %v", s)
	}
	// Commands that wait for it can be aborted, and nobody closes the volume under it.
	hung, asked := make(chan struct{}), make(chan struct{}, 8)
	r.meta.onAllocate(func() error { asked <- struct{}{}; <-hung; return nil })
	f := p.start(block.OpWrite, h, 0, 4096, pattern(4096, 1))
	<-asked
	r.until("it waits for its extent", func() bool { return v.extents[0].resolving.ops.n == 1 })
	p.thread.Post(func() { p.thread.Abort(&f.Request) })
	p.want("aborted while its extent is allocated", f, block.StatusAborted)
	r.must(p.client.Revoke(r.ctx, Handle(h)))
	result := make(chan error)
	go func() { result <- r.access.CloseVolume(r.ctx, v.id) }()
	r.until("the volume is closing", func() bool { return v.closed })
	close(hung)
	r.must(<-result)
	if got, err := r.access.Lookup(r.ctx, v.id); got != nil || err != nil {
		t.Error("the volume is still open", err)
	}
	r.settled(v)
}

// A first write waits while no store takes new extents, and is then told to try again: that is not the host's doing.
func TestNoStoreIsHeld(t *testing.T) {
	clock := &fakeClock{} // a first write is held as long as it stands still
	clock.ns.Store(1)
	r := newRig(t, rigOptions{seed: 17, clock: clock})
	v := r.volume(4*testExtent, 512, false)
	p := r.plugin("p")
	h := p.grant(v, "host", 1)
	var asked atomic.Int32
	r.meta.onAllocate(func() error {
		if asked.Add(1) < 3 {
			return meta.ErrNoStore
		}
		return nil
	})
	if s := p.write(h, 0, pattern(512, 1)); s != block.StatusOK || asked.Load() != 3 {
		t.Errorf("%v after %d questions", s, asked.Load())
	}
	r.meta.onAllocate(func() error {
		if asked.Add(1) == 6 {
			clock.ns.Add(int64(testTimeout))
		}
		return meta.ErrNoStore
	})
	if s := p.write(h, testExtent, pattern(512, 1)); s != block.StatusPathLost {
		t.Errorf("without any store: %v", s)
	}
	st, err := r.access.Stats(r.ctx)
	r.must(err)
	if tr := st.Volumes[0].Trouble; !strings.Contains(tr, meta.ErrNoStore.Error()) {
		t.Errorf("trouble is %q", tr)
	}
	r.settled(v)
}

// A volume whose store comes late is served as far as it goes, never guessed.
func TestStoreComesLate(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 16, stores: 2})
	r.must(p.client.Revoke(r.ctx, Handle(h)))
	if err := r.access.RemoveStore(r.ctx, r.stores[1]); err == nil {
		t.Error("a store that is in use was removed")
	}
	r.must(r.access.CloseVolume(r.ctx, v.id))
	r.must(r.access.RemoveStore(r.ctx, r.stores[1]))
	v, err := r.access.Open(r.ctx, Geometry{ID: v.id, Size: v.size, BlockSize: 512, Volatile: true})
	r.must(err)
	h = p.grant(v, "host", 1)
	if _, s := p.read(h, 0, testExtent); s != block.StatusOK {
		t.Errorf("read from the store that is here: %v", s)
	}
	if _, s := p.read(h, testExtent, 512); s != block.StatusPathLost {
		t.Errorf("read from the store that is not here: %v", s)
	}
	p.want("flush", p.start(block.OpFlush, h, 0, 0, nil), block.StatusPathLost)
	r.must(r.access.AddStore(r.ctx, r.stores[1]))
	if got, s := p.read(h, 0, 4*testExtent); s != block.StatusOK || !bytes.Equal(got, pattern(4*testExtent, 9)) {
		t.Errorf("read with both: %v", s)
	}
	p.want("flush", p.start(block.OpFlush, h, 0, 0, nil), block.StatusOK)
	r.must(r.access.Flush(r.ctx))
	r.settled(v)
}

// Metadata that was restored from a backup may know fewer extents than the stores
// have, or lower generations of them: those are refused, never read as zeros, overwritten
// or made anew, and stay refused when the generations have caught up.
func TestMetaBehindTheData(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 18})
	reopen := func(size int64) {
		t.Helper()
		r.must(p.client.Revoke(r.ctx, Handle(h)))
		r.must(r.access.CloseVolume(r.ctx, v.id))
		var err error
		v, err = r.access.Open(r.ctx, Geometry{ID: v.id, Name: "v", Size: size, BlockSize: 512, Volatile: true})
		r.must(err)
		h = p.grant(v, "host", 1)
	}
	generation := func(i uint32, g extent.Generation) {
		r.meta.mu.Lock()
		defer r.meta.mu.Unlock()
		l := r.meta.leases[v.id][i]
		l.Generation = g
		r.meta.leases[v.id][i] = l
	}
	served := func(want ...bool) {
		t.Helper()
		for i, want := range want {
			at := uint64(i) * testExtent
			got, s := p.read(h, at, 4096)
			switch {
			case want && (s != block.StatusOK || !bytes.Equal(got, pattern(4*testExtent, 9)[at:at+4096])):
				t.Errorf("read of extent %d: %v, or other data", i, s)
			case !want && s != block.StatusPathLost:
				t.Errorf("read of extent %d, of which Meta is behind: %v", i, s)
			}
			if s := p.write(h, at+4096, pattern(512, 1)); !want && s != block.StatusPathLost {
				t.Errorf("write to extent %d, of which Meta is behind: %v", i, s)
			}
		}
		p.want("flush", p.start(block.OpFlush, h, 0, 0, nil), block.StatusPathLost)
		st, err := r.access.Stats(r.ctx)
		if r.must(err); len(st.Volumes) != 1 || !strings.Contains(st.Volumes[0].Trouble, errMetaBehind.Error()) {
			t.Errorf("the reason is not shown: %+v", st.Volumes)
		}
	}

	var log bytes.Buffer
	r.on(func() { r.access.metaRestored, r.access.log = true, hclog.New(&hclog.LoggerOptions{Output: &log}) })
	before := r.meta.leases[v.id][2].Generation
	r.meta.mu.Lock()
	delete(r.meta.leases[v.id], 1)
	delete(r.meta.leases[v.id], 3)
	r.meta.raise = true
	r.meta.mu.Unlock()
	generation(2, before-1) // taking the leases makes it the very generation that the store has
	reopen(3 * testExtent)  // as large as it was when the backup was made
	served(true, false, false)
	generation(2, before+5)
	reopen(3 * testExtent)
	r.must(v.Grow(r.ctx, 4*testExtent))
	served(true, false, false, false)
	r.on(func() {
		if n := strings.Count(log.String(), "\n"); n != 3 { // two openings and the growth
			t.Errorf("%d lines in the log:\n%s", n, log.String())
		}
	})
	r.settled(v)
}

// After a restore, a store that is not here may have what Meta does not know: that is not taken for never written.
func TestStoreAwayAfterRestore(t *testing.T) {
	r := newRig(t, rigOptions{seed: 18})
	r.on(func() { r.access.metaRestored = true })
	p := r.plugin("p")
	try := func(read, write block.Status) {
		t.Helper()
		v := r.volume(2*testExtent, 512, false)
		h := p.grant(v, "host", 1)
		if _, s := p.read(h, 0, 4096); s != read {
			t.Errorf("read of an extent that Meta does not know: %v, want %v", s, read)
		}
		if s := p.write(h, testExtent, pattern(512, 1)); s != write {
			t.Errorf("write to one: %v, want %v", s, write)
		}
	}
	try(block.StatusOK, block.StatusOK)
	r.must(r.access.Incomplete(r.ctx))
	try(block.StatusPathLost, block.StatusPathLost)
}

func TestFlushTellsLosses(t *testing.T) {
	r := newRig(t, rigOptions{seed: 17})
	v, err := r.access.Open(r.ctx, Geometry{ID: uuid.New(), Size: testExtent, BlockSize: 512, Volatile: true, Losses: 1})
	r.must(err)
	p := r.plugin("p")
	for _, host := range []string{"a", "b"} {
		h := p.grant(v, host, 1)
		p.want("first flush", p.start(block.OpFlush, h, 0, 0, nil), block.StatusWriteLost)
		p.want("second flush", p.start(block.OpFlush, h, 0, 0, nil), block.StatusOK)
		p.want("first flush by another handle", p.start(block.OpFlush, p.grant(v, host, 1), 0, 0, nil), block.StatusOK)
	}
}

// A loss counts as told only when the host can have heard of it: the plugin took the completion, and the association went on to
// flush again. One that ended before is told again when it comes back.
func TestLossIsToldAgain(t *testing.T) {
	r := newRig(t, rigOptions{seed: 17})
	v, err := r.access.Open(r.ctx, Geometry{ID: uuid.New(), Size: testExtent, BlockSize: 512, Volatile: true, Losses: 1})
	r.must(err)
	c, _ := r.newClient("p")
	end := r.attach(c, 8, ring.PageBytes)
	defer func() { r.must(end.Close()) }()
	grant := func() Handle {
		h, err := c.Grant(r.ctx, v, Host{Protocol: meta.NVMe, Name: "host"}, Path{Epoch: 1}, nil)
		r.must(err)
		return h
	}
	flush := func(h Handle) {
		t.Helper()
		if ok, err := end.Submit(&ring.Entry{Op: ring.OpFlush, Handle: h.Index, HandleGeneration: h.Generation}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		end.Publish()
	}
	take := func(what string, want ring.Status) {
		t.Helper()
		var done ring.Completion
		for ok := false; !ok; {
			var err error
			if ok, err = end.Take(&done); err != nil || r.ctx.Err() != nil {
				t.Fatal(what, err, r.ctx.Err())
			}
		}
		if done.Status != want {
			t.Errorf("%s: %v, want %v", what, done.Status, want)
		}
		end.Publish()
	}
	h := grant()
	flush(h)
	answered := func(n uint64) {
		r.until("it is answered", func() bool { return c.ports[0].end.Completed() == n })
	}
	answered(1)
	flush(h) // while the plugin has not looked
	answered(2)
	take("first flush", ring.StatusWriteLost)
	take("one that was on its way meanwhile", ring.StatusWriteLost)
	r.must(c.Revoke(r.ctx, h))
	h = grant()
	flush(h)
	take("first flush of the next association", ring.StatusWriteLost)
	flush(h)
	take("its second flush", ring.StatusOK)
	other := grant()
	flush(other)
	take("flush of another association after that", ring.StatusOK)
}

func TestDamagedBlock(t *testing.T) {
	r, v, p, h := prepared(t, rigOptions{seed: 18})
	r.on(func() {}) // the store is at rest
	for off := int64(0); off < 8<<20; off += 4096 {
		r.sim.Corrupt("/store/0/data", off, 1)
	}
	f := p.wait(p.start(block.OpRead, h, testExtent, 8192, make([]byte, 8192)))
	if f.Status != block.StatusMediaError || f.Info != testExtent {
		t.Errorf("read: %v at %d", f.Status, f.Info)
	}
	p.want("verify", p.start(block.OpVerify, h, 0, testExtent, nil), block.StatusMediaError)
	p.want("write over it", p.start(block.OpWrite, h, testExtent, 4096, pattern(4096, 1)), block.StatusOK)
	if _, s := p.read(h, testExtent, 4096); s != block.StatusOK {
		t.Errorf("read after a write: %v", s)
	}
	r.settled(v)
}

func TestOpenRings(t *testing.T) {
	r := newRig(t, rigOptions{seed: 19})
	c, _ := r.newClient("p")
	open := func(x Rings, fail int) error {
		n := 0
		_, err := c.OpenRings(r.ctx, x, func(ring.Descriptors) error {
			if n++; n == fail {
				return errors.New("no reader")
			}
			return nil
		})
		return err
	}
	x := Rings{Threads: MaxThreads / 2, Entries: 4, PoolBytes: ring.PageBytes}
	if err := open(x, 3); err == nil || !strings.Contains(err.Error(), "no reader") {
		t.Errorf("passing failed: %v", err)
	}
	r.must(open(x, 0))
	r.must(open(x, 0))
	for _, bad := range []Rings{x, {}, {Threads: MaxThreads + 1, Entries: 4, PoolBytes: ring.PageBytes}, {Threads: 1, Entries: 3, PoolBytes: ring.PageBytes}} {
		if open(bad, 0) == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	r.on(func() {
		if len(c.ports) != MaxThreads {
			t.Errorf("%d rings are served", len(c.ports))
		}
	})
}

// What Do was not waited for does not run.
func TestDoGivesUp(t *testing.T) {
	r := newRig(t, rigOptions{seed: 20})
	busy, free := make(chan struct{}), make(chan struct{})
	r.reactor.Post(func() { close(busy); <-free })
	<-busy
	ctx, cancel := context.WithCancel(r.ctx)
	cancel()
	ran := false
	if err := r.reactor.Do(ctx, func() { ran = true }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(free)
	r.on(func() {})
	if ran {
		t.Error("it ran after Do had returned an error")
	}
}

// Where processors are many, the reactor lingers before it sleeps: longer when that
// pays, shorter when it does not, never for long.
func TestLinger(t *testing.T) {
	defer func(was bool) { maySpin = was }(maySpin)
	maySpin = true
	clock := &fakeClock{}
	r := NewReactor(nil, clock)
	lingers := func() (d time.Duration) {
		for ; r.linger(false); d += 100 {
			clock.ns.Add(100)
		}
		return d
	}
	clock.ns.Store(1)
	if d := lingers(); d != minSpin {
		t.Errorf("at first: %v", d)
	}
	for range 20 {
		r.linger(false)
		clock.ns.Add(100)
		r.linger(true)
	}
	if d := lingers(); d != maxSpin {
		t.Errorf("when it has paid: %v", d)
	}
	for range 20 {
		lingers()
	}
	if d := lingers(); d != minSpin {
		t.Errorf("when it has not: %v", d)
	}
}

// With nothing to do the reactor waits, and its rings say so.
func TestIdleReactorSleeps(t *testing.T) {
	for _, o := range []rigOptions{{seed: 21}, {real: true}, {real: true, threads: true}} {
		r, v, _, _ := prepared(t, o)
		var before, after uint64
		r.on(func() { before = r.reactor.turns })
		time.Sleep(50 * time.Millisecond) // nothing is waited for: the time in which nothing may happen
		r.on(func() { after = r.reactor.turns })
		if n := after - before; n > 8 {
			t.Errorf("%s: %d turns with nothing to do", r.queue.Engine(), n)
		}
		r.settled(v)
	}
}

// TestDismiss: a store that is not taken ends in order, and can be opened again in the same process.
func TestDismiss(t *testing.T) {
	r := newRig(t, rigOptions{real: true})
	o := extent.Options{FS: vfs.NewOS(), Queue: r.queue, Dir: t.TempDir(), ExtentSize: 1 << 20, Capacity: 64 << 20, LogSize: 1 << 20, SegmentSize: 4 << 20}
	for range 2 {
		s, err := extent.Open(r.ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		r.must(r.access.Dismiss(r.ctx, s))
	}
}
