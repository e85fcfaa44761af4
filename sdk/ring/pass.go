package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Descriptors are the open files of one ring pair that a plugin needs, and what it
// is told about them. Whoever holds the value owns the files.
type Descriptors struct {
	Incarnation uint64
	Thread      uint32

	Submission, Completion, Pool int // memfds
	ToCore                       int // write end of the doorbell to the core
	ToPlugin                     int // read end of the doorbell to the plugin
}

const descriptorCount = 5

var noDescriptors = Descriptors{Submission: -1, Completion: -1, Pool: -1, ToCore: -1, ToPlugin: -1}

// The message that carries them: u32 ABI version, u32 thread, u64 incarnation.
const messageBytes = 16

// Dup duplicates the files, for an owner in the same process.
func (d Descriptors) Dup() (Descriptors, error) {
	out := d
	files := out.files()
	for i, fd := range files {
		n, err := unix.FcntlInt(uintptr(*fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, done := range files[:i] {
				unix.Close(*done)
			}
			return noDescriptors, fmt.Errorf("duplicate descriptor: %w", err)
		}
		*fd = n
	}
	return out, nil
}

// Close closes the files.
func (d *Descriptors) Close() error {
	var errs []error
	for _, fd := range d.files() {
		errs = append(errs, closeFD(fd))
	}
	return errors.Join(errs...)
}

// files lists the descriptors in the order in which they travel.
func (d *Descriptors) files() [descriptorCount]*int {
	return [...]*int{&d.Submission, &d.Completion, &d.Pool, &d.ToCore, &d.ToPlugin}
}

// Send passes the files of one ring pair over conn, a SOCK_SEQPACKET socket. The
// sender keeps its own.
func Send(conn *net.UnixConn, d Descriptors) error {
	le := binary.LittleEndian
	var msg [messageBytes]byte
	le.PutUint32(msg[0:], ABIVersion)
	le.PutUint32(msg[4:], d.Thread)
	le.PutUint64(msg[8:], d.Incarnation)
	var fds [descriptorCount]int
	for i, fd := range d.files() {
		fds[i] = *fd
	}
	if _, _, err := conn.WriteMsgUnix(msg[:], unix.UnixRights(fds[:]...), nil); err != nil {
		return fmt.Errorf("send rings of thread %d: %w", d.Thread, err)
	}
	return nil
}

// Receive takes what one Send passed. It returns io.EOF when the sender has closed
// its end or died.
func Receive(conn *net.UnixConn) (Descriptors, error) {
	var msg [messageBytes + 1]byte
	oob := make([]byte, unix.CmsgSpace(4*(descriptorCount+1)))
	n, oobn, flags, _, err := conn.ReadMsgUnix(msg[:], oob)
	if err != nil && !errors.Is(err, io.EOF) {
		return noDescriptors, fmt.Errorf("receive rings: %w", err)
	}
	fds, fdErr := rights(oob[:oobn])
	if n == 0 && len(fds) == 0 {
		return noDescriptors, io.EOF
	}
	d, err := parseMessage(msg[:n], fds)
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message was cut off")
	}
	if err = errors.Join(err, fdErr); err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return noDescriptors, fmt.Errorf("receive rings: %w", err)
	}
	return d, nil
}

// rights are the descriptors in a control message.
func rights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func parseMessage(b []byte, fds []int) (Descriptors, error) {
	if len(b) != messageBytes || len(fds) != descriptorCount {
		return noDescriptors, fmt.Errorf("message of %d bytes with %d descriptors, want %d with %d", len(b), len(fds), messageBytes, descriptorCount)
	}
	le := binary.LittleEndian
	if v := le.Uint32(b); v != ABIVersion {
		return noDescriptors, fmt.Errorf("core speaks ring ABI %d, this plugin %d: rebuild one of them", v, ABIVersion)
	}
	d := Descriptors{Thread: le.Uint32(b[4:]), Incarnation: le.Uint64(b[8:])}
	for i, fd := range d.files() {
		*fd = fds[i]
	}
	return d, nil
}

func closeFD(fd *int) error {
	if *fd < 0 {
		return nil
	}
	err := unix.Close(*fd)
	*fd = -1
	return err
}

func unmap(b *[]byte) error {
	if *b == nil {
		return nil
	}
	err := unix.Munmap(*b)
	*b = nil
	return err
}
