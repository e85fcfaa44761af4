package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a plugin could try with the descriptors that it gets.
func TestSeals(t *testing.T) {
	c, _ := pair(t, Config{Entries: 4, PoolBytes: 4 * PageBytes})
	d, err := c.Descriptors().Dup()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	memories := map[string]int{"submission": d.Submission, "completion": d.Completion, "pool": d.Pool}
	for name, fd := range memories {
		size, _ := sizeOf(fd)
		tries := map[string]func() error{
			"shrink": func() error { return unix.Ftruncate(fd, 0) },
			"grow":   func() error { return unix.Ftruncate(fd, size*2) },
			"extend": func() error { return unix.Fallocate(fd, 0, size, PageBytes) },
			"append": func() error { _, err := unix.Pwrite(fd, []byte{1}, size); return err },
			"seal":   func() error { return seal(fd, unix.F_SEAL_WRITE) },
		}
		for what, try := range tries {
			if err := try(); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: %s: %v, want EPERM", name, what, err)
			}
		}
	}
	size, _ := sizeOf(d.Completion)
	tries := map[string]func(fd int) error{
		"map for writing": func(fd int) error {
			_, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		},
		"make a mapping writable": func(fd int) error {
			b, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return nil
			}
			defer unix.Munmap(b)
			return unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE)
		},
		"write": func(fd int) error { _, err := unix.Pwrite(fd, []byte{1}, offTail); return err },
		"punch hole": func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, size)
		},
	}
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", d.Completion), unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	for what, try := range tries {
		for how, fd := range map[string]int{"as passed": d.Completion, "opened again": again} {
			if err := try(fd); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
				t.Errorf("completion ring %s: %s: %v, want a refusal", how, what, err)
			}
		}
	}
}

// The plugin cannot make the core's write to a doorbell block, nor hurt it by
// ringing without end.
func TestDoorbellFlood(t *testing.T) {
	c, p := pair(t, Config{Entries: 4, PoolBytes: PageBytes})
	for {
		if _, err := unix.Write(p.fds.ToCore, make([]byte, 4096)); err != nil {
			break
		}
	}
	// A reader may clear its own flag, and may open the pipe for writing.
	if err := unix.SetNonblock(p.DoorbellFD(), false); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.DoorbellFD()), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for {
		if _, err := unix.Write(int(w.Fd()), make([]byte, 8)); err != nil {
			break
		}
	}
	for range 3 { // returns at all
		roundTrip(t, c, p, true)
	}
	if got := c.Counters().Doorbells; got != 3 {
		t.Fatalf("core rang %d times, want 3", got)
	}
}

// roundTrip takes one command there and back, the plugin asleep or not.
func roundTrip(tb testing.TB, c *CoreEnd, p *PluginEnd, asleep bool) {
	tb.Helper()
	if ok, err := p.Submit(&Entry{Op: OpFlush}); !ok || err != nil {
		tb.Fatal(ok, err)
	}
	p.Publish()
	if asleep && !p.Sleep() {
		tb.Fatal("no sleep")
	}
	var e Entry
	if ok, err := c.Take(&e); !ok || err != nil {
		tb.Fatal(ok, err)
	}
	if err := c.Complete(&Completion{Tag: e.Tag}); err != nil {
		tb.Fatal(err)
	}
	c.Publish()
	p.Awake()
	var done Completion
	if ok, err := p.Take(&done); !ok || err != nil {
		tb.Fatal(ok, err)
	}
}

