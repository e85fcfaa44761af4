package ring

import "testing"

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
		ok, err := p.Submit(&Entry{Op: OpWrite, Handle: 5, HandleGeneration: 6, Offset: uint64(i) * 4096, Length: 4096, PoolOffset: 4096, PoolLength: 4096, Submitted: Now()})
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		p.Publish()
		var e Entry
		if ok, err := c.Take(&e); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if e.Offset != uint64(i)*4096 || e.Handle != 5 || e.HandleGeneration != 6 {
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
