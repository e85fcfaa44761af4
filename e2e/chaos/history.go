package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// value is what a block holds: 0 before its first write; every other one is written once.
type value uint64

// command is one command of a host on one block.
type command struct {
	block int
	write bool
	maybe bool  // its outcome is unknown
	value value // written, or read
}

// history is what all hosts did. Its methods may be called by any goroutine.
type history struct {
	began time.Time
	next  atomic.Uint64 // the last value that was given out

	mu  sync.Mutex
	ops []porcupine.Operation
	// doubtful are the writes of each host whose outcome is unknown and that may still come, by their places in ops, with when
	// they were given up.
	doubtful map[int][]doubt
	// Of commands: writes that were acknowledged, reads that were answered, writes and reads whose outcome is unknown.
	written, read, unknown, unread int
}

type doubt struct {
	op int
	at int64
}

func newHistory() *history { return &history{began: time.Now(), doubtful: map[int][]doubt{}} }

// now is the time on the history's clock, which is monotonic.
func (h *history) now() int64 { return int64(time.Since(h.began)) }

// unique is a value that was never written.
func (h *history) unique() value { return value(h.next.Add(1)) }

// add notes a command that was sent at a time and was just answered. With an error its outcome is unknown: a read says nothing, and what
// was to be written may come, until a write that the host sent after it gave this one up is acknowledged: that one is of a later path
// epoch, or was given an order behind it (design rule 6).
func (h *history) add(host int, a command, sent int64, err error) {
	now := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil && a.write:
		h.unknown++
		a.maybe = true
		h.doubtful[host] = append(h.doubtful[host], doubt{len(h.ops), now})
		now = math.MaxInt64
	case err != nil:
		h.unread++
		return
	case a.write:
		h.written++
		h.doubtful[host] = slices.DeleteFunc(h.doubtful[host], func(d doubt) bool {
			if d.at > sent {
				return false
			}
			h.ops[d.op].Return = now
			return true
		})
	default:
		h.read++
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: host, Input: a, Output: a, Call: sent, Return: now})
}

// register is one block.
var register = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{value(0)} },
	Step: func(state, input, _ any) []any {
		switch a := input.(command); {
		case a.write && a.maybe:
			return []any{state, a.value}
		case a.write:
			return []any{a.value}
		case a.value == state.(value):
			return []any{state}
		}
		return nil
	},
	DescribeOperation: func(input, _ any) string {
		switch a := input.(command); {
		case a.maybe:
			return fmt.Sprintf("write %d, perhaps", a.value)
		case a.write:
			return fmt.Sprintf("write %d", a.value)
		default:
			return fmt.Sprintf("read %d", a.value)
		}
	},
}).ToModel()

// judgePatience bounds the judgement of one block.
const judgePatience = 2 * time.Minute

// judge says which blocks were not registers, with why; and which could not be judged in time.
func (h *history) judge(blocks int) (wrong, undecided []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := make([][]porcupine.Operation, blocks)
	for _, op := range h.ops {
		b := op.Input.(command).block
		of[b] = append(of[b], op)
	}
	for b, ops := range of {
		ops = essential(ops)
		switch r := porcupine.CheckOperationsTimeout(register, ops, judgePatience); r {
		case porcupine.Ok:
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Sprintf("block %d: %s", b, story(ops)))
		default:
			undecided = append(undecided, fmt.Sprintf("block %d, %d commands", b, len(ops)))
		}
	}
	return wrong, undecided
}

// essential leaves out writes of unknown outcome whose value nobody read: they may as well never have come, and each of
// them would double the work.
func essential(ops []porcupine.Operation) []porcupine.Operation {
	seen := map[value]bool{}
	for _, op := range ops {
		if a := op.Input.(command); !a.write {
			seen[a.value] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(op porcupine.Operation) bool {
		a := op.Input.(command)
		return a.maybe && !seen[a.value]
	})
}

// story tells what went wrong with a block: the first read after which its history is none of a register, and what came shortly before.
func story(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(x, y porcupine.Operation) int { return cmp.Compare(x.Return, y.Return) })
	// The shortest beginning, by when commands ended, that is wrong: those that ended later are cut, or left open if they are writes.
	last := len(ops)
	for low, high := 1, len(ops); low <= high; {
		mid := (low + high) / 2
		if porcupine.CheckOperationsTimeout(register, beginning(ops, mid), judgePatience) == porcupine.Illegal {
			last, high = mid, mid-1
		} else {
			low = mid + 1
		}
	}
	text := ""
	for _, op := range ops[max(0, last-8):last] {
		end := "?"
		if op.Return != math.MaxInt64 {
			end = time.Duration(op.Return).Round(time.Microsecond).String()
		}
		text += fmt.Sprintf("\n  host %d, %v to %s: %s", op.ClientId, time.Duration(op.Call).Round(time.Microsecond), end, register.DescribeOperation(op.Input, op.Output))
	}
	return text
}

func beginning(ops []porcupine.Operation, n int) []porcupine.Operation {
	out := slices.Clone(ops[:n])
	for _, op := range ops[n:] {
		if a := op.Input.(command); a.write {
			a.maybe = true
			op.Input, op.Return = a, math.MaxInt64
			out = append(out, op)
		}
	}
	return essential(out)
}
