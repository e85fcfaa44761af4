package iscsi

import (
	"crypto/md5"  //nolint:gosec // the standard wants it
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/sha256"
	"crypto/sha3"
	"crypto/subtle"
	"hash"
)

// Keys of CHAP. 12.1.3
const (
	KeyCHAPAlgorithm  = "CHAP_A"
	KeyCHAPIdentifier = "CHAP_I"
	KeyCHAPChallenge  = "CHAP_C"
	KeyCHAPName       = "CHAP_N"
	KeyCHAPResponse   = "CHAP_R"
)

// AuthCHAP is a value of AuthMethod. 13.1
const AuthCHAP = "CHAP"

// MaxCHAPBytes is the longest challenge or response. 12.1.3
const MaxCHAPBytes = 1024

// CHAPAlgorithm is a value of CHAP_A, as registered with IANA.
type CHAPAlgorithm uint8

// The algorithms.
const (
	CHAPMD5     CHAPAlgorithm = 5
	CHAPSHA1    CHAPAlgorithm = 6
	CHAPSHA256  CHAPAlgorithm = 7
	CHAPSHA3256 CHAPAlgorithm = 8
)

// Known says whether CHAPResponse can compute it.
func (a CHAPAlgorithm) Known() bool { return a >= CHAPMD5 && a <= CHAPSHA3256 }

func (a CHAPAlgorithm) new() hash.Hash {
	switch a {
	case CHAPSHA1:
		return sha1.New()
	case CHAPSHA256:
		return sha256.New()
	case CHAPSHA3256:
		return sha3.New256()
	default:
		return md5.New()
	}
}

// CHAPResponse is what proves knowledge of a secret: the hash of identifier, secret and challenge.
// RFC 1994 4.1
func CHAPResponse(a CHAPAlgorithm, identifier uint8, secret, challenge []byte) []byte {
	h := a.new()
	h.Write([]byte{identifier})
	h.Write(secret)
	h.Write(challenge)
	return h.Sum(nil)
}

// CHAPEqual compares responses in constant time.
func CHAPEqual(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
