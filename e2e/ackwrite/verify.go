package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"syscall"
)

const (
	readRun    = 64 // blocks of one read
	maxReports = 20 // failures described one by one
)

// floor is the lowest sequence number that each block may have, by block number.
type floor []uint64

// readFloor collects the acknowledged writes in r.
func readFloor(r io.Reader, blocks int64) (floor, error) {
	acked := make(floor, blocks)
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		var block, count int64
		var sequence uint64
		if _, err := fmt.Sscanf(lines.Text(), "%d %d %d", &block, &count, &sequence); err != nil {
			return nil, fmt.Errorf("acknowledged writes, line %d: %w", n, err)
		}
		if block < 0 || count < 1 || block+count > blocks {
			return nil, fmt.Errorf("acknowledged writes, line %d: blocks out of range", n)
		}
		for i := block; i < block+count; i++ {
			acked[i] = max(acked[i], sequence)
		}
	}
	return acked, lines.Err()
}

func verifyDevice(dev string, blocks int64, acksPath string, report io.Writer) error {
	acks, err := os.Open(acksPath)
	if err != nil {
		return err
	}
	defer acks.Close()
	acked, err := readFloor(acks, blocks)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(dev, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return verify(f, acked, report)
}

// verify compares all blocks with acked and reports what it finds there. What has been seen once may not vanish at the
// next power failure, so the caller adds the report to the acknowledged writes.
func verify(dev io.ReaderAt, acked floor, report io.Writer) error {
	out := bufio.NewWriter(report)
	buf := alignedBuffer(readRun * blockSize)
	var bad []string
	wanted := 0
	for first := 0; first < len(acked); first += readRun {
		run := buf[:min(readRun, len(acked)-first)*blockSize]
		if _, err := dev.ReadAt(run, int64(first)*blockSize); err != nil {
			return fmt.Errorf("read of blocks from %d: %w", first, err)
		}
		for i := first; i < first+len(run)/blockSize; i++ {
			sequence, err := parseBlock(run[(i-first)*blockSize:][:blockSize], uint64(i))
			switch {
			case err != nil:
				bad = append(bad, fmt.Sprintf("block %d: %v", i, err))
			case sequence < acked[i]:
				bad = append(bad, fmt.Sprintf("block %d: found write %d, acknowledged was %d", i, sequence, acked[i]))
			case sequence > 0:
				fmt.Fprintf(out, "%d 1 %d\n", i, sequence)
			}
			if acked[i] > 0 {
				wanted++
			}
		}
	}
	if len(bad) > 0 {
		for _, line := range bad[:min(len(bad), maxReports)] {
			fmt.Fprintln(os.Stderr, line)
		}
		return fmt.Errorf("%d of %d blocks are wrong (%d had been acknowledged)", len(bad), len(acked), wanted)
	}
	return out.Flush()
}
