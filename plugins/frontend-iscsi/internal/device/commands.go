package device

import (
	"encoding/hex"
	"slices"
	"strings"

	"github.com/mooring-io/mooring/sdk/scsi"
)

// command is one command that a disk knows.
type command struct {
	name string
	// usage has a bit for each bit of the CDB that is looked at, in hexadecimal; the opcode and the
	// service action stand as they are.
	usage string
	begin func(n *Nexus, t *Task)
	kind  kind

	cdb       []byte // usage
	hasAction bool
}

// kind says what may keep a command from being carried out.
type kind uint8

const (
	kindMedium    kind = iota // reads or writes the medium; the core knows of reservations
	kindExclusive             // conflicts where another initiator has exclusive access. SPC-4 table 67
	kindWrite                 // conflicts where another initiator has write exclusive access, too
	kindAsk                   // conflicts where another initiator has the unit by RESERVE (6)
	kindReserve               // changes or reads reservations; the core judges
	kindFree                  // always answered, whatever state or reservation
	kindAlways                // and by units that are not there, with no regard to unit attentions
)

// commands finds a command by its opcode, those with service actions by opcode and action.
var (
	byOpcode [256]*command
	byAction [256][32]*command
	all      []scsi.Command // for REPORT SUPPORTED OPERATION CODES
)

