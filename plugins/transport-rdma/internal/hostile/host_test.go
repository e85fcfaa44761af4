//go:build rdma && guest

package hostile

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/cm"
	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/verbs"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// A queue pair's memory: capsules to send, capsules that come, data. Bytes.
const (
	sendSlots, sendBytes = 64, 8192
	receives, recvBytes  = 128, 64
	recvAt               = sendSlots * sendBytes
	dataAt               = 1 << 20
	memBytes             = 4 << 20
)

// patience is for hangs: generous, never a requirement.
const patience = 60 * time.Second

const (
	idReceive = 1 << 32
	idSend    = 2 << 32
	idBind    = 3 << 32
)

// queuePair is one, of a host that does what the test says.
type queuePair struct {
	t    testing.TB
	ch   *verbs.Channel
	id   *verbs.ID
	d    *verbs.Domain
	mem  []byte
	key  uint32 // of all of mem
	cid  nvme.CommandID
	sent int
	done map[nvme.CommandID]*nvme.Completion
	over bool // it is in error, or the target has disconnected
	room int  // sends that may be posted
	wins int  // windows that are bound
}

// offer is how a queue pair is connected.
type offer struct {
	private []byte
	served  int // RDMA READs of the target's
}

func request(q nvme.QueueID, entries int) cm.Request {
	return cm.Request{Queue: q, Entries: entries, Receives: entries}
}

func proper(q nvme.QueueID, entries int) offer {
	return offer{private: request(q, entries).Append(nil), served: 16}
}

