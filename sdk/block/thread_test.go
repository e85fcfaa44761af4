package block_test

import (
	"bytes"
	"testing"

	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// on runs fn on the thread and waits until it calls done.
func on(th *block.Thread, fn func(done func())) {
	ch := make(chan struct{})
	th.Post(func() { fn(func() { close(ch) }) })
	<-ch
}

// do runs one request and returns it when it has ended.
func do(th *block.Thread, r *block.Request) *block.Request {
	on(th, func(done func()) {
		r.Done = func(*block.Request) { done() }
		th.Submit(r)
	})
	return r
}

func TestWriteThenRead(t *testing.T) {
	core, threads := blocktest.Start(t, blocktest.Options{})
	v, th := core.AddVolume(1<<20, 512), threads[0]
	var buf block.Buffer
	on(th, func(done func()) { buf, _ = th.Pool().Alloc(8192); done() })
	copy(buf.Bytes(), bytes.Repeat([]byte("mooring "), 1024))
	w := do(th, &block.Request{Op: block.OpWrite, Volume: v.Handle(), Offset: 512, Length: 8192, Buf: buf})
	if w.Status != block.StatusOK || w.Times.Done < w.Times.Taken || w.Times.Taken == 0 {
		t.Fatalf("write: %v, times %+v", w.Status, w.Times)
	}
	clear(buf.Bytes())
	r := do(th, &block.Request{Op: block.OpRead, Volume: v.Handle(), Offset: 1024, Length: 1024, Buf: buf.Slice(4096, 1024)})
	if r.Status != block.StatusOK || !bytes.Equal(buf.Bytes()[4096:5120], bytes.Repeat([]byte("mooring "), 128)) {
		t.Fatalf("read: %v, %q", r.Status, buf.Bytes()[4096:4112])
	}
}
