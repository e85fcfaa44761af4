package meta_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/memory"
)

func TestJoinTokens(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	s := memory.New(memory.Options{})
	defer s.Close()
	m, err := meta.Open(t.Context(), meta.Options{Store: s, Now: func() time.Time { return now }}, meta.Cluster{ExtentBytes: 256 * mib})
	if err != nil {
		t.Fatal(err)
	}
	create := func() (string, string) {
		t.Helper()
		id, secret, err := m.CreateJoinToken(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return id, secret
	}
	use := func(ok bool, id, secret string, node uuid.UUID) {
		t.Helper()
		if err := m.UseJoinToken(t.Context(), id, secret, node); (err == nil) != ok || (err != nil && !errors.Is(err, meta.ErrBadToken)) {
			t.Fatalf("got %v, want it to be valid: %v", err, ok)
		}
	}
	a, b := uuid.New(), uuid.New()
	id, secret := create()
	other, _ := create()
	use(false, id, secret+"0", a)
	use(false, other, secret, a)
	use(false, "0011223344556677", secret, a)
	use(false, "../cluster", secret, a)
	use(false, id, secret, uuid.Nil)
	use(true, id, secret, a)
	use(true, id, secret, a) // a join that was cut short
	use(false, id, secret, b)
	now = now.Add(61 * time.Minute)
	use(false, id, secret, a)
	id, secret = create() // forgets the expired ones
	keys := 0
	if err := s.Range(t.Context(), "jointoken/", func(store.KV) error { keys++; return nil }); err != nil || keys != 1 {
		t.Fatalf("%d tokens are kept, %v", keys, err)
	}
	use(true, id, secret, b)
	for range 99 {
		create()
	}
	if _, _, err := m.CreateJoinToken(t.Context(), time.Hour); !errors.Is(err, meta.ErrInUse) {
		t.Fatalf("more tokens than there may be: %v", err)
	}
	for _, life := range []time.Duration{0, 25 * time.Hour} {
		if _, _, err := m.CreateJoinToken(t.Context(), life); !errors.Is(err, meta.ErrInvalid) {
			t.Fatalf("a life of %v: %v", life, err)
		}
	}
}
