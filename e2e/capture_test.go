//go:build e2e

package e2e

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/capture"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

var update = flag.Bool("update", false, "TestCapture writes the captures of sdk/nvme and sdk/nvmetcp")

// TestCapture listens to a Linux host and two targets, ours and Linux's own. With -update what it heard becomes the
// captures that the tests of the codecs parse and encode again; without, it must have heard everything that they have.
func TestCapture(t *testing.T) {
	m := run(t, guestCase{
		script: "capture.sh", target: "mooring",
		files: map[string]string{
			"/opt/bin/wiretap":      goBuild(t, "./wiretap"),
			"/rig/target-kernel.sh": filepath.Join("testdata", "target-kernel.sh"),
		},
	})
	versions, err := os.ReadFile(filepath.Join(m.results, "versions"))
	if err != nil {
		t.Fatal(err)
	}
	for target, name := range map[string]string{"mooring": "Mooring", "linux": "Linux's own target"} {
		about := []string{
			fmt.Sprintf("A Linux host (%s) and %s.", strings.Join(strings.Split(strings.TrimSpace(string(versions)), "\n"), ", "), name),
			"Written by: go test -tags e2e ./e2e -run TestCapture -update",
		}
		var structures []capture.Record
		for _, session := range []string{"discovery", "plain", "digests"} {
			connections := m.connections(t, target+"-"+session)
			for _, c := range connections {
				structures = addNew(structures, c.structures(session == "discovery")...)
			}
			if session != "discovery" {
				m.keep(t, "../sdk/nvmetcp/testdata/"+target+"-"+session+".txt", about, pduKinds(connections))
			}
		}
		m.keep(t, "../sdk/nvme/testdata/"+target+".txt", about, structures)
		m.keepJSON(t, target)
	}
	if *update {
		goTool(t, "..", "test", "./sdk/nvme", "./sdk/nvmetcp", "-run", "TestCaptures", "-update") // writes the fields
	}
}

// keep writes a capture, or looks whether everything that is in the one that is there was heard again.
func (m *machine) keep(t *testing.T, path string, about []string, records []capture.Record) {
	t.Helper()
	if *update {
		write(t, path, capture.File{About: about, Records: records}.Append(nil))
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := capture.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	// Other kernels and other nvme-clis say some things otherwise; what a codec would miss without is an error.
	heard := names(records)
	for _, name := range names(kept.Records) {
		if !slices.Contains(heard, name) {
			t.Errorf("%s has %q, which was not heard this time; with -update the capture is made anew", path, name)
		}
	}
}

// keepJSON keeps what nvme-cli made of the structures.
func (m *machine) keepJSON(t *testing.T, target string) {
	if !*update {
		return
	}
	found, _ := filepath.Glob(filepath.Join(m.results, target+"-*.json")) // the pattern is well-formed
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join("../sdk/nvme/testdata", filepath.Base(path)), text)
	}
}

func names(records []capture.Record) []string {
	var all []string
	for _, r := range records {
		all = append(all, r.Name)
	}
	return all
}

// addNew adds those records whose name is not there yet.
func addNew(records []capture.Record, more ...capture.Record) []capture.Record {
	for _, r := range more {
		if !slices.Contains(names(records), r.Name) {
			records = append(records, r)
		}
	}
	return records
}

// heard is a PDU with the command that it belongs to.
type heard struct {
	from    string // host or controller
	header  nvmetcp.Header
	bytes   []byte
	command *exchange // nil for ICReq and ICResp
}

// exchange is a command with what came of it.
type exchange struct {
	name        string
	command     []byte
	data        []byte // sent either way
	completion  []byte // nil if a C2HData stood for it
	isStructure bool   // the data is, not user data
}

// connection is what was heard on one, in order.
type connection struct {
	pdus      []heard
	exchanges []*exchange
}

// connections reads the traces of a session.
func (m *machine) connections(t *testing.T, session string) []connection {
	t.Helper()
	var all []connection
	for n := 1; ; n++ {
		text, err := os.ReadFile(filepath.Join(m.results, fmt.Sprintf("%s-%d.trace", session, n)))
		if os.IsNotExist(err) && n > 1 {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, readTrace(t, text))
	}
}

// readTrace takes a file of wiretap apart into PDUs.
func readTrace(t *testing.T, trace []byte) connection {
	t.Helper()
	var c connection
	var queue nvme.QueueID
	streams := map[byte][]byte{}
	under := map[nvme.CommandID]*exchange{}
	for len(trace) > 0 {
		by, n := trace[0], binary.LittleEndian.Uint32(trace[1:])
		streams[by] = append(streams[by], trace[5:5+n]...)
		trace = trace[5+n:]
		for {
			h, _, err := nvmetcp.ParseHeader(streams[by])
			if err != nil || len(streams[by]) < int(h.PLEN) {
				break
			}
			p := heard{from: map[byte]string{'h': "host", 'c': "controller"}[by], header: h, bytes: streams[by][:h.PLEN:h.PLEN]}
			streams[by] = streams[by][h.PLEN:]
			if h.Type != nvmetcp.TypeICReq && h.Type != nvmetcp.TypeICResp {
				p.belongs(under, &queue)
			}
			if h.Type == nvmetcp.TypeCapsuleCmd {
				c.exchanges = append(c.exchanges, p.command)
			}
			c.pdus = append(c.pdus, p)
		}
	}
	return c
}

