package ring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// PluginEnd is the plugin's end of a ring pair.
type PluginEnd struct {
	id  identity
	fds Descriptors

	submission ring
	completion ring // read-only here
	pool       []byte

	tail     uint64 // submissions written, published or not
	shown    uint64 // submissions published
	head     uint64 // completions taken
	seen     uint64 // completion tail as last read
	told     uint64 // completion head as last published
	free     []uint32
	busy     bitmap
	sleep    uint64
	rang     uint64 // announcement that was last answered by a doorbell
	counters Counters
	broken   error
}

// Attach maps the memory that a core passed and checks that both speak the same
// ABI. It takes ownership of the descriptors, also when it fails.
func Attach(d Descriptors) (*PluginEnd, error) {
	p := &PluginEnd{fds: d}
	if err := p.attach(); err != nil {
		p.Close()
		return nil, fmt.Errorf("attach to rings: %w", err)
	}
	return p, nil
}

func (p *PluginEnd) attach() error {
	if !littleEndian() {
		return errors.New("the ring ABI is little endian, this machine is not")
	}
	size, err := sizeOf(p.fds.Completion)
	if err != nil {
		return err
	}
	if size < headerBytes {
		return fmt.Errorf("completion ring of %d bytes, the header alone has %d", size, headerBytes)
	}
	if p.completion.mem, err = mapMemory(p.fds.Completion, size, unix.PROT_READ); err != nil {
		return err
	}
	if p.id, err = parseIdentity(p.completion.mem); err != nil {
		return err
	}
	if p.id.incarnation != p.fds.Incarnation || p.id.thread != p.fds.Thread {
		return fmt.Errorf("rings of incarnation %d, thread %d, announced as %d, %d",
			p.id.incarnation, p.id.thread, p.fds.Incarnation, p.fds.Thread)
	}
	if size != p.id.ringBytes() {
		return fmt.Errorf("completion ring of %d bytes, want %d", size, p.id.ringBytes())
	}
	if p.submission.mem, err = mapWhole(p.fds.Submission, p.id.ringBytes()); err != nil {
		return fmt.Errorf("submission ring: %w", err)
	}
	if p.pool, err = mapWhole(p.fds.Pool, int64(p.id.poolBytes)); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	p.submission.mask, p.completion.mask = uint64(p.id.entries)-1, uint64(p.id.entries)-1
	p.busy = newBitmap(int(p.id.entries))
	for tag := p.id.entries; tag > 0; tag-- {
		p.free = append(p.free, tag-1)
	}
	return nil
}

// mapWhole maps fd for reading and writing if it has the size that it must have.
func mapWhole(fd int, want int64) ([]byte, error) {
	size, err := sizeOf(fd)
	if err != nil {
		return nil, err
	}
	if size != want {
		return nil, fmt.Errorf("%d bytes, want %d", size, want)
	}
	return mapMemory(fd, size, unix.PROT_READ|unix.PROT_WRITE)
}

// Entries is the size of each ring, and the bound of commands in flight.
func (p *PluginEnd) Entries() int { return int(p.id.entries) }

// Incarnation tells this set of rings from all others of this core.
func (p *PluginEnd) Incarnation() uint64 { return p.id.incarnation }

// Thread is the index of the I/O thread that these rings are for.
func (p *PluginEnd) Thread() int { return int(p.id.thread) }

// Pool is the shared data pool, valid until Close. PoolOffset in an Entry is the
// index into it.
func (p *PluginEnd) Pool() []byte { return p.pool }

// PoolFD is the memory behind Pool, for a transport that must map or register it
// itself. It stays the end's property.
func (p *PluginEnd) PoolFD() int { return p.fds.Pool }

// DoorbellFD becomes readable when the core rings, and hangs up when the core dies
// or ends the rings. It does not block.
func (p *PluginEnd) DoorbellFD() int { return p.fds.ToPlugin }

// Room is how many commands can be submitted before one completes.
func (p *PluginEnd) Room() int { return len(p.free) }

// InFlight is how many commands were submitted and not yet taken back.
func (p *PluginEnd) InFlight() int { return int(p.id.entries) - len(p.free) }

