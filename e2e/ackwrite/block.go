package main

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// blockSize is the unit of writing and of atomicity, in bytes.
const blockSize = 4096

// A block begins with the magic, its number and its sequence number, and is filled with words that follow from the
// last two: any mixture of two writes is recognised. Sequence 0 stands for a block never written, all zeros.
const (
	blockMagic     = 0x4b4c4231574b4341 // "ACKW1BLK"
	numberOffset   = 8
	sequenceOffset = 16
	fillOffset     = 24
)

var errMixture = errors.New("neither zeros nor one whole write")

// fillBlock writes block number with the given sequence number into b, blockSize long.
func fillBlock(b []byte, number, sequence uint64) {
	binary.LittleEndian.PutUint64(b, blockMagic)
	binary.LittleEndian.PutUint64(b[numberOffset:], number)
	binary.LittleEndian.PutUint64(b[sequenceOffset:], sequence)
	state := number*0x9e3779b97f4a7c15 ^ sequence
	for i := fillOffset; i < blockSize; i += 8 {
		state = scramble(state)
		binary.LittleEndian.PutUint64(b[i:], state)
	}
}

// scramble is one step of the splitmix64 generator.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	z := x
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// parseBlock returns the sequence number of a whole block, 0 for one never written, or errMixture.
func parseBlock(b []byte, number uint64) (uint64, error) {
	var want [blockSize]byte
	if bytes.Equal(b, want[:]) {
		return 0, nil
	}
	sequence := binary.LittleEndian.Uint64(b[sequenceOffset:])
	fillBlock(want[:], number, sequence)
	if sequence == 0 || !bytes.Equal(b, want[:]) {
		return 0, errMixture
	}
	return sequence, nil
}
