//go:build e2e && rdmahost

package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestRDMAHost runs our own NVMe/RDMA host in the guest, beside the kernel's: what that never sends, and what no host
// ought to send. It takes a minute, and has a target of its own in the Makefile.
func TestRDMAHost(t *testing.T) {
	files, missing := rdmaFiles()
	require(t, missing)
	files["/rig/hostile"] = filepath.Join(t.TempDir(), "hostile")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "rdma,guest", "-o", files["/rig/hostile"], "../plugins/transport-rdma/internal/hostile")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the hostile host: %v\n%s", err, out)
	}
	img := rdmaImage()
	run(t, guestCase{script: "rdma-host.sh", target: "mooring", image: &img, files: files})
}
