package nvmf

import (
	"math/bits"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// Limits bound what hosts may ask for. A zero field means its default; what is out of range is
// brought into it.
type Limits struct {
	Queues       int // I/O queue pairs of one controller; 128
	QueueEntries int // of any queue, 32 to 65,536; 1024
	MaxTransfer  int // bytes of one command's data, a power of two from 8 KiB to what the pool can allocate; 1 MiB
	Controllers  int // I/O and discovery controllers of this process; 1024
	Namespaces   int // highest NSID that is served, 1 to MaxNamespaces, and what MaxTransfer allows; 4096
	AsyncEvents  int // outstanding Asynchronous Event Requests of one controller, 1 to 256; 4
	Aborts       int // outstanding Abort commands of one controller, 1 to 256; 4
	ErrorEntries int // of the Error Information log page, 1 to 256; 64

	ConnectTimeout   time.Duration // from NewQueue to a Connect that succeeded; 10 s
	DataTimeout      time.Duration // from Begin until all data of the host is there; 30 s
	DiscoveryTimeout time.Duration // idle discovery controller without keep alive, Base 3.1.2.3; 2 min
	DisabledTimeout  time.Duration // controller that stays disabled or shut down; 2 min
	LossGrace        time.Duration // end of an association after one of its I/O queues was lost with commands under way; 5 s
	AbortWait        time.Duration // how long Abort waits for the end of its victim; 1 s
}

// MaxNamespaces is the most that Limits.Namespaces can be. The ANA log page, with a group per
// namespace, must fit into one transfer, or the Linux host does without ANA: this many take
// 1 MiB, and a smaller MaxTransfer allows fewer.
const MaxNamespaces = 28 << 10

// anaLogPerNamespace is a group descriptor with one NSID, in bytes.
const anaLogPerNamespace = nvme.ANAGroupSize + 4

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field         *int
		def, low, top int
	}{
		{&l.Queues, 128, 1, 65_535},
		{&l.QueueEntries, 1024, 32, 65_536},
		{&l.MaxTransfer, 1 << 20, 2 * fusedBytes, 1 << 30},
		{&l.Controllers, 1024, 1, int(nvme.MaxControllerID)},
		{&l.Namespaces, 4096, 1, MaxNamespaces},
		{&l.AsyncEvents, 4, 1, 256},
		{&l.Aborts, 4, 1, 256},
		{&l.ErrorEntries, 64, 1, 256},
	} {
		if *d.field <= 0 {
			*d.field = d.def
		}
		*d.field = min(max(*d.field, d.low), d.top)
	}
	l.MaxTransfer = 1 << (bits.Len(uint(l.MaxTransfer)) - 1)
	l.Namespaces = min(l.Namespaces, (l.MaxTransfer-nvme.ANALogHeaderSize)/anaLogPerNamespace)
	for _, d := range []struct {
		field *time.Duration
		def   time.Duration
	}{
		{&l.ConnectTimeout, 10 * time.Second},
		{&l.DataTimeout, 30 * time.Second},
		{&l.DiscoveryTimeout, 2 * time.Minute},
		{&l.DisabledTimeout, 2 * time.Minute},
		{&l.LossGrace, 5 * time.Second},
		{&l.AbortWait, time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.def
		}
	}
	return l
}
