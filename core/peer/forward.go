package peer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

// ErrNotDriven says that the other node does not drive the volume. What was asked has not been begun.
var ErrNotDriven = errors.New("the other node does not drive the volume")

// StatusNotDriven is the status of a command that was not begun, since the volume is not driven there.
const StatusNotDriven ring.Status = 0xFF

// A node's credits at each other one, for commands that it forwards. They are apart from what its requests to replicas may
// hold: those end by themselves, and must not wait for commands, which may wait for replicas.
const (
	MaxCommands  = 1024     // under way
	MaxForwarded = 32 << 20 // bytes of data that they carry
	maxCommand   = 8 << 20  // bytes of data of one
	maxHostName  = 512
)

// forwardFactor times the patience is how long a command may take: the owner may hold it for a while.
const forwardFactor = 5

// Handle names what a node was granted at the node that drives a volume, on one connection.
type Handle struct{ Index, Generation uint32 }

// Wish is for whom a handle is asked.
type Wish struct {
	Host  meta.HostID
	Epoch uint64 // of the host's path to the volume
	Told  uint64 // losses of the volume that the host knows of
}

// Command is what a host asked of a volume, on its way to the node that drives it.
type Command struct {
	Op             ring.Op
	Flags          ring.Flags
	Told           bool // Flush: the host has heard of the Flush that failed last
	Handle         Handle
	Offset, Length uint64 // bytes of the volume
	Buf            []byte // data to send, or room for it; the link's until Done
	Done           func(*Command)
	User           any

	// The result. Err is nil or ErrLost: then it may have been carried out or not.
	Status ring.Status
	Info   uint64
	Err    error

	tag   uint32
	until int64
}

// sends says whether the data goes to the driver.
func (c *Command) sends() bool { return c.Op != ring.OpRead }

// Node is the node at the end of a link, to which commands are forwarded. It is of no use any more when the link broke.
type Node struct {
	link     *link
	commands [MaxCommands]*Command // under way, by tag
	free     []uint32
	bytes    int
}

func newNode(k *link) *Node {
	n := &Node{link: k}
	for i := range uint32(MaxCommands) {
		n.free = append(n.free, MaxCommands-1-i)
	}
	return n
}

// Room says whether so many commands, with so much data together, may be sent now. For one, with none under way, there is.
func (n *Node) Room(commands, bytes int) bool {
	return len(n.free) >= commands && (n.bytes+bytes <= MaxForwarded || n.bytes == 0 && commands == 1)
}

// Send forwards a command for which there is room. Done runs in Poll, never in Send.
func (n *Node) Send(c *Command) {
	k := n.link
	if c.Status, c.Info, c.Err = ring.StatusOK, 0, nil; k.broken != nil {
		c.Err = ErrLost
		k.links.forgone = append(k.links.forgone, c)
		return
	}
	c.tag = n.free[len(n.free)-1]
	n.free = n.free[:len(n.free)-1]
	n.commands[c.tag] = c
	n.bytes += len(c.Buf)
	c.until = k.links.o.Clock() + int64(forwardFactor*k.links.o.Patience)
	k.links.watch()
	k.links.stats.Forwarded++
	h := header{kind: kindCommand, flags: uint8(c.Flags), tag: c.tag, store: c.Handle.Index, block: uint32(c.Op)}
	if c.Told {
		h.flags |= flagTold
	}
	h.id.Index = c.Handle.Generation
	h.setRange(c.Offset, c.Length)
	if c.sends() {
		k.send(&h, c.Buf)
		return
	}
	k.send(&h, nil)
}

// Abort has a command that is under way end soon, if it has not reached a disk.
func (n *Node) Abort(c *Command) {
	if n.commands[c.tag] == c {
		n.link.send(&header{kind: kindCommand, tag: c.tag, block: uint32(ring.OpAbort)}, nil)
	}
}

// Grant asks for a handle. done may run at once. An error that is neither ErrLost nor ErrNotDriven is the other node's, for now.
func (n *Node) Grant(volume uuid.UUID, w Wish, done func(Handle, error)) {
	h := header{kind: kindGrant}
	h.id.Volume = volume
	n.ask(h, appendWish(nil, &w), func(h *header, err error) {
		if err != nil {
			done(Handle{}, err)
			return
		}
		done(Handle{h.store, h.id.Index}, nil)
	})
}

// Revoke gives a handle back: what came under it and is parked ends.
func (n *Node) Revoke(h Handle) {
	f := header{kind: kindRevoke, store: h.Index}
	f.id.Index = h.Generation
	n.link.send(&f, nil)
}

// Refresh has the driver put in force what Meta says of a volume's reservation, and hears when what was admitted before has ended.
func (n *Node) Refresh(volume uuid.UUID, done func(error)) {
	h := header{kind: kindRefresh}
	h.id.Volume = volume
	n.ask(h, nil, func(_ *header, err error) { done(err) })
}

