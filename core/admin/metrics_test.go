package admin

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

// scrape collects what fn emits, as Prometheus would.
type scrape func(emitter)

func (scrape) Describe(chan<- *prometheus.Desc)       {}
func (s scrape) Collect(out chan<- prometheus.Metric) { s(emitter{out}) }

func gather(t *testing.T, fn scrape) map[string]*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(fn)
	all, err := r.Gather()
	if err != nil {
		t.Error(err)
	}
	problems, err := promlint.NewWithMetricFamilies(all).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("the linter of Prometheus says: %v, %v", problems, err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range all {
		byName[f.GetName()] = f
	}
	return byName
}

func metric(name string, v float64, counter bool, l ...string) *proto.Metric {
	m := &proto.Metric{Name: name, Value: v, Counter: counter, Labels: map[string]string{}}
	for i := 0; i < len(l); i += 2 {
		m.Labels[l[i]] = l[i+1]
	}
	return m
}

func TestMetricsFollowConventions(t *testing.T) {
	stats := access.Stats{
		Volumes: []access.VolumeStats{{Name: "a", Volume: uuid.New()}, {Name: "b", Volume: uuid.New()}},
		Clients: []access.ClientStats{{Name: "transport-tcp", Counters: make([]ring.Counters, 2)}},
	}
	plugins := []supervisor.Status{{Entry: supervisor.Entry{Name: "transport-tcp"}, Metrics: []*proto.Metric{
		metric("connections", 3, false), metric("cpu_seconds_total", 1.5, true),
		metric("stage_seconds_bucket", 1, true, "thread", "0", "le", "0.001"), metric("stage_seconds_bucket", 4, true, "thread", "0", "le", "+Inf"),
		metric("stage_seconds_sum", 2.5, true, "thread", "0"), metric("stage_seconds_count", 4, true, "thread", "0"),
	}}}
	got := gather(t, func(e emitter) { e.access(stats); e.plugins(plugins) })
	for _, name := range []string{
		"mooring_volume_read_seconds", "mooring_volume_write_seconds", "mooring_stage_seconds", "mooring_plugin_stage_seconds",
	} {
		if f := got[name]; f.GetType() != dto.MetricType_HISTOGRAM {
			t.Errorf("%s is no histogram: %v", name, f)
		}
	}
	h := got["mooring_plugin_stage_seconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 4 || h.GetSampleSum() != 2.5 || h.GetBucket()[0].GetCumulativeCount() != 1 {
		t.Errorf("a plugin's histogram: %v", h)
	}
	if n := len(got["mooring_ring_entries_total"].GetMetric()); n != 2 {
		t.Errorf("%d rings, want one for each thread", n)
	}
}

// A plugin that reports nonsense spoils nothing.
func TestHostileMetrics(t *testing.T) {
	bad := []*proto.Metric{
		metric("", 1, false), metric("Häh", 1, false), metric("a b", 1, false), metric("x", 1, false, "__name__", "y"),
		metric("x", 1, false, "a-b", "y"), metric("twice", 1, false), metric("twice", 2, false),
		metric("h_bucket", 1, true, "le", "one"), metric("h_bucket", 2, true),
	}
	for i := range 2 * maxReported {
		bad = append(bad, metric("many", 1, false, "i", fmt.Sprint(i)))
	}
	r := prometheus.NewRegistry()
	r.MustRegister(scrape(func(e emitter) {
		e.plugins([]supervisor.Status{{Entry: supervisor.Entry{Name: "bad"}, Metrics: bad}, {Entry: supervisor.Entry{Name: "good"}, Metrics: []*proto.Metric{metric("fine", 1, false)}}})
	}))
	all, err := r.Gather()
	if err != nil {
		t.Error(err)
	}
	total, fine := 0, false
	for _, f := range all {
		total += len(f.GetMetric())
		fine = fine || f.GetName() == "mooring_plugin_fine"
	}
	if !fine || total > maxReported+10 {
		t.Errorf("%d series, the good plugin's is there: %v", total, fine)
	}
}
