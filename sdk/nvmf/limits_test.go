package nvmf

import (
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
)

func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		rule     string
		in, want Limits // durations are not compared
	}{
		{"defaults", Limits{}, Limits{
			Queues: 128, QueueEntries: 1024, MaxTransfer: 1 << 20, Controllers: 1024, Namespaces: 4096,
			AsyncEvents: 4, Aborts: 4, ErrorEntries: 64,
		}},
		{"highest", Limits{
			Queues: 1 << 20, QueueEntries: 1 << 20, MaxTransfer: 1 << 31, Controllers: 1 << 20, Namespaces: 1 << 20,
			AsyncEvents: 1 << 20, Aborts: 1 << 20, ErrorEntries: 1 << 20,
		}, Limits{
			Queues: 65535, QueueEntries: 65536, MaxTransfer: 1 << 30, Controllers: 65519, Namespaces: MaxNamespaces,
			AsyncEvents: 256, Aborts: 256, ErrorEntries: 256,
		}},
		{"lowest; the ANA log must fit into a transfer", Limits{
			Queues: 1, QueueEntries: 1, MaxTransfer: 1, Controllers: 1, AsyncEvents: 1, Aborts: 1, ErrorEntries: 1,
		}, Limits{
			Queues: 1, QueueEntries: 32, MaxTransfer: 8192, Controllers: 1, Namespaces: 227, AsyncEvents: 1, Aborts: 1, ErrorEntries: 1,
		}},
		{"not a power of two", Limits{MaxTransfer: 100_000}, Limits{
			Queues: 128, QueueEntries: 1024, MaxTransfer: 65536, Controllers: 1024, Namespaces: 1820,
			AsyncEvents: 4, Aborts: 4, ErrorEntries: 64,
		}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			got := tc.in.withDefaults()
			if n := nvme.ANALogHeaderSize + got.Namespaces*anaLogPerNamespace; n > got.MaxTransfer {
				t.Errorf("ANA log of %d bytes, transfers of %d", n, got.MaxTransfer)
			}
			got.ConnectTimeout, got.DataTimeout, got.DiscoveryTimeout = 0, 0, 0
			got.DisabledTimeout, got.LossGrace, got.AbortWait = 0, 0, 0
			if got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
}
