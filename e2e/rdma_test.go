//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mooring-io/mooring/e2e/rig"
)

// rdmaImage is image with soft-RoCE. What is loaded by name when a device is made has to be named: crc32_generic is
// what rdma_rxe asks for.
func rdmaImage() rig.Image {
	img := image
	img.Programs = append(slices.Clone(image.Programs), "ibv_devinfo", "rdma")
	img.Modules = append(slices.Clone(image.Modules),
		"dummy", "crc32_generic", "ib_uverbs", "rdma_ucm", "rdma_rxe", "nvme_rdma")
	return img
}

// rdmaFiles maps guest paths to what the plugin's libraries open by name, and to those libraries.
func rdmaFiles() (files map[string]string, missing []string) {
	files = map[string]string{}
	const lib = "/usr/lib/x86_64-linux-gnu/"
	for _, want := range []string{lib + "libibverbs/librxe-*.so", "/etc/libibverbs.d/rxe.driver", lib + "librdmacm.so.1"} {
		found, _ := filepath.Glob(want) // the pattern is well-formed
		if len(found) == 0 {
			missing = append(missing, want+" (packages ibverbs-providers, librdmacm1)")
		}
		for _, path := range found {
			files[path] = path
		}
	}
	plugin := filepath.Join(binaries(), "plugins", "transport-rdma")
	if _, err := os.Stat(plugin); err != nil {
		missing = append(missing, plugin+" (packages libibverbs-dev, librdmacm-dev)")
	}
	files["/opt/bin/plugins/transport-rdma"] = plugin
	return files, missing
}

// TestRDMA is the kernel's NVMe/RDMA host over soft-RoCE, and I/O over the death of our processes. It takes a minute and a half.
func TestRDMA(t *testing.T) {
	files, missing := rdmaFiles()
	require(t, missing)
	img := rdmaImage()
	script := "rdma.sh"
	if s := os.Getenv("E2E_RDMA_SCRIPT"); s != "" { // in testdata; for trying things out
		script = s
	}
	m := run(t, guestCase{script: script, target: "mooring", image: &img, files: files})
	t.Run("every byte crossed a ring", m.ringBytes)
	t.Run("discovery log", m.bothTransports)
}

// bothTransports requires the subsystem at its TCP and at its RDMA address.
func (m *machine) bothTransports(t *testing.T) {
	var log struct {
		Records []struct{ Trtype, Subnqn, Traddr string }
	}
	m.decode(t, "discover.json", &log)
	var got []string
	for _, r := range log.Records {
		if r.Subnqn == devNQN {
			got = append(got, r.Trtype+" "+r.Traddr)
		}
	}
	slices.Sort(got)
	if want := []string{"rdma 10.99.0.1", "tcp 127.0.0.1"}; !slices.Equal(got, want) {
		t.Fatalf("discovered %v, want %v", got, want)
	}
}
