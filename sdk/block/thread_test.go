package block_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/ring"
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

// More requests than the ring holds wait in order, and all end once.
func TestOverflow(t *testing.T) {
	core, threads := blocktest.Start(t, blocktest.Options{Entries: 4})
	v, th := core.AddVolume(1<<20, 512), threads[0]
	var order []int
	on(th, func(done func()) {
		for i := range 50 {
			th.Submit(&block.Request{Op: block.OpVerify, Volume: v.Handle(), Length: 512, User: i, Done: func(r *block.Request) {
				order = append(order, r.User.(int))
				if len(order) == 50 {
					done()
				}
			}})
		}
		if len(order) != 0 {
			t.Error("Done within Submit")
		}
	})
	for i, got := range order {
		if got != i {
			t.Fatal(order)
		}
	}
}

func TestStatuses(t *testing.T) {
	core, threads := blocktest.Start(t, blocktest.Options{})
	v, revoked, th := core.AddVolume(8192, 512), core.AddVolume(8192, 512), threads[0]
	revoked.Revoke()
	var buf block.Buffer
	on(th, func(done func()) { buf, _ = th.Pool().Alloc(4096); done() })
	clear(buf.Bytes())
	buf.Bytes()[1500] = 1
	for _, tc := range []struct {
		name string
		r    block.Request
		want block.Status
		info uint64
	}{
		{"flush", block.Request{Op: block.OpFlush, Volume: v.Handle()}, block.StatusOK, 0},
		{"discard", block.Request{Op: block.OpDiscard, Volume: v.Handle(), Length: 8192}, block.StatusOK, 0},
		{"beyond the end", block.Request{Op: block.OpWriteZeroes, Flags: block.Deallocate, Volume: v.Handle(), Offset: 8192, Length: 512}, block.StatusOutOfRange, 0},
		{"misaligned", block.Request{Op: block.OpVerify, Volume: v.Handle(), Offset: 1, Length: 512}, block.StatusInvalidField, 0},
		{"revoked", block.Request{Op: block.OpFlush, Volume: revoked.Handle()}, block.StatusPathLost, 0},
		{"miscompare", block.Request{Op: block.OpCompare, Volume: v.Handle(), Offset: 512, Length: 4096, Buf: buf}, block.StatusCompareFailed, 512 + 1024},
		{"contradiction", block.Request{Op: block.OpRead, Volume: v.Handle(), Length: 512, Buf: buf}, block.StatusInvalidField, 0},
		{"compare and write", block.Request{Op: block.OpCompareAndWrite, Volume: v.Handle(), Length: 1024, Buf: buf.Slice(0, 2048)}, block.StatusOK, 0},
	} {
		if r := do(th, &tc.r); r.Status != tc.want || r.Info != tc.info {
			t.Errorf("%s: %v, info %d", tc.name, r.Status, r.Info)
		}
	}
	got := make([]byte, 1024)
	v.ReadAt(got, 0)
	if got[1500-1024] != 1 {
		t.Error("compare-and-write did not write")
	}
}

func TestAbort(t *testing.T) {
	core, threads := blocktest.Start(t, blocktest.Options{Entries: 4})
	v, th := core.AddVolume(1<<20, 512), threads[0]
	core.Hold()
	ended := make(chan *block.Request, 6)
	var requests [6]*block.Request // four at the core, two wait for a tag
	on(th, func(done func()) {
		for i := range requests {
			requests[i] = &block.Request{Op: block.OpFlush, Volume: v.Handle(), Done: func(r *block.Request) { ended <- r }}
			th.Submit(requests[i])
		}
		th.Abort(requests[5])
		th.Abort(requests[4])
		done()
	})
	for _, want := range []*block.Request{requests[5], requests[4]} {
		if got := <-ended; got != want || got.Status != block.StatusAborted {
			t.Fatalf("waiting request: %v", got.Status)
		}
	}
	// The abort of a request at the core needs a tag; when there is one, this request
	// has ended too.
	on(th, func(done func()) { th.Abort(requests[1]); done() })
	core.Release()
	for range 4 {
		if got := <-ended; got.Status != block.StatusOK {
			t.Fatalf("released request: %v", got.Status)
		}
	}
	// With room in the ring it is in time.
	core.Hold()
	r := &block.Request{Op: block.OpFlush, Volume: v.Handle()}
	on(th, func(done func()) {
		r.Done = func(*block.Request) { done() }
		th.Submit(r)
		th.Abort(r)
	})
	if r.Status != block.StatusAborted {
		t.Errorf("held request: %v", r.Status)
	}
	core.Release()
}

