//go:build rdma

package verbs

// #include "verbs.h"
import "C"

import (
	"net/netip"
	"unsafe"
)

// What a host does: the other end, for tests. A binary that never calls it does not have it.

// Resolve makes an ID that is to connect to an address; AddrResolved comes next.
func (ch *Channel) Resolve(to netip.AddrPort) (*ID, error) {
	a := address{port: uint32(to.Port()), family: 6}
	if to.Addr().Is4() {
		b := to.Addr().As4()
		a.family = 4
		copy(a.ip[:], b[:])
	} else {
		a.ip = to.Addr().As16()
	}
	id := &ID{channel: ch}
	if err := failed("resolve address", C.mv_resolve(ch.c, (*C.struct_mv_addr)(unsafe.Pointer(&a)), &id.c)); err != nil {
		return nil, err
	}
	ch.ids[id.c] = id
	return id, nil
}

// ResolveRoute comes after AddrResolved; RouteResolved comes next.
func (id *ID) ResolveRoute() error {
	const timeout = 5000 // ms
	res, err := C.rdma_resolve_route(id.c, timeout)
	return call("resolve route", res, err)
}

// Connect asks for a connection, by which the peer may have so many RDMA READs under way.
func (id *ID) Connect(private []byte, served int) error {
	return failed("connect", C.mv_connect(id.c, unsafe.Pointer(unsafe.SliceData(private)), C.uint8_t(len(private)), C.uint8_t(served)))
}

// Receive posts a receive to the queue pair itself.
func (id *ID) Receive(w WR) error {
	return failed("post receive", C.mv_receive_qp(&id.domain.c, id.c, (*C.struct_mv_wr)(unsafe.Pointer(&w))))
}

// RemoteKey is that by which peers may name the domain's memory, if it was made so.
func (d *Domain) RemoteKey() uint32 { return uint32(d.c.mr.rkey) }

// Window is a part of a domain's memory that peers of one queue pair may name by a key of its own.
type Window struct {
	c   *C.struct_ibv_mw
	id  *ID
	key uint32
}

// NewWindow makes a window that names nothing yet.
func (id *ID) NewWindow() (*Window, error) {
	w := &Window{id: id}
	if err := failed("make memory window", C.mv_window(&id.domain.c, &w.c)); err != nil {
		return nil, err
	}
	w.key = uint32(w.c.rkey)
	return w, nil
}

// Bind posts a request, with the ID of wr, after which peers may name wr's memory by the key that it returns.
func (w *Window) Bind(wr WR) (key uint32, err error) {
	w.key = w.key&^0xff | (w.key+1)&0xff // a new one each time, as ibv_inc_rkey does
	wr.Key = w.key
	return w.key, failed("bind memory window", C.mv_bind_window(&w.id.domain.c, w.id.c, w.c, (*C.struct_mv_wr)(unsafe.Pointer(&wr))))
}

// Close gives the window up.
func (w *Window) Close() error { return failed("give up memory window", C.ibv_dealloc_mw(w.c)) }
