package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
)

// memory is a disk of some blocks that fails after a number of writes.
type memory struct {
	data []byte
	left int
}

var errPower = errors.New("no power")

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if m.left == 0 {
		return 0, errPower
	}
	m.left--
	return copy(m.data[off:], b), nil
}

func (m *memory) ReadAt(b []byte, off int64) (int, error) { return copy(b, m.data[off:]), nil }

const testBlocks = 100

// written returns a disk after some writes, and their acknowledgements.
func written(t *testing.T) (*memory, floor) {
	t.Helper()
	disk := &memory{data: make([]byte, testBlocks*blockSize), left: 200}
	var sequence atomic.Uint64
	var acks bytes.Buffer
	err := writeShare(disk, 0, testBlocks, rand.New(rand.NewPCG(1, 2)), &sequence, &reporter{w: &acks})
	if !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	acked, err := readFloor(&acks, testBlocks)
	if err != nil {
		t.Fatal(err)
	}
	return disk, acked
}

func TestVerifyFindsWhatWasAcknowledged(t *testing.T) {
	disk, acked := written(t)
	var found bytes.Buffer
	if err := verify(disk, acked, &found); err != nil {
		t.Fatal(err)
	}
	again, err := readFloor(&found, testBlocks)
	if err != nil {
		t.Fatal(err)
	}
	for i := range acked {
		if again[i] != acked[i] {
			t.Fatalf("block %d: found %d, acknowledged %d", i, again[i], acked[i])
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	const block = 7
	at := func(disk *memory) []byte { return disk.data[block*blockSize:][:blockSize] }
	for name, damage := range map[string]func(*memory, floor){
		"an older write":                func(d *memory, f floor) { fillBlock(at(d), block, f[block]-1) },
		"zeros":                         func(d *memory, f floor) { clear(at(d)) },
		"a sector of an older write":    func(d *memory, f floor) { tear(at(d), f[block]-1) },
		"another block's content":       func(d *memory, f floor) { fillBlock(at(d), block+1, f[block]+1) },
		"a write without a number":      func(d *memory, f floor) { fillBlock(at(d), block, 0) },
		"zeros in a part of it":         func(d *memory, _ floor) { clear(at(d)[2048:]) },
		"a flipped bit at its end":      func(d *memory, _ floor) { at(d)[blockSize-1] ^= 1 },
		"a number that does not fit":    func(d *memory, f floor) { binary.LittleEndian.PutUint64(at(d)[sequenceOffset:], f[block]+9) },
		"damage where nothing was owed": func(d *memory, f floor) { f[block] = 0; at(d)[9] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			disk, acked := written(t)
			if acked[block] < 2 {
				t.Fatal("the seed leaves the block unwritten")
			}
			damage(disk, acked)
			if err := verify(disk, acked, io.Discard); err == nil {
				t.Fatal("verify has not noticed")
			}
		})
	}
}

// tear leaves the first sector of an earlier write.
func tear(b []byte, sequence uint64) {
	var old [blockSize]byte
	fillBlock(old[:], binary.LittleEndian.Uint64(b[numberOffset:]), sequence)
	copy(b[:512], old[:512])
}

// A write that was under way when the power went may be there or not.
func TestVerifyAcceptsANewerWrite(t *testing.T) {
	disk, acked := written(t)
	fillBlock(disk.data[:blockSize], 0, 1<<40)
	if err := verify(disk, acked, io.Discard); err != nil {
		t.Fatal(err)
	}
}

func TestReadFloorRefuses(t *testing.T) {
	for _, text := range []string{"x", "1 2", "-1 1 1", "0 0 1", fmt.Sprintf("%d 1 1", testBlocks), "99 2 1"} {
		if _, err := readFloor(strings.NewReader(text), testBlocks); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
