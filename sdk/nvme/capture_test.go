package nvme

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/capture"
)

var update = flag.Bool("update", false, "write the fields that are found in the captures into them")

// The captures: what a Linux host and nvme-cli asked, and what each target answered.
var captures = []string{"testdata/mooring.txt", "testdata/linux.txt"}

func captured(t testing.TB, path string) capture.File {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := capture.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return f
}

// TestCaptures parses each command, structure and completion that a Linux host exchanged with our
// target and with Linux's own, compares the fields with those that the capture says are there, and
// encodes it again: it must come out byte for byte.
func TestCaptures(t *testing.T) {
	for _, path := range captures {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			f := captured(t, path)
			var cmd *Command
			for i := range f.Records {
				r := &f.Records[i]
				name, part, _ := strings.Cut(r.Name, ": ")
				var fields []string
				var again []byte
				switch part {
				case "command":
					cmd = (*Command)(r.Bytes)
					fields, again = commandAgain(t, name, cmd)
				case "data":
					fields, again = dataAgain(t, r.Name, cmd, r.Bytes)
				case "completion":
					fields, again = completionAgain(t, r.Name, cmd, r.Bytes)
				}
				if at := differ(again, r.Bytes, !strings.Contains(path, "linux")); at >= 0 {
					t.Errorf("%s: encoded again it is not what it was, from byte %d on:\n%s\nwas\n%s", r.Name, at, row(again, at), row(r.Bytes, at))
				}
				if *update {
					r.Fields = fields
				} else if !slices.Equal(r.Fields, fields) {
					t.Errorf("%s: fields\n\t%s\nwant\n\t%s", r.Name, strings.Join(fields, "\n\t"), strings.Join(r.Fields, "\n\t"))
				}
			}
			if *update && !t.Failed() {
				if err := os.WriteFile(path, f.Append(nil), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// differ returns where a and b differ, or -1. Linux's target pads the strings of its discovery log
// with NULs where the standard has spaces (Base 1.4.2); unless exact, they are taken for the same.
func differ(a, b []byte, exact bool) int {
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] && (exact || a[i] != ' ' || b[i] != 0) {
			return i
		}
	}
	return -1
}

func row(b []byte, at int) string { return hex.Dump(b[min(at, len(b)):min(at+32, len(b))]) }

// rangeOfBlocks is what Read, Write, Compare, Write Zeroes and Verify have in common.
type rangeOfBlocks struct {
	NSID       NSID
	StartLBA   LBA
	Blocks     BlockCount
	FUA        bool
	Deallocate bool
}

// plain is a command of which only these fields mean something.
type plain struct {
	Opcode Opcode
	NSID   NSID
}

// commandAgain unpacks a command and packs it again.
func commandAgain(t *testing.T, name string, c *Command) (fields []string, again []byte) {
	t.Helper()
	var v interface{ Command() Command }
	isAdmin := !strings.HasPrefix(name, "io ")
	switch op := c.Opcode(); {
	case op == OpcodeFabrics:
		v = fabricsOf(t, c)
	case isAdmin && op == AdminIdentify:
		v = ParseIdentify(c)
	case isAdmin && op == AdminGetLogPage:
		v = ParseGetLogPage(c)
	case isAdmin && (op == AdminGetFeatures || op == AdminSetFeatures):
		v = ParseFeatures(c)
	case op == IOFlush:
		v = plain{op, c.NSID()}
	case op == IODatasetManagement:
		v = ParseDatasetManagement(c)
	case op == IOReservationReport:
		v = ParseReservationReport(c)
	case op == IOReservationRegister || op == IOReservationAcquire || op == IOReservationRelease:
		v = ParseReservationCommand(c)
	default:
		v = blocks{op, rangeOfBlocks{c.NSID(), c.StartLBA(), c.Blocks(), c.FUA(), c.Deallocate()}}
	}
	packed := v.Command()
	packed.SetCID(c.CID())
	packed.SetSGL1(c.SGL1())
	return append(capture.Fields(v), capture.Fields(struct{ SGL1 SGL }{c.SGL1()})...), packed[:]
}

func (p plain) Command() Command { return command(p.Opcode, p.NSID) }

type blocks struct {
	Opcode Opcode
	rangeOfBlocks
}

func (b blocks) Command() Command {
	c := command(b.Opcode, b.NSID)
	c.SetStartLBA(b.StartLBA)
	c.SetBlocks(b.Blocks)
	c.SetFUA(b.FUA)
	c.SetDeallocate(b.Deallocate)
	return c
}

func fabricsOf(t *testing.T, c *Command) interface{ Command() Command } {
	switch c.FabricsType() {
	case FabricsConnect:
		return ParseConnect(c)
	case FabricsPropertyGet:
		return ParsePropertyGet(c)
	case FabricsPropertySet:
		return ParsePropertySet(c)
	default:
		t.Fatalf("Fabrics command %v", c.FabricsType())
		return nil
	}
}

// again parses one structure at the start of b, after checking that no shorter b will do.
func again[T structure](parse func([]byte) (T, int, error)) func(*testing.T, []byte) (any, []byte) {
	return func(t *testing.T, b []byte) (any, []byte) {
		v, n, err := parse(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if _, _, err := parse(b[:i:i]); !errors.Is(err, ErrTruncated) {
				t.Fatalf("%T: %d of %d bytes: %v", v, i, n, err)
			}
		}
		return v, v.Append(nil)
	}
}

// structureOf finds the decoder of a command's data; after the first structure, more may follow.
func structureOf(c *Command, at int) func(*testing.T, []byte) (any, []byte) {
	switch op := c.Opcode(); op {
	case OpcodeFabrics:
		return again(ParseConnectData)
	case AdminIdentify:
		return map[CNS]func(*testing.T, []byte) (any, []byte){
			CNSNamespace: again(ParseIdentifyNamespace), CNSController: again(ParseIdentifyController),
			CNSActiveNamespaces: again(ParseNSList), CNSAllocatedNamespaces: again(ParseNSList),
			CNSNamespaceDescriptors: again(ParseNamespaceIDs), CNSNamespaceForSet: again(ParseNVMNamespace),
			CNSControllerForSet: again(ParseNVMController), CNSNamespaceIndependent: again(ParseIndependentNamespace),
			CNSControllers: again(ParseControllerList), CNSIOCommandSets: again(ParseIOCommandSets),
		}[ParseIdentify(c).CNS]
	case AdminGetLogPage:
		if g := ParseGetLogPage(c); g.LID == LogDiscovery && at > 0 {
			return again(ParseDiscoveryEntry)
		}
		return map[LogID]func(*testing.T, []byte) (any, []byte){
			LogSupportedPages: again(pointer(ParseSupportedLogs)), LogError: again(ParseErrorEntry), LogSMART: again(ParseSMARTLog),
			LogFirmwareSlot: again(ParseFirmwareSlotLog), LogChangedNamespaces: again(ParseChangedNSList),
			LogCommandEffects: again(pointer(ParseCommandEffectsLog)), LogANA: again(ParseANALog),
			LogFeatureEffects: again(pointer(ParseFeatureEffectsLog)), LogDiscovery: again(ParseDiscoveryHeader),
			LogReservationNotification: again(ParseReservationNotification),
		}[ParseGetLogPage(c).LID]
	case IODatasetManagement:
		return again(ParseDatasetRange)
	case IOReservationRegister, IOReservationAcquire:
		return again(ParseReservationKeys)
	case IOReservationRelease:
		return again(ParseReservationRelease)
	case IOReservationReport:
		return again(statusOf(ParseReservationReport(c).Extended))
	}
	return nil
}

// dataAgain parses the structures in a command's data and appends them again.
func dataAgain(t *testing.T, name string, c *Command, data []byte) (fields []string, out []byte) {
	t.Helper()
	for len(out) < len(data) {
		if rest := data[len(out):]; len(out) > 0 && !slices.ContainsFunc(rest, func(b byte) bool { return b != 0 }) {
			return fields, append(out, rest...) // the host's buffer was longer
		}
		parse := structureOf(c, len(out))
		if parse == nil {
			t.Fatalf("%s: no structure known", name)
		}
		v, b := parse(t, data[len(out):])
		if len(b) == 0 {
			t.Fatalf("%s: %T of no bytes", name, v)
		}
		out, fields = append(out, b...), append(fields, capture.Fields(v)...)
	}
	return fields, out
}

// completionAgain takes a completion apart and makes it again.
func completionAgain(t *testing.T, name string, cmd *Command, b []byte) (fields []string, out []byte) {
	t.Helper()
	c, _, err := ParseCompletion(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if c.CID() != cmd.CID() {
		t.Errorf("%s: CID %d for %d", name, c.CID(), cmd.CID())
	}
	again := MakeCompletion(c.CID(), c.SQHD(), c.Status())
	again.SetResult64(c.Result64())
	le.PutUint16(again[10:], uint16(c.SQID())) // reserved over fabrics, and Linux's target fills it
	return capture.Fields(struct {
		Status Status
		Result uint64
	}{c.Status(), c.Result64()}), again[:]
}

// TestCapturesAgreeWithNVMeCLI compares what this package finds in a structure with what nvme-cli
// found in it: a decoder that was written by others.
func TestCapturesAgreeWithNVMeCLI(t *testing.T) {
	for _, target := range []string{"mooring", "linux"} {
		c := theirs{t, target, captured(t, "testdata/"+target+".txt")}
		t.Run(target, func(t *testing.T) {
			c.t = t
			id, _, err := ParseIdentifyController(c.data("admin identify CNS 01h"))
			c.agree(err, c.json("id-ctrl"), controllerFields(&id))
			ns, _, err := ParseIdentifyNamespace(c.data("admin identify CNS 00h"))
			c.agree(err, c.json("id-ns"), namespaceFields(&ns))
			smart, _, err := ParseSMARTLog(c.data("admin get-log-page LID 02h"))
			c.agree(err, c.json("smart-log"), smartFields(&smart))
			list, _, err := ParseNSList(c.data("admin identify CNS 02h"))
			c.agree(err, c.json("list-ns"), map[string]any{"nsid_list.0.nsid": list[0]})
			ana, _, err := ParseANALog(c.data("admin get-log-page LID 0ch"))
			c.agree(err, c.json("ana-log"), map[string]any{
				"chgcnt": ana.ChangeCount, "ngrps": len(ana.Groups),
				"ANA DESC LIST .0.grpid": ana.Groups[0].ID, "ANA DESC LIST .0.chgcnt": ana.Groups[0].ChangeCount,
				"ANA DESC LIST .0.state": ana.Groups[0].State, "ANA DESC LIST .0.nnsids": len(ana.Groups[0].NSIDs),
				"ANA DESC LIST .0.NSIDS.0.nsid": ana.Groups[0].NSIDs[0],
			})
			c.descriptors()
			c.discovery()
			if target == "mooring" {
				c.reservations()
			}
		})
	}
}

// theirs is what nvme-cli printed, beside what was on the wire.
type theirs struct {
	t      *testing.T
	target string
	file   capture.File
}

func (c theirs) data(name string) []byte {
	c.t.Helper()
	i := slices.IndexFunc(c.file.Records, func(r capture.Record) bool { return r.Name == name+": data" })
	if i < 0 {
		c.t.Fatalf("no %s", name)
	}
	return c.file.Records[i].Bytes
}

// json flattens a file: "a.0.b" is member b of the first element of a.
func (c theirs) json(command string) map[string]string {
	c.t.Helper()
	text, err := os.ReadFile("testdata/" + c.target + "-" + command + ".json")
	if err != nil {
		c.t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		c.t.Fatalf("%s: %v", command, err)
	}
	flat := map[string]string{}
	flatten(flat, "", v)
	return flat
}

func flatten(into map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			flatten(into, strings.TrimPrefix(path+"."+key, "."), member)
		}
	case []any:
		for i, element := range v {
			flatten(into, fmt.Sprintf("%s.%d", path, i), element)
		}
	default:
		into[path] = strings.TrimRight(fmt.Sprint(v), " ")
	}
}

// agree compares our fields with theirs.
func (c theirs) agree(err error, theirs map[string]string, ours map[string]any) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	for key, value := range ours {
		if got, there := theirs[key]; !there || got != fmt.Sprint(value) {
			c.t.Errorf("%s is %q (%v) for nvme-cli, %v for us", key, got, there, value)
		}
	}
}

