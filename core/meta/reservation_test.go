package meta_test

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
)

// Hosts of the tables; a host's key is its letter unless a case says otherwise.
var (
	hostA = meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:a", ID: meta.UID{1}}
	hostB = meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:b", ID: meta.UID{2}}
	hostC = meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:c", ID: meta.UID{3}}
	portX = meta.HostID{Protocol: meta.ISCSI, Name: "iqn.2026-11.io.mooring:x", ID: meta.UID{1}}
	portY = meta.HostID{Protocol: meta.ISCSI, Name: "iqn.2026-11.io.mooring:y", ID: meta.UID{1}}
)

func hostOf(letter byte) (meta.HostID, uint64) {
	switch letter {
	case 'a':
		return hostA, 0xa
	case 'b':
		return hostB, 0xb
	case 'x':
		return portX, 0x1
	case 'y':
		return portY, 0x2
	}
	return hostC, 0xc
}

// run carries out a script of steps such as "a reg", "b acq we", "c preempt eaa b".
// Words after the action: types (we ea wer ear wea eaa), the letter or "0" or "7" of
// another key, "iekey", "wrongkey", "ptpl", "noptpl". It returns the last outcome.
func run(t *testing.T, script string) (r meta.Reservation, result meta.ReserveResult, told []meta.Notification) {
	t.Helper()
	for step := range strings.SplitSeq(script, ";") {
		r, result, told = r.Apply(parseStep(t, strings.TrimSpace(step)))
	}
	return r, result, told
}

func parseStep(t *testing.T, step string) meta.ReserveRequest {
	t.Helper()
	words := strings.Fields(step)
	var q meta.ReserveRequest
	q.Host, q.Key = hostOf(words[0][0])
	q.NewKey = q.Key
	actions := map[string]meta.ReserveAction{
		"reg": meta.ReserveRegister, "unreg": meta.ReserveUnregister, "replace": meta.ReserveReplace, "acq": meta.ReserveAcquire,
		"preempt": meta.ReservePreempt, "abort": meta.ReservePreemptAbort, "rel": meta.ReserveRelease, "clear": meta.ReserveClear,
		"persist": meta.ReserveSetPersistence, "reserve6": meta.ReserveUnit, "release6": meta.ReserveReleaseUnit, "reset": meta.ReserveResetUnit,
	}
	types := map[string]meta.ReservationType{
		"we": meta.WriteExclusive, "ea": meta.ExclusiveAccess, "wer": meta.WriteExclusiveRegistrants,
		"ear": meta.ExclusiveAccessRegistrants, "wea": meta.WriteExclusiveAll, "eaa": meta.ExclusiveAccessAll, "bad": 7,
	}
	action, ok := actions[words[1]]
	if !ok {
		t.Fatalf("no action in %q", step)
	}
	q.Action = action
	for _, word := range words[2:] {
		switch {
		case types[word] != 0:
			q.Type = types[word]
		case word == "iekey":
			q.IgnoreKey = true
		case word == "wrongkey":
			q.Key = 0xdead
		case word == "ptpl":
			q.Persistence = meta.PersistenceSet
		case word == "noptpl":
			q.Persistence = meta.PersistenceClear
		case word == "badptpl":
			q.Persistence = 1
		case word == "0":
			q.NewKey = 0
		case word == "7":
			q.NewKey = 7
		case word == "key7":
			q.Key = 7
		case word == "key0":
			q.Key = 0
		case word == "a", word == "b", word == "c", word == "x", word == "y":
			_, q.NewKey = hostOf(word[0])
		default:
			t.Fatalf("no meaning of %q in %q", word, step)
		}
	}
	return q
}

// state writes a reservation as "a=a! b=b wer", with ! at holders.
func state(r meta.Reservation) string {
	var out []string
	for _, g := range r.Registrants {
		holds := ""
		if g.Holder {
			holds = "!"
		}
		out = append(out, fmt.Sprintf("%c=%x%s", g.Host.Name[len(g.Host.Name)-1], g.Key, holds))
	}
	if r.Type != 0 {
		out = append(out, []string{"we", "ea", "wer", "ear", "wea", "eaa"}[r.Type-1])
	}
	if r.Persist {
		out = append(out, "ptpl")
	}
	if r.Unit != nil {
		out = append(out, "unit:"+r.Unit.Name[len(r.Unit.Name)-1:])
	}
	return strings.Join(out, " ")
}

