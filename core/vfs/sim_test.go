package vfs

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
)

func simFileWith(t *testing.T, s *Sim, b []byte) File {
	t.Helper()
	f, err := s.OpenFile("/d/f", OpenOptions{Create: true, Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), s.SyncDir("/d")); err != nil {
		t.Fatal(err)
	}
	return f
}

// A power loss keeps synced bytes, and every sector written since is old or new.
func TestSimPowerLoss(t *testing.T) {
	s := NewSim(1)
	f := simFileWith(t, s, bytes.Repeat([]byte{1}, 2*BlockSize))
	if _, err := f.WriteAt(bytes.Repeat([]byte{2}, BlockSize), 0); err != nil {
		t.Fatal(err)
	}
	torn := false
	for seed := range uint64(50) {
		c := s.CrashClone(seed, PowerLoss)
		g, err := c.OpenFile("/d/f", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2*BlockSize)
		if _, err := g.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b[BlockSize:], bytes.Repeat([]byte{1}, BlockSize)) {
			t.Fatal("synced bytes changed")
		}
		for at := 0; at < BlockSize; at += SectorSize {
			sector := b[at : at+SectorSize]
			if n := bytes.Count(sector, []byte{2}); n != 0 && n != SectorSize {
				t.Fatal("sector is a mixture")
			}
			torn = torn || sector[0] != b[0]
		}
	}
	if !torn {
		t.Fatal("no crash tore the block")
	}
}

// A sync covers only what had completed when it began.
func TestSimSyncCoversCompletedWrites(t *testing.T) {
	s := NewSim(2)
	f := simFileWith(t, s, make([]byte, BlockSize))
	q := s.Queue()
	b, synced, wrote := buffer(t, BlockSize), false, false
	b[0] = 1
	sync := Op{Kind: OpSync, File: f, Done: func(*Op) { synced = true }}
	write := Op{Kind: OpWrite, File: f, Buf: b, Done: func(*Op) { wrote = true }}
	q.Submit(&sync)
	q.Submit(&write)
	turnUntil(t, q, func() bool { return synced && wrote })
	lost := false
	for seed := range uint64(20) {
		g, _ := s.CrashClone(seed, PowerLoss).OpenFile("/d/f", OpenOptions{})
		var got [1]byte
		if _, err := g.ReadAt(got[:], 0); err != nil {
			t.Fatal(err)
		}
		lost = lost || got[0] == 0
	}
	if !lost {
		t.Fatal("a write that the sync did not wait for was never lost")
	}
}

func TestSimFaults(t *testing.T) {
	s := NewSim(3)
	f := simFileWith(t, s, make([]byte, BlockSize))
	s.SetFaults(SimFaults{FailSyncs: 2, MaxSize: BlockSize})
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("sync: %v, want EIO", err)
		}
	}
	if err := f.Allocate(0, 2*BlockSize); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("allocate: %v, want ENOSPC", err)
	}
}
