package admin

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mooring-io/mooring/sdk/proto"
)

// maxReported bounds the series that one plugin can add to a scrape.
const maxReported = 1000

var metricName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// series is one of a plugin's metrics with its labels but "le".
type series struct {
	name   string
	labels labels
}

func (s series) key() string { return s.name + "\x00" + strings.Join(s.labels, "\x00") }

// histogramOf is what a plugin reports as NAME_bucket, NAME_sum and NAME_count.
type histogramOf struct {
	series
	buckets map[float64]uint64 // cumulative, by upper bound
	sum     float64
	count   uint64
}

// reported publishes what a plugin reports, under its name. What Prometheus would not take, and
// what is too much, is left out: a plugin cannot spoil the scrape of a node.
func (e emitter) reported(plugin string, all []*proto.Metric) {
	all = all[:min(len(all), maxReported)]
	histograms := map[string]*histogramOf{}
	for _, m := range all {
		base, ok := strings.CutSuffix(m.Name, "_bucket")
		le, err := strconv.ParseFloat(m.Labels["le"], 64)
		if s := seriesOf(plugin, base, m.Labels); ok && err == nil && s.valid() {
			h := histograms[s.key()]
			if h == nil {
				h = &histogramOf{series: s, buckets: map[float64]uint64{}}
				histograms[s.key()] = h
			}
			h.buckets[le] = uint64(m.Value)
		}
	}
	seen := map[string]bool{}
	for _, m := range all {
		s := seriesOf(plugin, m.Name, m.Labels)
		if _, isBucket := m.Labels["le"]; isBucket || !s.valid() || seen[s.key()] {
			continue
		}
		seen[s.key()] = true
		if base, ok := strings.CutSuffix(m.Name, "_sum"); ok {
			if h := histograms[seriesOf(plugin, base, m.Labels).key()]; h != nil {
				h.sum = m.Value
				continue
			}
		}
		if base, ok := strings.CutSuffix(m.Name, "_count"); ok {
			if h := histograms[seriesOf(plugin, base, m.Labels).key()]; h != nil {
				h.count = uint64(m.Value)
				continue
			}
		}
		t := prometheus.GaugeValue
		if m.Counter {
			t = prometheus.CounterValue
		}
		e.value(t, s.name, "Reported by the plugin.", m.Value, s.labels)
	}
	for _, key := range slices.Sorted(maps.Keys(histograms)) {
		h := histograms[key]
		d, values := e.desc(h.name, "Reported by the plugin.", h.labels)
		if m, err := prometheus.NewConstHistogram(d, h.count, h.sum, h.buckets, values...); err == nil {
			e.out <- m
		}
	}
}

func seriesOf(plugin, name string, from map[string]string) series {
	s := series{name: "mooring_plugin_" + name, labels: labels{"plugin", plugin}}
	for _, k := range slices.Sorted(maps.Keys(from)) {
		if k != "plugin" && k != "le" {
			s.labels = append(s.labels, k, from[k])
		}
	}
	return s
}

func (s series) valid() bool {
	for i := 0; i < len(s.labels); i += 2 {
		if !metricName.MatchString(s.labels[i]) || strings.HasPrefix(s.labels[i], "__") {
			return false
		}
	}
	return metricName.MatchString(s.name)
}
