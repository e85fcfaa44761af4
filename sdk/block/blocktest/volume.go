package blocktest

import (
	"bytes"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/ring"
)

// Volume is a volume in memory. Guarded by its Core's mutex.
type Volume struct {
	core      *Core
	handle    block.Handle
	blockSize int
	data      []byte
	revoked   bool
}

// Handle is what a Request names.
func (v *Volume) Handle() block.Handle { return v.handle }

// ReadAt copies the volume's bytes from off, as a host would see them.
func (v *Volume) ReadAt(b []byte, off int64) (int, error) {
	v.core.mu.Lock()
	defer v.core.mu.Unlock()
	return bytes.NewReader(v.data).ReadAt(b, off)
}

// Size is the size in bytes.
func (v *Volume) Size() int64 {
	v.core.mu.Lock()
	defer v.core.mu.Unlock()
	return int64(len(v.data))
}

// Resize changes the size, in bytes; new ones are zero.
func (v *Volume) Resize(size int64) {
	v.core.mu.Lock()
	defer v.core.mu.Unlock()
	data := make([]byte, size)
	copy(data, v.data)
	v.data = data
}

// Revoke voids the handle: commands on it end with StatusPathLost from now on.
func (v *Volume) Revoke() {
	v.core.mu.Lock()
	defer v.core.mu.Unlock()
	v.revoked = true
}

// do carries out e and returns its status and info. The caller holds the mutex.
func (v *Volume) do(e *ring.Entry, buf []byte) (ring.Status, uint64) {
	if v.revoked || v.handle.Generation != e.HandleGeneration {
		return ring.StatusPathLost, 0
	}
	if e.Offset > uint64(len(v.data)) || e.Length > uint64(len(v.data))-e.Offset {
		return ring.StatusOutOfRange, 0
	}
	if bs := uint64(v.blockSize); e.Offset%bs != 0 || e.Length%bs != 0 {
		return ring.StatusInvalidField, 0
	}
	data := v.data[e.Offset : e.Offset+e.Length]
	switch e.Op {
	case ring.OpRead:
		copy(buf, data)
	case ring.OpWrite:
		copy(data, buf)
	case ring.OpWriteZeroes, ring.OpDiscard:
		clear(data)
	case ring.OpCompare, ring.OpCompareAndWrite:
		n := len(data)
		if at := v.differs(data, buf[:n]); at >= 0 {
			return ring.StatusCompareFailed, e.Offset + uint64(at)
		}
		copy(data, buf[n:])
	case ring.OpFlush, ring.OpVerify: // memory is as durable and as right as it gets
	}
	return ring.StatusOK, 0
}

// differs is the offset of the first block in which a and b differ, or -1.
func (v *Volume) differs(a, b []byte) int {
	for at := 0; at < len(a); at += v.blockSize {
		if !bytes.Equal(a[at:at+v.blockSize], b[at:at+v.blockSize]) {
			return at
		}
	}
	return -1
}
