package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const (
	runPrefix = "mooring-"
	runLock   = ".lock"
)

// runDir holds the private socket directories of one core's plugins. A lock that
// the kernel drops with the process tells a dead core's directory from a live one's.
type runDir struct {
	parent string // immutable

	mu   sync.Mutex
	path string      // guarded by mu
	info os.FileInfo // of path as it was made; guarded by mu
	lock *os.File    // guarded by mu
}

// openRunDir makes a directory under parent, and removes those that dead cores left
// there. "" chooses the parent.
func openRunDir(parent string, log hclog.Logger) (*runDir, error) {
	if parent == "" {
		parent = runParent()
	}
	sweep(parent, log)
	d := &runDir{parent: parent}
	if err := d.create(); err != nil {
		return nil, err
	}
	return d, nil
}

// create makes the directory. d.mu is held, or d is not yet shared.
func (d *runDir) create() (err error) {
	path, err := os.MkdirTemp(d.parent, runPrefix)
	if err != nil {
		return fmt.Errorf("make directory for plugin sockets: %w", err)
	}
	if os.Geteuid() == 0 {
		// Plugins under their own users pass through, and can list nothing.
		err = os.Chmod(path, 0o711)
	}
	var info os.FileInfo
	if err == nil {
		info, err = os.Stat(path)
	}
	var lock *os.File
	if err == nil {
		lock, err = lockFile(filepath.Join(path, runLock), os.O_CREATE|os.O_RDWR)
	}
	if err != nil {
		os.RemoveAll(path)
		return fmt.Errorf("prepare directory for plugin sockets: %w", err)
	}
	d.path, d.info, d.lock = path, info, lock
	return nil
}

// dir returns the directory's path. One that was removed, as what cleans up /tmp does, is made anew.
func (d *runDir) dir() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now, err := os.Stat(d.path); err == nil && os.SameFile(now, d.info) {
		return d.path, nil
	}
	lost := d.lock
	if err := d.create(); err != nil {
		return "", err
	}
	return d.path, lost.Close()
}

// runParent is short: the path of a unix socket is at most 107 bytes.
func runParent() string {
	for _, dir := range []string{os.Getenv("RUNTIME_DIRECTORY"), os.Getenv("XDG_RUNTIME_DIR")} {
		if dir, _, _ := strings.Cut(dir, ":"); dir != "" && unix.Access(dir, unix.W_OK) == nil {
			return dir
		}
	}
	if os.Geteuid() == 0 && unix.Access("/run", unix.W_OK) == nil {
		return "/run"
	}
	return os.TempDir()
}

func (d *runDir) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}

// sweep removes what dead cores of this user left under parent.
func sweep(parent string, log hclog.Logger) {
	dirs, err := filepath.Glob(filepath.Join(parent, runPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
			continue
		}
		// Without the lock file it is not ours, or a core is just making it.
		lock, err := lockFile(filepath.Join(dir, runLock), os.O_RDWR)
		if err != nil {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			log.Warn("cannot remove what a dead core left", "path", dir, "error", err)
		} else {
			log.Info("removed what a dead core left", "path", dir)
		}
		lock.Close()
	}
}

func lockFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
