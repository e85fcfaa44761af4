package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// maxRun is the longest write, in blocks: beyond what fits a command capsule.
const maxRun = 16

type writeOptions struct {
	dev     string
	blocks  int64 // in use
	writers int64 // each owns a run of the blocks of its own, so that no two writes race for one
	from    uint64
	seed    uint64
}

// write runs until a write or a report fails.
func write(o writeOptions, report io.Writer) error {
	share := int64(0)
	if o.writers > 0 {
		share = o.blocks / o.writers
	}
	if share < maxRun {
		return fmt.Errorf("%d blocks are too few for %d writers", o.blocks, o.writers)
	}
	f, err := os.OpenFile(o.dev, os.O_WRONLY|syscall.O_DIRECT|syscall.O_DSYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var (
		sequence atomic.Uint64
		lines    = &reporter{w: report}
		writers  sync.WaitGroup
		errs     = make([]error, o.writers)
	)
	sequence.Store(o.from - 1)
	for i := range o.writers {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(o.seed, uint64(i)))
			errs[i] = writeShare(f, i*share, share, random, &sequence, lines)
		})
	}
	writers.Wait()
	return errors.Join(errs...)
}

// writeShare overwrites random runs within share blocks from first. Numbers grow per block, since one goroutine owns it.
func writeShare(f io.WriterAt, first, share int64, random *rand.Rand, sequence *atomic.Uint64, lines *reporter) error {
	buf := alignedBuffer(maxRun * blockSize)
	for {
		count := 1 + random.Int64N(maxRun)
		if random.IntN(2) == 0 {
			count = 1 // half of the writes are single blocks
		}
		block := first + random.Int64N(share-count+1)
		number := sequence.Add(1)
		run := buf[:count*blockSize]
		for i := range count {
			fillBlock(run[i*blockSize:][:blockSize], uint64(block+i), number)
		}
		if _, err := f.WriteAt(run, block*blockSize); err != nil {
			return fmt.Errorf("write of %d blocks at %d: %w", count, block, err)
		}
		if err := lines.add(block, count, number); err != nil {
			return err
		}
	}
}

// alignedBuffer returns n bytes on a block boundary, as O_DIRECT wants them.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+blockSize)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (blockSize - 1))
	return b[skip:][:n:n]
}

// reporter writes whole lines; a slow reader slows the writers, and they share its writes.
type reporter struct {
	w io.Writer

	mu      sync.Mutex
	pending bytes.Buffer
	writing sync.Mutex // held while w is written to
}

func (r *reporter) add(block, count int64, sequence uint64) error {
	r.mu.Lock()
	fmt.Fprintf(&r.pending, "%d %d %d\n", block, count, sequence)
	r.mu.Unlock()

	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	out := bytes.Clone(r.pending.Bytes())
	r.pending.Reset()
	r.mu.Unlock()
	if len(out) == 0 {
		return nil // another writer has taken this line along
	}
	_, err := r.w.Write(out)
	return err
}
