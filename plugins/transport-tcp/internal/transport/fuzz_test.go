package transport

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

// feed hands the transport a connection on which a host sends b, cut into segments of cut bytes,
// and nothing more. It returns when the transport has closed it.
func (r *rig) feed(b []byte, cut int) {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		r.t.Fatal(err)
	}
	f := os.NewFile(uintptr(pair[1]), "host")
	host, err := net.FileConn(f)
	if err != nil {
		r.t.Fatal(err)
	}
	f.Close()
	defer host.Close()
	host.SetDeadline(time.Now().Add(patience))
	if err := r.transport.server.Adopt(pair[0], "ap", "fuzz"); err != nil {
		r.t.Fatal(err)
	}

	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, host)
		read <- err
	}()
	for len(b) > 0 {
		n := min(cut, len(b))
		if _, err := host.Write(b[:n]); err != nil {
			break // the transport has had enough
		}
		b = b[n:]
	}
	_ = host.(*net.UnixConn).CloseWrite()
	if err := <-read; err != nil {
		if n, ok := err.(net.Error); ok && n.Timeout() {
			r.t.Fatal("the transport did not close the connection")
		}
	}
}

// FuzzConnection sends anything to the connection state machine, after nothing, an ICReq, or an
// ICReq and a Connect, with and without digests. Nothing may crash, hang or be left behind.
func FuzzConnection(f *testing.F) {
	plain, digested := &nvmetcp.Link{}, &nvmetcp.Link{HeaderDigest: true, DataDigest: true}
	connect, rest := conversation()
	f.Add(byte(0), connect)
	f.Add(byte(2), rest)
	f.Add(byte(3), rest)
	for _, x := range faults() {
		kind := byte(1)
		if x.before {
			kind = 0
		}
		f.Add(kind, x.pdu())
	}
	for _, l := range []*nvmetcp.Link{plain, digested} {
		id := nvme.Identify{CNS: nvme.CNSController}.Command()
		id.SetSGL1(nvme.TransportSGL(nvme.IdentifySize))
		host := nvme.Features{Opcode: nvme.AdminSetFeatures, ID: nvme.FeatureHostID}.Command()
		host.SetCID(9)
		host.SetSGL1(nvme.TransportSGL(16))
		d := nvmetcp.Data{CCCID: 9, Length: 16}
		d.Type, d.Flags = nvmetcp.TypeH2CData, nvmetcp.FlagLast
		write := append(capsule(l, host, nil), append(l.AppendData(nil, d), make([]byte, 20)...)...)
		kind := byte(2)
		if l.DataDigest {
			kind |= 4
		}
		f.Add(kind, capsule(l, id, nil))
		f.Add(kind, write)
		f.Add(kind, capsule(l, nvmehost.BlockCommand(nvme.IOWrite, 1, 0, 8), make([]byte, 4096)))
	}
	r := newRig(f, rigOptions{})
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		rt := *r
		rt.t = t
		l, digests := plain, kind&4 != 0
		if digests {
			l = digested
		}
		var all []byte
		if kind&3 >= 1 {
			all = icreq(func(q *nvmetcp.ICReq) { q.HeaderDigest, q.DataDigest, q.MaxR2T = digests, digests, 2 })
		}
		if kind&3 >= 2 {
			all = append(all, connectCapsule(l)...)
		}
		cut := 1 << 20
		if kind&8 != 0 {
			cut = 1 + int(kind>>4)*7
		}
		rt.feed(append(all, b...), cut)
		rt.empty()
	})
}
