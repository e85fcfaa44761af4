package peer

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
)

// link is a connection to a node whose stores we use.
type link struct {
	conn
	node    uuid.UUID
	hello   bool
	stores  []*Store
	flights []flight // by tag
	free    []uint32
	ended   func(error)
	driver  *Node // nil: not told of yet
}

// flight is a request under way.
type flight struct {
	until int64 // ns; 0: the tag is free
	store *Store
	io    *extent.IO
	reply func(h *header, payload []byte, err error) // of a control request; h is nil with an error
}

// Store is a store of another node, in one of its lives, at the end of a link. It takes the requests that an extent.Store
// takes; they are done in the order in which they are submitted. A Store whose link broke is of no use any more.
type Store struct {
	link   *link
	id     uuid.UUID
	life   uint64
	number uint32
	gone   bool
}

// Connect makes stream, which was dialled, the link to a node. ended hears, once, that it broke.
func (l *Links) Connect(node uuid.UUID, stream Stream, ended func(error)) {
	if old := l.to[node]; old != nil {
		old.fail(fmt.Errorf("%w: it is connected to anew", ErrLost))
	}
	k := &link{node: node, ended: ended}
	l.to[node] = k
	k.open(l, stream)
	k.flights = append(k.flights, flight{}) // tag 0 is nobody's
}

// Disconnect ends the link to a node.
func (l *Links) Disconnect(node uuid.UUID) {
	if k := l.to[node]; k != nil {
		k.fail(fmt.Errorf("%w: it is disconnected", ErrLost))
	}
}

// Identity returns the store's ID and incarnation.
func (s *Store) Identity() (uuid.UUID, uint64) { return s.id, s.life }

// Node is where it lies.
func (s *Store) Node() uuid.UUID { return s.link.node }

// Submit starts io, whose extent is named by its ID. Done runs in Poll, never in Submit.
func (s *Store) Submit(io *extent.IO) {
	io.Err, io.BadBlock, io.DiskNanos = nil, 0, 0
	k := s.link
	if s.gone || k.broken != nil {
		io.Err = s.lost()
		k.links.ended = append(k.links.ended, io)
		return
	}
	h := header{store: s.number, id: io.ID, block: io.Block, blocks: io.Blocks, gen: io.Gen}
	var payload []byte
	switch io.Op {
	case extent.OpRead:
		h.kind = kindRead
	case extent.OpWrite:
		h.kind, payload = kindWrite, io.Buf
	case extent.OpZero:
		h.kind = kindZero
	case extent.OpClean:
		h.kind = kindClean
	case extent.OpFlush:
		h.kind = kindFlush
	}
	if io.Durable {
		h.flags = flagDurable
	}
	h.tag = k.depart(flight{store: s, io: io}, k.links.o.Patience)
	k.send(&h, payload)
}

// Kick does nothing: the links are flushed at the end of a turn.
func (s *Store) Kick() {}

// Create is extent.Store's.
func (s *Store) Create(id extent.ID, w extent.Seal, done func(error)) {
	s.ask(header{kind: kindCreate, id: id, gen: w.Gen}, appendSeal(nil, &w), func(_ *header, _ []byte, err error) { done(err) })
}

// Seal is extent.Store's.
func (s *Store) Seal(id extent.ID, w extent.Seal, done func(extent.Sealed, error)) {
	s.ask(header{kind: kindSeal, id: id, gen: w.Gen}, appendSeal(nil, &w), func(_ *header, p []byte, err error) {
		var was extent.Sealed
		if err == nil {
			was, err = parseSealed(p)
		}
		if err == nil && (!s.fits(was.Dirty) || !s.fits(was.Behind)) {
			err = malformed("marks of %d and %d regions", 64*len(was.Dirty), 64*len(was.Behind))
		}
		done(was, err)
	})
}