// Ready says whether Take has something to tell.
func (p *PluginEnd) Ready() bool {
	return p.head != p.seen || p.completion.word(offTail).Load() != p.head
}

// Submit gives e a tag and writes it into the ring; the core sees it after Publish.
// It says false when as many commands are in flight as there are entries. An error
// is the caller's fault: the core would end the rings for such an entry, so it is
// not sent.
func (p *PluginEnd) Submit(e *Entry) (bool, error) {
	n := len(p.free)
	if n == 0 {
		p.counters.Full++
		return false, nil
	}
	e.Tag = p.free[n-1]
	if err := e.Check(int(p.id.entries), int64(p.id.poolBytes)); err != nil {
		return false, err
	}
	p.free = p.free[:n-1]
	p.busy.set(e.Tag)
	*(*Entry)(p.submission.slot(p.tail)) = *e
	p.tail++
	p.counters.count(e)
	return true, nil
}

// Take copies the next completion into done and frees its tag; false means there is
// none. An error wraps ErrBroken and is returned from then on.
func (p *PluginEnd) Take(done *Completion) (bool, error) {
	if p.broken != nil {
		return false, p.broken
	}
	if p.head == p.seen {
		tail := p.completion.word(offTail).Load()
		if tail-p.head > uint64(p.id.entries) {
			return false, p.fault("completion tail %d is not within %d entries of %d", tail, p.id.entries, p.head)
		}
		if p.seen = tail; p.head == tail {
			return false, nil
		}
	}
	*done = *(*Completion)(p.completion.slot(p.head))
	if done.Tag >= p.id.entries || !p.busy.get(done.Tag) {
		return false, p.fault("completion %d: tag %d is not in flight", p.head, done.Tag)
	}
	p.busy.clear(done.Tag)
	p.free = append(p.free, done.Tag)
	p.head++
	return true, nil
}

func (p *PluginEnd) fault(format string, args ...any) error {
	p.broken = fmt.Errorf("%w: "+format, append([]any{ErrBroken}, args...)...)
	return p.broken
}

// Publish shows the core what was submitted and taken since the last time, and
// rings if the core sleeps; it says whether it rang. Call it once per batch.
func (p *PluginEnd) Publish() bool {
	if p.told != p.head {
		// Before the tail: a core that sees a new entry must also see the room
		// for its completion.
		p.told = p.head
		p.submission.word(offHead).Store(p.head)
	}
	if p.shown == p.tail {
		return false
	}
	for now := Now(); p.shown != p.tail; p.shown++ {
		(*Entry)(p.submission.slot(p.shown)).Submitted = now
	}
	p.submission.storeCounters(&p.counters)
	p.submission.show(offTail, p.tail)
	if s := p.completion.word(offSleep).Load(); s&1 == 1 && s != p.rang {
		p.rang = s
		p.counters.Doorbells++
		writeDoorbell(p.fds.ToCore)
		return true
	}
	return false
}

// Sleep announces that the plugin is about to block until DoorbellFD is readable.
// If it says false, a completion has come meanwhile and the announcement is
// withdrawn.
func (p *PluginEnd) Sleep() bool {
	p.sleep |= 1
	p.submission.show(offSleep, p.sleep)
	if p.Ready() {
		p.Awake()
		return false
	}
	p.counters.Sleeps++
	return true
}

// Awake withdraws the announcement, if there is one. Call it before Take.
func (p *PluginEnd) Awake() {
	if p.sleep&1 == 1 {
		p.sleep++
		p.submission.show(offSleep, p.sleep)
	}
}

// Drain empties the doorbell after it was readable; false means that the core is
// dead or has ended the rings.
func (p *PluginEnd) Drain() bool { return drainDoorbell(p.fds.ToPlugin) }

// Counters returns what this end has counted until the last Publish. Any goroutine
// may call it before Close.
func (p *PluginEnd) Counters() Counters { return p.submission.loadCounters() }

// Close unmaps the memory and closes the descriptors.
func (p *PluginEnd) Close() error {
	return errors.Join(unmap(&p.submission.mem), unmap(&p.completion.mem), unmap(&p.pool), p.fds.Close())
}
