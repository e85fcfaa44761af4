package peer

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

// keeper is a Driver that answers when it is told to.
type keeper struct {
	refuse bool
	guests []*kept
}

// kept is what a connection has asked.
type kept struct {
	keeper  *keeper
	caller  *Caller
	wishes  []Wish
	revoked []Handle
	under   []keptCommand
	told    int
	closed  bool
}

type keptCommand struct {
	ring.Entry
	buf []byte
}

func (k *keeper) Guest(_ uuid.UUID, c *Caller) Guest {
	g := &kept{keeper: k, caller: c}
	k.guests = append(k.guests, g)
	return g
}

func (g *kept) Grant(tag uint32, _ uuid.UUID, w Wish) {
	g.wishes = append(g.wishes, w)
	if g.keeper.refuse {
		g.caller.Granted(tag, Handle{}, ErrNotDriven)
		return
	}
	g.caller.Granted(tag, Handle{7, 9}, nil)
}

func (g *kept) Refresh(tag uint32, _ uuid.UUID) { g.caller.Refreshed(tag, nil) }
func (g *kept) Revoke(h Handle)                 { g.revoked = append(g.revoked, h) }

func (g *kept) Command(e *ring.Entry, told bool, buf []byte) error {
	if told {
		g.told++
	}
	for i, c := range g.under {
		switch {
		case c.Tag != e.Tag:
		case e.Op == ring.OpAbort:
			g.answer(i, ring.StatusAborted)
			return nil
		default:
			return errors.New("the tag is in use")
		}
	}
	if e.Op != ring.OpAbort {
		g.under = append(g.under, keptCommand{*e, buf})
	}
	return nil
}

func (g *kept) answer(i int, s ring.Status) {
	c := g.under[i]
	g.under = append(g.under[:i], g.under[i+1:]...)
	var data []byte
	if c.Op == ring.OpRead && s == ring.StatusOK {
		for i := range c.buf {
			c.buf[i] = 0xAB
		}
		data = c.buf
	}
	g.caller.Answer(c.Tag, s, 11, c.buf, data)
}

// Close keeps what is under way, as at a disk.
func (g *kept) Close() { g.closed = true }

func forwarding(t *testing.T, seed uint64) (*server, *keeper, *client, *Node) {
	s := newServer(t, seed)
	k := &keeper{}
	s.links.o.Driver = k
	t.Cleanup(func() {
		s.links.Close()
		for _, g := range k.guests {
			for len(g.under) > 0 {
				g.answer(0, ring.StatusAborted)
			}
		}
	})
	c := newClient(s)
	var n *Node
	c.links.o.Nodes = func(_ uuid.UUID, now *Node) { n = now }
	c.connect()
	c.until(func() bool { return n != nil })
	return s, k, c, n
}

