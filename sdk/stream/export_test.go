package stream

// Watch begins to watch a peer whose socket is full, as if nothing had been seen of it before. On the thread, as the others.
func (c *Conn) Watch() { c.watched = false; c.watchStall() }

// Tick is what happens when the peer has had the time that Limits.Stall gives it.
func (c *Conn) Tick() { c.stallTick() }

// Look says how many bytes the socket took, how many of them the peer did, and whether others wait for the socket.
func (c *Conn) Look() (socket, peer uint64, full bool) { return c.send.taken, c.peerTook(), c.blocked }
