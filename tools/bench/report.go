package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// report is everything that a run found out.
type report struct {
	Conditions Conditions `json:"conditions"`
	Rings      []Ring     `json:"rings,omitempty"`
	Pairs      []Pair     `json:"pairs,omitempty"`
	Idles      []Idle     `json:"idle,omitempty"`
	Skipped    []skipped  `json:"skipped,omitempty"`
}

// skipped is a row that was not measured.
type skipped struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Why   string `json:"why"`
}

func (r *report) markdown(w io.Writer) {
	r.Conditions.markdown(w)
	if len(r.Rings) > 0 {
		fmt.Fprint(w, "\n### The rings beside function calls\n\n")
		fmt.Fprintln(w, "| commands, `core/access` alone | CPU µs each, call | ring | CPU ratio | wanted | time ratio | doorbells each |")
		fmt.Fprintln(w, "| --- | ---: | ---: | --- | --- | --- | ---: |")
		for _, x := range r.Rings {
			x.markdown(w)
		}
	}
	if len(r.Pairs) > 0 {
		fmt.Fprint(w, "\n### Mooring beside others\n\n")
		fmt.Fprintln(w, "| load, store, durability | peer | IOPS (MiB/s) ours | theirs | ratio | wanted | p50 / p99 µs ours | theirs | CPU µs per I/O ours | theirs | per CPU s | wanted |")
		fmt.Fprintln(w, "| --- | --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | --- | --- |")
		for _, p := range r.Pairs {
			p.markdown(w)
		}
	}
	if len(r.Idles) > 0 {
		fmt.Fprint(w, "\n### An idle node\n\n")
		fmt.Fprintln(w, "| volumes, connected hosts | processes | CPU, % of a core | wanted | resident MiB | wanted | shared pages counted once |")
		fmt.Fprintln(w, "| --- | ---: | --- | --- | ---: | --- | ---: |")
		for _, x := range r.Idles {
			cpu := medianOf(x.CPU)
			fmt.Fprintf(w, "| %d, 1 | %d | %.2f [%.2f–%.2f] | < %g %s | %d | < %d %s | %d |\n", x.Volumes, x.Processes, cpu.Median, cpu.Low, cpu.High,
				idleGoalCPU, mark(cpu.Median < idleGoalCPU), x.RSS>>20, idleGoalRSS>>20, mark(x.RSS < idleGoalRSS), x.PSS>>20)
		}
	}
	if len(r.Skipped) > 0 {
		fmt.Fprint(w, "\nNot measured:\n\n")
		for _, why := range r.reasons() {
			fmt.Fprintf(w, "- %s: %s\n", why.Title, why.Why)
		}
	}
}

// reasons are the skipped rows, those that lack the same in one.
func (r *report) reasons() []skipped {
	var all []skipped
	for _, s := range r.Skipped {
		if i := slices.IndexFunc(all, func(x skipped) bool { return x.Why == s.Why }); i >= 0 {
			all[i].Title += "; " + s.Title
			continue
		}
		all = append(all, s)
	}
	return all
}

func (c *Conditions) markdown(w io.Writer) {
	fmt.Fprintf(w, "%s, %s, %s, Linux %s, %d × %s; load average %s, stolen CPU time %s.\n\n", c.Date, c.Mooring, c.Go, c.Kernel, c.CPUs, c.CPU, c.Load, c.Steal)
	fmt.Fprintf(w, "- Targets (and fio) on %s, the load generator on %s, all at nice %d; %d pairs of %s each, by turns; medians, and intervals that hold the\n", c.Target, c.Host, c.Nice, c.Pairs, c.Time)
	fmt.Fprintf(w, "  true median with 95 %% (fewer than 6 pairs: the extremes). Volumes and files: %d MiB, written in full before, ours twice.\n", c.Size>>20)
	fmt.Fprintf(w, "- disk: %s. O_DIRECT on all sides. memory: %s (ours, through the page cache), SPDK's own (malloc).\n", c.Disk, c.Memory)
	fmt.Fprintln(w, "- volatile: a write is acknowledged before it is flushed; sync: when it is on the medium. The same on both sides.")
	fmt.Fprintf(w, "- SPDK: %s %s; fio: %s.\n", c.SPDK, code(c.SPDKArgs), c.Fio)
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func (x Ring) markdown(w io.Writer) {
	want := "–"
	if x.Goal > 0 {
		want = fmt.Sprintf("≤ %.2f %s", x.Goal, mark(x.CPU.Median <= x.Goal))
	}
	fmt.Fprintf(w, "| 4 KiB %s QD%d | %.2f | %.2f | %s | %s | %s | %.3f |\n", x.Op, x.QueueDepth,
		medianOf(x.CallCPU).Median/1e3, medianOf(x.RingCPU).Median/1e3, x.CPU, want, x.Time, x.Doorbells)
}

func (p Pair) markdown(w io.Writer) {
	iops := func(s Sample) float64 { return s.IOPS }
	of := func(s []Sample) string {
		return fmt.Sprintf("%s (%.0f)", thousands(medianBy(s, iops)), medianBy(s, func(s Sample) float64 { return s.MiBps }))
	}
	latency := func(s []Sample) string {
		return fmt.Sprintf("%.0f / %.0f", medianBy(s, func(s Sample) float64 { return s.P50 }), medianBy(s, func(s Sample) float64 { return s.P99 }))
	}
	fmt.Fprintf(w, "| %s, %s, %s | %s | %s | %s | %s | %s | %s | %s | %.1f | %.1f | %s | %s |\n", p.Load, p.Store, p.Durability, p.Peer,
		of(p.Ours), of(p.Theirs), p.IOPS, wanted("≥", p.Goals.IOPS, p.IOPS.Median >= p.Goals.IOPS),
		latency(p.Ours), latency(p.Theirs), medianBy(p.Ours, Sample.PerIO), medianBy(p.Theirs, Sample.PerIO),
		p.PerCPU, wanted(">", p.Goals.PerCPU, p.PerCPU.Median > p.Goals.PerCPU))
}

// String is the median with its interval in brackets.
func (i Interval) String() string { return fmt.Sprintf("%.2f [%.2f–%.2f]", i.Median, i.Low, i.High) }

func wanted(sign string, goal float64, met bool) string {
	if goal == 0 {
		return "–"
	}
	return fmt.Sprintf("%s %.2f %s", sign, goal, mark(met))
}

func mark(met bool) string {
	if met {
		return "✓"
	}
	return "✗"
}

// thousands writes 12345 as 12.3 k.
func thousands(n float64) string {
	if n < 1e3 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.1f k", n/1e3)
}

// What lies between these lines of a document is replaced.
const (
	markBegin = "<!-- bench: begin -->\n"
	markEnd   = "<!-- bench: end -->\n"
)

func (r *report) intoDocument(path string) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var table bytes.Buffer
	r.markdown(&table)
	out, err := replaceMarked(string(doc), table.String())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(out), 0o644)
}

func replaceMarked(doc, table string) (string, error) {
	before, rest, ok := strings.Cut(doc, markBegin)
	_, after, ok2 := strings.Cut(rest, markEnd)
	if !ok || !ok2 {
		return "", errors.New("the bench marks are missing")
	}
	return before + markBegin + "\n" + table + "\n" + markEnd + after, nil
}
