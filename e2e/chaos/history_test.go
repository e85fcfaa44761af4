package main

import (
	"errors"
	"strings"
	"testing"
)

// step is a command with when it was sent and answered; 0: its outcome is unknown.
type step struct {
	write      bool
	value      value
	sent, done int64
}

// The judge finds what a disk never does, and lets pass what it may do.
func TestJudge(t *testing.T) {
	w := func(v value, sent, done int64) step { return step{true, v, sent, done} }
	r := func(v value, sent, done int64) step { return step{false, v, sent, done} }
	for _, c := range []struct {
		name  string
		steps []step
		ok    bool
	}{
		{"zeros, then what was written", []step{r(0, 1, 2), w(1, 3, 4), r(1, 5, 6)}, true},
		{"a lost write", []step{w(1, 1, 2), r(0, 3, 4)}, false},
		{"an old value", []step{w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)}, false},
		{"a value from nowhere", []step{w(1, 1, 2), r(7, 3, 4)}, false},
		{"overlapping writes in either order", []step{w(1, 1, 9), w(2, 2, 8), r(1, 10, 11)}, true},
		{"once seen, a write under way is there", []step{w(1, 1, 9), r(1, 2, 3), r(0, 4, 5)}, false},
		{"a write of unknown outcome that came", []step{w(1, 1, 0), r(1, 5, 6)}, true},
		{"that did not come", []step{w(1, 1, 0), r(0, 5, 6)}, true},
		{"that comes late", []step{w(1, 1, 0), w(2, 3, 4), r(2, 5, 6), r(1, 7, 8)}, true},
		{"that is undone", []step{w(1, 1, 0), r(1, 3, 4), r(0, 5, 6)}, false},
		{"that comes before it was sent", []step{r(1, 1, 2), w(1, 3, 0)}, false},
	} {
		h := newHistory()
		for _, s := range c.steps {
			var err error
			if s.done == 0 {
				err = errors.New("no answer")
			}
			h.add(1, command{block: 3, write: s.write, value: s.value}, s.sent, err)
			if s.done != 0 {
				h.ops[len(h.ops)-1].Return = s.done
			}
		}
		wrong, undecided := h.judge(4)
		if (len(wrong) == 0) != c.ok || len(undecided) > 0 {
			t.Errorf("%s: wrong %q, undecided %q", c.name, wrong, undecided)
		}
		if !c.ok && !strings.Contains(strings.Join(wrong, ""), "block 3") {
			t.Errorf("%s: the story is %q", c.name, wrong)
		}
	}
}

// A write that a host gave up cannot come any more when a later one of that host was acknowledged; another host's says nothing.
func TestDoubtEnds(t *testing.T) {
	for _, c := range []struct {
		host int
		ok   bool
	}{{1, false}, {2, true}} {
		h := newHistory()
		add := func(host int, a command, err error) {
			a.block = 3
			h.add(host, a, h.now(), err)
		}
		add(1, command{write: true, value: 1}, errors.New("no answer"))
		add(c.host, command{write: true, value: 2}, nil)
		add(2, command{value: 2}, nil)
		add(2, command{value: 1}, nil)
		if wrong, _ := h.judge(4); (len(wrong) == 0) != c.ok {
			t.Errorf("acknowledged to host %d: wrong %q", c.host, wrong)
		}
	}
}