func init() {
	for _, c := range []*command{
		{"TEST UNIT READY", "00 00000000 07", beginGood, kindAsk, nil, false},
		{"REQUEST SENSE", "03 010000ff 07", beginRequestSense, kindAlways, nil, false},
		{"INQUIRY", "12 01ffffff 07", beginInquiry, kindAlways, nil, false},
		{"REPORT LUNS", "a0 00ff000000 ffffffff 00 07", beginReportLUNs, kindAlways, nil, false},
		{"MODE SENSE (6)", "1a 08ffffff 07", beginModeSense, kindExclusive, nil, false},
		{"MODE SENSE (10)", "5a 18ffff000000 ffff 07", beginModeSense, kindExclusive, nil, false},
		{"MODE SELECT (6)", "15 110000ff 07", beginModeSelect, kindExclusive, nil, false},
		{"MODE SELECT (10)", "55 110000000000 ffff 07", beginModeSelect, kindExclusive, nil, false},
		{"START STOP UNIT", "1b 01000ff7 07", beginStartStop, kindExclusive, nil, false},
		{"SEND DIAGNOSTIC", "1d f700ffff 07", beginDiagnostic, kindExclusive, nil, false},
		{"RESERVE (6)", "16 00000000 07", beginReserveUnit, kindReserve, nil, false},
		{"RELEASE (6)", "17 00000000 07", beginReserveUnit, kindReserve, nil, false},

		{"PERSISTENT RESERVE IN: READ KEYS", "5e 00 0000000000 ffff 07", beginPersistentIn, kindReserve, nil, true},
		{"PERSISTENT RESERVE IN: READ RESERVATION", "5e 01 0000000000 ffff 07", beginPersistentIn, kindReserve, nil, true},
		{"PERSISTENT RESERVE IN: REPORT CAPABILITIES", "5e 02 0000000000 ffff 07", beginPersistentIn, kindReserve, nil, true},
		{"PERSISTENT RESERVE IN: READ FULL STATUS", "5e 03 0000000000 ffff 07", beginPersistentIn, kindReserve, nil, true},
		{"PERSISTENT RESERVE OUT: REGISTER", "5f 00 000000 ffffffff 07", beginPersistentOut, kindReserve, nil, true},
		{"PERSISTENT RESERVE OUT: RESERVE", "5f 01 ff0000 ffffffff 07", beginPersistentOut, kindReserve, nil, true},
		{"PERSISTENT RESERVE OUT: RELEASE", "5f 02 ff0000 ffffffff 07", beginPersistentOut, kindReserve, nil, true},
		{"PERSISTENT RESERVE OUT: CLEAR", "5f 03 000000 ffffffff 07", beginPersistentOut, kindReserve, nil, true},
		{"PERSISTENT RESERVE OUT: PREEMPT", "5f 04 ff0000 ffffffff 07", beginPersistentOut, kindReserve, nil, true},
		{"PERSISTENT RESERVE OUT: PREEMPT AND ABORT", "5f 05 ff0000 ffffffff 07", beginPersistentOut, kindReserve, nil, true},
		{"PERSISTENT RESERVE OUT: REGISTER AND IGNORE EXISTING KEY", "5f 06 000000 ffffffff 07", beginPersistentOut, kindReserve, nil, true},

		{"READ CAPACITY (10)", "25 00000000000000 00 07", beginReadCapacity, kindAsk, nil, false},
		{"READ CAPACITY (16)", "9e 10 0000000000000000 ffffffff 00 07", beginReadCapacity, kindAsk, nil, true},
		{"GET LBA STATUS", "9e 12 ffffffffffffffff ffffffff 00 07", beginLBAStatus, kindExclusive, nil, true},
		{"READ DEFECT DATA (10)", "37 001f00000000 ffff 07", beginDefects, kindExclusive, nil, false},
		{"READ DEFECT DATA (12)", "b7 1fffffffff ffffffff 00 07", beginDefects, kindExclusive, nil, false},

		{"READ (6)", "08 1fffff ff 07", beginRead, kindMedium, nil, false},
		{"READ (10)", "28 f8ffffffff 3f ffff 07", beginRead, kindMedium, nil, false},
		{"READ (12)", "a8 f8ffffffff ffffffff 3f 07", beginRead, kindMedium, nil, false},
		{"READ (16)", "88 f8ffffffffffffffff ffffffff 3f 07", beginRead, kindMedium, nil, false},
		{"WRITE (6)", "0a 1fffff ff 07", beginWrite, kindMedium, nil, false},
		{"WRITE (10)", "2a f8ffffffff 3f ffff 07", beginWrite, kindMedium, nil, false},
		{"WRITE (12)", "aa f8ffffffff ffffffff 3f 07", beginWrite, kindMedium, nil, false},
		{"WRITE (16)", "8a f8ffffffffffffffff ffffffff 3f 07", beginWrite, kindMedium, nil, false},
		{"WRITE AND VERIFY (10)", "2e f6ffffffff 3f ffff 07", beginWriteVerify, kindMedium, nil, false},
		{"WRITE AND VERIFY (12)", "ae f6ffffffff ffffffff 3f 07", beginWriteVerify, kindMedium, nil, false},
		{"WRITE AND VERIFY (16)", "8e f6ffffffffffffffff ffffffff 3f 07", beginWriteVerify, kindMedium, nil, false},
		{"VERIFY (10)", "2f f6ffffffff 3f ffff 07", beginVerify, kindMedium, nil, false},
		{"VERIFY (12)", "af f6ffffffff ffffffff 3f 07", beginVerify, kindMedium, nil, false},
		{"VERIFY (16)", "8f f6ffffffffffffffff ffffffff 3f 07", beginVerify, kindMedium, nil, false},
		{"PRE-FETCH (10)", "34 02ffffffff 3f ffff 07", beginPrefetch, kindExclusive, nil, false},
		{"PRE-FETCH (16)", "90 02ffffffffffffffff ffffffff 3f 07", beginPrefetch, kindExclusive, nil, false},
		{"SYNCHRONIZE CACHE (10)", "35 02ffffffff 3f ffff 07", beginSync, kindMedium, nil, false},
		{"SYNCHRONIZE CACHE (16)", "91 02ffffffffffffffff ffffffff 3f 07", beginSync, kindMedium, nil, false},
		{"COMPARE AND WRITE", "89 f8ffffffffffffffff 000000ff 3f 07", beginCompareWrite, kindMedium, nil, false},
		{"ORWRITE", "8b f8ffffffffffffffff ffffffff 3f 07", beginOrWrite, kindMedium, nil, false},
		{"WRITE SAME (10)", "41 f8ffffffff 3f ffff 07", beginWriteSame, kindMedium, nil, false},
		{"WRITE SAME (16)", "93 f9ffffffffffffffff ffffffff 3f 07", beginWriteSame, kindMedium, nil, false},
		{"UNMAP", "42 0100000000 3f ffff 07", beginUnmap, kindMedium, nil, false},

		{"EXTENDED COPY (LID1)", "83 00 0000000000000000 ffffffff 00 07", beginExtendedCopy, kindExclusive, nil, true},
		{"RECEIVE COPY STATUS (LID1)", "84 00 ff00000000000000 ffffffff 00 07", beginCopyResults, kindExclusive, nil, true},
		{"RECEIVE COPY OPERATING PARAMETERS", "84 03 0000000000000000 ffffffff 00 07", beginCopyResults, kindExclusive, nil, true},

		{"REPORT TARGET PORT GROUPS", "a3 ea 00000000 ffffffff 00 07", beginPortGroups, kindFree, nil, true},
		{"REPORT SUPPORTED OPERATION CODES", "a3 0c 87ffffff ffffffff 00 07", beginReportCommands, kindExclusive, nil, true},
		{"REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", "a3 0d 80000000 ffffffff 00 07", beginReportTaskMgmt, kindExclusive, nil, true},
	} {
		c.cdb = unhex(c.usage)
		if len(c.cdb) != scsi.CDBLen(scsi.Opcode(c.cdb[0])) {
			panic("device: the usage of " + c.name + " is not as long as its CDB")
		}
		register(c)
	}
	slices.SortFunc(all, func(a, b scsi.Command) int {
		return int(a.Opcode)<<16 + int(a.ServiceAction) - int(b.Opcode)<<16 - int(b.ServiceAction)
	})
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic("device: " + err.Error())
	}
	return b
}

