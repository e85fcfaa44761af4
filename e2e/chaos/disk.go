package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/e2e/forgetfs"
)

// machine is what is below a node: two disks that forget at a power cut what was not synced, one for the metadata and one
// for the store, and the boot ID by which the node knows that power was gone.
type machine struct {
	dir    string
	disks  [2]*forgetfs.Disk
	mounts [2]*forgetfs.Mount
}

var diskNames = [2]string{"data", "store"}

const diskBytes = 4 << 30 // what is not written takes no memory

func newMachine(dir string) (*machine, error) {
	m := &machine{dir: dir}
	for i := range m.disks {
		m.disks[i] = forgetfs.NewDisk(forgetfs.Options{Bytes: diskBytes})
		if err := os.MkdirAll(m.path(i), 0o755); err != nil {
			return nil, err
		}
	}
	return m, m.boot()
}

func (m *machine) path(i int) string { return filepath.Join(m.dir, diskNames[i]) }
func (m *machine) bootID() string    { return filepath.Join(m.dir, "boot_id") }

// boot begins a life of the machine.
func (m *machine) boot() (err error) {
	for i, d := range m.disks {
		if m.mounts[i], err = d.Mount(m.path(i)); err != nil {
			return err
		}
	}
	return os.WriteFile(m.bootID(), []byte(uuid.NewString()+"\n"), 0o644)
}

// cut is the moment in which power goes. The processes are killed after it.
func (m *machine) cut() {
	for _, d := range m.disks {
		d.Cut()
	}
}

// again has power back after a cut, with all processes gone; the seed says what the disks have kept.
func (m *machine) again(seed uint64) error {
	for i, d := range m.disks {
		if err := m.mounts[i].Unmount(); err != nil {
			return fmt.Errorf("after a power cut: %w", err)
		}
		m.disks[i] = d.Survivor(seed + uint64(i))
	}
	return m.boot()
}

func (m *machine) close() error {
	m.cut()
	return errors.Join(m.mounts[0].Unmount(), m.mounts[1].Unmount())
}
