package ring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrBroken is wrapped by every error that means the other side broke the ABI. The
// rings are of no use after it; only new ones help.
var ErrBroken = errors.New("the other side broke the ring")

// Config describes a ring pair to make.
type Config struct {
	Entries     int    // of each ring and of commands in flight: a power of two, MinEntries to MaxEntries
	PoolBytes   int64  // a multiple of PageBytes, up to MaxPoolBytes
	Incarnation uint64 // of the set of rings; never used twice by one core
	Thread      uint32 // index of the I/O thread within the set
}

// CoreEnd is the core's end of a ring pair. It trusts nothing that the plugin can
// write: entries are copied once, and cursors are kept in the core's own memory.
type CoreEnd struct {
	id     identity
	fds    Descriptors // the plugin's, kept for HandOver until Close
	bellFD int         // read end of the doorbell to the core
	ringFD int         // write end of the doorbell to the plugin

	submission ring // read-only here
	completion ring
	pool       []byte

	head     uint64 // submissions taken
	seen     uint64 // submission tail as last read
	tail     uint64 // completions written, published or not
	shown    uint64 // completions published
	consumed uint64 // completion head as last read
	busy     bitmap // tags in flight, in the core's eyes
	sleep    uint64
	rang     uint64 // announcement that was last answered by a doorbell
	counters Counters
	broken   error
}

// Create makes and seals the memory of a ring pair.
func Create(cfg Config) (*CoreEnd, error) {
	entries := uint32(min(max(cfg.Entries, 0), MaxEntries+1)) // what does not fit stays refusable
	id := identity{entries: entries, poolBytes: uint64(cfg.PoolBytes), incarnation: cfg.Incarnation, thread: cfg.Thread}
	if err := id.check(); err != nil {
		return nil, fmt.Errorf("create rings: %w", err)
	}
	if !littleEndian() {
		return nil, errors.New("create rings: the ring ABI is little endian, this machine is not")
	}
	c := &CoreEnd{id: id, fds: noDescriptors, bellFD: -1, ringFD: -1, busy: newBitmap(cfg.Entries)}
	c.fds.Incarnation, c.fds.Thread = cfg.Incarnation, cfg.Thread
	if err := c.create(); err != nil {
		c.Close()
		return nil, fmt.Errorf("create rings: %w", err)
	}
	return c, nil
}

func (c *CoreEnd) create() error {
	mask := uint64(c.id.entries) - 1
	c.submission.mask, c.completion.mask = mask, mask
	for _, m := range []struct {
		name string
		fd   *int
		mem  *[]byte
		size int64
		prot int
	}{
		{"mooring-submission", &c.fds.Submission, &c.submission.mem, c.id.ringBytes(), unix.PROT_READ},
		{"mooring-completion", &c.fds.Completion, &c.completion.mem, c.id.ringBytes(), unix.PROT_READ | unix.PROT_WRITE},
		{"mooring-pool", &c.fds.Pool, &c.pool, int64(c.id.poolBytes), unix.PROT_READ | unix.PROT_WRITE},
	} {
		var err error
		if *m.fd, err = newMemory(m.name, m.size); err != nil {
			return err
		}
		if *m.mem, err = mapMemory(*m.fd, m.size, m.prot); err != nil {
			return err
		}
	}
	c.id.put(c.completion.mem)
	// From here on nobody can write the completion ring but through the mapping
	// that the core has.
	if err := seal(c.fds.Completion, unix.F_SEAL_FUTURE_WRITE); err != nil {
		return err
	}
	for _, fd := range []int{c.fds.Submission, c.fds.Completion, c.fds.Pool} {
		if err := seal(fd, unix.F_SEAL_SEAL); err != nil {
			return err
		}
	}
	return c.createDoorbells()
}

