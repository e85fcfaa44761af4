package forgetfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	unmountTimeout = 10 * time.Second
	maxRequest     = 1 << 20 // bytes
)

// Missing lists what this machine lacks for mounting.
func Missing() []string {
	var out []string
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		out = append(out, "/dev/fuse ("+err.Error()+")")
	} else {
		_ = f.Close()
	}
	if os.Geteuid() != 0 {
		_, err := exec.LookPath("fusermount3")
		_, older := exec.LookPath("fusermount")
		if err != nil && older != nil {
			out = append(out, "root, or fusermount3")
		}
	}
	return out
}

// Mount is a Disk shown at a folder.
type Mount struct {
	disk   *Disk
	dir    string
	server *fuse.Server
	gone   bool
}

// Mount shows d at the folder dir. A Disk is mounted once.
func (d *Disk) Mount(dir string) (*Mount, error) {
	o := &fuse.MountOptions{
		FsName: "forgetfs", Name: "forgetfs", DisableXAttrs: true, DisableReadDirPlus: true, DisableSplice: true, MaxWrite: maxRequest,
		DirectMountStrict: os.Geteuid() == 0, AllowOther: os.Geteuid() == 0,
	}
	server, err := fuse.NewServer(&wire{RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d}, dir, o)
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	keepToOurselves()
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	return &Mount{disk: d, dir: dir, server: server}, nil
}

// keepToOurselves closes the kernel's connections on exec. A process that uses the disk and holds one, too, could wait for ever for
// an answer when ours has ended.
func keepToOurselves() {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, f := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && to == "/dev/fuse" {
			if fd, err := strconv.Atoi(f.Name()); err == nil {
				unix.CloseOnExec(fd)
			}
		}
	}
}

// WriteBack has the kernel begin to write what processes have changed in memory that they map. Nothing is synced by it, and the
// last writes may come after it returned.
func (m *Mount) WriteBack() error {
	fd, err := unix.Open(m.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("write back %s: %w", m.dir, err)
	}
	return errors.Join(unix.Syncfs(fd), unix.Close(fd))
}

// Unmount takes the folder away. What waits since a power cut is answered with EIO, so the processes that were using the disk must
// have been killed. Unmount waits until they are gone. It may be called again.
func (m *Mount) Unmount() error {
	if m.gone {
		return nil
	}
	m.gone = true
	m.disk.release()
	deadline := time.Now().Add(unmountTimeout)
	for {
		err := m.unmount()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("unmount %s: %w", m.dir, err), unix.Unmount(m.dir, unix.MNT_DETACH))
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

func (m *Mount) unmount() error {
	if os.Geteuid() != 0 {
		return m.server.Unmount()
	}
	return unix.Unmount(m.dir, 0)
}