func controllerFields(id *IdentifyController) map[string]any {
	return map[string]any{
		"vid": id.VendorID, "ssvid": id.SubsystemVendorID, "sn": id.SerialNumber, "mn": id.ModelNumber, "fr": id.FirmwareRevision,
		"rab": id.ArbitrationBurst, "cmic": id.MultiPath, "mdts": id.MaxTransferShift, "cntlid": id.Controller, "ver": uint32(id.Version),
		"rtd3r": id.RTD3Resume, "rtd3e": id.RTD3Entry, "oaes": uint32(id.AsyncEvents), "ctratt": id.Attributes, "rrls": id.ReadRecovery,
		"cntrltype": id.Type, "crdt1": id.RetryDelays[0], "nvmsr": id.SubsystemReport, "oacs": id.AdminCommands, "acl": id.AbortLimit - 1,
		"aerl": id.AsyncEventLimit - 1, "frmw": id.Firmware, "lpa": id.LogPages, "elpe": id.ErrorLogEntries - 1, "npss": id.PowerStateCount - 1,
		"wctemp": id.WarningTemperature, "cctemp": id.CriticalTemperature, "tnvmcap": id.TotalCapacity.Lo, "unvmcap": id.UnallocatedCapacity.Lo,
		"kas": id.KeepAliveGranularity, "sanicap": id.Sanitize, "anatt": id.ANATransitionTime, "anacap": id.ANACapabilities,
		"anagrpmax": id.MaxANAGroup, "nanagrpid": id.ANAGroupCount, "sqes": id.SQEntrySizes, "cqes": id.CQEntrySizes, "maxcmd": id.MaxCommands,
		"nn": id.MaxNSID, "oncs": id.IOCommands, "fuses": id.Fused, "fna": id.FormatAttributes, "vwc": id.WriteCache,
		"awun": id.AtomicWriteNormal - 1, "awupf": id.AtomicWritePower - 1, "acwu": id.AtomicCompareWrite - 1, "nwpc": id.WriteProtection,
		"sgls": id.SGLs, "mnan": id.MaxNamespaces, "subnqn": id.SubsystemNQN, "ioccsz": id.CommandCapsule, "iorcsz": id.ResponseCapsule,
		"icdoff": id.CapsuleDataOffset, "fcatt": id.FabricsAttributes, "msdbd": id.MaxDescriptors, "ofcs": id.FabricsCommands,
		"psds.0.max_power": id.PowerState[0].MaxPower, "psds.0.entry_lat": id.PowerState[0].EntryLatency, "psds.0.exit_lat": id.PowerState[0].ExitLatency,
	}
}

