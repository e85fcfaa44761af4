package access

import (
	"testing"

	"github.com/mooring-io/mooring/sdk/block"
)

// A volume that stops being volatile is not called durable before the disk has what was acknowledged, and a host's
// Flush flushes until then.
func TestSetDurability(t *testing.T) {
	r := newRig(t, rigOptions{seed: 31})
	v := r.volume(testExtent, 4096, true)
	p := r.plugin("p")
	h := p.grant(v, "host", 1)
	if s := p.write(h, 0, pattern(8192, 1)); s != block.StatusOK {
		t.Fatal(s)
	}
	volatile := func(want bool) {
		t.Helper()
		got, err := r.access.Volatile(r.ctx)
		if r.must(err); got[v.id] != want {
			t.Errorf("volatile %t, want %t", got[v.id], want)
		}
	}
	volatile(true)
	r.hold()
	set := make(chan error, 1)
	go func() { set <- v.SetDurability(r.ctx, false) }()
	r.atDisk(1)
	flush := p.start(block.OpFlush, h, 0, 0, nil)
	r.until("the flush has begun", func() bool { return v.inflight > 0 })
	volatile(true)
	select {
	case err := <-set:
		t.Fatalf("the volume is called durable before the disk is: %v", err)
	default:
	}
	if ended(flush) {
		t.Error("a flush is answered that did not flush")
	}
	r.release()
	r.must(<-set)
	p.want("flush", flush, block.StatusOK)
	volatile(false)

	// Now there is nothing to flush.
	r.hold()
	p.want("flush", p.start(block.OpFlush, h, 0, 0, nil), block.StatusOK)
	r.release()

	r.must(v.SetDurability(r.ctx, true))
	volatile(true)
	if s := p.write(h, 0, pattern(8192, 2)); s != block.StatusOK {
		t.Fatal(s)
	}
	r.hold()
	flush = p.start(block.OpFlush, h, 0, 0, nil)
	r.atDisk(1)
	if ended(flush) {
		t.Error("a flush of a volatile volume is answered that did not flush")
	}
	r.release()
	p.want("flush", flush, block.StatusOK)
	r.settled(v)
}
