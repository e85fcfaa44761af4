package device

import (
	"github.com/mooring-io/mooring/sdk/scsi"
)

// REPORT SUPPORTED OPERATION CODES. SPC-4 6.35

func beginReportCommands(_ *Nexus, t *Task) {
	q := scsi.ParseReportCommands(&t.CDB)
	c := byOpcode[q.Opcode]
	actions := false
	for _, a := range byAction[q.Opcode] {
		actions = actions || a != nil
	}
	switch {
	case q.Options > 3:
		t.invalidCDB(2, 2)
	case q.Options == 1 && actions: // has service actions
		t.invalidCDB(2, 2)
	case q.Options == 2 && c != nil: // has none
		t.invalidCDB(2, 2)
	default:
		t.run = executeReportCommands
	}
}

func executeReportCommands(t *Task) {
	q := scsi.ParseReportCommands(&t.CDB)
	if q.Options == 0 {
		t.answer(scsi.AppendAllCommands(t.scratch(), q.Timeouts, all))
		return
	}
	var found *scsi.Command
	for i, c := range all {
		if c.Opcode == q.Opcode && (!c.HasAction && q.Options != 2 || c.HasAction && q.Options != 1 && c.ServiceAction == q.ServiceAction) {
			found = &all[i]
		}
	}
	t.answer(scsi.AppendOneCommand(t.scratch(), q.Timeouts, found))
}

// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS. SPC-4 6.36

func beginReportTaskMgmt(_ *Nexus, t *Task) {
	if scsi.AllocationLength(&t.CDB) < 4 {
		t.invalidCDB(6, 7)
		return
	}
	t.run = func(t *Task) {
		const can = scsi.CanAbortTask | scsi.CanAbortTaskSet | scsi.CanClearTaskSet | scsi.CanResetUnit
		t.answer(scsi.AppendTaskMgmt(t.scratch(), t.CDB[2]&0x80 != 0, can))
	}
}

// REPORT TARGET PORT GROUPS. SPC-4 6.37

func beginPortGroups(_ *Nexus, t *Task) {
	if t.CDB[1]>>5 > 1 {
		t.invalidCDB(1, 7)
		return
	}
	t.run = executePortGroups
}

// executePortGroups tells of the one group that a session sees, unless access is asymmetric.
func executePortGroups(t *Task) {
	n := t.nexus
	groups := []scsi.PortGroup{{Group: n.info.PortGroup, State: scsi.ActiveOptimized, Ports: []uint16{n.port16()}}}
	t.answer(scsi.AppendPortGroups(t.scratch(), t.CDB[1]>>5 == 1, 0, groups))
}

// GET LBA STATUS. SBC-3 5.4

func beginLBAStatus(_ *Nexus, t *Task) {
	a := scsi.ParseAccess(&t.CDB)
	switch {
	case a.LBA >= t.unit.blocks:
		t.outOfRange(a.LBA)
	case scsi.AllocationLength(&t.CDB) < 24:
		t.invalidCDB(10, 7)
	default:
		t.access = a
		t.run = func(t *Task) {
			left := min(t.unit.blocks-t.access.LBA, 0xffff_ffff)
			t.answer(scsi.AppendLBAStatus(t.scratch(), []scsi.LBAStatus{{LBA: t.access.LBA, Blocks: uint32(left), State: scsi.Mapped}}))
		}
	}
}
