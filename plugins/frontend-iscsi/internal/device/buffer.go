package device

import "github.com/mooring-io/mooring/sdk/block"

// takeBuffer gives t size bytes of the pool as its Data, whatever the transport had there, now or later: then it is Parked.
func (n *Nexus) takeBuffer(t *Task, size int) {
	t.Data = block.Buffer{}
	b, ok := n.share.Take(t, size)
	if !ok {
		t.Parked = true
		return
	}
	t.buf, t.Data = b, b
}

// memoryReady is told by the share of the buffer that t was parked for.
func (n *Nexus) memoryReady(t *Task, b block.Buffer) {
	t.Parked = false
	t.buf, t.Data = b, b
	n.port.Ready(t)
}

// unpark has t wait for memory no more.
func (n *Nexus) unpark(t *Task) {
	n.share.Drop(t)
	t.Parked = false
}

func (n *Nexus) freeBuffer(t *Task) {
	if t.buf.Len() == 0 {
		return
	}
	n.share.Free(t.buf)
	t.buf = block.Buffer{}
}
