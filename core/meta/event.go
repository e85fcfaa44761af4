package meta

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Severity says who must act on an event.
type Severity string

// The severities.
const (
	Info    Severity = "info"
	Warning Severity = "warning" // degraded but served
	Failure Severity = "error"   // somebody must act
)

// Event is something that an operator may want to know later.
type Event struct {
	Seq      uint64    `json:"seq"` // per node, from 1
	Node     uuid.UUID `json:"node"`
	Time     time.Time `json:"time"`
	Severity Severity  `json:"severity"`
	Kind     string    `json:"kind"`   // e.g. "volume-created"
	Object   string    `json:"object"` // e.g. "volume default/db"
	Message  string    `json:"message"`
	Dropped  uint64    `json:"dropped,omitempty"` // events before this one that found the queue full
}

// Bounds of the journal.
const (
	JournalEvents = 2048 // kept per node; older ones are forgotten
	journalQueue  = 1024 // waiting to be written; more are dropped and counted
	journalBatch  = 60
	// journalPatience is how long a batch may take to write.
	journalPatience = 5 * time.Second
)

// Journal writes a node's events. Recording never blocks and never fails: what
// cannot be written is counted.
type Journal struct {
	meta  *Meta
	node  uuid.UUID
	queue chan Event
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu      sync.Mutex
	dropped uint64
	seq     uint64 // owned by the writing goroutine
}

// OpenJournal continues a node's journal; Close ends its goroutine.
func (m *Meta) OpenJournal(ctx context.Context, node uuid.UUID) (*Journal, error) {
	j := &Journal{meta: m, node: node, queue: make(chan Event, journalQueue)}
	events, err := list[Event](ctx, m, keyEvents(node))
	if err != nil {
		return nil, err
	}
	if len(events) > 0 {
		j.seq = events[len(events)-1].Seq
	}
	life, stop := context.WithCancel(context.Background())
	j.stop = stop
	j.done.Go(func() { j.write(life) })
	return j, nil
}

// Record notes an event. Seq, Node and, if zero, Time are set by the journal.
func (j *Journal) Record(e Event) {
	e.Node = j.node
	if e.Time.IsZero() {
		e.Time = j.meta.now().UTC()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Dropped = j.dropped
	select {
	case j.queue <- e:
		j.dropped = 0
	default:
		j.dropped++
	}
}

func (j *Journal) write(ctx context.Context) {
	for {
		var batch []Event
		select {
		case <-ctx.Done():
			// What was recorded before Close is written.
			if batch = j.more(nil); len(batch) == 0 {
				return
			}
		case e := <-j.queue:
			batch = j.more([]Event{e})
		}
		j.commit(batch)
	}
}

// more adds what is waiting to a batch.
func (j *Journal) more(batch []Event) []Event {
	for len(batch) < journalBatch {
		select {
		case e := <-j.queue:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

func (j *Journal) commit(batch []Event) {
	ctx, cancel := context.WithTimeout(context.Background(), journalPatience)
	defer cancel()
	var x txn
	for _, e := range batch {
		j.seq++
		e.Seq = j.seq
		x.Put = append(x.Put, store.Put{Key: keyEvent(j.node, e.Seq), Value: encode(e)})
		if e.Seq > JournalEvents {
			x.Delete = append(x.Delete, keyEvent(j.node, e.Seq-JournalEvents))
		}
	}
	if err := j.meta.commit(ctx, &x); err != nil {
		j.meta.log.Warn("events could not be written", "events", len(batch), "error", err)
		j.mu.Lock()
		j.dropped += uint64(len(batch))
		j.mu.Unlock()
	}
}

// Close writes what was recorded and ends the journal.
func (j *Journal) Close() {
	j.stop()
	j.done.Wait()
}

// Events returns the newest limit events of all nodes, oldest first; 0: all.
func (m *Meta) Events(ctx context.Context, limit int) ([]Event, error) {
	all, err := list[Event](ctx, m, "event/")
	if err != nil {
		return nil, fmt.Errorf("read the events: %w", err)
	}
	slices.SortStableFunc(all, func(a, b Event) int { return a.Time.Compare(b.Time) })
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	return all, nil
}
