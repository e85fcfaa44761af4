package main

import (
	"strings"
	"testing"
)

func TestReplaceMarked(t *testing.T) {
	doc := "a\n" + markBegin + "old\n" + markEnd + "b\n"
	got, err := replaceMarked(doc, "new\n")
	if want := "a\n" + markBegin + "\nnew\n\n" + markEnd + "b\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if _, err := replaceMarked("a\n"+markBegin, "new\n"); err == nil {
		t.Error("a document without the end mark was accepted")
	}
}

func TestParseRing(t *testing.T) {
	const out = `goos: linux
BenchmarkCommand/read/qd=32/pair=1/call-2  1000  26011 ns/op  157.47 MB/s  9000 cpu-ns/op  0 doorbells/op
BenchmarkCommand/read/qd=32/pair=1/ring-2  1000  30492 ns/op  134.33 MB/s  9900 cpu-ns/op  0.1102 doorbells/op
BenchmarkCommand/write/qd=32/pair=1/call  1000  1 ns/op  1 MB/s  1000 cpu-ns/op  0 doorbells/op
BenchmarkCommand/write/qd=32/pair=1/ring  1000  1 ns/op  1 MB/s  3000 cpu-ns/op  0.5 doorbells/op
PASS
`
	got, err := parseRing(strings.NewReader(out))
	if err != nil || len(got) != 2 {
		t.Fatalf("got %+v, %v, want two", got, err)
	}
	for i, want := range []struct {
		op    string
		ratio float64
		bells float64
	}{{"read", 1.1, 0.1102}, {"write", 3, 0.5}} {
		x := got[i]
		if x.Op != want.op || x.QueueDepth != 32 || x.CPU.Median != want.ratio || x.Doorbells != want.bells || x.Goal != 1.15 {
			t.Errorf("got %+v, want %+v", x, want)
		}
	}
	if _, err := parseRing(strings.NewReader("PASS\n")); err == nil {
		t.Error("an output without figures was accepted")
	}
}

func TestFioSample(t *testing.T) {
	const out = `{"fio version":"fio-3.33","jobs":[{"jobname":"bench","error":0,"usr_cpu":10,"sys_cpu":30,"job_runtime":2000,
		"read":{"total_ios":20000,"runtime":2000,"clat_ns":{"percentile":{"50.000000":100000,"99.000000":900000}}},
		"write":{"total_ios":0,"runtime":0}}]}`
	got, err := fioSample([]byte(out), load{"randread", 4096, 32})
	want := Sample{IOPS: 10_000, MiBps: 39.0625, P50: 100, P99: 900, CPU: 0.8, Seconds: 2}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := fioSample([]byte(out), load{"randwrite", 4096, 32}); err == nil {
		t.Error("a load that did nothing was accepted")
	}
}
