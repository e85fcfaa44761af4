package nvmetcp

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest returns the CRC32C of p: the HDGST of a header of HLEN bytes, or the DDGST of data.
// Padding and digests are not part of what is digested. TCP 3.3.1.1
func Digest(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// UpdateDigest returns the digest of what d stands for followed by p; 0 stands for nothing.
func UpdateDigest(d uint32, p []byte) uint32 { return crc32.Update(d, castagnoli, p) }

// AppendDigest appends a digest as it stands on the wire.
func AppendDigest(b []byte, d uint32) []byte { return le.AppendUint32(b, d) }

// ParseDigest reads the digest in the first 4 bytes of b, which must be there.
func ParseDigest(b []byte) uint32 { return le.Uint32(b) }

// CheckHeaderDigest compares the HDGST that follows the first hlen bytes of pdu with those bytes.
// pdu must have hlen+DigestSize bytes. A wrong header digest is fatal; a wrong data digest is
// not: the controller fails that command with nvme.StatusTransientTransportError and the
// connection lives on. TCP 3.5
func CheckHeaderDigest(pdu []byte, hlen int) *TermError {
	got := ParseDigest(pdu[hlen : hlen+DigestSize])
	if got == Digest(pdu[:hlen]) {
		return nil
	}
	return &TermError{FES: FESHeaderDigest, FEI: got, Why: "header digest does not match"}
}