func namespaceFields(id *IdentifyNamespace) map[string]any {
	return map[string]any{
		"nsze": id.Size, "ncap": id.Capacity, "nuse": id.Used, "nsfeat": id.Features, "nlbaf": len(id.Formats) - 1, "flbas": id.FormatIndex,
		"nmic": id.MultiPath, "rescap": id.Reservations, "fpi": id.Progress, "dlfeat": id.Deallocate, "nawun": id.AtomicWriteNormal - 1,
		"nawupf": id.AtomicWritePower - 1, "nacwu": id.AtomicCompareWrite - 1, "nabsn": id.AtomicBoundary, "nabo": id.AtomicBoundaryOff,
		"nvmcap": id.Bytes.Lo, "mssrl": id.CopyRangeLength, "mcl": id.CopyLength, "anagrpid": id.ANAGroup, "nsattr": id.Attributes,
		"nvmsetid": id.NVMSet, "endgid": id.EnduranceGroup, "nguid": hex.EncodeToString(id.NGUID[:]), "eui64": hex.EncodeToString(id.EUI64[:]),
		"lbafs.0.ms": id.Formats[0].MetadataSize, "lbafs.0.ds": id.Formats[0].DataShift, "lbafs.0.rp": id.Formats[0].Performance,
	}
}