func TestForward(t *testing.T) {
	_, k, c, n := forwarding(t, 11)
	wish := Wish{Host: meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:h", ID: meta.UID{3}}, Epoch: 4, Told: 5}
	var h Handle
	if err := c.ask(func(done func(error)) { n.Grant(idA, wish, func(got Handle, err error) { h = got; done(err) }) }); err != nil || h != (Handle{7, 9}) {
		t.Fatal(h, err)
	}
	g := k.guests[0]
	if g.wishes[0] != wish {
		t.Errorf("%+v became %+v", wish, g.wishes[0])
	}
	if err := c.ask(func(done func(error)) { n.Refresh(idA, done) }); err != nil {
		t.Error(err)
	}
	ended := 0
	send := func(op ring.Op, offset, length uint64, buf []byte) *Command {
		f := &Command{Op: op, Handle: h, Offset: offset, Length: length, Buf: buf, Done: func(*Command) { ended++ }, Told: op == ring.OpFlush}
		n.Send(f)
		return f
	}
	w := send(ring.OpWrite, 8192, 512, bytes.Repeat([]byte{1}, 512))
	r := send(ring.OpRead, 4096, 5120, make([]byte, 5120))
	send(ring.OpFlush, 0, 0, nil)
	late := send(ring.OpWriteZeroes, 0, 1<<40, nil)
	c.until(func() bool { return len(g.under) == 4 })
	if e := g.under[0]; e.Op != ring.OpWrite || e.Offset != 8192 || e.Length != 512 || e.Handle != 7 || e.HandleGeneration != 9 || !bytes.Equal(e.buf, w.Buf) {
		t.Errorf("the write is %+v", e)
	}
	if g.told != 1 {
		t.Errorf("%d commands say that their host knows of losses", g.told)
	}
	g.answer(2, ring.StatusWriteLost)
	g.answer(1, ring.StatusOK)
	g.answer(0, StatusNotDriven)
	c.until(func() bool { return ended == 3 })
	if r.Status != ring.StatusOK || r.Info != 11 || !bytes.Equal(r.Buf, bytes.Repeat([]byte{0xAB}, 5120)) || w.Status != StatusNotDriven {
		t.Errorf("read %v, write %v", r.Status, w.Status)
	}
	n.Abort(late)
	c.until(func() bool { return ended == 4 })
	if late.Status != ring.StatusAborted {
		t.Errorf("aborted: %v", late.Status)
	}
	n.Revoke(h)
	c.until(func() bool { return len(g.revoked) == 1 && g.revoked[0] == h })
	k.refuse = true
	if err := c.ask(func(done func(error)) { n.Grant(idA, wish, func(_ Handle, err error) { done(err) }) }); !errors.Is(err, ErrNotDriven) {
		t.Error(err)
	}
}

// What is under way when the link breaks is lost, once; the next link is served when it has ended at the other end.
func TestForwardBrokenLink(t *testing.T) {
	s, k, c, n := forwarding(t, 12)
	ended := 0
	f := &Command{Op: ring.OpWrite, Length: 4096, Buf: block(1, 1), Done: func(*Command) { ended++ }}
	n.Send(f)
	c.until(func() bool { return len(k.guests) == 1 && len(k.guests[0].under) == 1 })
	c.mine.cut()
	c.until(func() bool { return ended == 1 })
	if !errors.Is(f.Err, ErrLost) {
		t.Error(f.Err)
	}
	c.until(func() bool { return k.guests[0].closed })
	again := false
	c.links.o.Nodes = func(_ uuid.UUID, now *Node) { again = now != nil }
	c.connect()
	for range 100 {
		c.turn()
	}
	if again {
		t.Error("the new link is served while a command of the old one is under way")
	}
	k.guests[0].answer(0, ring.StatusOK)
	c.until(func() bool { return again })
	if n.Send(f); ended != 1 {
		t.Error("done inside Send")
	}
	c.until(func() bool { return ended == 2 && errors.Is(f.Err, ErrLost) })
	if !s.links.Idle() {
		t.Error("something is under way")
	}
}

// A node that takes more than its credits, or says what makes no sense, loses its connection and nothing else.
func TestForwardHostile(t *testing.T) {
	s, k, good, n := forwarding(t, 13)
	hello := (&header{kind: kindHello, block: version}).append(nil)
	frame := func(h header, payload []byte) []byte {
		h.length = uint32(len(payload))
		return append(h.append(nil), payload...)
	}
	command := func(tag uint32, op ring.Op, length uint64, payload []byte) []byte {
		h := header{kind: kindCommand, tag: tag, block: uint32(op)}
		h.setRange(0, length)
		return frame(h, payload)
	}
	var many, large []byte
	for tag := range uint32(MaxCommands + 1) {
		many = append(many, command(tag%MaxCommands, ring.OpVerify, 4096, nil)...)
	}
	for tag := range uint32(5) {
		large = append(large, command(tag, ring.OpRead, maxCommand, nil)...)
	}
	for name, b := range map[string][]byte{
		"too many commands": many,
		"too much data":     large,
		"a tag in use":      append(command(1, ring.OpVerify, 4096, nil), command(1, ring.OpVerify, 4096, nil)...),
		"a tag too high":    command(MaxCommands, ring.OpVerify, 4096, nil),
		"a short write":     command(1, ring.OpWrite, 8192, block(1, 1)),
		"no operation":      command(1, 0, 4096, nil),
		"an answer":         frame(header{kind: kindAnswer}, nil),
		"half a wish":       frame(header{kind: kindGrant}, make([]byte, wishBytes)),
		"no protocol":       frame(header{kind: kindGrant}, make([]byte, wishBytes+1)),
	} {
		a, e := newPipe()
		before := len(k.guests)
		s.links.Serve(uuid.New(), e)
		_ = a.Write(append(bytes.Clone(hello), b...))
		_, _ = a.Flush()
		good.until(func() bool { return a.closed })
		for _, g := range k.guests[before:] {
			if !g.closed || g.caller.bytes > MaxForwarded || g.caller.under > MaxCommands {
				t.Errorf("%s: closed %v, %d bytes in %d commands", name, g.closed, g.caller.bytes, g.caller.under)
			}
			for len(g.under) > 0 {
				g.answer(0, ring.StatusAborted)
			}
			if g.caller.bytes != 0 || g.caller.under != 0 {
				t.Errorf("%s: %d bytes in %d commands are left", name, g.caller.bytes, g.caller.under)
			}
		}
		if err := good.ask(func(done func(error)) { n.Refresh(idA, done) }); err != nil {
			t.Errorf("%s: another node: %v", name, err)
		}
	}
	if !s.links.Idle() {
		t.Error("something of them is under way")
	}
	// A node that misbehaves as a driver loses its link.
	for name, answer := range map[string][]byte{
		"to nothing":       frame(header{kind: kindAnswer, tag: 77}, nil),
		"no such tag":      frame(header{kind: kindAnswer, tag: MaxCommands}, nil),
		"data for a write": frame(header{kind: kindAnswer, tag: 0}, block(1, 1)),
	} {
		var to *Node
		var broken error
		o := options(func(uuid.UUID, []*Store) {})
		o.Nodes = func(_ uuid.UUID, n *Node) {
			if n != nil {
				to = n
			}
		}
		l := New(o)
		a, e := newPipe()
		l.Connect(uuid.New(), a, func(err error) { broken = err })
		_ = e.Write(append(bytes.Clone(hello), frame(header{kind: kindStores}, nil)...))
		_, _ = e.Flush()
		l.Poll()
		ended := 0
		w := &Command{Op: ring.OpWrite, Length: 4096, Buf: block(1, 1), Done: func(*Command) { ended++ }}
		to.Send(w)
		_ = e.Write(answer)
		_, _ = e.Flush()
		for range 3 {
			l.Poll()
		}
		if !errors.Is(broken, errFrame) || ended != 1 || !errors.Is(w.Err, ErrLost) {
			t.Errorf("%s: link %v, write ended %d times with %v", name, broken, ended, w.Err)
		}
	}
}

// With none under way there is room for any command, and never for more than the credits.
func TestForwardRoom(t *testing.T) {
	_, _, _, n := forwarding(t, 14)
	for range MaxForwarded / maxCommand {
		if !n.Room(1, maxCommand) {
			t.Fatal("no room")
		}
		n.Send(&Command{Op: ring.OpRead, Length: maxCommand, Buf: make([]byte, maxCommand), Done: func(*Command) {}})
	}
	if n.Room(1, 1) || n.Room(2, 1) || !n.Room(1, 0) {
		t.Error("room beyond the credits, or none for a command without data")
	}
}
