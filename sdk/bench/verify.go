package bench

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// A verified block of the namespace is
//
//	0 magic u64 | 8 offset u64 | 16 generation u64 | 24 run u64 | 32 pattern … | CRC32C of all before
//
// little endian. Offset is in bytes from the start of the namespace; the generation grows with
// each write of the run to that place; the pattern follows from the three.
const (
	verifyMagic = 0x6d6f6f72_62656e63
	verifyHead  = 32
	verifyTail  = 4
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// stamp fills a block.
func stamp(b []byte, offset, generation, run uint64) {
	le.PutUint64(b, verifyMagic)
	le.PutUint64(b[8:], offset)
	le.PutUint64(b[16:], generation)
	le.PutUint64(b[24:], run)
	x := mixBits(offset ^ bits.RotateLeft64(generation, 32) ^ run)
	body := b[verifyHead : len(b)-verifyTail]
	for len(body) >= 8 {
		le.PutUint64(body, x)
		x = x*6364136223846793005 + 1442695040888963407
		body = body[8:]
	}
	clear(body)
	le.PutUint32(b[len(b)-verifyTail:], crc32.Checksum(b[:len(b)-verifyTail], castagnoli))
}

// inspect reads a block. stamped is false if it was not written by a bench at all; else err says
// what is wrong with it in itself.
func inspect(b []byte, offset uint64) (generation, run uint64, stamped bool, err error) {
	if le.Uint64(b) != verifyMagic {
		return 0, 0, false, nil
	}
	if sum := crc32.Checksum(b[:len(b)-verifyTail], castagnoli); sum != le.Uint32(b[len(b)-verifyTail:]) {
		return 0, 0, true, fmt.Errorf("block at %d is damaged: its checksum does not match", offset)
	}
	if at := le.Uint64(b[8:]); at != offset {
		return 0, 0, true, fmt.Errorf("block at %d is that of %d", offset, at)
	}
	return le.Uint64(b[16:]), le.Uint64(b[24:]), true, nil
}

// mixBits is the finalizer of splitmix64.
func mixBits(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// slot is what is known of one place of BlockBytes.
type slot struct {
	generation uint32 // of the last write that was acknowledged; 0: none by this run
	next       uint32 // the highest generation that was ever sent
	busy       bool   // an I/O on it is in flight
	unsure     bool   // a write failed: any generation up to next may be there
}

// checkRead judges what was read of a place. block is the size of the namespace's blocks.
func (s *slot) checkRead(data []byte, offset uint64, block int, run uint64) error {
	for ; len(data) > 0; data, offset = data[block:], offset+uint64(block) {
		g, r, stamped, err := inspect(data[:block], offset)
		switch {
		case err != nil:
			return err
		case s.generation == 0 && !s.unsure && (!stamped || r != run):
			// Whatever was there before the run.
		case s.generation == 0 && s.unsure && (!stamped || r != run):
			// The failed write may have left it alone.
		case !stamped:
			return fmt.Errorf("block at %d: generation %d was lost, it holds something else", offset, s.generation)
		case r != run:
			return fmt.Errorf("block at %d: generation %d was lost, it holds that of an earlier run", offset, s.generation)
		case g == uint64(s.generation):
		case s.unsure && g > uint64(s.generation) && g <= uint64(s.next):
		default:
			return fmt.Errorf("block at %d: generation %d was read, %d was written", offset, g, s.generation)
		}
	}
	return nil
}
