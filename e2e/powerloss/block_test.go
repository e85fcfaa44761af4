//go:build e2e

package powerloss

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// A block begins with a magic, its namespace and address and the number of its write, and is filled with words that follow from
// them: a mixture of two writes is recognised. Number 0 stands for zeros.
const blockMagic = 0x5353_4f4c_5257_5009

func fillBlock(b []byte, nsid nvme.NSID, lba nvme.LBA, number uint64) {
	binary.LittleEndian.PutUint64(b, blockMagic^uint64(nsid)<<32)
	binary.LittleEndian.PutUint64(b[8:], uint64(lba))
	binary.LittleEndian.PutUint64(b[16:], number)
	for i := 24; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], (number<<24^uint64(lba)<<4^uint64(i))*0x9e3779b97f4a7c15)
	}
}

// blockNumber returns the number of the write that b holds whole.
func blockNumber(b []byte, nsid nvme.NSID, lba nvme.LBA) (uint64, error) {
	if !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
		return 0, nil
	}
	number := binary.LittleEndian.Uint64(b[16:])
	want := make([]byte, len(b))
	fillBlock(want, nsid, lba, number)
	if number == 0 || !slices.Equal(b, want) {
		return 0, errors.New("neither zeros nor one whole write")
	}
	return number, nil
}

// version is what a block held at some time.
type version struct {
	number uint64 // 0: zeros
	acked  bool
}

// disk is what a namespace may hold by what its host knows.
type disk struct {
	name      string
	nsid      nvme.NSID
	blockSize int
	sync      bool  // every acknowledged write is durable
	runs      []run // the blocks in use
	failable  bool  // the machine lost power in this volume's life: a host's first flush may fail
	mustFail  bool  // acknowledged writes were lost: the next flush has to
	told      bool  // a flush has failed in this life of the agent
	mu        sync.Mutex
	next      uint64                 // number of a write; guarded by mu
	blocks    map[nvme.LBA][]version // the first is the oldest that may still be found; guarded by mu
}

// run is a few blocks side by side; one writer at a time uses them.
type run struct {
	first nvme.LBA
	count int
}

func newDisk(name string, nsid nvme.NSID, blockSize int, sync bool, extents, writers int) *disk {
	d := &disk{name: name, nsid: nsid, blockSize: blockSize, sync: sync, blocks: map[nvme.LBA][]version{}}
	for e := range extents {
		for w := range writers {
			// The blocks of the second writer lie on both sides of a border between two map pages of the store.
			byteOff := int64(e)*extentBytes + int64(w)*509*4096 - int64(w%2)*runBlocks/2*int64(blockSize)
			r := run{first: nvme.LBA(byteOff / int64(blockSize)), count: runBlocks}
			d.runs = append(d.runs, r)
			for i := range r.count {
				d.blocks[r.first+nvme.LBA(i)] = []version{{}}
			}
		}
	}
	return d
}

// begin notes that blocks are about to be written, or zeroed, and returns the number of the write.
func (d *disk) begin(r run, zero bool) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	v := version{number: d.next}
	if zero {
		v.number = 0
	}
	for i := range r.count {
		lba := r.first + nvme.LBA(i)
		d.blocks[lba] = append(d.blocks[lba], v)
	}
	return v.number
}

// ack notes that the last write of blocks was acknowledged, durably or not.
func (d *disk) ack(r run, durable bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range r.count {
		lba := r.first + nvme.LBA(i)
		vs := d.blocks[lba]
		vs[len(vs)-1].acked = true
		if durable || d.sync {
			d.blocks[lba] = vs[len(vs)-1:]
		}
	}
}

// acked returns the last acknowledged version of each block, for a flush that begins now.
func (d *disk) acked() map[nvme.LBA]version {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[nvme.LBA]version{}
	for lba, vs := range d.blocks {
		if i := lastAcked(vs); i > 0 {
			out[lba] = vs[i]
		}
	}
	return out
}

func lastAcked(vs []version) int {
	for i := len(vs) - 1; i > 0; i-- {
		if vs[i].acked {
			return i
		}
	}
	return 0
}

// flushed makes what was acknowledged when the flush began the oldest that may be found. Of a block that was zeroed more than once
// the first one counts, which promises less.
func (d *disk) flushed(covers map[nvme.LBA]version) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for lba, v := range covers {
		vs := d.blocks[lba]
		if i := slices.Index(vs, v); i > 0 {
			d.blocks[lba] = vs[i:]
		}
	}
}

// died notes how the agent's life ended: with the power, or the process alone, whose acknowledged writes all survive.
func (d *disk) died(power bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = false
	for _, vs := range d.blocks {
		if power && lastAcked(vs) > 0 {
			d.mustFail = true
		}
	}
	d.failable = d.failable || power
}

// latest says what a block holds while only its writer writes it.
func (d *disk) latest(lba nvme.LBA) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	vs := d.blocks[lba]
	return vs[len(vs)-1].number
}

// found judges what a block holds after the agent's end, and from then on it holds that.
func (d *disk) found(lba nvme.LBA, b []byte, power bool) error {
	number, err := blockNumber(b, d.nsid, lba)
	if err != nil {
		return fmt.Errorf("volume %s, block %d: %w", d.name, lba, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	vs := d.blocks[lba]
	least := 0
	if !power {
		least = lastAcked(vs)
	}
	at := -1
	for i := len(vs) - 1; i >= least && at < 0; i-- {
		if vs[i].number == number {
			at = i
		}
	}
	if at < 0 {
		return fmt.Errorf("volume %s, block %d holds write %d, but what it may hold is %v (from the %d-th on)", d.name, lba, number, vs, least)
	}
	d.blocks[lba] = vs[:at+1]
	d.blocks[lba][at].acked = true
	if power || d.sync {
		d.blocks[lba] = vs[at : at+1]
	}
	return nil
}
