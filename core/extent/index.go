package extent

import (
	"maps"
	"sync"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
)

// MemoryIndex is an Index for tests: it survives Close, and CrashClone copies it beside a simulated disk.
type MemoryIndex struct {
	mu      sync.Mutex
	records map[ID]Record // guarded by mu
	owner   uuid.UUID     // guarded by mu
}

// NewMemoryIndex returns an empty index.
func NewMemoryIndex() *MemoryIndex { return &MemoryIndex{records: map[ID]Record{}} }

// Opener returns what Options.Index wants; it always opens this very index.
func (m *MemoryIndex) Opener() IndexOpener {
	return func(string, hclog.Logger) (Index, error) { return m, nil }
}

// CrashClone returns the index as a restart would find it.
func (m *MemoryIndex) CrashClone() *MemoryIndex {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &MemoryIndex{records: maps.Clone(m.records), owner: m.owner}
}

// Load implements Index.
func (m *MemoryIndex) Load(fn func(Record) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

// Update implements Index.
func (m *MemoryIndex) Update(put []Record, remove []ID, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range put {
		m.records[r.ID] = r
	}
	for _, id := range remove {
		delete(m.records, id)
	}
	return nil
}

// Owner implements Index.
func (m *MemoryIndex) Owner() (uuid.UUID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.owner, nil
}

// Bind implements Index.
func (m *MemoryIndex) Bind(store uuid.UUID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.owner = store
	return nil
}

// Close implements Index.
func (m *MemoryIndex) Close() error { return nil }

// indexer carries index updates from the queue's goroutine to the Index and their results back, several in one transaction
// when they queue up. A MemoryIndex is called at once instead, which keeps simulations deterministic.
type indexer struct {
	index Index
	post  func(func())
	work  chan indexUpdate
	ended chan struct{}
}

type indexUpdate struct {
	put    []Record
	remove []ID
	fresh  bool // of a new extent
	done   func(error)
}

// indexBacklog bounds the control requests that wait for the index.
const indexBacklog = 1024

func newIndexer(index Index, post func(func())) *indexer {
	x := &indexer{index: index, post: post}
	if _, inline := index.(*MemoryIndex); !inline {
		x.work, x.ended = make(chan indexUpdate, indexBacklog), make(chan struct{})
		go x.run()
	}
	return x
}

// update makes the change durable and then runs done on the queue's goroutine. At most indexBacklog may be under way.
func (x *indexer) update(u indexUpdate) {
	if x.work == nil {
		u.done(x.index.Update(u.put, u.remove, u.fresh))
		return
	}
	x.work <- u
}

func (x *indexer) run() {
	defer close(x.ended)
	var held *indexUpdate // of another kind than the group before it
	for {
		var group []indexUpdate
		if held != nil {
			group, held = append(group, *held), nil
		} else if u, ok := <-x.work; ok {
			group = append(group, u)
		} else {
			return
		}
		for more := true; more && len(group) < 128; {
			select {
			case v, ok := <-x.work:
				switch {
				case !ok:
					more = false
				case v.fresh != group[0].fresh:
					held, more = &v, false
				default:
					group = append(group, v)
				}
			default:
				more = false
			}
		}
		var put []Record
		var remove []ID
		for _, g := range group {
			put, remove = append(put, g.put...), append(remove, g.remove...)
		}
		err := x.index.Update(put, remove, group[0].fresh)
		x.post(func() {
			for _, g := range group {
				g.done(err)
			}
		})
	}
}

// close waits for the updates under way and closes the index.
func (x *indexer) close() error {
	if x.work != nil {
		close(x.work)
		<-x.ended
	}
	return x.index.Close()
}
