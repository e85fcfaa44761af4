package peer

// conn is what both ends of a connection have: the stream, and the frame that is being read.
type conn struct {
	links  *Links
	stream Stream
	ready  bool  // there may be something to read or room to send
	dirty  bool  // something was written since the last flush
	unsent int   // bytes, after the last flush
	broken error // not nil: the connection has ended

	head    [headerBytes]byte
	got     int // bytes of head
	h       header
	payload []byte // where the present frame's goes; nil while its header is read
	filled  int
	scratch []byte // for payloads that nobody keeps
	out     []byte
}

// end is the one that understands the frames.
type end interface {
	// place returns where the payload of a frame goes: h.length bytes. It may refuse the frame.
	place(h *header) ([]byte, error)
	// take handles a whole frame.
	take(h *header, payload []byte) error
	// fail ends the connection.
	fail(err error)
	// paused says that no further frame is read now.
	paused() bool
}

func (c *conn) open(l *Links, s Stream) {
	c.links, c.stream, c.ready = l, s, true
	s.Notify(func() { c.ready = true })
	h := header{kind: kindHello, block: version}
	c.send(&h, nil)
}

// send queues a frame.
func (c *conn) send(h *header, payload []byte) {
	if c.broken != nil {
		return
	}
	h.length = uint32(len(payload))
	c.out = h.append(c.out[:0])
	err := c.stream.Write(c.out)
	if err == nil && len(payload) > 0 {
		err = c.stream.Write(payload)
	}
	c.links.stats.BytesOut += uint64(len(c.out) + len(payload))
	c.dirty = true
	if c.unsent += len(c.out) + len(payload); c.unsent > maxUnsent && err == nil {
		err = malformed("it does not take what it is sent")
	}
	if err != nil {
		c.ready, c.broken = true, err // whoever polls ends it: not here, in the middle of something
	}
}

// poll reads what has come, at most a turn's worth.
func (c *conn) poll(e end) int {
	if !c.ready || c.stream == nil {
		return 0
	}
	if c.broken != nil {
		c.ready = false
		e.fail(c.broken)
		return 1
	}
	c.dirty = c.dirty || c.unsent > 0
	if e.paused() {
		return 0
	}
	c.ready = false
	n, frames := 0, 0
	for !e.paused() {
		got, done, err := c.read(e)
		n += got
		if done {
			frames++
		}
		switch {
		case c.broken != nil:
			return frames + 1 // what it took has ended it
		case err != nil:
			e.fail(err)
			return frames + 1
		case got == 0 && !done:
			c.links.stats.BytesIn += uint64(n)
			return frames
		case n >= maxTurn:
			c.ready = true
			c.links.stats.BytesIn += uint64(n)
			return frames + 1
		}
	}
	c.ready = true // to be read on when it is not paused any more
	c.links.stats.BytesIn += uint64(n)
	return frames
}

// read takes bytes for the present frame and handles it when it is whole.
func (c *conn) read(e end) (n int, done bool, err error) {
	if c.payload == nil {
		if n, err = c.stream.Read(c.head[c.got:]); err != nil {
			return n, false, err
		}
		if c.got += n; c.got < headerBytes {
			return n, false, nil
		}
		if err := c.h.parse(c.head[:]); err != nil {
			return n, false, err
		}
		c.got, c.filled = 0, 0
		if c.h.length == 0 {
			return n, true, e.take(&c.h, nil)
		}
		if c.payload, err = e.place(&c.h); err != nil {
			return n, false, err
		}
		return n, false, nil
	}
	if n, err = c.stream.Read(c.payload[c.filled:]); err != nil {
		return n, false, err
	}
	if c.filled += n; c.filled < len(c.payload) {
		return n, false, nil
	}
	p := c.payload
	c.payload = nil
	return n, true, e.take(&c.h, p)
}

// small returns memory for a payload that is read at once.
func (c *conn) small(n uint32) []byte {
	if uint32(cap(c.scratch)) < n {
		c.scratch = make([]byte, n)
	}
	return c.scratch[:n]
}

func (c *conn) flush() {
	if !c.dirty || c.broken != nil || c.stream == nil {
		return
	}
	c.dirty = false
	left, err := c.stream.Flush()
	if c.unsent = left; err != nil {
		c.ready, c.broken = true, err
	}
}

// close ends the connection.
func (c *conn) close(err error) {
	if c.broken == nil {
		c.broken = err
	}
	c.ready, c.dirty = false, false
	if c.stream != nil {
		c.stream.Close()
	}
}
