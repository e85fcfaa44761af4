//go:build cluster

package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A short run holds, and says so. It builds the programs, and takes about a minute.
func TestChaos(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), options{time: 20 * time.Second, seed: uint64(os.Getpid()), hosts: 2, out: &out})
	t.Log("\n" + out.String())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := lines[len(lines)-1]; err != nil || !strings.HasSuffix(last, "held") {
		t.Errorf("%v; the last line is %q", err, last)
	}
}