// Mapped is extent.Store's.
func (s *Store) Mapped(id extent.ID, done func(extent.Regions, error)) {
	s.ask(header{kind: kindMapped, id: id}, nil, func(_ *header, p []byte, err error) {
		var mapped extent.Regions
		if err == nil {
			mapped, err = parseMapped(p)
		}
		if err == nil && !s.fits(mapped) {
			err = malformed("a map of %d regions", 64*len(mapped))
		}
		done(mapped, err)
	})
}

func (s *Store) fits(r extent.Regions) bool {
	return len(r) == len(extent.NewRegions(s.link.links.o.Regions))
}

// Delete is extent.Store's.
func (s *Store) Delete(id extent.ID, upTo extent.Generation, done func(error)) {
	s.ask(header{kind: kindDelete, id: id, gen: upTo}, nil, func(_ *header, _ []byte, err error) { done(err) })
}

// DeleteFrom is extent.Store's.
func (s *Store) DeleteFrom(vol uuid.UUID, from uint32, done func(error)) {
	s.ask(header{kind: kindDeleteFrom, id: extent.ID{Volume: vol, Index: from}}, nil, func(h *header, _ []byte, err error) {
		if err == nil && h.block > 0 {
			s.DeleteFrom(vol, from, done)
			return
		}
		done(err)
	})
}

// ask sends a control request. done may run at once.
func (s *Store) ask(h header, payload []byte, done func(*header, []byte, error)) {
	k := s.link
	if s.gone || k.broken != nil {
		done(nil, nil, s.lost())
		return
	}
	h.store = s.number
	h.tag = k.depart(flight{store: s, reply: done}, controlFactor*k.links.o.Patience)
	k.send(&h, payload)
}

func (s *Store) lost() error {
	return fmt.Errorf("store %s of node %s: %w", s.id, s.link.node, ErrLost)
}

// depart enters a request and returns its tag.
func (k *link) depart(f flight, patience time.Duration) uint32 {
	k.links.stats.Asked++
	f.until = k.links.o.Clock() + int64(patience)
	k.links.watch()
	if n := len(k.free); n > 0 {
		tag := k.free[n-1]
		k.free = k.free[:n-1]
		k.flights[tag] = f
		return tag
	}
	k.flights = append(k.flights, f)
	return uint32(len(k.flights) - 1)
}

// arrive ends a request.
func (k *link) arrive(tag uint32) flight {
	f := k.flights[tag]
	k.flights[tag] = flight{}
	k.free = append(k.free, tag)
	return f
}

func (k *link) paused() bool { return false }

func (k *link) place(h *header) ([]byte, error) {
	if h.kind == kindReply {
		f, err := k.flight(h.tag)
		if err != nil {
			return nil, err
		}
		if f.io != nil {
			if h.status != statusOK || f.io.Op != extent.OpRead || int(h.length) != len(f.io.Buf) {
				return nil, malformed("%d bytes of data that was not asked for", h.length)
			}
			return f.io.Buf, nil // it may be cut off in the middle: the request fails then
		}
	}
	if h.kind == kindAnswer && h.length > 0 && k.driver != nil {
		c, err := k.driver.command(h)
		if err != nil {
			return nil, err
		}
		return c.Buf, nil
	}
	if h.length > maxControl && h.kind != kindStores {
		return nil, malformed("%d bytes of control", h.length)
	}
	return k.small(h.length), nil
}

func (k *link) flight(tag uint32) (*flight, error) {
	if int(tag) >= len(k.flights) || k.flights[tag].until == 0 {
		return nil, malformed("a reply to nothing")
	}
	return &k.flights[tag], nil
}

