package peer

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
)

// service is a connection from a node that uses our stores.
type service struct {
	conn
	node     uuid.UUID
	hello    bool
	serving  bool     // everything from the former connection has ended
	former   *service // what has to end first
	underWay int      // requests
	bytes    int      // of data that they hold
	pending  []byte   // memory of the write that is being read
	spare    []*request
	guest    Guest   // what drives volumes for the node; nil: it has forwarded nothing
	caller   *Caller // with guest
}

// request is one of another node's requests, at a store of ours.
type request struct {
	extent.IO
	service *service
	tag     uint32
}

// Serve answers a node on a connection that it made. A former one of that node ends.
func (l *Links) Serve(node uuid.UUID, stream Stream) {
	s := &service{node: node}
	if old := l.from[node]; old != nil {
		old.fail(fmt.Errorf("%w: it connected anew", ErrLost))
		s.former = old.unsettled()
	}
	for _, e := range l.ending { // the last of them waits for those before it
		if e.node == node {
			s.former = e
		}
	}
	l.from[node] = s
	s.open(l, stream)
	s.begin()
}

// unsettled is s or what s still waits for; nil: all has ended.
func (s *service) unsettled() *service {
	if s.underWay > 0 || s.former != nil {
		return s
	}
	return nil
}

// begin begins to serve when nothing of the former connection is under way.
func (s *service) begin() {
	if s.former != nil && s.former.unsettled() != nil {
		return
	}
	s.former, s.serving, s.ready = nil, true, true
	if s.broken == nil {
		s.announce()
	}
}

func (s *service) announce() {
	var all []announced
	for _, v := range s.links.served {
		id, life := v.store.Identity()
		all = append(all, announced{id: id, life: life, number: v.number})
	}
	h := header{kind: kindStores}
	s.send(&h, appendStores(nil, all))
}

// paused: requests wait while a former connection drains, while they hold as much memory as they may, and while their answers are not taken.
func (s *service) paused() bool {
	return !s.serving && s.hello || s.bytes > s.links.memory || s.requests() >= maxRequests || s.unsent > maxUnsent/2
}

// requests is how many requests to replicas are under way.
func (s *service) requests() int {
	if s.caller == nil {
		return s.underWay
	}
	return s.underWay - s.caller.under
}

func (s *service) place(h *header) ([]byte, error) {
	blocks := h.blocks
	switch h.kind {
	case kindWrite:
	case kindCommand:
		blocks = (h.length + dataBytes - 1) / dataBytes
	default:
		return s.small(h.length), nil
	}
	buf, err := s.links.buffers.take(blocks)
	s.pending = buf
	if err != nil {
		return nil, err
	}
	return buf[:h.length], nil
}

func (s *service) take(h *header, p []byte) error {
	switch {
	case h.kind == kindHello && !s.hello:
		if s.hello = true; h.block != version {
			return fmt.Errorf("node %s speaks version %d, not %d: %w", s.node, h.block, version, errFrame)
		}
		return nil
	case !s.hello:
		return malformed("it does not begin with hello")
	case h.kind == kindHello || h.kind == kindStores || h.kind == kindReply || h.kind == kindAnswer:
		return malformed("type %d from a client", h.kind)
	}
	s.pending = nil
	if h.kind >= kindGrant {
		return s.forwarded(h, p)
	}
	s.links.stats.Answered++
	var store *extent.Store
	for _, v := range s.links.served {
		if v.number == h.store {
			store = v.store
		}
	}
	if store == nil {
		if h.kind == kindWrite {
			s.links.buffers.give(p)
		}
		s.answer(h.tag, statusNoStore, 0, nil)
		return nil
	}
	if h.kind < kindCreate {
		return s.io(store, h, p)
	}
	return s.control(store, h, p)
}

func (s *service) answer(tag uint32, st status, bad uint32, payload []byte) {
	h := header{kind: kindReply, tag: tag, status: st, block: bad}
	s.send(&h, payload)
}