// Break gives the link up, since the other node does not drive any more what it has commands for.
func (n *Node) Break(why error) { n.link.fail(why) }

func (n *Node) ask(h header, payload []byte, done func(*header, error)) {
	k := n.link
	if k.broken != nil {
		done(nil, ErrLost)
		return
	}
	h.tag = k.depart(flight{reply: func(h *header, _ []byte, err error) { done(h, err) }}, forwardFactor*k.links.o.Patience)
	k.send(&h, payload)
}

// answered ends a command.
func (n *Node) answered(h *header, p []byte) error {
	c, err := n.command(h)
	if err != nil {
		return err
	}
	if !c.sends() && ring.Status(h.status) == ring.StatusOK && len(p) != len(c.Buf) {
		return malformed("a read without data")
	}
	n.end(c)
	c.Status, c.Info = ring.Status(h.status), uint64(h.gen)
	c.Done(c)
	return nil
}

// command finds the command that an answer is for.
func (n *Node) command(h *header) (*Command, error) {
	if h.tag >= MaxCommands || n.commands[h.tag] == nil {
		return nil, malformed("an answer to nothing")
	}
	c := n.commands[h.tag]
	if h.length > 0 && (c.sends() || ring.Status(h.status) != ring.StatusOK || int(h.length) != len(c.Buf)) {
		return nil, malformed("%d bytes of data that was not asked for", h.length)
	}
	return c, nil
}

func (n *Node) end(c *Command) {
	n.commands[c.tag] = nil
	n.free = append(n.free, c.tag)
	n.bytes -= len(c.Buf)
}

// lose ends everything: nobody knows what became of it.
func (n *Node) lose() {
	for _, c := range n.commands {
		if c != nil {
			n.end(c)
			c.Err = ErrLost
			n.link.links.forgone = append(n.link.links.forgone, c)
		}
	}
}

// late says whether a command has taken too long, and whether any is under way.
func (n *Node) late(now int64) (late, busy bool) {
	if len(n.free) == MaxCommands {
		return false, false
	}
	for _, c := range n.commands {
		late = late || c != nil && now > c.until
	}
	return late, true
}

// Driver takes what other nodes forward to this one. It is called on the reactor.
type Driver interface {
	// Guest begins the service of a node's connection. Everything from its former one has ended.
	Guest(node uuid.UUID, c *Caller) Guest
}

// Guest is what a Driver keeps for one connection. It is called on the reactor, and answers by the Caller, at once or later.
type Guest interface {
	// Grant is answered by Granted.
	Grant(tag uint32, volume uuid.UUID, w Wish)
	// Revoke voids a handle.
	Revoke(h Handle)
	// Command begins a command whose entry passed its own checks: Offset to Length as in a ring, PoolOffset 0, buf in place of the
	// pool. It is answered by Answer, but Abort by nothing. An error says that the other node broke the protocol.
	Command(e *ring.Entry, told bool, buf []byte) error
	// Refresh is answered by Refreshed.
	Refresh(tag uint32, volume uuid.UUID)
	// Close drops what has not reached a disk. Everything is answered still.
	Close()
}

// Caller is the connection of a node that forwards.
type Caller struct {
	service *service
	under   int // commands
	bytes   int // of their data
}

// Granted answers Grant. Any goroutine's result must be brought to the reactor first.
func (c *Caller) Granted(tag uint32, h Handle, err error) {
	f := header{kind: kindReply, tag: tag, store: h.Index, status: grantStatus(err)}
	f.id.Index = h.Generation
	c.service.send(&f, nil)
	c.service.ended()
}

// Refreshed answers Refresh.
func (c *Caller) Refreshed(tag uint32, err error) {
	c.service.answer(tag, grantStatus(err), 0, nil)
	c.service.ended()
}

func grantStatus(err error) status {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, ErrNotDriven):
		return statusNotDriven
	}
	return statusNotNow
}

// Answer ends a command and takes its memory back; data is what is sent of it.
func (c *Caller) Answer(tag uint32, s ring.Status, info uint64, buf, data []byte) {
	h := header{kind: kindAnswer, tag: tag, status: status(s), gen: generationOf(info)}
	c.service.send(&h, data)
	c.under--
	c.bytes -= len(buf)
	if buf != nil {
		c.service.links.buffers.give(buf)
	}
	c.service.ended()
}

