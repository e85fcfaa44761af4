package agent

import (
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/meta"
)

// What is printed at start for a listener is what is served there.
func TestConnectLines(t *testing.T) {
	subsystem := offer{meta.NVMe, DevSubsystem, 1, true}
	target := offer{meta.ISCSI, DevTarget, meta.LUN(3).NSID(), true}
	for _, c := range []struct {
		listen string
		offer  offer
		want   []string // what the lines begin with
	}{
		{"nvme-tcp://127.0.0.1:4420", subsystem, []string{"nvme connect -t tcp -a 127.0.0.1 -s 4420 -n " + DevSubsystem, ""}},
		{"nvme-rdma://[::]:4420", subsystem, []string{"nvme connect -t rdma -a ADDRESS -s 4420"}},
		{"nvme-tcp://127.0.0.1:4420", target, nil},
		{"iscsi://127.0.0.1:3260", subsystem, nil},
		{"iscsi://127.0.0.1:3260", target, []string{
			"iscsiadm -m discovery -t sendtargets -p 127.0.0.1:3260", "iscsiadm -m node -T " + DevTarget, "qemu-img info iscsi://127.0.0.1:3260/" + DevTarget + "/3",
		}},
		{"iscsi://[fd00::1]:3260", offer{meta.ISCSI, DevTarget, 0, true}, []string{"iscsiadm -m discovery -t sendtargets -p [fd00::1]:3260", ""}},
	} {
		got := connectLines(c.listen, c.offer)
		if len(got) != len(c.want) {
			t.Errorf("%s, %s: %q", c.listen, c.offer.name, got)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], c.want[i]) {
				t.Errorf("%s: %q, want %q", c.listen, got[i], c.want[i])
			}
		}
	}
}
