package meta_test

import (
	"testing"

	"github.com/mooring-io/mooring/core/meta"
)

// What iSCSI initiator ports (x and y) do by SCSI's rules, beside NVMe hosts (a and b). SPC-4 5.13, SPC-2 5.5.1
func TestSCSIReservationCommands(t *testing.T) {
	const ok, conflict, bad = meta.ReserveOK, meta.ReserveConflict, meta.ReserveInvalid
	for _, c := range []struct {
		rule   string
		script string
		result meta.ReserveResult
		state  string
		told   string
	}{
		{"REGISTER of a new port has no key yet", "x reg key0", ok, "x=1", ""},
		{"with a key it conflicts", "x reg", conflict, "", ""},
		{"REGISTER changes the key, unlike NVMe's", "x reg key0; x reg 7", ok, "x=7", ""},
		{"if the present one is given", "x reg key0; x reg wrongkey 7", conflict, "x=1", ""},
		{"REGISTER AND IGNORE does not ask for it", "x reg key0; x reg wrongkey 7 iekey", ok, "x=7", ""},
		{"and registers as well", "x reg wrongkey iekey", ok, "x=1", ""},
		{"a service action key of zero unregisters", "x reg key0; y reg key0; x reg 0", ok, "y=2", ""},
		{"and does nothing for a port that is none", "x reg key0 0", ok, "", ""},
		{"APTPL sets persistence", "x reg key0 ptpl", ok, "x=1 ptpl", ""},
		{"and is cleared by the next registration", "x reg key0 ptpl; y reg key0 noptpl", ok, "x=1 y=2", ""},
		{"the end of the holder ends the reservation", "x reg key0; y reg key0; x acq ear; x reg 0", ok, "y=2", "y:released"},
		{"a registrant that does not hold releases nothing, and well", "x reg key0; y reg key0; x acq we; y rel we", ok, "x=1! y=2 we", ""},
		{"which conflicts in NVMe", "a reg; b reg; a acq we; b rel we", conflict, "a=a! b=b we", ""},
		{"RELEASE of another type is invalid", "x reg key0; x acq we; x rel ea", bad, "x=1! we", ""},
		{"RELEASE of who is not registered conflicts", "x reg key0; x acq we; y rel we", conflict, "x=1! we", ""},
		{"CLEAR tells the others", "x reg key0; y reg key0; x acq we; y clear", ok, "", "x:preempted"},
		{"preempting tells who stays of the new type, whatever the old", "x reg key0; y reg key0; a reg; x acq we; y preempt ea x", ok, "y=2! a=a ea", "a:released x:registration-preempted"},

		// Both protocols, one state.
		{"hosts of both register", "a reg; x reg key0", ok, "a=a x=1", ""},
		{"a port does not get what a host holds", "a reg; x reg key0; a acq we; x acq we", conflict, "a=a! x=1 we", ""},
		{"nor a host what a port holds", "a reg; x reg key0; x acq ea; a acq ea", conflict, "a=a x=1! ea", ""},
		{"a port preempts a host", "a reg; x reg key0; a acq we; x preempt we a", ok, "x=1! we", "a:registration-preempted"},
		{"a host preempts a port", "a reg; x reg key0; x acq we; a preempt we x", ok, "a=a! we", "x:registration-preempted"},
		{"of all registrants' both hold", "a reg; x reg key0; a acq wea", ok, "a=a! x=1! wea", ""},

		// RESERVE (6)
		{"RESERVE takes the unit", "x reserve6", ok, "unit:x", ""},
		{"again, by the same port", "x reserve6; x reserve6", ok, "unit:x", ""},
		{"but not by another", "x reserve6; y reserve6", conflict, "unit:x", ""},
		{"RELEASE gives it back", "x reserve6; x release6", ok, "", ""},
		{"and by another does nothing, and well", "x reserve6; y release6", ok, "unit:x", ""},
		{"a reset ends it, whoever asks", "x reserve6; y reset", ok, "", ""},
		{"persistent reservations conflict with it, of ports", "x reserve6; y reg key0", conflict, "unit:x", ""},
		{"of its own port", "x reserve6; x reg key0", conflict, "unit:x", ""},
		{"and of hosts", "x reserve6; a reg", conflict, "unit:x", ""},
		{"where there are registrations a holder has the unit anyway", "x reg key0; x acq we; x reserve6", ok, "x=1! we", ""},
		{"and another has not", "x reg key0; x acq we; y reserve6", conflict, "x=1! we", ""},
		{"registrants-only: a registrant has it", "x reg key0; y reg key0; x acq wer; y reserve6", ok, "x=1! y=2 wer", ""},
		{"NVMe hosts have no RESERVE (6)", "a reserve6", bad, "", ""},
	} {
		r, result, told := run(t, c.script)
		if result != c.result || state(r) != c.state || notes(told) != c.told {
			t.Errorf("%s (%s): result %d, %q, told %q; want %d, %q, %q", c.rule, c.script, result, state(r), notes(told), c.result, c.state, c.told)
		}
	}
}