// belongs finds the command that a PDU belongs to, and adds to that what the PDU has.
func (p *heard) belongs(under map[nvme.CommandID]*exchange, queue *nvme.QueueID) {
	b := p.bytes
	switch p.header.Type {
	case nvmetcp.TypeCapsuleCmd:
		cmd := (*nvme.Command)(b[nvmetcp.HeaderSize:])
		if cmd.Opcode() == nvme.OpcodeFabrics && cmd.FabricsType() == nvme.FabricsConnect {
			*queue = nvme.ParseConnect(cmd).Queue
		}
		name, isStructure := commandName(cmd, *queue)
		p.command = &exchange{name: name, command: cmd[:], isStructure: isStructure}
		under[cmd.CID()] = p.command
		if p.header.PDO != 0 {
			p.command.data = p.data(int(cmd.SGL1().Length))
		}
	case nvmetcp.TypeCapsuleResp:
		cqe := (*nvme.Completion)(b[nvmetcp.HeaderSize:])
		p.command = under[cqe.CID()]
		p.command.completion = cqe[:]
	case nvmetcp.TypeR2T:
		d, _, _ := nvmetcp.ParseR2T(b) // whole
		p.command = under[d.CCCID]
	default:
		d, _, _ := nvmetcp.ParseData(b) // whole
		p.command = under[d.CCCID]
		p.command.data = append(p.command.data, p.data(int(d.Length))...)
	}
}

// data returns the PDU's data, of n bytes.
func (p *heard) data(n int) []byte {
	return p.bytes[p.header.PDO : int(p.header.PDO)+n : int(p.header.PDO)+n]
}

// commandName names the kind of a command, and says whether its data is a structure.
func commandName(cmd *nvme.Command, queue nvme.QueueID) (name string, isStructure bool) {
	switch op := cmd.Opcode(); {
	case op == nvme.OpcodeFabrics:
		name = "fabrics " + cmd.FabricsType().String()
		switch cmd.FabricsType() {
		case nvme.FabricsConnect:
			name += map[bool]string{true: ", admin queue", false: ", I/O queue"}[queue == nvme.AdminQueue]
		case nvme.FabricsPropertyGet:
			name += fmt.Sprintf(" %02xh", uint32(nvme.ParsePropertyGet(cmd).Offset))
		case nvme.FabricsPropertySet:
			name += fmt.Sprintf(" %02xh", uint32(nvme.ParsePropertySet(cmd).Offset))
		}
		return name, true
	case queue != nvme.AdminQueue:
		name = "io " + op.IOName()
		if cmd.FUA() && (op == nvme.IOWrite || op == nvme.IORead) {
			name += ", FUA"
		}
		return name, op != nvme.IOWrite && op != nvme.IORead && op != nvme.IOCompare
	case op == nvme.AdminIdentify:
		name = fmt.Sprintf("CNS %02xh", uint8(nvme.ParseIdentify(cmd).CNS))
	case op == nvme.AdminGetLogPage:
		log := nvme.ParseGetLogPage(cmd)
		name = fmt.Sprintf("LID %02xh", uint8(log.LID))
		if log.Offset > 0 {
			name += ", with offset"
		}
		if log.LID == nvme.LogDiscovery { // the head first, then all
			name += fmt.Sprintf(", %d bytes", log.Length)
		}
	case op == nvme.AdminGetFeatures || op == nvme.AdminSetFeatures:
		name = fmt.Sprintf("FID %02xh", uint8(nvme.ParseFeatures(cmd).ID))
	}
	return strings.TrimRight("admin "+cmd.Opcode().AdminName()+" "+name, " "), true
}

// structures returns the commands of a connection, with data and completion. Those to a discovery controller are named
// apart: it answers in its own way.
func (c connection) structures(discovery bool) []capture.Record {
	var records []capture.Record
	for _, e := range c.exchanges {
		if strings.Contains(e.name, nvme.AdminKeepAlive.AdminName()) || strings.Contains(e.name, nvme.AdminAsyncEventRequest.AdminName()) {
			continue // whether one comes, and is answered, is a question of time
		}
		name := e.name
		if discovery {
			name = "discovery " + strings.TrimPrefix(strings.TrimPrefix(name, "admin "), "fabrics ")
		}
		one := []capture.Record{{Name: name + ": command", Bytes: e.command}}
		if e.isStructure && len(e.data) > 0 {
			one = append(one, capture.Record{Name: name + ": data", Bytes: e.data})
		}
		if e.completion != nil {
			one = append(one, capture.Record{Name: name + ": completion", Bytes: e.completion})
		}
		// The first of its kind, but of the log that counts commands: the kernel reads that too, before nvme-cli does.
		if cmd := (*nvme.Command)(e.command); cmd.Opcode() == nvme.AdminGetLogPage && nvme.ParseGetLogPage(cmd).LID == nvme.LogSMART {
			records = slices.DeleteFunc(records, func(r capture.Record) bool { return strings.HasPrefix(r.Name, name+": ") })
		}
		records = addNew(records, one...)
	}
	return records
}

// pduKinds returns the first PDU of each kind: sender, type, flags, whether it has data, and Fabrics or not.
func pduKinds(connections []connection) []capture.Record {
	var records []capture.Record
	seen := map[string]bool{}
	for _, c := range connections {
		for _, p := range c.pdus {
			name, isFabrics := p.from+" "+p.header.Type.String(), false
			if p.command != nil {
				name += ", " + p.command.name
				isFabrics = strings.HasPrefix(p.command.name, "fabrics")
			}
			if p.header.Type == nvmetcp.TypeCapsuleCmd && p.header.PDO != 0 {
				name += ", with data"
			}
			kind := fmt.Sprint(p.from, p.header.Type, p.header.Flags, p.header.PDO != 0, isFabrics)
			if !seen[kind] {
				seen[kind] = true
				records = append(records, capture.Record{Name: name, Bytes: p.bytes})
			}
		}
	}
	return records
}
