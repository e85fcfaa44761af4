//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/e2e/rig"
)

const (
	defaultCuts = 2
	enoughAcks  = 600 // acknowledged writes before a cut
)

// TestPowerCut cuts the power of a machine under load, with a disk that forgets what was not flushed, and boots it again
// from that disk: everything that was acknowledged must be there, life after life.
func TestPowerCut(t *testing.T) {
	cuts := intFromEnv(t, "E2E_CUTS", defaultCuts)
	seed := intFromEnv(t, "SEED", int(time.Now().Unix()%100000))
	t.Logf("SEED=%d", seed)
	require(t, rig.Missing(image))
	disk := newDisk(t, 8*gib, true)
	history := &history{}
	writer := goBuild(t, "./ackwrite")
	for life := 1; life <= cuts+1; life++ {
		last := life == cuts+1
		acks := filepath.Join(t.TempDir(), "acks")
		if err := os.WriteFile(acks, []byte(history.text()), 0o644); err != nil {
			t.Fatal(err)
		}
		enough := history.begin()
		m := boot(t, guestCase{
			script: "powercut.sh", disks: []rig.Disk{disk}, onStatus: history.line,
			files: map[string]string{"/opt/bin/ackwrite": writer, "/rig/acks": acks},
			env: map[string]string{
				"LIFE": strconv.Itoa(life), "LAST": map[bool]string{true: "yes"}[last], "SEED": strconv.Itoa(seed),
				"VOLUMES": strings.Join(history.volumes, " "),
			},
		})
		if last {
			m.mustEnd(t)
			return
		}
		m.cutWhen(t, enough)
		found, err := os.ReadFile(filepath.Join(m.results, "found"))
		if err != nil {
			t.Fatal(err)
		}
		history.add(string(found))
		t.Logf("power cut %d after %s", life, history)
	}
}

func intFromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// history is what the target has acknowledged in all lives of the machine.
type history struct {
	mu      sync.Mutex
	acks    strings.Builder
	count   int           // acknowledged writes in this life
	volumes []string      // created by acknowledged commands
	before  int           // of them, created in earlier lives
	enough  chan struct{} // closed when there is enough in this life
}

var ackLine = regexp.MustCompile(`^\d+ \d+ \d+$`)

// begin starts a life and returns a channel that is closed when the power may be cut.
func (h *history) begin() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count, h.before = 0, len(h.volumes)
	h.enough = make(chan struct{})
	return h.enough
}

// line takes a status line of the guest.
func (h *history) line(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name, ok := strings.CutPrefix(line, "volume "); ok {
		h.volumes = append(h.volumes, name)
	}
	if ackLine.MatchString(line) {
		h.acks.WriteString(line + "\n")
		h.count++
	}
	if h.count >= enoughAcks && len(h.volumes) > h.before && h.enough != nil {
		close(h.enough)
		h.enough = nil
	}
}

func (h *history) add(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acks.WriteString(text)
}

func (h *history) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acks.String()
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d acknowledged writes, %d volumes", h.count, len(h.volumes))
}
