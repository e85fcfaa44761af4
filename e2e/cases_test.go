//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/e2e/rig"
)

const (
	gib = 1 << 30 // bytes

	namespaceBytes = 1 * gib // of the volume that "agent -dev" makes
)

// TestInitiator is a good day: everything that an administrator does with a namespace, digests on.
func TestInitiator(t *testing.T) {
	m := run(t, guestCase{script: "initiator.sh"})
	t.Run("discovery log", m.discovery)
	t.Run("identify controller", m.identifyController)
	t.Run("identify namespace", m.identifyNamespace)
	t.Run("ana log", m.anaLog)
	t.Run("smart log", m.smartLog)
	if targetUnderTest() == "mooring" {
		t.Run("every byte crossed a ring", m.ringBytes)
	}
}

// TestFaults kills our processes under I/O, and holds reservations over it.
func TestFaults(t *testing.T) {
	m := run(t, guestCase{
		script: "faults.sh", disks: []rig.Disk{newDisk(t, 4*gib, false)},
		onStatus: func(line string) { t.Log(line) },
	})
	if targetUnderTest() == "mooring" {
		t.Run("reservation reports", m.reservations)
	}
}

// TestOpenISCSI is Linux's own iSCSI initiator: discovery, CHAP, digests, a file system, and I/O over the death of our
// processes.
func TestOpenISCSI(t *testing.T) {
	run(t, guestCase{script: "open-iscsi.sh", target: "mooring"})
}

// TestMultipath has a host at two access points of one node, between which its path moves.
func TestMultipath(t *testing.T) {
	run(t, guestCase{script: "multipath.sh", target: "mooring"})
}

func (m *machine) discovery(t *testing.T) {
	var log struct {
		Genctr  int
		Records []struct{ Trtype, Adrfam, Subtype, Trsvcid, Subnqn, Traddr string }
	}
	m.decode(t, "discover.json", &log)
	want := map[string]string{"mooring": devNQN, "kernel": kernelNQN}[targetUnderTest()]
	for _, r := range log.Records {
		if r.Subnqn == want && r.Trtype == "tcp" && r.Traddr == "127.0.0.1" && r.Trsvcid == "4420" {
			return
		}
	}
	t.Fatalf("%s on 127.0.0.1:4420 is not in %+v", want, log.Records)
}

func (m *machine) identifyController(t *testing.T) {
	var id struct {
		Subnqn                       string
		Ver, Cntrltype, Cmic, Anacap int
		NN, MNAN, Sqes, Cqes, Kas    int
		Sn, Mn                       string
		Anagrpmax, Nanagrpid, Mdts   int
	}
	m.decode(t, "id-ctrl.json", &id)
	if !strings.HasPrefix(id.Subnqn, "nqn.") || strings.TrimSpace(id.Sn) == "" || strings.TrimSpace(id.Mn) == "" {
		t.Errorf("names: %q %q %q", id.Subnqn, id.Sn, id.Mn)
	}
	if id.Cntrltype != 1 {
		t.Errorf("controller type %d, want 1 (I/O)", id.Cntrltype)
	}
	if id.Cmic&8 == 0 {
		t.Errorf("CMIC %#x says nothing of ANA", id.Cmic)
	}
	if id.MNAN < 1 || id.MNAN > id.NN {
		t.Errorf("MNAN %d is not in 1...NN (%d)", id.MNAN, id.NN)
	}
	if id.Sqes != 0x66 || id.Cqes != 0x44 || id.Kas == 0 {
		t.Errorf("SQES %#x, CQES %#x, KAS %d", id.Sqes, id.Cqes, id.Kas)
	}
	if id.Nanagrpid < 1 || id.Anagrpmax < id.Nanagrpid {
		t.Errorf("NANAGRPID %d, ANAGRPMAX %d", id.Nanagrpid, id.Anagrpmax)
	}
}

func (m *machine) identifyNamespace(t *testing.T) {
	var id struct {
		Nsze, Ncap, Nuse int64
		Flbas, Nmic      int
		Anagrpid         int
		Nguid            string
		Lbafs            []struct{ Ms, Ds, Rp int }
	}
	m.decode(t, "id-ns.json", &id)
	if format := id.Flbas & 15; format >= len(id.Lbafs) || id.Nsze<<id.Lbafs[format].Ds != namespaceBytes {
		t.Errorf("size %d blocks of format %d in %+v, want %d bytes", id.Nsze, format, id.Lbafs, namespaceBytes)
	}
	if id.Ncap > id.Nsze || id.Nuse > id.Ncap {
		t.Errorf("NSZE %d, NCAP %d, NUSE %d", id.Nsze, id.Ncap, id.Nuse)
	}
	if id.Nmic&1 == 0 {
		t.Error("the namespace is not shared")
	}
	if id.Anagrpid < 1 {
		t.Errorf("ANA group %d", id.Anagrpid)
	}
}

