package transport

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/cm"
	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/verbs"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// eventBatch is how many events of the connection manager one turn takes.
const eventBatch = 64

// worker is the transport on one I/O thread, which owns all of it but load and pool.
type worker struct {
	transport *Transport
	thread    *block.Thread
	channel   *verbs.Channel
	domains   map[uintptr]*domain // by device
	conns     map[*conn]struct{}
	held      int                       // exchanges
	async     map[uintptr]int           // device → its descriptor; of the first worker
	stopped   chan struct{}             // closed once the worker was told to stop and is empty; nil before
	load      atomic.Int64              // connections given to this worker
	pool      atomic.Int64              // bytes of the thread's pool in use, at the end of the last turn
	cqe       [nvme.CompletionSize]byte // scratch
}

func newWorker(t *Transport, th *block.Thread) (*worker, error) {
	ch, err := verbs.OpenChannel()
	if err != nil {
		return nil, err
	}
	return &worker{
		transport: t, thread: th, channel: ch,
		domains: map[uintptr]*domain{}, conns: map[*conn]struct{}{}, async: map[uintptr]int{},
	}, nil
}

// start is called on the thread.
func (w *worker) start() {
	if err := w.thread.Watch(w.channel.FD(), unix.EPOLLIN, w.events); err != nil {
		w.transport.log.Error("no connections can be accepted", "error", err)
	}
	w.thread.OnTurn(w.flush)
}

// events takes what the connection manager has.
func (w *worker) events(uint32) {
	for range eventBatch {
		e, ok, err := w.channel.Next()
		if err != nil {
			w.transport.log.Error("connection manager", "error", err)
			return
		}
		if !ok {
			return
		}
		w.event(e)
	}
}

func (w *worker) event(e verbs.Event) {
	if e.Kind == verbs.ConnectRequest {
		if l, ok := e.ID.User.(*listener); ok && !l.closed.Load() {
			l.request(e)
			return
		}
		e.New.Close()
		return
	}
	if e.ID == nil {
		return // of a connection that another thread has, or that is gone
	}
	switch user := e.ID.User.(type) {
	case *conn:
		user.event(e)
	case *listener:
		if e.Kind == verbs.DeviceRemoval {
			user.deviceGone()
		}
	}
}

// errRejected carries why a connection is not accepted.
type errRejected cm.Status

func (e errRejected) Error() string { return "connect request refused: " + cm.Status(e).String() }

// adopt makes a connection of what a host asked for, or refuses it.
func (w *worker) adopt(l *listener, e verbs.Event) {
	t, id := w.transport, e.New
	err := w.accept(l, e)
	if err == nil {
		t.counters.accepted.Add(1)
		return
	}
	t.counters.refused.Add(1)
	status := cm.NoResources
	var r errRejected
	if errors.As(err, &r) {
		status = cm.Status(r)
	}
	t.log.Info("connection is refused", "peer", id.Peer(), "url", l.url, "reason", err)
	_ = id.Reject(cm.Reject{Status: status}.Append(nil)) // or it is gone already
	id.Close()
	w.left()
}

var errTooMany = errors.New("there are as many connections as max_connections allows")

// accept answers a host. When it returns an error the ID is the caller's, with no queue pair.
func (w *worker) accept(l *listener, e verbs.Event) error {
	t, id := w.transport, e.New
	if err := w.channel.Adopt(id); err != nil {
		return err
	}
	req, status := cm.Judge(e.PrivateData, cm.Offer{Reads: e.InitiatorDepth, Served: e.ResponderResources}, t.limits)
	if status != cm.OK {
		t.counters.protocolErrors.Add(1)
		return errRejected(status)
	}
	if err := suitableConnection(id); err != nil {
		return err
	}
	if w.stopped != nil || l.closed.Load() {
		return errListenerClosed
	}
	if t.connections.Load() > t.maxConnections.Load() {
		return errTooMany
	}
	d, err := w.domain(id)
	if err != nil {
		return err
	}
	c, err := d.newConn(l, id, req, e.InitiatorDepth)
	if err != nil {
		return err
	}
	accept := cm.Accept{Entries: req.Entries}
	if err := id.Accept(accept.Append(nil), c.readLimit, 0); err != nil {
		// The queue pair is made: it is taken apart like that of any connection.
		c.end(fmt.Errorf("accept: %w", err), false)
	}
	return nil
}

// domain returns that of the ID's device.
func (w *worker) domain(id *verbs.ID) (*domain, error) {
	dev := id.Device()
	if d := w.domains[dev]; d != nil {
		return d, nil
	}
	d, err := newDomain(w, id)
	if err != nil {
		return nil, err
	}
	w.domains[dev] = d
	fd, err := id.Async()
	if err != nil {
		w.transport.log.Warn("events of the device are not seen", "device", d.limits.Device, "error", err)
		return d, nil
	}
	first := w.transport.workers[0]
	first.thread.Post(func() { first.watchAsync(dev, fd) })
	return d, nil
}

// watchAsync follows the events of a device. On the first worker.
func (w *worker) watchAsync(dev uintptr, fd int) {
	if _, ok := w.async[dev]; ok {
		return
	}
	err := w.thread.Watch(fd, unix.EPOLLIN, func(uint32) {
		for range eventBatch {
			kind, qp, ok := verbs.NextAsync(dev)
			if !ok {
				return
			}
			for _, o := range w.transport.workers {
				o.thread.Post(func() { o.deviceEvent(dev, kind, qp) })
			}
		}
	})
	if err != nil {
		w.transport.log.Warn("events of the device are not seen", "error", err)
		return
	}
	w.async[dev] = fd
}

// deviceEvent is told to every worker.
func (w *worker) deviceEvent(dev uintptr, kind int, qp uint32) {
	d := w.domains[dev]
	if d == nil {
		return
	}
	c := d.conns[qp]
	switch kind {
	case verbs.AsyncLastWQEReached:
		if c != nil {
			c.lastReceive()
		}
	case verbs.AsyncQPFatal, verbs.AsyncQPRequestError, verbs.AsyncQPAccessError:
		if c != nil {
			c.fault(fmt.Errorf("the device reports an error of the queue pair, event %d", kind))
		}
	case verbs.AsyncCQError, verbs.AsyncSRQError, verbs.AsyncDeviceFatal:
		d.failed(fmt.Errorf("the device %s reports an error, event %d", d.limits.Device, kind))
	}
}

// flush posts what the turn gave rise to.
func (w *worker) flush() {
	for _, d := range w.domains {
		d.flush()
	}
	w.pool.Store(int64(w.thread.Pool().InUse()))
}

// endListener ends the connections that came in by l.
func (w *worker) endListener(l *listener) {
	for c := range w.conns {
		if c.listener == l {
			c.end(errListenerClosed, true)
		}
	}
}

// stop ends every connection; done is closed when nothing is held any more.
func (w *worker) stop(done chan struct{}) {
	w.stopped = done
	for c := range w.conns {
		c.end(errStopped, true)
	}
	w.checkIdle()
}

// left takes a connection off the counts.
func (w *worker) left() {
	w.load.Add(-1)
	w.transport.connections.Add(-1)
}

func (w *worker) checkIdle() {
	if w.stopped == nil || len(w.conns) > 0 || w.held > 0 {
		return
	}
	select {
	case <-w.stopped:
		return
	default:
	}
	for dev, d := range w.domains {
		delete(w.domains, dev)
		d.close()
	}
	for dev, fd := range w.async {
		delete(w.async, dev)
		w.thread.Unwatch(fd)
	}
	w.thread.Unwatch(w.channel.FD())
	w.channel.Close()
	close(w.stopped)
}
