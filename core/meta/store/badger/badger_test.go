package badger_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/badger"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
)

func open(t testing.TB, dir string, clock store.Clock) *badger.Store {
	t.Helper()
	s, err := badger.Open(badger.Options{Dir: dir, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Engine {
		clock := storetest.NewClock()
		return storetest.Engine{
			Open:    func(t *testing.T) store.Store { return open(t, t.TempDir(), clock) },
			Advance: clock.Advance,
			TTL:     3 * time.Second,
		}
	})
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	defer s.Close()
	if _, err := badger.Open(badger.Options{Dir: dir}); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("got %v, want ErrLocked", err)
	}
}

// A session belongs to its process: opening the store again ends it, and revisions
// go on growing.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	n, err := s.NewSession(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	rev, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "a", Value: []byte("1")}, {Key: "bound", Session: n.ID()}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, nil)
	defer s.Close()
	if kv, err := s.Get(t.Context(), "a"); err != nil || kv.Revision != rev {
		t.Fatalf("got %+v, %v; want revision %d", kv, err, rev)
	}
	if _, err := s.Get(t.Context(), "bound"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got %v, want ErrNotFound", err)
	}
	again, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "b"}}})
	if err != nil || again <= rev {
		t.Fatalf("revision %d, %v; want more than %d", again, err, rev)
	}
}

// Many big transactions at once do not fit into one of Badger's, and still all commit.
func TestBigBatch(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	defer s.Close()
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			if _, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: fmt.Sprint(i), Value: make([]byte, store.MaxBytes-8)}}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	seen := map[store.Revision]bool{}
	err := s.Range(t.Context(), "", func(kv store.KV) error { n++; seen[kv.Revision] = true; return nil })
	if err != nil || n != 12 || len(seen) != 12 {
		t.Fatalf("%d keys at %d revisions, %v", n, len(seen), err)
	}
}

const childDir = "MOORING_TEST_META_DIR"

// TestChild is the writer that TestKill kills: it commits pairs of keys and prints
// each number once it is committed.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("run by TestKill only")
	}
	s := open(t, dir, nil)
	start := uint64(0)
	if kv, err := s.Get(t.Context(), "left/last"); err == nil {
		start = binary.LittleEndian.Uint64(kv.Value)
	}
	for i := start + 1; ; i++ {
		v := binary.LittleEndian.AppendUint64(nil, i)
		_, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{
			{Key: "left/last", Value: v}, {Key: "right/last", Value: v},
			{Key: fmt.Sprintf("log/%08d", i), Value: make([]byte, 500)},
		}})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("committed %d\n", i)
	}
}

func TestKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := uint64(0)
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			var i uint64
			if _, err := fmt.Sscanf(lines.Text(), "committed %d", &i); err != nil {
				if strings.Contains(lines.Text(), "FAIL") {
					t.Fatal(lines.Text())
				}
				continue
			}
			acknowledged = i
			if n++; n == 20+round*37 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the writer was not killed")
		}
		check(t, dir, acknowledged)
	}
	if acknowledged == 0 {
		t.Fatal("nothing was committed")
	}
}

// check opens what a killed writer left: everything acknowledged is there, and no
// transaction is there in part.
func check(t *testing.T, dir string, acknowledged uint64) {
	s := open(t, dir, nil)
	defer s.Close()
	last := func(key string) uint64 {
		kv, err := s.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return binary.LittleEndian.Uint64(kv.Value)
	}
	left, right := last("left/last"), last("right/last")
	n := uint64(0)
	if err := s.Range(t.Context(), "log/", func(store.KV) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if left != right || left < acknowledged || n != left {
		t.Fatalf("acknowledged %d, found %d and %d with %d log keys", acknowledged, left, right, n)
	}
}