func (m *machine) anaLog(t *testing.T) {
	state, err := os.ReadFile(filepath.Join(m.results, "ana-state.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(state)); got != "optimized" {
		t.Errorf("the kernel sees the path as %q", got)
	}
	text, err := os.ReadFile(filepath.Join(m.results, "ana-log.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "optimized") {
		t.Errorf("no group is optimized:\n%s", text)
	}
}

func (m *machine) smartLog(t *testing.T) {
	var log struct {
		CriticalWarning int `json:"critical_warning"`
	}
	m.decode(t, "smart-log.json", &log)
	if log.CriticalWarning != 0 {
		t.Errorf("critical warning %#x", log.CriticalWarning)
	}
}

// Counters of the payload that crossed the core's rings, bytes, from the core's own side.
const (
	ringReadMetric  = "mooring_ring_read_bytes_total"
	ringWriteMetric = "mooring_ring_write_bytes_total"
)

// ringBytes compares what the host counted during a run of fio with what the core's rings carried.
func (m *machine) ringBytes(t *testing.T) {
	before, after := m.hostBytes(t, "before"), m.hostBytes(t, "after")
	for i, metric := range []string{ringReadMetric, ringWriteMetric} {
		host := after[i] - before[i]
		ring := m.metric(t, "after", metric) - m.metric(t, "before", metric)
		if host == 0 || ring != host {
			t.Errorf("%s grew by %.0f while the host moved %.0f bytes", metric, ring, host)
		}
	}
}

// hostBytes returns what the kernel has read from and written to namespace 1, bytes.
func (m *machine) hostBytes(t *testing.T, when string) [2]float64 {
	t.Helper()
	const readField, writeField, sector = 2, 6, 512 // Documentation/block/stat.rst
	text, err := os.ReadFile(filepath.Join(m.results, "stat-"+when+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	var bytes [2]float64
	for i, field := range []int{readField, writeField} {
		n, err := strconv.ParseFloat(fields[field], 64)
		if err != nil {
			t.Fatal(err)
		}
		bytes[i] = n * sector
	}
	return bytes
}

// metric sums a metric over all its labels.
func (m *machine) metric(t *testing.T, when, name string) float64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.results, "metrics-"+when+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(text)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if base, _, _ := strings.Cut(series, "{"); !ok || base != name {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum, found = sum+n, true
	}
	if !found {
		t.Fatalf("the agent has no metric %s", name)
	}
	return sum
}

// resvReport is what nvme-cli prints of the extended reservation status.
type resvReport struct {
	Gen    int64
	Rtype  int
	Regctl int
	Ptpls  int
	Hosts  []resvHost `json:"regctlext"`
}

type resvHost struct {
	Cntlid int
	Rcsts  int
	Rkey   uint64
	Hostid string
}

func (m *machine) reservations(t *testing.T) {
	const keyA, keyB = 0xa1, 0xb2
	for _, want := range []struct {
		report string
		rtype  int
		holder uint64   // key; 0: nobody
		keys   []uint64 // of all registrants
	}{
		{"registered", 0, 0, []uint64{keyA, keyB}},
		{"acquired", 1, keyA, []uint64{keyA, keyB}},
		{"preempted", 1, keyB, []uint64{keyB}},
		{"restarted", 1, keyB, []uint64{keyB}},
		{"unregistered", 0, 0, nil},
	} {
		var got resvReport
		m.decode(t, "resv-"+want.report+".json", &got)
		if got.Rtype != want.rtype || len(got.Hosts) != len(want.keys) {
			t.Errorf("%s: %+v, want type %d and keys %#x", want.report, got, want.rtype, want.keys)
			continue
		}
		for _, host := range got.Hosts {
			if holds := host.Rcsts&1 == 1; holds != (host.Rkey == want.holder) {
				t.Errorf("%s: key %#x holds: %v", want.report, host.Rkey, holds)
			}
		}
	}
}
