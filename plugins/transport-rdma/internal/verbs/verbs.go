//go:build rdma

package verbs

// #cgo CFLAGS: -O2 -Wall
// #cgo LDFLAGS: -lrdmacm -libverbs
// #include "verbs.h"
import "C"

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"
)

// Channel yields the events of IDs.
type Channel struct {
	c   *C.struct_rdma_event_channel
	ids map[*C.struct_rdma_cm_id]*ID
	ev  C.struct_mv_event
}

// ID is a listener, a connection that was asked for, or a connection.
type ID struct {
	c       *C.struct_rdma_cm_id
	channel *Channel // nil: in no channel's care
	domain  *Domain
	qp      bool

	// User is the caller's.
	User any
}

// failed turns what a C function returned into an error.
func failed(doing string, errno C.int) error {
	if errno == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, syscall.Errno(errno))
}

// call turns the two results of a library function into an error.
func call(doing string, res C.int, err error) error {
	if res == 0 {
		return nil
	}
	if err == nil {
		err = syscall.EIO
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// OpenChannel makes a channel without IDs.
func OpenChannel() (*Channel, error) {
	c, err := C.rdma_create_event_channel()
	if c == nil {
		return nil, fmt.Errorf("open the RDMA connection manager (/dev/infiniband/rdma_cm; modprobe rdma_ucm makes it): %w", err)
	}
	if err := failed("prepare event channel", C.mv_nonblock(c.fd)); err != nil {
		C.rdma_destroy_event_channel(c)
		return nil, err
	}
	return &Channel{c: c, ids: map[*C.struct_rdma_cm_id]*ID{}}, nil
}

// FD is readable when Next has something.
func (ch *Channel) FD() int { return int(ch.c.fd) }

// Close is called when no ID is left.
func (ch *Channel) Close() { C.rdma_destroy_event_channel(ch.c) }

// Next returns the next event, or false if there is none.
func (ch *Channel) Next() (Event, bool, error) {
	errno := syscall.Errno(C.mv_next(ch.c, &ch.ev))
	switch errno {
	case 0:
	case syscall.EAGAIN:
		return Event{}, false, nil
	default:
		return Event{}, false, fmt.Errorf("read RDMA event: %w", errno)
	}
	e := Event{Kind: EventKind(ch.ev.kind), Status: int(int32(ch.ev.status))}
	if n := int(ch.ev.private_len); n > 0 {
		e.PrivateData = C.GoBytes(unsafe.Pointer(&ch.ev.private_data[0]), C.int(n))
	}
	e.InitiatorDepth, e.ResponderResources = int(ch.ev.initiator_depth), int(ch.ev.responder_resources)
	if e.Kind == ConnectRequest {
		e.ID, e.New = ch.ids[ch.ev.listener], &ID{c: ch.ev.id}
	} else {
		e.ID = ch.ids[ch.ev.id] // nil if it is another channel's by now
	}
	return e, true, nil
}

// Listen makes a listener. Port 0 chooses one.
func (ch *Channel) Listen(at netip.AddrPort) (*ID, error) {
	id, err := ch.bind(at)
	if err != nil {
		return nil, err
	}
	const backlog = 128
	res, err := C.rdma_listen(id.c, backlog)
	if err := call("listen", res, err); err != nil {
		id.Close()
		return nil, err
	}
	return id, nil
}

func (ch *Channel) bind(at netip.AddrPort) (*ID, error) {
	a := address{port: uint32(at.Port()), family: 6}
	if at.Addr().Is4() {
		b := at.Addr().As4()
		a.family = 4
		copy(a.ip[:], b[:])
	} else {
		a.ip = at.Addr().As16()
		scope, err := scopeOf(at.Addr().Zone())
		if err != nil {
			return nil, err
		}
		a.scope = scope
	}
	id := &ID{channel: ch}
	if err := failed("bind", C.mv_bind(ch.c, (*C.struct_mv_addr)(unsafe.Pointer(&a)), &id.c)); err != nil {
		return nil, err
	}
	ch.ids[id.c] = id
	return id, nil
}

func scopeOf(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("zone %s: %w", zone, err)
	}
	return uint32(i.Index), nil
}

// Adopt takes a connection that was asked for into the care of this channel: its events come here
// from now on.
func (ch *Channel) Adopt(id *ID) error {
	res, err := C.rdma_migrate_id(id.c, ch.c)
	if err := call("migrate connection", res, err); err != nil {
		return err
	}
	id.channel = ch
	ch.ids[id.c] = id
	return nil
}

// Local is the address that the ID is bound to.
func (id *ID) Local() netip.AddrPort {
	var a address
	C.mv_local(id.c, (*C.struct_mv_addr)(unsafe.Pointer(&a)))
	return a.addrPort()
}

// Peer is the other end's address.
func (id *ID) Peer() netip.AddrPort {
	var a address
	C.mv_peer(id.c, (*C.struct_mv_addr)(unsafe.Pointer(&a)))
	return a.addrPort()
}

// Device identifies the device that the ID is bound to; 0 for a listener on every address.
func (id *ID) Device() uintptr { return uintptr(unsafe.Pointer(id.c.verbs)) }

// Link says what the ID's port is.
func (id *ID) Link() (Link, error) {
	var transport, layer, mtu C.uint32_t
	err := failed("query port", C.mv_link(id.c, &transport, &layer, &mtu))
	return Link{IWARP: transport == C.IBV_TRANSPORT_IWARP, Ethernet: layer == C.IBV_LINK_LAYER_ETHERNET, MTU: int(mtu)}, err
}

// GIDType says which kind of GID a connection that was asked for goes by.
func (id *ID) GIDType() (int, error) {
	var t C.uint32_t
	err := failed("query GID", C.mv_gid_type(id.c, &t))
	return int(t), err
}

// Limits are those of the ID's device.
func (id *ID) Limits() (Limits, error) {
	var a C.struct_ibv_device_attr
	if err := failed("query device", C.ibv_query_device(id.c.verbs, &a)); err != nil {
		return Limits{}, err
	}
	return Limits{
		Device:    C.GoString(C.ibv_get_device_name(id.c.verbs.device)),
		CQEntries: int(a.max_cqe), SRQEntries: int(a.max_srq_wr), QPEntries: int(a.max_qp_wr), ReadDepth: int(a.max_qp_init_rd_atom),
	}, nil
}

// Async returns a descriptor that is readable when NextAsync has something. It is the device's,
// and there is one for all its IDs.
func (id *ID) Async() (int, error) {
	fd := id.c.verbs.async_fd
	return int(fd), failed("prepare event channel", C.mv_nonblock(fd))
}

// NextAsync returns an event of a device, with the queue pair that it is about, or false.
func NextAsync(device uintptr) (kind int, qp uint32, ok bool) {
	var k, q C.uint32_t
	// The device stays open while the library has any ID of it.
	ctx := *(**C.struct_ibv_context)(unsafe.Pointer(&device))
	if C.mv_async(ctx, &k, &q) != 0 {
		return 0, 0, false
	}
	return int(k), uint32(q), true
}

// CreateQP makes the queue pair, with room for so many sends. inline is how many bytes a send may
// carry that needs no memory of the domain after Post.
func (id *ID) CreateQP(d *Domain, sends, inline int) (int, error) {
	n := C.uint32_t(inline)
	if err := failed("create queue pair", C.mv_qp(id.c, &d.c, C.uint32_t(sends), &n)); err != nil {
		return 0, err
	}
	id.domain, id.qp = d, true
	return int(n), nil
}

// QP is the number of the queue pair.
func (id *ID) QP() uint32 { return uint32(id.c.qp.qp_num) }

// Accept answers a ConnectRequest.
func (id *ID) Accept(private []byte, initiatorDepth, responderResources int) error {
	err := failed("accept connection", C.mv_accept(id.c, unsafe.Pointer(unsafe.SliceData(private)), C.uint8_t(len(private)),
		C.uint8_t(initiatorDepth), C.uint8_t(responderResources)))
	if err != nil {
		return err
	}
	// The connection manager leaves it at 655 ms, which would be a long time for a peer that
	// found the shared receive queue empty. 14 is 1 ms.
	_ = C.mv_min_rnr(id.c, 14)
	return nil
}

// Reject answers a ConnectRequest; Close follows.
func (id *ID) Reject(private []byte) error {
	res, err := C.rdma_reject(id.c, unsafe.Pointer(unsafe.SliceData(private)), C.uint8_t(len(private)))
	return call("reject connection", res, err)
}

// Disconnect ends the connection: what is posted is flushed.
func (id *ID) Disconnect() error {
	res, err := C.rdma_disconnect(id.c)
	return call("disconnect", res, err)
}

// Close gives up the ID and its queue pair.
func (id *ID) Close() {
	if id.qp {
		C.rdma_destroy_qp(id.c)
		id.qp = false
	}
	if id.channel != nil {
		delete(id.channel.ids, id.c)
	}
	C.rdma_destroy_id(id.c)
	id.c = nil
}

// Post posts work requests in order, and returns how many of them.
func (id *ID) Post(w []WR) (int, error) {
	if len(w) == 0 {
		return 0, nil
	}
	var posted C.uint32_t
	err := failed("post send", C.mv_post(&id.domain.c, id.c, (*C.struct_mv_wr)(unsafe.Pointer(&w[0])), C.uint32_t(len(w)), &posted))
	return int(posted), err
}

// Domain is what the connections of one thread on one device share: registered memory, the
// completion queue, the shared receive queue.
type Domain struct{ c C.struct_mv_domain }

// NewDomain makes a domain on the device of id. Unless cfg says otherwise the memory is registered for
// local access: a queue pair of the domain may move it, no peer may name it.
func NewDomain(id *ID, cfg DomainConfig) (*Domain, error) {
	d, access := &Domain{}, 0
	if cfg.Remote {
		access = C.IBV_ACCESS_REMOTE_READ | C.IBV_ACCESS_REMOTE_WRITE | C.IBV_ACCESS_MW_BIND
	}
	err := failed("open RDMA device", C.mv_domain_open(&d.c, id.c.verbs, unsafe.Pointer(unsafe.SliceData(cfg.Memory)),
		C.uint64_t(len(cfg.Memory)), C.int(access), C.uint32_t(cfg.Receives+cfg.Sends), C.uint32_t(cfg.Receives)))
	if err != nil {
		return nil, err
	}
	return d, nil
}

// FD is readable when there are completions; Wake comes first then.
func (d *Domain) FD() int { return int(d.c.channel.fd) }

// Wake makes FD readable for completions to come. Who calls it polls afterwards until nothing is
// left.
func (d *Domain) Wake() error { return failed("arm completion queue", C.mv_wake(&d.c)) }

// Poll takes completions.
func (d *Domain) Poll(out []Completion) (int, error) {
	n := C.mv_poll(&d.c, (*C.struct_mv_wc)(unsafe.Pointer(&out[0])), C.uint32_t(len(out)))
	if n < 0 {
		return 0, fmt.Errorf("poll completion queue: %w", syscall.EIO)
	}
	return int(n), nil
}

// Receive adds to the shared receive queue: of each WR, ID, Offset and Length. It returns how
// many were added.
func (d *Domain) Receive(w []WR) (int, error) {
	if len(w) == 0 {
		return 0, nil
	}
	var posted C.uint32_t
	err := failed("post receive", C.mv_receive(&d.c, (*C.struct_mv_wr)(unsafe.Pointer(&w[0])), C.uint32_t(len(w)), &posted))
	return int(posted), err
}

// Close is called when no queue pair is left.
func (d *Domain) Close() error { return failed("close RDMA device", C.mv_domain_close(&d.c)) }

// address has the layout of struct mv_addr.
type address struct {
	ip     [16]byte
	family uint32
	scope  uint32
	port   uint32
}

func (a address) addrPort() netip.AddrPort {
	switch a.family {
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.ip[:4])), uint16(a.port))
	case 6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.ip).Unmap(), uint16(a.port))
	}
	return netip.AddrPort{}
}
