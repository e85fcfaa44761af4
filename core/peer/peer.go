// Package peer is the data path between cores: one node drives replicas that lie on another's stores, and forwards its hosts' commands for
// volumes that another one drives. It owns the frames, the
// links to other nodes and what is under way on them, and the service that this node's stores give to others. It does not own
// who is a member and where it listens (package meta), what a replica refuses (package extent), or which requests are made,
// in which order and what follows from their failure (package access).
//
// A link is one connection, from the node that asks to the node that has the stores; two nodes that drive each other's
// replicas have two. Nothing is ever sent again: when a link breaks, what was under way on it ends with ErrLost and may
// have been done or not. A node that connects anew is answered only when everything from its former connection has ended.
//
// Everything but Dial and Accept belongs to the reactor's goroutine. docs/adr/0005-replication.md has the reasons.
package peer

import (
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/vfs"
)

// ErrLost says that the link to a replica's node is broken, or that its store is not served there any more. What was asked may
// have been done.
var ErrLost = errors.New("the other node is out of reach")

// Bounds of one connection.
const (
	maxUnderWay = 64 << 20  // bytes of data that requests of one node hold here
	maxRequests = 4096      // of one node under way here
	maxUnsent   = 128 << 20 // bytes that wait to be sent; more ends the connection
	maxTurn     = 4 << 20   // bytes read from one connection in one turn
)

// Default patience; see Options.
const (
	DefaultPatience = 3 * time.Second
	controlFactor   = 4 // create, seal and delete wait for a disk's control work
)

// Options configure Links.
type Options struct {
	// Regions is how many regions an extent has.
	Regions int
	// Patience is how long a request may take before its link is given up; 0: DefaultPatience. Control requests may take
	// four times as long.
	Patience time.Duration
	Clock    func() int64    // CLOCK_MONOTONIC nanoseconds
	Post     func(fn func()) // runs fn on the reactor; any goroutine
	// Stores hears, on the reactor, which stores a node serves now; those that it does not name are gone, and their requests
	// ended. nil: the link is broken.
	Stores func(node uuid.UUID, all []*Store)
	// Nodes hears, on the reactor, that commands can be forwarded to a node; nil: not any more, and what was under way is lost.
	// It may be nil, and so may Driver: nothing is forwarded then.
	Nodes  func(node uuid.UUID, n *Node)
	Driver Driver // takes what others forward
	Logger hclog.Logger
}

// Stream carries the bytes of one connection, in order, without ever blocking.
type Stream interface {
	// Read fills b with what has come: 0 and nil when there is nothing now.
	Read(b []byte) (int, error)
	// Write takes b to be sent by Flush.
	Write(b []byte) error
	// Flush sends as much as goes out now, and returns how many bytes are left.
	Flush() (int, error)
	// Notify has ready run on the reactor whenever Read or Flush may have more to do.
	Notify(ready func())
	// Close ends the connection; ready does not run after that.
	Close()
}

// Links are a node's connections to and from others.
type Links struct {
	o       Options
	log     hclog.Logger
	served  []*served
	numbers uint32
	to      map[uuid.UUID]*link    // by node, those that we ask
	from    map[uuid.UUID]*service // by node, those that ask us; with successors that wait
	ending  []*service             // replaced, with requests under way
	ended   []*extent.IO           // complete, Done not called yet
	forgone []*Command             // lost, Done not called yet
	timing  bool
	memory  int // maxUnderWay; tests make it small
	buffers buffers
	stats   Stats
}

// Stats are counters since the start.
type Stats struct {
	Asked, Answered   uint64 // requests of ours, and of others
	Forwarded, Driven uint64 // commands, of ours and of others
	BytesOut, BytesIn uint64 // as frames, before encryption
	Broken            uint64 // links that broke
	Refused           uint64 // connections ended for what they sent
}

// served is a store of this node.
type served struct {
	store  *extent.Store
	number uint32
}