func (k *link) take(h *header, p []byte) error {
	switch {
	case h.kind == kindHello && !k.hello:
		if k.hello = true; h.block != version {
			return fmt.Errorf("node %s speaks version %d, not %d: %w", k.node, h.block, version, errFrame)
		}
		return nil
	case !k.hello:
		return malformed("it does not begin with hello")
	case h.kind == kindStores:
		return k.announced(p)
	case h.kind == kindAnswer && k.driver != nil:
		return k.driver.answered(h, p)
	case h.kind != kindReply:
		return malformed("type %d from a server", h.kind)
	}
	f, err := k.flight(h.tag)
	if err != nil {
		return err
	}
	if f.io != nil && f.io.Op == extent.OpRead && h.status == statusOK && len(p) != len(f.io.Buf) {
		return malformed("a read without data")
	}
	done := k.arrive(h.tag)
	err = statusErrors[h.status]
	if err != nil && done.store != nil {
		err = fmt.Errorf("store %s of node %s: %w", done.store.id, k.node, err)
	}
	if done.io == nil {
		if err != nil {
			h, p = nil, nil
		}
		done.reply(h, p, err)
		return nil
	}
	if done.io.Err = err; h.status == statusCorrupt {
		done.io.BadBlock = h.block
	}
	done.io.Done(done.io)
	return nil
}

// announced enters which stores the node serves.
func (k *link) announced(p []byte) error {
	all, err := parseStores(p)
	if err != nil {
		return err
	}
	var now []*Store
	for _, a := range all {
		var s *Store
		for _, old := range k.stores {
			if old.number == a.number && old.id == a.id && old.life == a.life {
				s = old
			}
		}
		if s == nil {
			s = &Store{link: k, id: a.id, life: a.life, number: a.number}
		}
		now = append(now, s)
	}
	for _, old := range k.stores {
		if !slices.Contains(now, old) {
			old.gone = true // what is under way there is answered still
		}
	}
	k.stores = now
	k.links.o.Stores(k.node, now)
	if k.driver == nil { // from now on it serves us
		k.driver = newNode(k)
		if k.links.o.Nodes != nil {
			k.links.o.Nodes(k.node, k.driver)
		}
	}
	return nil
}

// fail ends the link: everything under way is lost.
func (k *link) fail(err error) {
	l := k.links
	if l.to[k.node] != k {
		return
	}
	delete(l.to, k.node)
	k.close(err)
	l.stats.Broken++
	l.log.Warn("the link to a node broke", "node", k.node, "error", err)
	for _, s := range k.stores {
		s.gone = true
	}
	for tag := range k.flights {
		f := k.flights[tag]
		if f.until == 0 {
			continue
		}
		k.arrive(uint32(tag))
		if f.io == nil {
			f.reply(nil, nil, k.lost(f.store))
			continue
		}
		f.io.Err = f.store.lost()
		l.ended = append(l.ended, f.io)
	}
	l.o.Stores(k.node, nil)
	if k.driver != nil {
		k.driver.lose()
		if l.o.Nodes != nil {
			l.o.Nodes(k.node, nil)
		}
	}
	if k.ended != nil {
		k.ended(err)
	}
}

func (k *link) lost(s *Store) error {
	if s == nil {
		return fmt.Errorf("node %s: %w", k.node, ErrLost)
	}
	return s.lost()
}

// watch looks after what takes too long, while anything is under way.
func (l *Links) watch() {
	if l.timing {
		return
	}
	l.timing = true
	time.AfterFunc(l.o.Patience/8, func() {
		l.o.Post(func() {
			l.timing = false
			if l.expire() {
				l.watch()
			}
		})
	})
}

// expire gives up the links on which a request has taken too long, and tells whether anything is under way.
func (l *Links) expire() bool {
	now, busy := l.o.Clock(), false
	for _, k := range l.to {
		if k.driver != nil {
			late, some := k.driver.late(now)
			if busy = busy || some; late {
				k.fail(fmt.Errorf("%w: it does not answer a host's command", ErrLost))
				continue
			}
		}
		for _, f := range k.flights {
			if f.until == 0 {
				continue
			}
			busy = true
			if now > f.until {
				k.fail(fmt.Errorf("%w: it does not answer", ErrLost))
				break
			}
		}
	}
	return busy
}
