package access

import (
	"context"
	"math/bits"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/sdk/ring"
)

// Histogram counts durations in nanoseconds, in buckets a quarter of an octave
// wide, from 256 ns to over a minute. It has one writer, the reactor.
type Histogram struct {
	Buckets [HistogramBuckets]uint64
	Count   uint64
	Sum     uint64 // ns
}

// HistogramBuckets is the number of buckets of a Histogram.
const HistogramBuckets = 116

const firstOctave = 8 // 2^8 ns

// Bound is the upper bound of bucket i, in nanoseconds; the last one has none.
func Bound(i int) uint64 {
	octave, quarter := i/4+firstOctave, uint64(i%4)
	return 1<<octave + (quarter+1)<<(octave-2)
}

// Add counts one duration of ns nanoseconds; a negative one counts as 0.
func (h *Histogram) Add(ns int64) {
	v := uint64(max(ns, 0))
	h.Count++
	h.Sum += v
	h.Buckets[bucketOf(v)]++
}

func bucketOf(v uint64) int {
	if v < 1<<firstOctave {
		return 0
	}
	octave := bits.Len64(v) - 1
	i := (octave-firstOctave)*4 + int(v>>(octave-2)&3)
	return min(i, HistogramBuckets-1)
}

// Quantile is the duration, in ns, that a share q of all was not above.
func (h *Histogram) Quantile(q float64) uint64 {
	want := uint64(q * float64(h.Count))
	var seen uint64
	for i, n := range h.Buckets {
		if seen += n; seen > want {
			return Bound(i)
		}
	}
	return 0
}

// VolumeStats counts what a volume did since it was opened.
type VolumeStats struct {
	Volume     uuid.UUID
	Name       string
	Reads      uint64
	Writes     uint64 // writes, write zeroes, discards
	Others     uint64
	ReadBytes  uint64
	WriteBytes uint64
	Errors     uint64 // commands answered with anything but success or a miscompare
	InFlight   int
	// Forwarded commands went to the node that drives the volume, with so many bytes of data.
	Forwarded, ForwardedBytes uint64
	Away                      bool   // another node drives it
	Corrupt                   uint64 // reads that found a damaged block on a replica
	Repaired                  uint64 // blocks that were repaired from another replica
	Leveled                   uint64 // regions that were made equal on all replicas after a takeover
	Copied                    uint64 // bytes that were copied to stores that joined a set, or tried to
	Joined                    uint64 // extents that got another member
	Health                    Health
	Trouble                   string    // why some of it cannot be served; "" is well
	Read                      Histogram // time in the core
	Write                     Histogram
}

// ClientStats counts what one plugin's rings did.
type ClientStats struct {
	Name     string
	Ring     Histogram       // from the plugin's submission to the core's taking
	Core     Histogram       // in the core, without the disk
	Disk     Histogram       // at the disks
	Counters []ring.Counters // by I/O thread
}

// Stats is a copy of all counters at one moment.
type Stats struct {
	Volumes []VolumeStats
	Clients []ClientStats
	Turns   uint64 // of the reactor
	Sleeps  uint64 // turns that waited
}

// Stats copies the counters; it costs the reactor some microseconds.
func (a *Access) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	err := a.reactor.Do(ctx, func() {
		s.Turns, s.Sleeps = a.reactor.turns, a.reactor.sleeps
		for _, v := range a.volumes {
			vs := v.stats
			vs.Volume, vs.Name, vs.InFlight, vs.Health = v.id, v.name, v.inflight, v.health.Health
			vs.Away = v.away != nil
			if vs.Trouble == "" {
				vs.Trouble = v.disowned
			}
			s.Volumes = append(s.Volumes, vs)
		}
		for c := range a.clients {
			cs := c.stats
			cs.Name = c.name
			for _, p := range c.ports {
				if p.end == nil {
					continue
				}
				cs.Counters = append(cs.Counters, p.end.Counters())
			}
			s.Clients = append(s.Clients, cs)
		}
	})
	return s, err
}

// account counts a finished command.
func (v *Volume) account(o *op) {
	s := &v.stats
	end := v.access.reactor.now()
	if o.status != ring.StatusOK && o.status != ring.StatusCompareFailed {
		s.Errors++
	}
	n := uint64(o.range_.to - o.range_.from)
	switch {
	case o.kind == ring.OpRead:
		s.Reads++
		s.ReadBytes += n
		s.Read.Add(end - o.taken)
	case o.changes():
		s.Writes++
		s.WriteBytes += n
		s.Write.Add(end - o.taken)
	default:
		s.Others++
	}
	c := &o.port.client.stats
	c.Ring.Add(o.taken - o.submitted)
	c.Core.Add(end - o.taken - o.disk)
	c.Disk.Add(o.disk)
}