// io hands a request to a store.
func (s *service) io(store *extent.Store, h *header, p []byte) error {
	r := s.request()
	r.tag = h.tag
	r.IO = extent.IO{
		ID: h.id, Extent: store.Extent(h.id), Gen: h.gen, Block: h.block, Blocks: h.blocks, Durable: h.flags&flagDurable != 0, Done: requestDone, User: r,
	}
	switch h.kind {
	case kindRead:
		buf, err := s.links.buffers.take(h.blocks)
		if err != nil {
			return err
		}
		r.Op, r.Buf = extent.OpRead, buf
	case kindWrite:
		r.Op, r.Buf = extent.OpWrite, p
	case kindZero:
		r.Op = extent.OpZero
	case kindClean:
		r.Op = extent.OpClean
	default:
		r.Op, r.Extent = extent.OpFlush, nil
	}
	s.underWay++
	s.bytes += len(r.Buf)
	store.Submit(&r.IO)
	return nil
}

func (s *service) request() *request {
	if n := len(s.spare); n > 0 {
		r := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return r
	}
	return &request{service: s}
}

func requestDone(io *extent.IO) {
	r := io.User.(*request)
	s := r.service
	var data []byte
	if io.Op == extent.OpRead && io.Err == nil {
		data = io.Buf
	}
	s.answer(r.tag, statusOf(io.Err), io.BadBlock, data)
	s.bytes -= len(io.Buf)
	if io.Buf != nil {
		s.links.buffers.give(io.Buf)
	}
	r.IO = extent.IO{}
	s.spare = append(s.spare, r)
	s.ended()
}

// control carries out a request that is not I/O.
func (s *service) control(store *extent.Store, h *header, p []byte) error {
	tag, id := h.tag, h.id
	done := func(err error, payload []byte) {
		if err != nil {
			payload = nil
		}
		s.answer(tag, statusOf(err), 0, payload)
		s.ended()
	}
	var w extent.Seal
	if h.kind == kindCreate || h.kind == kindSeal {
		var err error
		if w, err = parseSeal(p, h.gen); err != nil {
			return err
		}
	}
	s.underWay++
	switch h.kind {
	case kindCreate:
		store.Create(id, w, func(err error) { done(err, nil) })
	case kindSeal:
		store.Seal(id, w, func(was extent.Sealed, err error) { done(err, appendSealed(nil, &was)) })
	case kindDelete:
		store.Delete(id, h.gen, func(err error) { done(err, nil) })
	case kindDeleteFrom:
		s.deleteFrom(store, id, tag)
	default:
		store.Mapped(id, func(m extent.Regions, err error) { done(err, appendRegions(nil, m)) })
	}
	return nil
}

// ended is called when a request has ended.
func (s *service) ended() {
	s.underWay--
	if s.broken != nil {
		s.settle()
	}
}

// settle has the successor served when nothing is under way any more.
func (s *service) settle() {
	l := s.links
	if s.unsettled() != nil {
		return
	}
	for i, e := range l.ending {
		if e == s {
			l.ending = append(l.ending[:i], l.ending[i+1:]...)
			break
		}
	}
	next := l.from[s.node]
	for _, e := range l.ending {
		if e.former == s {
			next = e
		}
	}
	if next != nil && next.former == s {
		next.former = nil
		if next.broken != nil {
			next.settle()
			return
		}
		next.begin()
	}
}

// fail ends the connection; what is at the stores goes on to its end.
func (s *service) fail(err error) {
	l := s.links
	if l.from[s.node] != s {
		return
	}
	delete(l.from, s.node)
	s.close(err)
	l.stats.Refused++
	l.log.Debug("a connection from a node ended", "node", s.node, "error", err)
	if s.pending != nil {
		l.buffers.give(s.pending)
		s.pending = nil
	}
	if s.guest != nil {
		s.guest.Close()
	}
	if s.unsettled() != nil {
		l.ending = append(l.ending, s)
	}
}

// deleteSome is how many extents one request deletes.
const deleteSome = 16

// deleteFrom deletes some extents of a volume from an index on, and says whether there are more.
func (s *service) deleteFrom(store *extent.Store, from extent.ID, tag uint32) {
	var ids []extent.ID
	for _, id := range store.IDs() {
		if id.Volume == from.Volume && id.Index >= from.Index {
			ids = append(ids, id)
		}
	}
	more := uint32(0)
	if len(ids) > deleteSome {
		ids, more = ids[:deleteSome], 1
	}
	left := len(ids) + 1
	var failed error
	end := func(err error) {
		failed = errors.Join(failed, err)
		if left--; left == 0 {
			s.answer(tag, statusOf(failed), more, nil)
			s.ended()
		}
	}
	for _, id := range ids {
		store.Delete(id, extent.AnyGeneration, end)
	}
	end(nil)
}