// When the core dies, everything under way ends once, and so does what follows.
func TestCoreDies(t *testing.T) {
	lost := make(chan error, 2)
	core := blocktest.New()
	end, plugin := pair(t, 4)
	core.Serve(end)
	th, err := block.NewThread(block.Config{End: plugin, Lost: func(err error) { lost <- err }})
	if err != nil {
		t.Fatal(err)
	}
	go th.Run(t.Context())
	defer th.Close()
	defer func() { th.Stop(); <-th.Done() }()
	v := core.AddVolume(1<<20, 512)
	core.Hold()
	statuses := make(chan block.Status, 20)
	on(th, func(done func()) {
		for range 10 {
			th.Submit(&block.Request{Op: block.OpFlush, Volume: v.Handle(), Done: func(r *block.Request) { statuses <- r.Status }})
		}
		done()
	})
	core.Kill()
	for range 10 {
		if s := <-statuses; s != block.StatusPathLost {
			t.Fatal(s)
		}
	}
	if err := <-lost; !errors.Is(err, block.ErrCoreGone) {
		t.Fatal(err)
	}
	th.Lose(errors.New("again"))
	if r := do(th, &block.Request{Op: block.OpFlush, Volume: v.Handle()}); r.Status != block.StatusPathLost {
		t.Fatal(r.Status)
	}
	if len(statuses) != 0 || len(lost) != 0 {
		t.Fatal("told twice")
	}
}

// Stop ends what is under way.
func TestStop(t *testing.T) {
	core := blocktest.New()
	end, plugin := pair(t, 4)
	server := core.Serve(end)
	defer server.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	th, err := block.NewThread(block.Config{End: plugin, Lost: func(error) { t.Error("Lost called") }})
	if err != nil {
		t.Fatal(err)
	}
	v := core.AddVolume(1<<20, 512)
	core.Hold()
	var status block.Status
	th.Submit(&block.Request{Op: block.OpFlush, Volume: v.Handle(), Done: func(r *block.Request) { status = r.Status }})
	go th.Run(ctx)
	on(th, func(done func()) { done() })
	cancel()
	<-th.Done()
	if status != block.StatusPathLost {
		t.Error(status)
	}
	if err := th.Close(); err != nil {
		t.Error(err)
	}
	th.Stop()
	th.Post(func() { t.Error("posted function ran after the end") })
}

