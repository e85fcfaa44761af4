package iscsi

import (
	"encoding/binary"
	"hash/crc32"
)

// DigestSize is the length of a header or data digest in bytes. 13.1
const DigestSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest returns the CRC32C of p: header segments, or data with its padding. 13.1
func Digest(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// UpdateDigest returns the digest of what d stands for followed by p; 0 stands for nothing.
func UpdateDigest(d uint32, p []byte) uint32 { return crc32.Update(d, castagnoli, p) }

// AppendDigest appends a digest as it stands on the wire.
func AppendDigest(b []byte, d uint32) []byte { return binary.LittleEndian.AppendUint32(b, d) }

// ParseDigest reads the digest in the first 4 bytes of b, which must be there.
func ParseDigest(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