func smartFields(s *SMARTLog) map[string]any {
	return map[string]any{
		"critical_warning": s.CriticalWarning, "temperature": s.Temperature, "avail_spare": s.AvailableSpare, "spare_thresh": s.SpareThreshold,
		"percent_used": s.PercentUsed, "data_units_read": s.DataRead.Lo, "data_units_written": s.DataWritten.Lo,
		"host_read_commands": s.ReadCommands.Lo, "host_write_commands": s.WriteCommands.Lo, "controller_busy_time": s.BusyMinutes.Lo,
		"power_cycles": s.PowerCycles.Lo, "power_on_hours": s.PowerOnHours.Lo, "unsafe_shutdowns": s.UnsafeShutdowns.Lo,
		"media_errors": s.MediaErrors.Lo, "num_err_log_entries": s.ErrorEntries.Lo, "warning_temp_time": s.WarningMinutes,
	}
}

// descriptors: a descriptor list has one entry for each identifier that is there.
func (c theirs) descriptors() {
	ids, _, err := ParseNamespaceIDs(c.data("admin identify CNS 03h"))
	want := map[string]any{}
	for key, value := range c.json("ns-descs") {
		switch name := key[strings.LastIndex(key, ".")+1:]; name {
		case "uuid":
			want[key] = HostID(ids.UUID) // printed alike
		case "nguid":
			want[key] = hex.EncodeToString(ids.NGUID[:])
		case "eui64":
			want[key] = hex.EncodeToString(ids.EUI64[:])
		case "csi":
			want[key] = ids.CommandSet
		case "nidt", "nidl", "type", "loc":
		default:
			c.t.Errorf("descriptor %s: %s", key, value)
		}
	}
	if len(want) == 0 {
		c.t.Error("no descriptor")
	}
	c.agree(err, c.json("ns-descs"), want)
}