func (c *CoreEnd) createDoorbells() error {
	var toCore, toPlugin [2]int
	if err := unix.Pipe2(toCore[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	c.bellFD, c.fds.ToCore = toCore[0], toCore[1]
	if err := unix.Pipe2(toPlugin[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	c.fds.ToPlugin, c.ringFD = toPlugin[0], toPlugin[1]
	// The writers never block. The reader of the core does: a read that is kept
	// posted must wait, not fail.
	for _, fd := range []int{c.fds.ToCore, c.ringFD, c.fds.ToPlugin} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("set doorbell non-blocking: %w", err)
		}
	}
	return nil
}

// Descriptors are what the plugin needs. They stay the end's property, open until
// Close; give Attach a Dup of them.
func (c *CoreEnd) Descriptors() Descriptors { return c.fds }

// Entries is the size of each ring, and the bound of commands in flight.
func (c *CoreEnd) Entries() int { return int(c.id.entries) }

// Incarnation is the one given to Create.
func (c *CoreEnd) Incarnation() uint64 { return c.id.incarnation }

// Pool is the shared data pool, valid until Close. The plugin may change any byte
// of it at any time.
func (c *CoreEnd) Pool() []byte { return c.pool }

// DoorbellFD becomes readable, in tokens of 8 bytes, when the plugin rings. It is
// the core's own end of a pipe: blocking, closed by Close, and without end of file,
// since the core keeps a writer open; a plugin's death shows elsewhere.
func (c *CoreEnd) DoorbellFD() int { return c.bellFD }

// Take copies the next entry into e; false means there is none. The entry has
// passed Check, its tag was not in flight and is now, until Complete. An error
// wraps ErrBroken, says what the plugin did, and is returned from then on.
func (c *CoreEnd) Take(e *Entry) (bool, error) {
	if c.head == c.seen {
		if err := c.look(); err != nil || c.head == c.seen {
			return false, err
		}
	}
	if c.broken != nil {
		return false, c.broken
	}
	if c.head-c.consumed > c.submission.mask {
		// As many taken as there are slots for their completions: the plugin must
		// have consumed one before it submitted this.
		if err := c.lookConsumed(); err != nil {
			return false, err
		}
		if c.head-c.consumed > c.submission.mask {
			return false, c.fault("more than %d commands in flight", c.id.entries)
		}
	}
	*e = *(*Entry)(c.submission.slot(c.head))
	if err := e.Check(int(c.id.entries), int64(c.id.poolBytes)); err != nil {
		return false, c.fault("entry %d: %w", c.head, err)
	}
	if c.busy.get(e.Tag) {
		return false, c.fault("entry %d: tag %d is still in flight", c.head, e.Tag)
	}
	c.busy.set(e.Tag)
	c.head++
	c.counters.count(e)
	return true, nil
}

// look reads the plugin's submission tail.
func (c *CoreEnd) look() error {
	if c.broken != nil {
		return c.broken
	}
	tail := c.submission.word(offTail).Load()
	n := tail - c.head // wraps around, and fails below, if tail went back
	if n > uint64(c.id.entries) {
		return c.fault("submission tail %d is not within %d entries of %d", tail, c.id.entries, c.head)
	}
	if n == uint64(c.id.entries) {
		c.counters.Full++
	}
	c.seen = tail
	return nil
}

// lookConsumed reads how many completions the plugin has taken.
func (c *CoreEnd) lookConsumed() error {
	head := c.submission.word(offHead).Load()
	if head-c.consumed > c.shown-c.consumed {
		return c.fault("completion head %d is not between %d and %d", head, c.consumed, c.shown)
	}
	c.consumed = head
	return nil
}

func (c *CoreEnd) fault(format string, args ...any) error {
	c.broken = fmt.Errorf("%w: "+format, append([]any{ErrBroken}, args...)...)
	return c.broken
}

// Complete writes the completion of a command that Take returned; the plugin sees
// it after Publish. An error is the caller's fault: the tag is not in flight.
func (c *CoreEnd) Complete(done *Completion) error {
	if done.Tag >= c.id.entries || !c.busy.get(done.Tag) {
		return fmt.Errorf("completion of tag %d, which is not in flight", done.Tag)
	}
	c.busy.clear(done.Tag)
	*(*Completion)(c.completion.slot(c.tail)) = *done
	c.tail++
	return nil
}

// Completed is how many completions were written so far. The plugin has taken one when Consumed is at least what Completed was after it.
func (c *CoreEnd) Completed() uint64 { return c.tail }

// Consumed is how many completions the plugin says that it has taken; an error wraps ErrBroken.
func (c *CoreEnd) Consumed() (uint64, error) {
	if c.broken != nil {
		return 0, c.broken
	}
	err := c.lookConsumed()
	return c.consumed, err
}

// Publish shows the plugin what was completed since the last time, and rings if it
// sleeps; it says whether it rang. Call it once per batch.
func (c *CoreEnd) Publish() bool {
	rang := false
	if c.shown != c.tail {
		c.shown = c.tail
		c.completion.show(offTail, c.tail)
		if s := c.submission.word(offSleep).Load(); s&1 == 1 && s != c.rang {
			c.rang = s
			c.counters.Doorbells++
			writeDoorbell(c.ringFD)
			rang = true
		}
	}
	c.completion.word(offHead).Store(c.head)
	c.completion.storeCounters(&c.counters)
	return rang
}

// Sleep announces that the core is about to block until DoorbellFD is readable. If
// it says false, something has come meanwhile (or the ring is broken, which Take
// will tell) and the announcement is withdrawn.
func (c *CoreEnd) Sleep() bool {
	c.sleep |= 1
	c.completion.show(offSleep, c.sleep)
	if c.head != c.seen || c.submission.word(offTail).Load() != c.head {
		c.Awake()
		return false
	}
	c.counters.Sleeps++
	return true
}

// Awake withdraws the announcement, if there is one. Call it before Take.
func (c *CoreEnd) Awake() {
	if c.sleep&1 == 1 {
		c.sleep++
		c.completion.show(offSleep, c.sleep)
	}
}

// Counters returns what this end counted until the last Publish, and what the
// plugin claims to have counted. Any goroutine may call it before Close.
func (c *CoreEnd) Counters() Counters { return c.completion.loadCounters() }

// PluginCounters are what the plugin claims to have counted: not to be trusted.
func (c *CoreEnd) PluginCounters() Counters { return c.submission.loadCounters() }

// Close unmaps the memory and closes the descriptors. Nothing may use the pool any
// more, a disk included. The plugin sees end of file on its doorbell.
func (c *CoreEnd) Close() error {
	err := errors.Join(unmap(&c.submission.mem), unmap(&c.completion.mem), unmap(&c.pool), c.fds.Close())
	return errors.Join(err, closeFD(&c.bellFD), closeFD(&c.ringFD))
}
