package memory_test

import (
	"errors"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Engine {
		clock := storetest.NewClock()
		return storetest.Engine{
			Open:    func(*testing.T) store.Store { return memory.New(memory.Options{Clock: clock}) },
			Advance: clock.Advance,
			TTL:     3 * time.Second,
		}
	})
}

func TestFault(t *testing.T) {
	lost := errors.New("answer lost")
	applied := false
	s := memory.New(memory.Options{Fault: func(store.Txn) (bool, error) { return applied, lost }})
	defer s.Close()
	put := func() { // the error is the same, whether it was applied or not
		if _, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "a"}}}); !errors.Is(err, lost) {
			t.Fatal(err)
		}
	}
	put()
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	applied = true
	put()
	if _, err := s.Get(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}