// New returns a node's links; there are none yet.
func New(o Options) *Links {
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	return &Links{o: o, log: o.Logger.Named("peer"), memory: maxUnderWay, to: map[uuid.UUID]*link{}, from: map[uuid.UUID]*service{}}
}

// AddStore serves a store of this node to others.
func (l *Links) AddStore(s *extent.Store) {
	l.numbers++
	l.served = append(l.served, &served{store: s, number: l.numbers})
	l.announce()
}

// RemoveStore ends the service of a store. Requests that are at it go on to their end.
func (l *Links) RemoveStore(s *extent.Store) {
	for i, v := range l.served {
		if v.store == s {
			l.served = append(l.served[:i:i], l.served[i+1:]...)
			l.announce()
			return
		}
	}
}

func (l *Links) announce() {
	for _, s := range l.from {
		if s.serving {
			s.announce()
		}
	}
}

// Stats returns the counters.
func (l *Links) Stats() Stats { return l.stats }

// Links are a source of the reactor.

// Poll does what has come, and tells how much that was.
func (l *Links) Poll() int {
	n := l.finish()
	for _, k := range l.to {
		n += k.poll(k)
	}
	for _, s := range l.from {
		n += s.poll(s)
	}
	return n
}

// Publish sends what this turn has made.
func (l *Links) Publish() {
	for _, k := range l.to {
		k.flush()
	}
	for _, s := range l.from {
		s.flush()
	}
}

// Sleep says whether the reactor may wait.
func (l *Links) Sleep() bool {
	if len(l.ended)+len(l.forgone) > 0 {
		return false
	}
	for _, k := range l.to {
		if k.ready {
			return false
		}
	}
	for _, s := range l.from {
		if s.ready && (s.broken != nil || !s.paused()) {
			return false
		}
	}
	return true
}

// Awake ends what Sleep began.
func (l *Links) Awake() {}

// finish completes what has ended, outside Submit.
func (l *Links) finish() int {
	n := len(l.ended)
	for i := 0; i < len(l.ended); i++ { // Done may end more
		io := l.ended[i]
		l.ended[i] = nil
		io.Done(io)
	}
	l.ended = l.ended[:0]
	n += len(l.forgone)
	for i := 0; i < len(l.forgone); i++ {
		c := l.forgone[i]
		l.forgone[i] = nil
		c.Done(c)
	}
	l.forgone = l.forgone[:0]
	return n
}

// Close ends all connections, and what is under way on our links.
func (l *Links) Close() {
	for _, k := range l.to {
		k.fail(ErrLost)
	}
	for _, s := range l.from {
		s.fail(ErrLost)
	}
	l.finish()
}

// Idle says whether nothing of others is under way here any more.
func (l *Links) Idle() bool {
	for _, s := range l.from {
		if s.underWay > 0 {
			return false
		}
	}
	return len(l.ending) == 0
}

// buffers are core memory for others' data, by size.
type buffers struct{ classes [12][][]byte }

func bufferClass(blocks uint32) int {
	c := 0
	for uint32(1)<<c < blocks {
		c++
	}
	return c
}

func (b *buffers) take(blocks uint32) ([]byte, error) {
	c := bufferClass(blocks)
	if n := len(b.classes[c]); n > 0 {
		buf := b.classes[c][n-1]
		b.classes[c] = b.classes[c][:n-1]
		return buf[:blocks*dataBytes], nil
	}
	buf, err := vfs.AlignedBuffer(dataBytes << c)
	if err != nil {
		return nil, err
	}
	return buf[:blocks*dataBytes], nil
}

// give keeps up to 2 MiB of each size, which is what a busy link has in use.
func (b *buffers) give(buf []byte) {
	buf = buf[:cap(buf)]
	c := bufferClass(uint32(len(buf) / dataBytes))
	if len(b.classes[c])<<c*dataBytes < 2<<20 {
		b.classes[c] = append(b.classes[c], buf)
		return
	}
	_ = vfs.FreeBuffer(buf) // fails for a buffer that is none only
}
