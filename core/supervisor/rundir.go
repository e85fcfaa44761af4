package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	path string
	lock *os.File
}

// openRunDir makes a directory under parent, and removes those that dead cores left
// there. "" chooses the parent.
func openRunDir(parent string, log hclog.Logger) (*runDir, error) {
	if parent == "" {
		parent = runParent()
	}
	sweep(parent, log)
	path, err := os.MkdirTemp(parent, runPrefix)
	if err != nil {
		return nil, fmt.Errorf("make directory for plugin sockets: %w", err)
	}
	d := &runDir{path: path}
	if os.Geteuid() == 0 {
		// Plugins under their own users pass through, and can list nothing.
		err = os.Chmod(path, 0o711)
	}
	if err == nil {
		d.lock, err = lockFile(filepath.Join(path, runLock), os.O_CREATE|os.O_RDWR)
	}
	if err != nil {
		os.RemoveAll(path)
		return nil, fmt.Errorf("prepare directory for plugin sockets: %w", err)
	}
	return d, nil
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
