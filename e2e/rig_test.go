//go:build e2e

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/e2e/rig"
)

// The rig proves itself on the kernel's own target, so that a failure elsewhere is the target's.
func TestRig(t *testing.T) {
	t.Run("kernel target", func(t *testing.T) {
		run(t, guestCase{script: "kernel-target.sh", target: "kernel"})
	})
	t.Run("a disk forgets what was not flushed", func(t *testing.T) {
		disk := newDisk(t, 16<<20, true)
		now := make(chan struct{})
		m := boot(t, guestCase{
			script: "forget-1.sh", target: "kernel", disks: []rig.Disk{disk},
			onStatus: func(line string) {
				if line == "now" {
					close(now)
				}
			},
		})
		m.cutWhen(t, now)
		run(t, guestCase{script: "forget-2.sh", target: "kernel", disks: []rig.Disk{disk}})
	})
	t.Run("a complaint of the kernel fails the run", func(t *testing.T) {
		err := boot(t, guestCase{script: "complain.sh", target: "kernel"}).Wait()
		if err == nil || !strings.Contains(err.Error(), "at the rig itself") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a script that hangs is ended", func(t *testing.T) {
		err := boot(t, guestCase{script: "hang.sh", target: "kernel", timeout: 10 * time.Second}).Wait()
		if !errors.Is(err, rig.ErrTimeout) {
			t.Errorf("got %v", err)
		}
	})
}
