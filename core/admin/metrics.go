package admin

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/supervisor"
)

// Metrics returns the Prometheus endpoint. Everything is read when it is asked for.
func (s *Server) Metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{server: s})
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	return m
}

// collector reads the node's counters. It declares no metrics beforehand, since
// plugins bring their own.
type collector struct {
	server *Server
	mu     sync.Mutex // one scrape at a time
}

func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s := c.server
	e := emitter{out: out}
	if st, err := s.Access.Stats(ctx); err == nil {
		e.access(st)
	}
	if stores, err := s.Agent.Stores(ctx); err == nil {
		for _, x := range stores {
			up := 0.0
			if x.State == "active" || x.State == "draining" {
				up = 1
			}
			l := labels{"store", x.Name}
			e.gauge("mooring_store_up", "1 while the store serves.", up, l)
			e.gauge("mooring_store_capacity_bytes", "What the store may grow to.", float64(x.Capacity), l)
			e.gauge("mooring_store_used_bytes", "Space in use.", float64(x.Used), l)
			e.gauge("mooring_store_free_bytes", "Space that new blocks may use.", float64(x.Free), l)
			e.gauge("mooring_store_promised_bytes", "Sum of the sizes of the volumes.", float64(x.Promised), l)
			e.gauge("mooring_store_extents", "Extents on the store.", float64(x.Extents), l)
		}
	}
	for _, x := range s.Agent.Listeners() {
		up := 0.0
		if x.State == "up" {
			up = 1
		}
		e.gauge("mooring_access_point_up", "1 while hosts can connect.", up, labels{"url", x.URL, "plugin", x.Plugin})
	}
	e.plugins(s.Supervisor.List())
}

type labels []string // name, value, …

type emitter struct{ out chan<- prometheus.Metric }

func (e emitter) desc(name, help string, l labels) (*prometheus.Desc, []string) {
	var names, values []string
	for i := 0; i+1 < len(l); i += 2 {
		names, values = append(names, l[i]), append(values, l[i+1])
	}
	return prometheus.NewDesc(name, help, names, nil), values
}

func (e emitter) value(t prometheus.ValueType, name, help string, v float64, l labels) {
	d, values := e.desc(name, help, l)
	m, err := prometheus.NewConstMetric(d, t, v, values...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	e.out <- m
}

func (e emitter) gauge(name, help string, v float64, l labels) {
	e.value(prometheus.GaugeValue, name, help, v, l)
}

func (e emitter) counter(name, help string, v uint64, l labels) {
	e.value(prometheus.CounterValue, name, help, float64(v), l)
}

// histogram publishes one in whole octaves: quarters would make many series.
func (e emitter) histogram(name, help string, h *access.Histogram, l labels) {
	d, values := e.desc(name, help, l)
	buckets := map[float64]uint64{}
	var sum uint64
	for i, n := range h.Buckets[:access.HistogramBuckets-1] {
		sum += n
		if i%4 == 3 {
			buckets[float64(access.Bound(i))/1e9] = sum
		}
	}
	m, err := prometheus.NewConstHistogram(d, h.Count, float64(h.Sum)/1e9, buckets, values...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	e.out <- m
}

func (e emitter) access(st access.Stats) {
	e.counter("mooring_reactor_turns_total", "Rounds of the reactor.", st.Turns, nil)
	e.counter("mooring_reactor_sleeps_total", "Rounds in which the reactor waited.", st.Sleeps, nil)
	for i := range st.Volumes {
		v := &st.Volumes[i]
		l := labels{"volume", v.Name, "id", v.Volume.String()}
		e.counter("mooring_volume_reads_total", "Read commands.", v.Reads, l)
		e.counter("mooring_volume_writes_total", "Commands that change data.", v.Writes, l)
		e.counter("mooring_volume_read_bytes_total", "Bytes read.", v.ReadBytes, l)
		e.counter("mooring_volume_write_bytes_total", "Bytes written, zeroed or discarded.", v.WriteBytes, l)
		e.counter("mooring_volume_errors_total", "Commands that failed.", v.Errors, l)
		e.counter("mooring_volume_forwarded_total", "Commands that went to the node that drives the volume.", v.Forwarded, l)
		e.counter("mooring_volume_forwarded_bytes_total", "Bytes of their data.", v.ForwardedBytes, l)
		e.counter("mooring_volume_corrupt_reads_total", "Reads that found a damaged block on a replica.", v.Corrupt, l)
		e.counter("mooring_volume_repaired_blocks_total", "Damaged blocks that were repaired from another replica.", v.Repaired, l)
		e.counter("mooring_volume_resync_bytes_total", "Bytes that were copied to stores that got a replica.", v.Copied, l)
		e.counter("mooring_volume_restored_extents_total", "Extents that got another replica.", v.Joined, l)
		e.gauge("mooring_volume_reduced_extents", "Extents with fewer replicas than they are to have.", float64(v.Health.Reduced), l)
		e.gauge("mooring_volume_out_of_reach_extents", "Extents of which a replica is out of reach.", float64(v.Health.Away), l)
		e.gauge("mooring_volume_resync_left_bytes", "Bytes to be copied, as far as is known.", float64(v.Health.Left), l)
		e.gauge("mooring_volume_in_flight", "Commands under way.", float64(v.InFlight), l)
		e.histogram("mooring_volume_read_seconds", "Time of a read in the core.", &v.Read, l)
		e.histogram("mooring_volume_write_seconds", "Time of a change in the core.", &v.Write, l)
	}
	for i := range st.Clients {
		c := &st.Clients[i]
		const name, help = "mooring_stage_seconds", "Time of a command in each stage: ring (submitted to taken), core (without the disk), disk."
		e.histogram(name, help, &c.Ring, labels{"plugin", c.Name, "stage", "ring"})
		e.histogram(name, help, &c.Core, labels{"plugin", c.Name, "stage", "core"})
		e.histogram(name, help, &c.Disk, labels{"plugin", c.Name, "stage", "disk"})
		for t, n := range c.Counters {
			l := labels{"plugin", c.Name, "thread", fmt.Sprint(t)}
			e.counter("mooring_ring_entries_total", "Entries that the core took.", n.Entries, l)
			e.counter("mooring_ring_doorbells_total", "Times the core rang for the plugin.", n.Doorbells, l)
			e.counter("mooring_ring_full_total", "Times the core found the ring full.", n.Full, l)
			e.counter("mooring_ring_sleeps_total", "Times the core announced sleep.", n.Sleeps, l)
			e.counter("mooring_ring_read_bytes_total", "Payload that the core put into the pool.", n.ReadBytes, l)
			e.counter("mooring_ring_write_bytes_total", "Payload that the core took from the pool.", n.WriteBytes, l)
		}
	}
}

// plugins publishes their state, and the metrics that they report, under their names.
func (e emitter) plugins(all []supervisor.Status) {
	for _, p := range all {
		up := 0.0
		if p.State == supervisor.StateRunning && p.Healthy {
			up = 1
		}
		l := labels{"plugin", p.Entry.Name}
		e.gauge("mooring_plugin_up", "1 while the plugin runs and is healthy.", up, l)
		e.counter("mooring_plugin_restarts_total", "Lives that ended without being asked to.", p.Restarts, l)
		e.reported(p.Entry.Name, p.Metrics)
	}
}
