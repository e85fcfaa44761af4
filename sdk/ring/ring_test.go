package ring

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// pair is both ends of a ring in one process.
func pair(tb testing.TB, cfg Config) (*CoreEnd, *PluginEnd) {
	tb.Helper()
	c, err := Create(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	d, err := c.Descriptors().Dup()
	if err != nil {
		tb.Fatal(err)
	}
	p, err := Attach(d)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	return c, p
}

func TestRoundTrip(t *testing.T) {
	c, p := pair(t, Config{Entries: 4, PoolBytes: 1 << 20, Incarnation: 7, Thread: 3})
	copy(p.Pool()[4096:], "payload")
	for i := range 100 {
		begin := Now()
		ok, err := p.Submit(&Entry{Op: OpWrite, Handle: 5, HandleGeneration: 6, Offset: uint64(i) * 4096, Length: 4096, PoolOffset: 4096, PoolLength: 4096})
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		p.Publish()
		var e Entry
		if ok, err := c.Take(&e); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if e.Offset != uint64(i)*4096 || e.Handle != 5 || e.HandleGeneration != 6 || e.Submitted < begin || e.Submitted > Now() {
			t.Fatalf("entry %+v", e)
		}
		if got := string(c.Pool()[e.PoolOffset:][:7]); got != "payload" {
			t.Fatal(got)
		}
		if err := c.Complete(&Completion{Tag: e.Tag, Status: StatusNoSpace, Info: 9}); err != nil {
			t.Fatal(err)
		}
		c.Publish()
		var done Completion
		if ok, err := p.Take(&done); !ok || err != nil || done.Tag != e.Tag || done.Status != StatusNoSpace || done.Info != 9 {
			t.Fatal(ok, err, done)
		}
	}
	if got := c.Counters(); got.Entries != 100 || got.WriteBytes != 100*4096 || got.Doorbells != 0 {
		t.Fatalf("%+v", got)
	}
}

// Doorbells are rung once per announced sleep, and only then.
func TestDoorbellSuppression(t *testing.T) {
	c, p := pair(t, Config{Entries: 8, PoolBytes: PageBytes})
	submit := func() {
		if ok, err := p.Submit(&Entry{Op: OpFlush}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	submit()
	if p.Publish() {
		t.Error("rang for a core that is awake")
	}
	if c.Sleep() {
		t.Error("core may sleep on a waiting entry")
	}
	take(t, c)
	if !c.Sleep() {
		t.Error("core may not sleep on an empty ring")
	}
	submit()
	submit()
	if !p.Publish() {
		t.Error("did not ring for a core that sleeps")
	}
	submit()
	if first, second := p.Publish(), p.Publish(); first || second {
		t.Error("rang twice for one sleep")
	}
	c.Awake()
	for range 3 {
		take(t, c)
	}
	c.Sleep()
	if p.Publish() {
		t.Error("rang without news")
	}
	submit()
	if !p.Publish() {
		t.Error("did not ring for the second sleep")
	}
	if n := p.counters.Doorbells; n != 2 {
		t.Errorf("%d doorbells", n)
	}
}

// Two goroutines that sleep whenever they may exchange many commands: a wake that
// is lost would stop them for ever. Wakes stay far below the number of commands.
func TestNoLostWake(t *testing.T) {
	const commands = 20_000
	for _, depth := range []int{1, 64} {
		c, p := pair(t, Config{Entries: 64, PoolBytes: PageBytes})
		finished := make(chan error, 1)
		go func() { finished <- answer(c, commands) }()
		for sent, got := 0, 0; got < commands; {
			for ; sent < commands && sent-got < depth; sent++ {
				p.Submit(&Entry{Op: OpFlush})
			}
			p.Publish()
			if err := p.await(); err != nil {
				t.Fatal(err)
			}
			for done := (Completion{}); ; got++ {
				if ok, err := p.Take(&done); err != nil {
					t.Fatal(err)
				} else if !ok {
					break
				}
			}
		}
		if err := <-finished; err != nil {
			t.Fatal(err)
		}
		bells := c.Counters().Doorbells + p.Counters().Doorbells
		t.Logf("depth %d: %d doorbells for %d commands", depth, bells, commands)
		if bells > uint64(2*commands/min(depth, 8)) {
			t.Errorf("depth %d: %d doorbells for %d commands", depth, bells, commands)
		}
	}
}

// answer completes n commands, in batches.
func answer(c *CoreEnd, n int) error {
	for n > 0 {
		c.await()
		for e := (Entry{}); ; n-- {
			ok, err := c.Take(&e)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := c.Complete(&Completion{Tag: e.Tag, Info: e.Offset}); err != nil {
				return err
			}
		}
		c.Publish()
	}
	return nil
}

// A plugin end never has more in flight than the ring has entries, and has that
// many.
func TestInFlightBound(t *testing.T) {
	c, p := pair(t, Config{Entries: 4, PoolBytes: PageBytes})
	tags := map[uint32]bool{}
	for range 4 {
		e := Entry{Op: OpFlush}
		if ok, err := p.Submit(&e); !ok || err != nil {
			t.Fatal(ok, err)
		}
		tags[e.Tag] = true
	}
	if len(tags) != 4 || p.Room() != 0 || p.InFlight() != 4 {
		t.Fatal(tags, p.Room(), p.InFlight())
	}
	full := func() {
		t.Helper()
		if ok, err := p.Submit(&Entry{Op: OpFlush}); ok || err != nil {
			t.Fatal("fifth command accepted", err)
		}
	}
	full()
	p.Publish()
	for range 4 {
		e := take(t, c)
		c.Complete(&Completion{Tag: e.Tag})
	}
	full()
	c.Publish()
	full() // completed, but not taken: its completion still holds a slot
	var done Completion
	p.Take(&done)
	if ok, _ := p.Submit(&Entry{Op: OpFlush}); !ok {
		t.Fatal("no room after a completion was taken")
	}
	p.Publish()
	take(t, c)
	if err := c.Complete(&Completion{Tag: done.Tag + 1}); err == nil {
		t.Fatal("completed what is not in flight")
	}
}

func TestSubmitRefusesWhatTheCoreWould(t *testing.T) {
	c, p := pair(t, Config{Entries: 4, PoolBytes: PageBytes})
	if ok, err := p.Submit(&Entry{Op: OpRead, Length: 4096, PoolLength: 512}); ok || err == nil {
		t.Fatal(ok, err)
	}
	if p.Room() != 4 {
		t.Fatal("a refused entry holds a tag")
	}
	roundTrip(t, c, p, false)
}

func TestPassing(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		if conns[i], err = unixConn(os.NewFile(uintptr(fd), "")); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	for thread := range uint32(3) {
		c, err := Create(Config{Entries: 4, PoolBytes: PageBytes, Incarnation: 9, Thread: thread})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := Send(conns[0], c.Descriptors()); err != nil {
			t.Fatal(err)
		}
		d, err := Receive(conns[1])
		if err != nil {
			t.Fatal(err)
		}
		p, err := Attach(d)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if p.Incarnation() != 9 || p.Thread() != int(thread) {
			t.Fatal(p.Incarnation(), p.Thread())
		}
		roundTrip(t, c, p, false)
	}
	for name, msg := range map[string]struct {
		bytes, files int
	}{"too short": {8, 5}, "too long": {17, 5}, "too few files": {16, 4}, "too many files": {16, 6}, "no files": {16, 0}} {
		open := descriptorsOpen(t)
		oob := unix.UnixRights(make([]int, msg.files)...)
		if _, _, err := conns[0].WriteMsgUnix(make([]byte, msg.bytes), oob, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := Receive(conns[1]); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if now := descriptorsOpen(t); now != open {
			t.Errorf("%s: %d descriptors open, before %d", name, now, open)
		}
	}
	conns[0].Close()
	if _, err := Receive(conns[1]); !errors.Is(err, io.EOF) {
		t.Fatalf("closed: %v", err)
	}
}

// Nothing stays open, whatever fails.
func TestNothingLeaks(t *testing.T) {
	before := descriptorsOpen(t)
	for range 10 {
		c, err := Create(Config{Entries: 4, PoolBytes: PageBytes})
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.Descriptors().Dup()
		if err != nil {
			t.Fatal(err)
		}
		d.Thread++ // refused
		if _, err := Attach(d); err == nil {
			t.Fatal("attached")
		}
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if after := descriptorsOpen(t); after != before {
		t.Fatalf("%d descriptors open, before %d", after, before)
	}
}

func descriptorsOpen(tb testing.TB) int {
	tb.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(files)
}

func TestNoAllocation(t *testing.T) {
	c, p := pair(t, Config{Entries: 8, PoolBytes: PageBytes})
	if n := testing.AllocsPerRun(1000, func() { roundTrip(t, c, p, true) }); n != 0 {
		t.Errorf("%v allocations per command", n)
	}
}

func TestNow(t *testing.T) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	if d := int64(Now()) - ts.Nano(); d < -1e6 || d > 1e9 {
		t.Fatalf("Now is %d ns from CLOCK_MONOTONIC", d)
	}
}

// Every name is there, so that none is printed as a number.
func TestNames(t *testing.T) {
	for o := OpRead; o <= OpAbort; o++ {
		if strings.HasPrefix(o.String(), "op ") {
			t.Error(o)
		}
	}
	for s := StatusOK; s <= StatusWriteLost; s++ {
		if strings.HasPrefix(s.String(), "status ") {
			t.Error(s)
		}
	}
}
