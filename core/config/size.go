package config

import (
	"fmt"
	"strconv"
	"strings"
)

var units = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40}, {"P", 1 << 50}, {"B", 1}}

// ParseSize reads a size such as "10GiB", "512M" or "4096" into bytes. Units are
// powers of 1024; decimal ones (GB) are refused, for they are nearly always meant
// as binary.
func ParseSize(s string) (int64, error) {
	number, unit := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok && !strings.HasSuffix(rest, "i") {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 || f*float64(unit) > 1<<62 {
		return 0, fmt.Errorf("%q is no size; write a number and KiB, MiB, GiB, TiB or PiB, such as \"10GiB\"", s)
	}
	return int64(f * float64(unit)), nil
}

// FormatSize writes bytes the way ParseSize reads them.
func FormatSize(n int64) string {
	for i := 4; i >= 0; i-- {
		if u := units[i]; n >= u.bytes {
			f := strconv.FormatFloat(float64(n)/float64(u.bytes), 'f', 2, 64)
			return strings.TrimSuffix(strings.TrimRight(f, "0"), ".") + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}