func pair(t *testing.T, entries int) (*ring.CoreEnd, *ring.PluginEnd) {
	t.Helper()
	end, err := ring.Create(ring.Config{Entries: entries, PoolBytes: 1 << 20, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	d, err := end.Descriptors().Dup()
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := ring.Attach(d)
	if err != nil {
		t.Fatal(err)
	}
	return end, plugin
}

func TestWatch(t *testing.T) {
	_, threads := blocktest.Start(t, blocktest.Options{})
	th := threads[0]
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	on(th, func(done func()) { // readable
		unix.Write(fds[1], []byte("x"))
		if err := th.Watch(fds[0], unix.EPOLLIN, func(events uint32) {
			if events&unix.EPOLLIN == 0 {
				t.Errorf("events %#x", events)
			}
			// Both in one turn: a change of interest, then the end.
			if err := th.Modify(fds[0], unix.EPOLLOUT); err != nil {
				t.Error(err)
			}
			th.Unwatch(fds[0])
			th.Unwatch(fds[0])
			done()
		}); err != nil {
			t.Error(err)
		}
	})
	on(th, func(done func()) {
		if th.Modify(fds[0], unix.EPOLLIN) == nil || th.Watch(1<<20, unix.EPOLLIN, nil) == nil {
			t.Error("no error for what cannot be watched")
		}
		// The number of a closed descriptor may come back at once.
		th.Watch(fds[0], unix.EPOLLIN, func(uint32) { t.Error("event of a closed file") })
		th.Unwatch(fds[0])
		unix.Close(fds[0])
		again, err := unix.Dup(fds[1])
		if err != nil {
			t.Error(err)
		}
		th.Watch(again, unix.EPOLLHUP, func(uint32) {
			th.Unwatch(again)
			unix.Close(again)
			done()
		})
	})
}

func TestTimers(t *testing.T) {
	_, threads := blocktest.Start(t, blocktest.Options{})
	th := threads[0]
	var order []string
	say := func(s string) func() { return func() { order = append(order, s) } }
	begin := time.Now()
	on(th, func(done func()) {
		th.After(20*time.Millisecond, func() { say("last")(); done() })
		th.After(5*time.Millisecond, say("second"))
		late := th.After(time.Hour, say("first"))
		late.Reset(time.Millisecond)
		stopped := th.After(2*time.Millisecond, say("stopped"))
		if !stopped.Stop() || stopped.Stop() {
			t.Error("Stop does not know whether it was in time")
		}
		var again *block.Timer
		n := 0
		again = th.After(0, func() {
			if n++; n < 3 {
				again.Reset(0)
			}
		})
	})
	if got := strings.Join(order, " "); got != "first second last" {
		t.Error(got)
	}
	if d := time.Since(begin); d < 20*time.Millisecond {
		t.Errorf("early: %v", d)
	}
}

func TestOnTurn(t *testing.T) {
	core, threads := blocktest.Start(t, blocktest.Options{})
	v, th := core.AddVolume(1<<20, 512), threads[0]
	// What a hook submits goes out in the same turn: nothing else would wake the
	// thread.
	on(th, func(done func()) {
		var cancel func()
		cancel = th.OnTurn(func() {
			cancel()
			cancel()
			th.Submit(&block.Request{Op: block.OpFlush, Volume: v.Handle(), Done: func(*block.Request) { done() }})
		})
	})
}

func TestPoolWait(t *testing.T) {
	_, threads := blocktest.Start(t, blocktest.Options{PoolBytes: 1 << 20})
	th := threads[0]
	on(th, func(done func()) {
		all, ok := th.Pool().Alloc(1 << 20)
		if !ok {
			t.Error("no pool")
		}
		th.Pool().Wait(4096, func(b block.Buffer) {
			th.Pool().Free(b)
			done()
		})
		th.After(time.Millisecond, func() { th.Pool().Free(all) })
	})
}

// Many goroutines post while the thread sleeps and wakes: none is forgotten.
func TestPost(t *testing.T) {
	_, threads := blocktest.Start(t, blocktest.Options{})
	var ran atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				on(threads[0], func(done func()) { ran.Add(1); done() })
			}
		})
	}
	wg.Wait()
	if ran.Load() != 2000 {
		t.Fatal(ran.Load())
	}
}

func TestNoAllocation(t *testing.T) {
	core, threads := blocktest.Start(t, blocktest.Options{})
	v, th := core.AddVolume(1<<20, 4096), threads[0]
	next := make(chan struct{}, 1)
	start := func() {}
	on(th, func(done func()) {
		buf, _ := th.Pool().Alloc(4096)
		r := &block.Request{Op: block.OpWrite, Volume: v.Handle(), Length: 4096, Buf: buf}
		left := 0
		r.Done = func(r *block.Request) {
			th.Pool().Free(r.Buf)
			r.Buf, _ = th.Pool().Alloc(4096)
			if left--; left > 0 {
				th.Submit(r)
				return
			}
			next <- struct{}{}
		}
		start = func() { left = 100; th.Submit(r) }
		done()
	})
	if n := testing.AllocsPerRun(20, func() { th.Post(start); <-next }); n > 1 {
		t.Errorf("%v allocations per 100 requests", n)
	}
}
