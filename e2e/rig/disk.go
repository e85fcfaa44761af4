package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Disk is a raw image file that a machine sees as a virtio disk, and that outlives it.
type Disk struct {
	Path string // an existing file; its size is the disk's
	// Forgetful keeps writes in the memory of a process until the guest flushes them, as a disk's volatile write
	// cache does; CutPower loses them. Otherwise a write is in the file when the guest is told that it is done.
	Forgetful bool
}

// forgetfulGrain is what is kept or lost as a whole, in bytes: the grain of nbdkit's cache.
const forgetfulGrain = "4096"

// diskServer is the nbdkit process of a forgetful disk.
type diskServer struct {
	cmd *exec.Cmd
}

// attach returns QEMU's -drive value, and the server behind it if there is one.
func (d Disk) attach(dir string, index int) (drive string, server *diskServer, err error) {
	if strings.Contains(d.Path, ",") {
		return "", nil, fmt.Errorf("disk %s: a comma in the path", d.Path)
	}
	if !d.Forgetful {
		return "if=virtio,format=raw,cache=unsafe,discard=unmap,file=" + d.Path, nil, nil
	}
	socket := filepath.Join(dir, fmt.Sprintf("disk%d", index))
	if server, err = serveDisk(socket, d.Path); err != nil {
		return "", nil, fmt.Errorf("serve disk %s: %w", d.Path, err)
	}
	return "if=virtio,format=raw,cache=none,file=nbd+unix:///?socket=" + socket, server, nil
}

// serveDisk starts nbdkit on a socket that listens already, so that QEMU need not wait for it.
func serveDisk(socket, path string) (*diskServer, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false) // nbdkit goes on listening
	file, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	nbdkit, err := lookPath("nbdkit")
	if err != nil {
		return nil, err
	}
	// Socket activation wants the pid of the process itself in its environment: the shell knows it, and keeps it.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"`, "sh",
		nbdkit, "-f", "--filter=cache", "file", "file="+path, "cache=writeback", "cache-min-block-size="+forgetfulGrain)
	cmd.ExtraFiles = []*os.File{file} // descriptor 3
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &diskServer{cmd: cmd}, nil
}

// kill may be called more than once, also after the end.
func (s *diskServer) kill() { _ = s.cmd.Process.Kill() }

// wait joins the process; its status says nothing, since it was killed.
func (s *diskServer) wait() { _ = s.cmd.Wait() }