func notes(told []meta.Notification) string {
	var out []string
	for _, n := range told {
		out = append(out, fmt.Sprintf("%c:%s", n.Host.Name[len(n.Host.Name)-1],
			[]string{"registration-preempted", "released", "preempted"}[n.Type-1]))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Base 7.2 to 7.5 and 8.19
func TestReservationCommands(t *testing.T) {
	const ok, conflict, bad = meta.ReserveOK, meta.ReserveConflict, meta.ReserveInvalid
	for _, c := range []struct {
		rule   string
		script string
		result meta.ReserveResult
		state  string
		told   string
	}{
		// Register
		{"a host registers a key", "a reg", ok, "a=a", ""},
		{"registering the same key again succeeds", "a reg; a reg", ok, "a=a", ""},
		{"registering another key conflicts", "a reg; a reg 7", conflict, "a=a", ""},
		{"a key of zero is invalid", "a reg 0", bad, "", ""},
		{"two hosts may share a key", "a reg 7; b reg 7", ok, "a=7 b=7", ""},
		{"CPTPL sets persistence", "a reg ptpl", ok, "a=a ptpl", ""},
		{"CPTPL clears persistence", "a reg ptpl; a reg noptpl", ok, "a=a", ""},
		{"CPTPL of 01b is reserved", "a reg badptpl", bad, "", ""},
		{"a conflict leaves persistence alone", "a reg; a reg 7 ptpl", conflict, "a=a", ""},
		{"replace changes the key", "a reg; a replace 7", ok, "a=7", ""},
		{"replace checks the current key", "a reg; a replace 7 wrongkey", conflict, "a=a", ""},
		{"replace with IEKEY does not", "a reg; a replace 7 wrongkey iekey", ok, "a=7", ""},
		{"replace by a host that is none conflicts", "a replace 7", conflict, "", ""},
		{"replace with IEKEY registers it", "a replace 7 iekey", ok, "a=7", ""},
		{"replace with zero is invalid", "a reg; a replace 0", bad, "a=a", ""},
		{"a holder keeps the reservation through replace", "a reg; a acq we; a replace 7", ok, "a=7! we", ""},
		{"unregister removes the key", "a reg; b reg; a unreg", ok, "b=b", ""},
		{"unregister checks the key", "a reg; a unreg wrongkey", conflict, "a=a", ""},
		{"unregister with IEKEY does not", "a reg; a unreg wrongkey iekey", ok, "", ""},
		{"unregister by a host that is none conflicts", "a unreg iekey", conflict, "", ""},
		{"the holder's end ends an exclusive reservation silently", "a reg; b reg; a acq we; a unreg", ok, "b=b", ""},
		{"and a registrants-only one with a notification", "a reg; b reg; c reg; a acq ear; a unreg", ok, "b=b c=c", "b:released c:released"},
		{"another registrant's end does not", "a reg; b reg; a acq ear; b unreg", ok, "a=a! ear", ""},
		{"one that all hold ends with the last of them", "a reg; b reg; a acq eaa; a unreg", ok, "b=b! eaa", ""},
		{"", "a reg; b reg; a acq eaa; a unreg; b unreg", ok, "", ""},
		{"who registers joins the holders of such a one", "a reg; a acq wea; b reg", ok, "a=a! b=b! wea", ""},
		// Acquire
		{"a registrant acquires", "a reg; a acq ea", ok, "a=a! ea", ""},
		{"a host that is none conflicts", "b reg; a acq ea", conflict, "b=b", ""},
		{"acquire checks the key", "a reg; a acq ea wrongkey", conflict, "a=a", ""},
		{"IEKEY is invalid", "a reg; a acq ea iekey", bad, "a=a", ""},
		{"a reserved type is invalid", "a reg; a acq bad", bad, "a=a", ""},
		{"a missing type is invalid", "a reg; a acq", bad, "a=a", ""},
		{"the holder may acquire again", "a reg; a acq ea; a acq ea", ok, "a=a! ea", ""},
		{"but not another type", "a reg; a acq ea; a acq we", conflict, "a=a! ea", ""},
		{"nor may another registrant", "a reg; b reg; a acq wer; b acq wer", conflict, "a=a! b=b wer", ""},
		{"of one that all hold, any may acquire again", "a reg; b reg; a acq wea; b acq wea", ok, "a=a! b=b! wea", ""},
		{"", "a reg; b reg; a acq wea; b acq eaa", conflict, "a=a! b=b! wea", ""},
		// Preempt
		{"preempting the holder takes its place", "a reg; b reg; c reg; a acq we; b preempt ea a", ok, "b=b! c=c ea", "a:registration-preempted"},
		{"and tells the rest when a shared type changes", "a reg; b reg; c reg; a acq wer; b preempt ea a", ok, "b=b! c=c ea", "a:registration-preempted c:released"},
		{"but not when it stays", "a reg; b reg; c reg; a acq wer; b preempt wer a", ok, "b=b! c=c wer", "a:registration-preempted"},
		{"preempting another registrant removes it alone", "a reg; b reg; c reg; a acq we; b preempt ea c", ok, "a=a! b=b we", "c:registration-preempted"},
		{"without a reservation none is made", "a reg; b reg; a preempt we b", ok, "a=a", "b:registration-preempted"},
		{"a key that nobody has conflicts", "a reg; b reg; a preempt we 7", conflict, "a=a b=b", ""},
		{"", "a reg; b reg; a acq we; b preempt we 7", conflict, "a=a! b=b we", ""},
		{"zero is invalid where one host holds", "a reg; b reg; a acq we; b preempt we 0", bad, "a=a! b=b we", ""},
		{"", "a reg; a preempt we 0", bad, "a=a", ""},
		{"where all hold, zero removes all others", "a reg; b reg; c reg; a acq eaa; b preempt wer 0", ok, "b=b! wer", "a:registration-preempted c:registration-preempted"},
		{"where all hold, a key removes its hosts alone", "a reg; b reg; c reg; a acq eaa; b preempt wer c", ok, "a=a! b=b! eaa", "c:registration-preempted"},
		{"a holder may preempt itself to change the type", "a reg; b reg; a acq we; a preempt ea a", ok, "a=a! b=b ea", ""},
		{"hosts with the holder's key go with it", "a reg 7; c reg 7; b reg; a acq key7 we; b preempt ea 7", ok, "b=b! ea", "a:registration-preempted c:registration-preempted"},
		{"preempt and abort does the same here", "a reg; b reg; a acq we; b abort we a", ok, "b=b! we", "a:registration-preempted"},
		{"preempt by a host that is none conflicts", "a reg; a acq we; b preempt we a", conflict, "a=a! we", ""},
		// Release
		{"the holder releases an exclusive one silently", "a reg; b reg; a acq we; a rel we", ok, "a=a b=b", ""},
		{"and a shared one with a notification", "a reg; b reg; a acq wer; a rel wer", ok, "a=a b=b", "b:released"},
		{"any holder releases one that all hold", "a reg; b reg; a acq eaa; b rel eaa", ok, "a=a b=b", "a:released"},
		{"with nothing to release it succeeds", "a reg; a rel we", ok, "a=a", ""},
		{"another type is invalid", "a reg; a acq we; a rel ea", bad, "a=a! we", ""},
		{"a registrant that does not hold conflicts", "a reg; b reg; a acq we; b rel we", conflict, "a=a! b=b we", ""},
		{"release checks the key", "a reg; a acq we; a rel we wrongkey", conflict, "a=a! we", ""},
		{"IEKEY is invalid", "a reg; a acq we; a rel we iekey", bad, "a=a! we", ""},
		// Clear
		{"clear ends everything", "a reg; b reg; a acq we; b clear", ok, "", "a:preempted"},
		{"clear keeps persistence", "a reg ptpl; a clear", ok, "ptpl", ""},
		{"clear checks the key", "a reg; b reg; b clear wrongkey", conflict, "a=a b=b", ""},
		{"clear by a host that is none conflicts", "a reg; b clear", conflict, "a=a", ""},
		// Set Features, Reservation Persistence
		{"persistence is set", "a persist ptpl", ok, "ptpl", ""},
		{"persistence is cleared", "a reg ptpl; b persist noptpl", ok, "a=a", ""},
	} {
		r, result, told := run(t, c.script)
		if result != c.result || state(r) != c.state || notes(told) != c.told {
			t.Errorf("%s\n%s:\ngot  %d, %q, %q\nwant %d, %q, %q", c.rule, c.script, result, state(r), notes(told), c.result, c.state, c.told)
		}
	}
}

// RGEN counts registrations, preempts and clears. Base 7.4
func TestReservationGeneration(t *testing.T) {
	for script, want := range map[string]uint32{
		"a reg":                         1,
		"a reg; b reg":                  2,
		"a reg; a replace 7":            2,
		"a reg; a unreg":                2,
		"a reg; a reg 7":                1,
		"a reg; a acq we":               1,
		"a reg; a acq we; a rel we":     1,
		"a reg; b reg; a preempt we b":  3,
		"a reg; b reg; b abort we a":    3,
		"a reg; b reg; a clear":         3,
		"a reg; b reg; a preempt we 7":  2,
		"a reg ptpl; a persist noptpl":  1,
		"a reg; a acq we; b reg; b rel": 2,
	} {
		if r, _, _ := run(t, script); r.Generation != want {
			t.Errorf("%s: generation %d, want %d", script, r.Generation, want)
		}
	}
}

// Base 8.19, figure on command behaviour in the presence of a reservation: a holds,
// b is registered, c is not.
func TestReservationAllows(t *testing.T) {
	for kind, want := range map[string]string{ // read and write of a, b, c
		"":    "rw rw rw",
		"we":  "rw r- r-",
		"ea":  "rw -- --",
		"wer": "rw rw r-",
		"ear": "rw rw --",
		"wea": "rw rw r-",
		"eaa": "rw rw --",
	} {
		script := "a reg; b reg"
		if kind != "" {
			script += "; a acq " + kind
		}
		r, _, _ := run(t, script)
		var got []string
		for _, h := range []meta.HostID{hostA, hostB, hostC} {
			s := []byte("--")
			if r.Allows(h, meta.OpRead) {
				s[0] = 'r'
			}
			if r.Allows(h, meta.OpWrite) {
				s[1] = 'w'
			}
			got = append(got, string(s))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %q, want %q", kind, got, want)
		}
	}
	if r := (*meta.Reservation)(nil); !r.Allows(hostA, meta.OpWrite) {
		t.Error("no reservation forbids a write")
	}
}

func TestRegistrantIdentity(t *testing.T) {
	renamed := hostA
	renamed.Name += "-by-another-name"
	copied := hostA
	copied.ID = meta.UID{9}
	iscsi := meta.HostID{Protocol: meta.ISCSI, Name: "iqn.2026-11.io.mooring:a"}
	for _, c := range []struct {
		a, b meta.HostID
		same bool
	}{{hostA, hostA, true}, {hostA, renamed, true}, {hostA, copied, false}, {hostA, iscsi, false}, {iscsi, iscsi, true}} {
		if c.a.Same(c.b) != c.same {
			t.Errorf("%v and %v: want same %v", c.a, c.b, c.same)
		}
	}
}

// Any history keeps the form of a reservation, and Apply never changes its receiver.
func TestReservationProperties(t *testing.T) {
	rnd := rand.New(rand.NewSource(storetest.Seed(t)))
	for range 200 {
		var r meta.Reservation
		for range 60 {
			q := meta.ReserveRequest{
				Action: meta.ReserveAction(rnd.Intn(11)), Key: uint64(10 + rnd.Intn(3)), NewKey: uint64(rnd.Intn(2)) * uint64(10+rnd.Intn(3)),
				IgnoreKey: rnd.Intn(5) == 0, Type: meta.ReservationType(rnd.Intn(8)), Persistence: meta.PersistenceChange(rnd.Intn(5)),
			}
			q.Host, _ = hostOf("abc"[rnd.Intn(3)])
			before := state(r)
			next, result, told := r.Apply(q)
			if state(r) != before {
				t.Fatalf("%+v changed its receiver from %q to %q", q, before, state(r))
			}
			if result != meta.ReserveOK && (state(next) != before || len(told) > 0) {
				t.Fatalf("%+v failed and left %q after %q", q, state(next), before)
			}
			for _, n := range told {
				if n.Host.Same(q.Host) {
					t.Fatalf("%+v tells its own host", q)
				}
			}
			wellFormed(t, q, next)
			r = next
		}
	}
}

func wellFormed(t *testing.T, q meta.ReserveRequest, r meta.Reservation) {
	t.Helper()
	holders := 0
	for i, g := range r.Registrants {
		if g.Holder {
			holders++
		}
		if g.Key == 0 || slices.ContainsFunc(r.Registrants[:i], func(o meta.Registrant) bool { return o.Host.Same(g.Host) }) {
			t.Fatalf("%+v left %q", q, state(r))
		}
	}
	want := 1
	switch r.Type {
	case meta.NoReservation:
		want = 0
	case meta.WriteExclusiveAll, meta.ExclusiveAccessAll:
		want = len(r.Registrants)
	default:
	}
	if holders != want || (r.Type != meta.NoReservation && holders == 0) {
		t.Fatalf("%+v left %q: %d holders", q, state(r), holders)
	}
}

func TestReserve(t *testing.T) {
	w := newWorld(t)
	w.subsystem()
	v := w.volume("v", gib)
	reserve := func(step string, id uuid.UUID) meta.ReserveOutcome {
		t.Helper()
		q := parseStep(t, step)
		q.ID = id
		out, err := w.Reserve(w.ctx, v.ID, q)
		w.must(err)
		return out
	}
	_, err := w.Reserve(w.ctx, v.ID, parseStep(t, "a reg"))
	w.is(err, meta.ErrNotFound) // not attached
	n := w.attach(v)
	reserve("a reg", uuid.Nil)
	reserve("a acq ea", uuid.Nil)
	id := uuid.New()
	if out := reserve("a replace 7", id); out.Result != meta.ReserveOK || !out.Changed {
		t.Fatalf("replaced: %+v", out)
	}
	if out := reserve("a replace 7", id); out.Result != meta.ReserveOK || state(out.State) != "a=7! ea" {
		t.Fatalf("the same request, repeated: %+v", out)
	}
	if out := reserve("a replace 7", uuid.New()); out.Result != meta.ReserveConflict || out.Changed {
		t.Fatalf("another request: %+v", out)
	}
	// Power loss: what does not persist is gone, and with it its generation.
	s := w.node("a")
	if r, err := w.Reservation(w.ctx, v.ID); err != nil || state(r) != "" || r.Generation != 0 {
		t.Fatalf("after power loss: %q, %v", state(r), err)
	}
	reserve("a reg ptpl", uuid.Nil)
	reserve("a acq wer", uuid.Nil)
	s = w.session(s.Node())
	if r, err := w.Reservation(w.ctx, v.ID); err != nil || state(r) != "a=a! wer ptpl" || r.Generation != 1 {
		t.Fatalf("after power loss with persistence: %q, %v", state(r), err)
	}
	// While another node lives there was no power loss.
	reserve("a persist noptpl", uuid.Nil)
	w.node("b")
	w.session(s.Node())
	if r, err := w.Reservation(w.ctx, v.ID); err != nil || state(r) != "a=a! wer" {
		t.Fatalf("after one node's restart: %q, %v", state(r), err)
	}
	w.must(w.DetachNamespace(w.ctx, nqn, n.NSID))
	if r, err := w.Reservation(w.ctx, v.ID); err != nil || state(r) != "" {
		t.Fatalf("after detaching: %q, %v", state(r), err)
	}
}