// What a plugin may put into memory that it can write, and what Take says.
func TestLies(t *testing.T) {
	write := Entry{Op: OpWrite, Length: 4096, PoolLength: 4096}
	put := func(c *CoreEnd, p *PluginEnd, at uint64, e Entry) {
		*(*Entry)(p.submission.slot(at)) = e
		p.submission.word(offTail).Store(at + 1)
	}
	with := func(change func(*Entry)) func(*CoreEnd, *PluginEnd) {
		return func(c *CoreEnd, p *PluginEnd) {
			e := write
			change(&e)
			put(c, p, 0, e)
		}
	}
	cases := map[string]struct {
		lie  func(*CoreEnd, *PluginEnd)
		want string
	}{
		"tail beyond the ring": {func(c *CoreEnd, p *PluginEnd) { p.submission.word(offTail).Store(5) }, "submission tail 5"},
		"tail far beyond":      {func(c *CoreEnd, p *PluginEnd) { p.submission.word(offTail).Store(1 << 63) }, "submission tail"},
		"tail back": {func(c *CoreEnd, p *PluginEnd) {
			roundTrip(t, c, p, false)
			roundTrip(t, c, p, false)
			p.submission.word(offTail).Store(1)
		}, "submission tail 1"},
		"tag in flight": {func(c *CoreEnd, p *PluginEnd) {
			put(c, p, 0, write)
			put(c, p, 1, write)
		}, "entry 1: tag 0 is still in flight"},
		"more in flight than completions fit": {func(c *CoreEnd, p *PluginEnd) {
			for at := range uint64(4) {
				put(c, p, at, write)
				take(t, c)
				c.Complete(&Completion{Tag: 0})
				c.Publish()
			}
			put(c, p, 4, write)
		}, "more than 4 commands in flight"},
		"completions taken that were not there": {func(c *CoreEnd, p *PluginEnd) {
			for at := range uint64(4) {
				e := write
				e.Tag = uint32(at)
				put(c, p, at, e)
				take(t, c)
			}
			p.submission.word(offHead).Store(1)
			put(c, p, 4, write)
		}, "completion head 1"},
		"zeroes":                 {func(c *CoreEnd, p *PluginEnd) { put(c, p, 0, Entry{}) }, "operation 0"},
		"ones":                   {func(c *CoreEnd, p *PluginEnd) { put(c, p, 0, ones()) }, "operation 255"},
		"unknown operation":      {with(func(e *Entry) { e.Op = 10 }), "operation 10"},
		"unknown flag":           {with(func(e *Entry) { e.Flags = 4 }), "write does not know flags 0x4"},
		"flag of another":        {with(func(e *Entry) { e.Flags = FlagDeallocate }), "write does not know flags 0x2"},
		"reserved 1":             {with(func(e *Entry) { e.reserved1 = 1 }), "reserved"},
		"reserved 2":             {with(func(e *Entry) { e.reserved2 = 1 << 63 }), "reserved"},
		"tag beyond":             {with(func(e *Entry) { e.Tag = 4 }), "tag 4 is out of range"},
		"target without abort":   {with(func(e *Entry) { e.Target = 1 }), "write names a tag to abort"},
		"abort beyond":           {with(func(e *Entry) { *e = Entry{Op: OpAbort, Target: 4} }), "abort names tag 4"},
		"abort with a range":     {with(func(e *Entry) { *e = Entry{Op: OpAbort, Length: 1} }), "abort names a volume"},
		"no bytes":               {with(func(e *Entry) { e.Length, e.PoolLength = 0, 0 }), "write of no bytes"},
		"flush with a range":     {with(func(e *Entry) { *e = Entry{Op: OpFlush, Length: 1} }), "flush names a range"},
		"flush with a buffer":    {with(func(e *Entry) { *e = Entry{Op: OpFlush, PoolLength: 1} }), "names a buffer"},
		"buffer short":           {with(func(e *Entry) { e.PoolLength-- }), "names a buffer of 4095"},
		"buffer beyond":          {with(func(e *Entry) { e.PoolOffset = 1 }), "outside the pool"},
		"buffer far beyond":      {with(func(e *Entry) { e.PoolOffset = 1<<64 - 4096 }), "outside the pool"},
		"offset wraps":           {with(func(e *Entry) { e.Offset = 1<<63 - 1 }), "wraps around"},
		"length wraps":           {with(func(e *Entry) { *e = Entry{Op: OpDiscard, Offset: 1, Length: 1 << 63} }), "wraps around"},
		"compare doubles to few": {with(func(e *Entry) { *e = Entry{Op: OpCompareAndWrite, Length: 1 << 63} }), "wraps around"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, p := pair(t, Config{Entries: 4, PoolBytes: PageBytes})
			tc.lie(c, p)
			var e Entry
			for {
				ok, err := c.Take(&e)
				if ok {
					continue
				}
				if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("Take: %v, want %q", err, tc.want)
				}
				if _, again := c.Take(&e); again != err {
					t.Fatalf("Take again: %v, want the same", again)
				}
				break
			}
		})
	}
}