func register(c *command) {
	o := c.cdb[0]
	d := scsi.Command{Opcode: scsi.Opcode(o), HasAction: c.hasAction, Usage: c.cdb}
	if c.hasAction {
		d.ServiceAction = uint16(c.cdb[1] & 0x1f)
		byAction[o][d.ServiceAction] = c
	} else {
		byOpcode[o] = c
	}
	all = append(all, d)
}

// lookup finds the command of a CDB. action says that the opcode is known, but not with this service
// action.
func lookup(cdb *[16]byte) (c *command, action bool) {
	if c := byOpcode[cdb[0]]; c != nil {
		return c, false
	}
	c = byAction[cdb[0]][cdb[1]&0x1f]
	return c, c == nil && slices.ContainsFunc(byAction[cdb[0]][:], func(c *command) bool { return c != nil })
}

// dispatch decides what a task is and whether it may be carried out. What looks at more than the
// task itself comes first: unit, unit attention, then the CDB. SAM-5 5.14
func (n *Nexus) dispatch(t *Task) {
	c, action := lookup(&t.CDB)
	t.unit = n.view.find(t.LUN)
	if t.unit == nil && (c == nil || c.kind != kindAlways) {
		t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCNoSuchUnit})
		return
	}
	if n.unreported > 0 && t.unit != nil && (c == nil || c.kind != kindAlways) {
		if asc, ok := n.attention(t.unit.lun); ok {
			t.refuse(scsi.ASCKey{Key: scsi.UnitAttention, ASC: asc})
			return
		}
	}
	switch {
	case action:
		t.invalidCDB(1, 4)
	case c == nil:
		t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidOpcode})
	case t.CDB[len(c.cdb)-1]&0x04 != 0: // NACA: there is no auto contingent allegiance
		t.invalidCDB(len(c.cdb)-1, 2)
	case t.unit != nil && t.unit.refusal != 0 && c.kind < kindFree:
		t.refuse(scsi.ASCKey{Key: scsi.NotReady, ASC: t.unit.refusal})
	default:
		c.begin(n, t)
		if !t.Refused && (c.kind == kindExclusive || c.kind == kindWrite || c.kind == kindAsk) {
			n.gate(t, c.kind)
		}
	}
}

func beginGood(_ *Nexus, t *Task) { t.run = completeGood }

// exactly refuses a task whose initiator does not mean to send so many bytes. It is for commands
// whose data has a form of its own.
func (t *Task) exactly(size int) bool {
	if t.Writes && uint64(t.Expected) == uint64(size) || size == 0 {
		return true
	}
	t.Total = uint64(size)
	t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidFieldInUnit})
	return false
}

// wants plans that the initiator sends size bytes of data or a parameter list. It reports false
// when the initiator has fewer, and the task is refused.
func (n *Nexus) wants(t *Task, size int) bool {
	t.Total = uint64(size)
	if size == 0 {
		return true
	}
	if !t.Writes || uint64(t.Expected) < uint64(size) {
		t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidFieldInUnit})
		return false
	}
	t.Out, t.size = size, uint64(size)
	if t.Data.Len() >= size {
		t.Data = t.Data.Slice(0, size)
		return true
	}
	n.takeBuffer(t, size)
	return true
}

// list plans that the initiator sends a parameter list, which has at least some bytes unless it has
// none.
func (n *Nexus) list(t *Task, least, most int, run func(*Task)) {
	size := int64(scsi.ParameterListLength(&t.CDB))
	t.run = run
	switch {
	case size == 0:
		t.run = completeGood
	case size < int64(least), size > int64(most):
		t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCParameterListLength})
	default:
		n.wants(t, int(size))
	}
}