// dial connects a queue pair, or says why the target refused it.
func dial(t testing.TB, o offer) (*queuePair, cm.Status) {
	t.Helper()
	ch, err := verbs.OpenChannel()
	must(t, err)
	q := &queuePair{t: t, ch: ch, done: map[nvme.CommandID]*nvme.Completion{}, room: sendSlots}
	t.Cleanup(q.close)
	q.id, err = ch.Resolve(netip.MustParseAddrPort(os.Getenv("MOORING_RDMA")))
	must(t, err)
	q.expect(verbs.AddrResolved)
	must(t, q.id.ResolveRoute())
	q.expect(verbs.RouteResolved)
	q.mem, err = unix.Mmap(-1, 0, memBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(t, err)
	q.d, err = verbs.NewDomain(q.id, verbs.DomainConfig{Memory: q.mem, Sends: 2*receives + sendSlots, Remote: true})
	must(t, err)
	q.key = q.d.RemoteKey()
	_, err = q.id.CreateQP(q.d, receives, 0)
	must(t, err)
	for i := range receives {
		q.receive(i)
	}
	must(t, q.id.Connect(o.private, o.served))
	switch e := q.expect(verbs.Established, verbs.Rejected); e.Kind {
	case verbs.Rejected:
		r, _, err := cm.ParseReject(e.PrivateData)
		must(t, err)
		if r.Format != 0 {
			t.Errorf("reject has format %d", r.Format)
		}
		return nil, r.Status
	default:
		a, _, err := cm.ParseAccept(e.PrivateData)
		must(t, err)
		if a.Format != 0 || a.Entries == 0 {
			t.Errorf("accept %+v", a)
		}
	}
	return q, cm.OK
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (q *queuePair) close() {
	if q.id != nil {
		q.id.Close()
		q.id = nil
	}
	if q.d != nil {
		if err := q.d.Close(); err != nil && q.wins == 0 {
			q.t.Errorf("close the host's domain: %v", err)
		}
		q.d = nil
	}
	if q.mem != nil {
		_ = unix.Munmap(q.mem)
		q.mem = nil
	}
	if q.ch != nil {
		q.ch.Close()
		q.ch = nil
	}
}

// expect waits for an event of the connection manager.
func (q *queuePair) expect(kinds ...verbs.EventKind) verbs.Event {
	q.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); q.sleep() {
		e, ok, err := q.ch.Next()
		must(q.t, err)
		if ok && slices.Contains(kinds, e.Kind) {
			return e
		}
		if ok {
			q.t.Fatalf("%s, status %d, where one of %v is due", e.Kind, e.Status, kinds)
		}
	}
	q.t.Fatalf("none of %v", kinds)
	panic("unreachable")
}

// sleep waits for something to happen.
func (q *queuePair) sleep() {
	fds := []unix.PollFd{{Fd: int32(q.ch.FD()), Events: unix.POLLIN}}
	if q.d != nil {
		fds = append(fds, unix.PollFd{Fd: int32(q.d.FD()), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(fds, 1000); err != nil && !errors.Is(err, unix.EINTR) {
		q.t.Fatal(err)
	}
}

// until takes what comes until done is true, and says whether it became so.
func (q *queuePair) until(done func() bool) bool {
	q.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); q.sleep() {
		must(q.t, q.d.Wake())
		var wc [32]verbs.Completion
		for n := len(wc); n == len(wc); {
			var err error
			n, err = q.d.Poll(wc[:])
			must(q.t, err)
			for _, w := range wc[:n] {
				q.completed(w)
			}
		}
		for {
			e, ok, err := q.ch.Next()
			must(q.t, err)
			if !ok {
				break
			}
			q.over = q.over || e.Kind == verbs.Disconnected
		}
		if done() {
			return true
		}
	}
	return false
}

func (q *queuePair) completed(w verbs.Completion) {
	if w.Status != verbs.WCSuccess {
		q.over = true
		return
	}
	switch kind, i := w.ID>>32<<32, int(uint32(w.ID)); kind {
	case idReceive:
		c, _, err := nvme.ParseCompletion(q.mem[recvAt+i*recvBytes:][:w.Bytes])
		must(q.t, err)
		q.done[c.CID()] = c
		q.receive(i)
	case idSend:
		q.room++
	}
}

func (q *queuePair) receive(i int) {
	must(q.t, q.id.Receive(verbs.WR{ID: idReceive | uint64(i), Offset: uint64(recvAt + i*recvBytes), Length: recvBytes}))
}

// capsule sends bytes as they are.
func (q *queuePair) capsule(b []byte) {
	q.t.Helper()
	if q.room == 0 {
		q.t.Fatal("a case sends more than there are slots for")
	}
	q.room--
	slot := q.sent % sendSlots
	q.sent++
	copy(q.mem[slot*sendBytes:][:sendBytes], b)
	_, err := q.id.Post([]verbs.WR{{ID: idSend | uint64(slot), Op: verbs.Send, Flags: verbs.Signaled, Offset: uint64(slot * sendBytes), Length: uint32(len(b))}})
	must(q.t, err)
}

// send sends a command with what comes in its capsule.
func (q *queuePair) send(cmd nvme.Command, more []byte) nvme.CommandID {
	q.t.Helper()
	q.cid++
	cmd.SetCID(q.cid)
	cmd.SetPSDT(nvme.PSDTSGL)
	q.capsule(append(cmd.Append(nil), more...))
	return q.cid
}

// do sends a command and waits for its answer.
func (q *queuePair) do(cmd nvme.Command, more []byte) *nvme.Completion {
	q.t.Helper()
	id := q.send(cmd, more)
	if !q.until(func() bool { _, ok := q.done[id]; return ok || q.over }) {
		q.t.Fatal("no answer")
	}
	a, ok := q.done[id]
	if !ok {
		q.t.Fatal("the target ended the connection in place of an answer")
	}
	delete(q.done, id)
	return a
}

// ends waits for the target to end the connection.
func (q *queuePair) ends() {
	q.t.Helper()
	if !q.until(func() bool { return q.over }) {
		q.t.Fatal("the target does not end the connection")
	}
}

// keyed names n bytes of the data at off.
func (q *queuePair) keyed(off, n int) nvme.SGL {
	return nvme.SGL{Type: nvme.SGLKeyedDataBlock, Address: uint64(uintptr(unsafe.Pointer(&q.mem[dataAt+off]))), Length: uint32(n), Key: q.key}
}

func (q *queuePair) data(off, n int) []byte { return q.mem[dataAt+off:][:n] }

// segment makes a command's descriptors a segment in its capsule.
func segment(cmd nvme.Command, list ...nvme.SGL) (nvme.Command, []byte) {
	var b []byte
	for _, d := range list {
		b = d.Append(b)
	}
	cmd.SetSGL1(nvme.SGL{Type: nvme.SGLLastSegment, Subtype: nvme.SGLOffset, Length: uint32(len(b))})
	return cmd, b
}

const blockBytes = 4096

// rw is a read or write in the second half of the namespace, with a keyed descriptor.
func (q *queuePair) rw(op nvme.Opcode, block, off, n int) nvme.Command {
	var c nvme.Command
	c.SetOpcode(op)
	c.SetNSID(1)
	c.SetStartLBA(nvme.LBA(512<<20/blockBytes + block))
	c.SetBlocks(nvme.BlockCount(n / blockBytes))
	c.SetSGL1(q.keyed(off, n))
	return c
}

// host is an association: an Admin queue, and an I/O queue if one was asked for.
type host struct{ admin, io *queuePair }

// connect makes an association with an I/O queue of so many entries.
func connect(t testing.TB, entries int, o offer) host { return connectAdmin(t, 32, entries, o) }

// connectAdmin is connect with an Admin queue of so many entries; with none for I/O there is no such queue.
func connectAdmin(t testing.TB, admin, entries int, o offer) host {
	t.Helper()
	h := host{}
	id := nvme.DynamicControllerID
	join := func(qid nvme.QueueID, o offer, entries int) *queuePair {
		q, st := dial(t, o)
		if st != cm.OK {
			t.Fatalf("queue %d is refused: %s", qid, st)
		}
		c := nvme.Connect{SGL: nvme.InCapsule(0, nvme.ConnectDataSize), Queue: qid, Entries: uint32(entries)}
		if qid == nvme.AdminQueue {
			c.KeepAlive = 120_000
		}
		data := nvme.ConnectData{HostID: nvme.HostID{1, 2, 3, byte(os.Getpid())}, Controller: id, SubsystemNQN: os.Getenv("MOORING_NQN"), HostNQN: "nqn.2014-08.org.example:hostile"}
		a := q.ok(c.Command(), data.Append(nil))
		id = nvme.ControllerID(a.DW0())
		return q
	}
	h.admin = join(nvme.AdminQueue, proper(nvme.AdminQueue, admin), admin)
	h.admin.ok(nvme.PropertySet{Size: 4, Offset: nvme.PropertyCC, Value: uint64(nvme.MakeConfig(nvme.SelectNVM))}.Command(), nil)
	if entries > 0 {
		h.io = join(1, o, entries)
	}
	return h
}

// ok is do for what must succeed.
func (q *queuePair) ok(cmd nvme.Command, more []byte) *nvme.Completion {
	q.t.Helper()
	a := q.do(cmd, more)
	if !a.Status().OK() {
		q.t.Fatalf("opcode %02xh: %v", uint8(cmd.Opcode()), a.Status())
	}
	return a
}

// fails is do for what must fail, and leave the queue pair alone.
func (q *queuePair) fails(want nvme.Status, cmd nvme.Command, more []byte) {
	q.t.Helper()
	if a := q.do(cmd, more); a.Status().Code() != want.Code() {
		q.t.Fatalf("%v, want %v", a.Status(), want)
	}
}

func pattern(b []byte, seed int) {
	for i := range b {
		b[i] = byte(seed + i + i/509)
	}
}

func same(t testing.TB, got, want []byte) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatal(fmt.Sprintf("byte %d of %d is %#x, want %#x", i, len(want), got[i], want[i]))
		}
	}
}
