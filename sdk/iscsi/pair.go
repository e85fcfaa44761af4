package iscsi

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Values that stand for an answer in place of one. 6.2
const (
	AnswerNotUnderstood = "NotUnderstood"
	AnswerIrrelevant    = "Irrelevant"
	AnswerReject        = "Reject"
	AnswerNone          = "None"
	AnswerYes           = "Yes"
	AnswerNo            = "No"
)

const (
	maxKeyBytes = 63 // 6.1
	// maxValueBytes is more than any standard key may have (255); large binary values are
	// bounded by their keys. 6.1
	maxValueBytes = 8192
	maxPairs      = 256
)

// Pair is one key=value pair of a text. 6.1
type Pair struct{ Key, Value string }

// ErrText says that a text breaks the rules of key=value pairs.
var ErrText = errors.New("malformed text")

// ParseText takes a whole text apart: one that was gathered from PDUs until one without Continue.
func ParseText(b []byte) ([]Pair, error) {
	var out []Pair
	for len(b) > 0 {
		n := bytes.IndexByte(b, 0)
		if n < 0 {
			return nil, fmt.Errorf("%w: the last pair is not terminated", ErrText)
		}
		one := b[:n]
		b = b[n+1:]
		if len(one) == 0 {
			continue // more terminators than needed do no harm; some initiators pad with them
		}
		k, v, ok := strings.Cut(string(one), "=")
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: a pair without =", ErrText)
		case !validKey(k):
			return nil, fmt.Errorf("%w: a key that is no label", ErrText)
		case len(v) > maxValueBytes:
			return nil, fmt.Errorf("%w: the value of %s has %d bytes", ErrText, k, len(v))
		case len(out) == maxPairs:
			return nil, fmt.Errorf("%w: more than %d pairs", ErrText, maxPairs)
		}
		out = append(out, Pair{k, v})
	}
	return out, nil
}

// AppendPair appends key=value and its terminator.
func AppendPair(b []byte, key, value string) []byte {
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, 0)
}

// validKey says whether k is a standard label. 6.1
func validKey(k string) bool {
	for _, c := range []byte(k) {
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '.', c == '-', c == '+', c == '@', c == '_':
		default:
			return false
		}
	}
	return k != "" && len(k) <= maxKeyBytes
}

// ParseNumber decodes a numerical value: a decimal or a hexadecimal constant. 6.1
func ParseNumber(s string) (uint64, error) {
	base, digits := 10, s
	if len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") {
		base, digits = 16, s[2:]
	}
	if digits == "" || digits[0] == '+' || digits[0] == '-' || strings.Contains(digits, "_") {
		return 0, fmt.Errorf("%w: %q is no number", ErrText, s)
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %q is no number", ErrText, s)
	}
	return n, nil
}

// ParseBinary decodes a binary value, hexadecimal or base64, of at most limit bytes. 6.1
func ParseBinary(s string, limit int) ([]byte, error) {
	var b []byte
	var err error
	switch {
	case len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X"):
		d := s[2:]
		if len(d)%2 != 0 {
			d = "0" + d
		}
		b, err = hex.DecodeString(d)
	case len(s) > 2 && (s[:2] == "0b" || s[:2] == "0B"):
		b, err = base64.StdEncoding.DecodeString(s[2:])
	default:
		err = ErrText
	}
	if err != nil {
		return nil, fmt.Errorf("%w: not a binary value", ErrText)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%w: a binary value of %d bytes, at most %d are possible", ErrText, len(b), limit)
	}
	return b, nil
}

// FormatBinary encodes a binary value.
func FormatBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// CheckName says what is wrong with an iSCSI name: iqn.yyyy-mm.reverse.domain[:anything],
// eui.16 hexadecimal digits, or naa.16 or 32 of them; in its normal form, without capitals. 4.2.7
func CheckName(s string) error {
	switch {
	case len(s) > MaxNameBytes:
		return fmt.Errorf("an iSCSI name has at most %d bytes, not %d", MaxNameBytes, len(s))
	case strings.HasPrefix(s, "iqn."):
		return checkIQN(s)
	case strings.HasPrefix(s, "eui."):
		return checkHexName(s, s[4:], 16, 16)
	case strings.HasPrefix(s, "naa."):
		return checkHexName(s, s[4:], 16, 32)
	}
	return fmt.Errorf("%q is no iSCSI name such as \"iqn.2026-11.com.example:db\"", s)
}

// MaxNameBytes is the longest iSCSI name. 4.2.7.1
const MaxNameBytes = 223

func checkIQN(s string) error {
	wrong := fmt.Errorf("%q is not \"iqn.yyyy-mm.reverse.domain:name\" in lower case", s)
	date, rest, ok := strings.Cut(s[4:], ".")
	if !ok || len(date) != 7 || date[4] != '-' {
		return wrong
	}
	for i, c := range []byte(date) {
		if i != 4 && (c < '0' || c > '9') {
			return wrong
		}
	}
	if m := date[5:]; m < "01" || m > "12" {
		return wrong
	}
	if domain, _, _ := strings.Cut(rest, ":"); domain == "" {
		return wrong
	}
	for _, c := range []byte(rest) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == ':', c >= 0x80:
		default:
			return wrong
		}
	}
	return nil
}

func checkHexName(s, digits string, a, b int) error {
	_, err := hex.DecodeString(digits)
	if err != nil || len(digits) != a && len(digits) != b {
		return fmt.Errorf("%q has not %d hexadecimal digits behind its type", s, a)
	}
	return nil
}
