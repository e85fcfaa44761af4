package nvmf

import "time"

// Limits bound what hosts may ask for. A zero field means its default.
type Limits struct {
	Queues       int // I/O queue pairs of one controller; 128
	QueueEntries int // of any queue, 2 to 65,536; 1024
	MaxTransfer  int // bytes of one command's data, a power of two from 4 KiB to what the pool can allocate; 1 MiB
	Controllers  int // I/O and discovery controllers of this process; 1024
	Namespaces   int // highest NSID that is served, 1 to MaxNamespaces; 4096
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

// MaxNamespaces is the most that Limits.Namespaces can be: the ANA log page, with a group per
// namespace, must fit into one transfer of 1 MiB.
const MaxNamespaces = 28 << 10

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field    *int
		def, max int
	}{
		{&l.Queues, 128, 65_535},
		{&l.QueueEntries, 1024, 65_536},
		{&l.MaxTransfer, 1 << 20, 1 << 30},
		{&l.Controllers, 1024, 65_519},
		{&l.Namespaces, 4096, MaxNamespaces},
		{&l.AsyncEvents, 4, 256},
		{&l.Aborts, 4, 256},
		{&l.ErrorEntries, 64, 256},
	} {
		if *d.field <= 0 {
			*d.field = d.def
		}
		*d.field = min(*d.field, d.max)
	}
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