func take(tb testing.TB, c *CoreEnd) (e Entry) {
	tb.Helper()
	if ok, err := c.Take(&e); !ok || err != nil {
		tb.Fatal(ok, err)
	}
	return e
}

func ones() (e Entry) {
	for i := range unsafe.Sizeof(e) {
		*(*byte)(unsafe.Add(unsafe.Pointer(&e), i)) = 0xff
	}
	return e
}

// Once copied, an entry is the core's: what the plugin writes later changes nothing.
func TestEntryIsCopied(t *testing.T) {
	c, p := pair(t, Config{Entries: 4, PoolBytes: PageBytes})
	p.Submit(&Entry{Op: OpRead, Length: 512, PoolLength: 512})
	p.Publish()
	e := take(t, c)
	*(*Entry)(p.submission.slot(0)) = ones()
	if e.Op != OpRead || e.Length != 512 {
		t.Fatalf("%+v", e)
	}
}

// The plugin checks the core too: a mistake there must not become a crash here.
func TestCoreLies(t *testing.T) {
	for name, lie := range map[string]func(*CoreEnd){
		"tail beyond":       func(c *CoreEnd) { c.completion.word(offTail).Store(5) },
		"tag not in flight": func(c *CoreEnd) { c.completion.word(offTail).Store(1) },
		"tag out of range": func(c *CoreEnd) {
			(*Completion)(c.completion.slot(0)).Tag = 1 << 31
			c.completion.word(offTail).Store(1)
		},
	} {
		c, p := pair(t, Config{Entries: 4, PoolBytes: PageBytes})
		lie(c)
		var done Completion
		if ok, err := p.Take(&done); ok || !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	le := binary.LittleEndian
	cases := map[string]struct {
		spoil func(c *CoreEnd, d *Descriptors)
		want  string
	}{
		"magic":        {func(c *CoreEnd, _ *Descriptors) { c.completion.mem[0]++ }, "not a ring"},
		"version":      {func(c *CoreEnd, _ *Descriptors) { le.PutUint32(c.completion.mem[offVersion:], 2) }, "core speaks ring ABI 2"},
		"feature":      {func(c *CoreEnd, _ *Descriptors) { le.PutUint64(c.completion.mem[offFeatures:], 1<<40) }, "features 0x10000000000"},
		"header bytes": {func(c *CoreEnd, _ *Descriptors) { le.PutUint32(c.completion.mem[offHeaderBytes:], 64) }, "header of 64"},
		"entry bytes":  {func(c *CoreEnd, _ *Descriptors) { le.PutUint32(c.completion.mem[offEntryBytes:], 128) }, "entries of 128"},
		"entries":      {func(c *CoreEnd, _ *Descriptors) { le.PutUint32(c.completion.mem[offEntries:], 8) }, "completion ring of 4352 bytes, want 4608"},
		"odd entries":  {func(c *CoreEnd, _ *Descriptors) { le.PutUint32(c.completion.mem[offEntries:], 3) }, "power of two"},
		"pool":         {func(c *CoreEnd, _ *Descriptors) { le.PutUint64(c.completion.mem[offPoolBytes:], 2*PageBytes) }, "pool: 4096 bytes, want 8192"},
		"incarnation":  {func(_ *CoreEnd, d *Descriptors) { d.Incarnation++ }, "announced as 1"},
		"swapped":      {func(_ *CoreEnd, d *Descriptors) { d.Completion, d.Pool = d.Pool, d.Completion }, "not a ring"},
		"no ring":      {func(_ *CoreEnd, d *Descriptors) { d.Completion, d.ToCore = d.ToCore, d.Completion }, "completion ring of 0 bytes"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := Create(Config{Entries: 4, PoolBytes: PageBytes})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			d, err := c.Descriptors().Dup()
			if err != nil {
				t.Fatal(err)
			}
			tc.spoil(c, &d)
			if _, err := Attach(d); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Attach: %v, want %q", err, tc.want)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{}, {Entries: 1, PoolBytes: PageBytes}, {Entries: 3, PoolBytes: PageBytes}, {Entries: MaxEntries * 2, PoolBytes: PageBytes},
		{Entries: 1<<32 + 2, PoolBytes: PageBytes}, {Entries: -4, PoolBytes: PageBytes},
		{Entries: 4, PoolBytes: PageBytes + 1}, {Entries: 4, PoolBytes: -PageBytes}, {Entries: 4, PoolBytes: MaxPoolBytes + PageBytes},
	} {
		if c, err := Create(cfg); err == nil {
			c.Close()
			t.Errorf("Create(%+v) succeeded", cfg)
		}
	}
}

// Any 64 bytes in a slot are either refused or name memory of the pool.
func FuzzEntry(f *testing.F) {
	const entries, pool = 4, 4 * PageBytes
	for _, e := range []Entry{
		{Op: OpRead, Length: 4096, PoolLength: 4096}, {Op: OpFlush}, {Op: OpAbort, Target: 3},
		{Op: OpCompareAndWrite, Length: 512, PoolLength: 1024, PoolOffset: 512}, {Op: OpDiscard, Offset: 1 << 40, Length: 1 << 62},
	} {
		b := (*[entryBytes]byte)(unsafe.Pointer(&e))
		f.Add(b[:])
	}
	c, p := pair(f, Config{Entries: entries, PoolBytes: pool})
	f.Fuzz(func(t *testing.T, b []byte) {
		var raw [entryBytes]byte
		copy(raw[:], b)
		*(*[entryBytes]byte)(p.submission.slot(p.tail)) = raw
		p.tail++
		p.submission.word(offTail).Store(p.tail)
		p.submission.word(offHead).Store(c.tail)
		var e Entry
		ok, err := c.Take(&e)
		if ok == (err != nil) {
			t.Fatal(ok, err)
		}
		if err != nil { // as after new rings
			c.broken, c.head, p.tail = nil, c.seen, c.seen
			return
		}
		_ = c.Pool()[e.PoolOffset : e.PoolOffset+uint64(e.PoolLength)]
		if *(*[entryBytes]byte)(unsafe.Pointer(&e)) != raw {
			t.Fatalf("% x became %+v", raw, e)
		}
		if err := c.Complete(&Completion{Tag: e.Tag}); err != nil {
			t.Fatal(err)
		}
		c.Publish()
	})
}

// Any header is either refused or describes a ring of possible size.
func FuzzIdentity(f *testing.F) {
	b := make([]byte, headerBytes)
	identity{entries: 128, poolBytes: 1 << 20, incarnation: 1}.put(b)
	f.Add(b[:identityBytes])
	f.Add(b[:identityBytes-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseIdentity(b)
		if err != nil {
			return
		}
		out := make([]byte, identityBytes)
		id.put(out)
		if again, err := parseIdentity(out); err != nil || again != id {
			t.Fatal(err, again, id)
		}
		if id.ringBytes() > headerBytes+MaxEntries*entryBytes {
			t.Fatal(id)
		}
	})
}