// Who gets through to the medium is one rule for both protocols.
func TestMixedAccess(t *testing.T) {
	type access struct{ read, write bool }
	all, none, reads := access{true, true}, access{}, access{read: true}
	for script, want := range map[string]map[meta.HostID]access{
		"a reg; a acq we":              {hostA: all, hostB: reads, portX: reads},
		"x reg key0; x acq we":         {portX: all, portY: reads, hostA: reads},
		"x reg key0; x acq ea; a reg":  {portX: all, portY: none, hostA: none},
		"x reg key0; a reg; a acq ear": {hostA: all, portX: all, portY: none, hostB: none},
		"x reg key0; a reg; x acq wer": {hostA: all, portX: all, portY: reads, hostB: reads},
		"a reg; x reg key0; x acq eaa": {hostA: all, portX: all, portY: none, hostB: none},
		"x reserve6":                   {portX: all, portY: none, hostA: none},
		"x reg key0; a reg":            {portX: all, portY: all, hostA: all, hostB: all},
	} {
		r, _, _ := run(t, script)
		for h, a := range want {
			if got := (access{r.Allows(h, meta.OpRead), r.Allows(h, meta.OpWrite)}); got != a {
				t.Errorf("%s: %s has %+v, want %+v", script, h.Name, got, a)
			}
		}
	}
	// Two sessions of one initiator are two ports. RFC 7143 4.4.2
	other := portX
	other.ID = meta.UID{9}
	if r, _, _ := run(t, "x reg key0; x acq we"); r.Allows(other, meta.OpWrite) {
		t.Error("another session of the holder's initiator may write")
	}
}

// Detaching from one protocol takes its registrants along, and leaves the others.
func TestReservationWithout(t *testing.T) {
	for script, want := range map[string]string{
		"a reg; x reg key0; x acq we":       "a=a",
		"a reg; x reg key0; a acq we":       "a=a! we",
		"a reg; x reg key0; y reg key0":     "a=a",
		"a reg; x reg key0; x acq wea":      "a=a! wea",
		"x reserve6":                        "",
		"x reg key0; y reg key0; x acq eaa": "",
	} {
		r, _, _ := run(t, script)
		if got := state(r.Without(meta.ISCSI)); got != want {
			t.Errorf("%s, without iSCSI: %q, want %q", script, got, want)
		}
	}
	if r, _, _ := run(t, "x reg key0 ptpl; x acq we"); state(r.PowerLoss()) != "x=1! we ptpl" {
		t.Errorf("after power loss: %q", state(r.PowerLoss()))
	}
	if r, _, _ := run(t, "x reserve6"); state(r.PowerLoss()) != "" {
		t.Errorf("a RESERVE (6) after power loss: %q", state(r.PowerLoss()))
	}
}
