package sdk

import (
	"fmt"
	"runtime/metrics"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/proto"
)

const (
	defaultHealthInterval = 2 * time.Second
	minHealthInterval     = 10 * time.Millisecond
	// stuckAfter is how many intervals an I/O thread may go without a turn before
	// the plugin is reported unhealthy; hungAfter, before reports end altogether, so
	// that the core takes the plugin for hung and starts it anew.
	stuckAfter = 2
	hungAfter  = 5
)

// health reports how a plugin is: what its author says, whether its I/O threads
// turn, and what the process uses.
type health struct {
	service *Service
	closed  chan struct{}
	once    sync.Once
	changed chan struct{} // capacity 1

	mu      sync.Mutex
	threads []*pulse // guarded by mu
}

// pulse tells whether an I/O thread turns.
type pulse struct {
	thread *block.Thread
	asked  bool // a beat is under way
	beat   atomic.Bool
	missed int // reports since the beat was asked for
}

func newHealth(s *Service) *health {
	return &health{service: s, closed: make(chan struct{}), changed: make(chan struct{}, 1)}
}

func (h *health) close() { h.once.Do(func() { close(h.closed) }) }

// wake has a report sent now.
func (h *health) wake() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// watch makes threads the ones to look after.
func (h *health) watch(threads []*block.Thread) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.threads = nil
	for _, t := range threads {
		h.threads = append(h.threads, &pulse{thread: t})
	}
}

// stream reports until the core has enough or the plugin ends. A core has one stream
// per plugin: with several, changes may be reported on any one of them.
func (h *health) stream(req *proto.HealthRequest, out grpc.ServerStreamingServer[proto.HealthReport]) error {
	interval := time.Duration(req.IntervalMs) * time.Millisecond
	if interval == 0 {
		interval = defaultHealthInterval
	}
	tick := time.NewTicker(max(interval, minHealthInterval))
	defer tick.Stop()
	for due := true; ; {
		report, hung := h.report(due)
		if !hung {
			if err := out.Send(report); err != nil {
				return err
			}
		}
		select {
		case <-out.Context().Done():
			return nil
		case <-h.closed:
			return nil
		case <-h.changed:
			due = false
		case <-tick.C:
			due = true
		}
	}
}

// report says how the plugin is; hung means that the core should not hear it. due
// is false between two intervals: threads are not judged then.
func (h *health) report(due bool) (r *proto.HealthReport, hung bool) {
	r = &proto.HealthReport{Healthy: true, Metrics: processMetrics()}
	if p, ok := h.service.plugin.(HealthReporter); ok {
		own := p.Health()
		r.Healthy, r.Reason = own.Reason == "", own.Reason
		for _, m := range own.Metrics {
			r.Metrics = append(r.Metrics, &proto.Metric{Name: m.Name, Value: m.Value, Labels: m.Labels, Counter: m.Counter})
		}
	}
	h.mu.Lock()
	for i, p := range h.threads {
		r.Metrics = append(r.Metrics, stageMetrics(i, p.thread.Stage())...)
	}
	h.mu.Unlock()
	missed, thread := h.feel(due)
	if missed >= stuckAfter {
		r.Healthy, r.Reason = false, fmt.Sprintf("I/O thread %d is stuck in a callback", thread)
	}
	return r, missed > hungAfter
}

// feel returns the most beats that a thread has missed, and which thread.
func (h *health) feel(due bool) (missed, thread int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, p := range h.threads {
		if due {
			p.feel()
		}
		if p.missed > missed {
			missed, thread = p.missed, i
		}
	}
	return missed, thread
}

func (p *pulse) feel() {
	if p.asked && !p.beat.Load() {
		p.missed++
		return
	}
	p.missed, p.asked = 0, true
	p.beat.Store(false)
	p.thread.Post(func() { p.beat.Store(true) })
}

// stageMetrics is a thread's latency histogram, in the form that Prometheus queries
// expect of one.
func stageMetrics(thread int, s *block.Stage) []*proto.Metric {
	buckets, sum := s.Read()
	id := strconv.Itoa(thread)
	var out []*proto.Metric
	var count uint64
	for i, n := range buckets {
		count += n
		le := "+Inf"
		if i < block.StageBuckets-1 {
			le = strconv.FormatFloat(float64(block.StageBound(i))/1e9, 'g', -1, 64)
		}
		out = append(out, &proto.Metric{Name: "stage_seconds_bucket", Value: float64(count), Labels: map[string]string{"thread": id, "le": le}, Counter: true})
	}
	return append(out,
		&proto.Metric{Name: "stage_seconds_sum", Value: float64(sum) / 1e9, Labels: map[string]string{"thread": id}, Counter: true},
		&proto.Metric{Name: "stage_seconds_count", Value: float64(count), Labels: map[string]string{"thread": id}, Counter: true})
}

// processMetrics is what every plugin reports.
func processMetrics() []*proto.Metric {
	samples := []metrics.Sample{
		{Name: "/sched/goroutines:goroutines"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}
	metrics.Read(samples)
	out := []*proto.Metric{
		{Name: "goroutines", Value: float64(samples[0].Value.Uint64())},
		{Name: "heap_bytes", Value: float64(samples[1].Value.Uint64())},
	}
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err == nil {
		cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
		out = append(out, &proto.Metric{Name: "cpu_seconds_total", Value: cpu.Seconds(), Counter: true})
	}
	return out
}
