package meta

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func checkName(field, s string) error {
	if !nameRule.MatchString(s) {
		return invalid(field, "1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit; it is %q", s)
	}
	return nil
}

// MaxNQN is the longest NVMe qualified name in bytes, without a terminator. Base 4.5
const MaxNQN = 223

// DiscoveryNQN is the well-known name of the discovery service. Base 4.5
const DiscoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"

var (
	nqnDomain = regexp.MustCompile(`^nqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:.+)?$`)
	nqnUUID   = regexp.MustCompile(`^nqn\.2014-08\.org\.nvmexpress:uuid:[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// CheckNQN says what is wrong with an NVMe qualified name. Base 4.5
func CheckNQN(field, s string) error {
	const uuidPrefix = "nqn.2014-08.org.nvmexpress:uuid:"
	switch {
	case len(s) > MaxNQN:
		return invalid(field, "an NQN of at most %d bytes; it has %d", MaxNQN, len(s))
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return invalid(field, "an NQN in UTF-8 without control characters; it is %q", s)
	case strings.HasPrefix(s, uuidPrefix) && !nqnUUID.MatchString(s):
		return invalid(field, "\"%s\" and a UUID; it is %q", uuidPrefix, s)
	case !nqnDomain.MatchString(s):
		return invalid(field, "\"nqn.yyyy-mm.reverse.domain:name\"; it is %q", s)
	}
	return nil
}

// checkASCII checks a serial or model number: printable ASCII, no space at the ends. Base 5.17.2.1
func checkASCII(field, s string, limit int) error {
	ok := len(s) > 0 && len(s) <= limit && strings.TrimSpace(s) == s
	for i := 0; i < len(s); i++ {
		ok = ok && s[i] >= 0x20 && s[i] <= 0x7e
	}
	if !ok {
		return invalid(field, "1 to %d printable ASCII characters without spaces at the ends; it is %q", limit, s)
	}
	return nil
}