func (c theirs) discovery() {
	b := c.data("discovery get-log-page LID 70h, 3072 bytes")
	head, n, err := ParseDiscoveryHeader(b)
	c.agree(err, c.json("discover"), map[string]any{"genctr": head.Generation})
	for i := range int(head.Records) {
		e, m, err := ParseDiscoveryEntry(b[n:])
		n += m
		at := fmt.Sprintf("records.%d.", i)
		c.agree(err, c.json("discover"), map[string]any{
			at + "trtype": e.Transport, at + "portid": e.Port, at + "trsvcid": e.Service, at + "subnqn": e.NQN, at + "traddr": e.Address,
			at + "adrfam":  map[AddressFamily]string{AddressIPv4: "ipv4"}[e.Family],
			at + "subtype": map[SubsystemType]string{SubsystemNVM: "nvme subsystem", SubsystemDiscovery: "current discovery subsystem"}[e.Subsystem],
			at + "treq":    map[uint8]string{SQFlowControlOptional: "not specified, sq flow control disable supported"}[e.Requirements],
			at + "sectype": map[uint8]string{SecurityNone: "none"}[e.Security],
		})
	}
}

func (c theirs) reservations() {
	s, _, err := ParseReservationStatus(c.data("io reservation-report"), true)
	if err != nil || len(s.Registrants) != 1 {
		c.t.Fatalf("%+v, %v", s, err)
	}
	r := s.Registrants[0]
	c.agree(err, c.json("resv-report"), map[string]any{
		"gen": s.Generation, "rtype": uint8(s.Type), "regctl": len(s.Registrants), "ptpls": map[bool]int{true: 1}[s.Persistent],
		"regctlext.0.cntlid": r.Controller, "regctlext.0.rcsts": map[bool]int{true: 1}[r.Holder],
		"regctlext.0.rkey": uint64(r.Key), "regctlext.0.hostid": hex.EncodeToString(r.Host[:]),
	})
}