// forwarded takes a frame of a node that forwards.
func (s *service) forwarded(h *header, p []byte) error {
	if s.guest == nil {
		if s.links.o.Driver == nil {
			if s.pending = nil; h.kind == kindCommand && h.length > 0 {
				s.links.buffers.give(p)
			}
			return malformed("type %d, where nothing is driven", h.kind)
		}
		s.caller = &Caller{service: s}
		s.guest = s.links.o.Driver.Guest(s.node, s.caller)
	}
	switch h.kind {
	case kindGrant:
		w, err := parseWish(p)
		if err != nil {
			return err
		}
		s.underWay++
		s.guest.Grant(h.tag, h.id.Volume, w)
	case kindRevoke:
		s.guest.Revoke(Handle{h.store, h.id.Index})
	case kindRefresh:
		s.underWay++
		s.guest.Refresh(h.tag, h.id.Volume)
	default:
		return s.command(h, p)
	}
	return nil
}

// command begins a command; p is its data, in memory that is ours.
func (s *service) command(h *header, p []byte) error {
	e, err := h.entry()
	if err == nil && e.Op == ring.OpAbort {
		return s.guest.Command(&e, false, nil)
	}
	if err == nil && e.PoolLength > 0 && p == nil {
		if p, err = s.links.buffers.take((e.PoolLength + dataBytes - 1) / dataBytes); p != nil {
			p = p[:e.PoolLength]
		}
	}
	c := s.caller
	if err == nil && (c.under >= MaxCommands || c.bytes > 0 && c.bytes+len(p) > MaxForwarded) {
		err = malformed("more than the credits: %d commands, %d bytes", c.under, c.bytes)
	}
	if err != nil {
		if p != nil {
			s.links.buffers.give(p)
		}
		return err
	}
	s.underWay++
	c.under++
	c.bytes += len(p)
	s.links.stats.Driven++
	if err := s.guest.Command(&e, h.flags&flagTold != 0, p); err != nil {
		c.Answer(e.Tag, ring.StatusAborted, 0, p, nil)
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	return nil
}

// setRange puts bytes of a volume where other frames name it.
func (h *header) setRange(offset, length uint64) {
	binary.LittleEndian.PutUint64(h.id.Volume[:8], offset)
	binary.LittleEndian.PutUint64(h.id.Volume[8:], length)
}

// entry is a command as a ring would carry it, checked as such.
func (h *header) entry() (ring.Entry, error) {
	e := ring.Entry{
		Op: ring.Op(h.block), Flags: ring.Flags(h.flags &^ flagTold), Tag: h.tag, Handle: h.store, HandleGeneration: h.id.Index,
		Offset: le.Uint64(h.id.Volume[:8]), Length: le.Uint64(h.id.Volume[8:]), PoolLength: h.length,
	}
	if h.block > uint32(ring.OpAbort) {
		return e, malformed("operation %d", h.block)
	}
	switch e.Op {
	case ring.OpRead:
		if h.length > 0 || e.Length > maxCommand {
			return e, malformed("a read of %d bytes with %d bytes of data", e.Length, h.length)
		}
		e.PoolLength = uint32(e.Length)
	case ring.OpAbort:
		e.Target = h.tag
	case ring.OpWrite, ring.OpFlush, ring.OpWriteZeroes, ring.OpDiscard, ring.OpCompare, ring.OpCompareAndWrite, ring.OpVerify:
	}
	if err := e.Check(MaxCommands, maxCommand); err != nil {
		return e, fmt.Errorf("%w: %w", errFrame, err)
	}
	if h.flags&flagTold != 0 && e.Op != ring.OpFlush {
		return e, malformed("%v says that its host knows of losses", e.Op)
	}
	return e, nil
}

// A wish is: epoch 8, losses told 8, protocol 4, host identifier 16, name.
const wishBytes = 8 + 8 + 4 + 16

var protocols = []meta.Protocol{1: meta.NVMe, 2: meta.ISCSI}

func appendWish(b []byte, w *Wish) []byte {
	b = le.AppendUint64(b, w.Epoch)
	b = le.AppendUint64(b, w.Told)
	p := uint32(0)
	for i, name := range protocols {
		if name == w.Host.Protocol {
			p = uint32(i)
		}
	}
	b = le.AppendUint32(b, p)
	b = append(b, w.Host.ID[:]...)
	return append(b, w.Host.Name...)
}

func parseWish(b []byte) (Wish, error) {
	if len(b) <= wishBytes || len(b) > wishBytes+maxHostName {
		return Wish{}, malformed("%d bytes of a wish", len(b))
	}
	w := Wish{Epoch: le.Uint64(b), Told: le.Uint64(b[8:])}
	p := le.Uint32(b[16:])
	if p == 0 || int(p) >= len(protocols) {
		return Wish{}, malformed("protocol %d", p)
	}
	w.Host.Protocol = protocols[p]
	copy(w.Host.ID[:], b[20:36])
	w.Host.Name = string(b[wishBytes:])
	return w, nil
}
