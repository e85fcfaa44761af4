package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

const keepAlive = 10 * time.Second

// nvmeHost is an association with a controller.
type nvmeHost struct {
	ctrl *nvmehost.Controller
	loop *hostio.Loop
	id   nvme.NSID
	ns   unit
}

func connectNVMe(ctx context.Context, loop *hostio.Loop, cfg Config, t Target) (host, error) {
	c, err := nvmehost.Connect(ctx, t.Address, t.Name, nvmehost.Options{
		HostNQN: cfg.Host, HeaderDigest: t.HeaderDigest, DataDigest: t.DataDigest,
		Entries: min(cfg.QueueDepth+1, 1<<16), KeepAlive: keepAlive, NoSQFlow: cfg.NoSQFlow, MaxR2T: 4,
	})
	if err != nil {
		return nil, err
	}
	h := &nvmeHost{ctrl: c, loop: loop, id: t.NSID()}
	n, err := c.Namespace(ctx, h.id)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	h.ns = namespaceUnit(h.id, n)
	h.ns.maxDepth = int(c.CAP.MaxQueueEntries) - 1
	if s := c.Identity.MaxTransferShift; s > 0 {
		h.ns.maxIO = 4096 << (s + c.CAP.MinPageShift)
	}
	return h, nil
}

func namespaceUnit(id nvme.NSID, n nvme.IdentifyNamespace) unit {
	block := 1 << n.Format().DataShift
	return unit{name: fmt.Sprintf("namespace %d", id), block: block, bytes: int64(n.Size) * int64(block)}
}

func (h *nvmeHost) unit() unit          { return h.ns }
func (h *nvmeHost) gone(err error) bool { return namespaceGone(err) }
func (h *nvmeHost) close() error        { return h.ctrl.Close() }

// namespaceGone says whether a status says that the namespace is not active: of commands as ours, these two say nothing
// else. Base 3.2.1
func namespaceGone(err error) bool {
	return errors.Is(err, nvme.StatusInvalidField) || errors.Is(err, nvme.StatusInvalidNamespace)
}

func (h *nvmeHost) open(ctx context.Context, n int) ([]queue, error) {
	granted, err := h.ctrl.SetQueueCount(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("ask for %d I/O queues: %w", n, err)
	}
	if granted < n {
		return nil, &RangeError{"queues", n, fmt.Sprintf("from 1 to %d, which is what the controller grants", granted)}
	}
	var out []queue
	for i := range n {
		q, err := h.ctrl.OpenQueue(ctx, h.loop, nvme.QueueID(i+1))
		if err != nil {
			return nil, err
		}
		out = append(out, &nvmeQueue{q, h.id, h.ns.block})
	}
	return out, nil
}

// nvmeQueue is an I/O queue pair.
type nvmeQueue struct {
	*nvmehost.Queue
	id    nvme.NSID
	block int // bytes
}

func (q *nvmeQueue) lost() error { return q.Err() }

func (q *nvmeQueue) prepare(done func(error)) request {
	r := &nvmeRequest{queue: q}
	r.Done = func(io *nvmehost.IO) { done(io.Status()) }
	return r
}

type nvmeRequest struct {
	nvmehost.IO
	queue *nvmeQueue
}

func (r *nvmeRequest) start(write bool, lba uint64, blocks int, data []byte) {
	opcode := nvme.IORead
	if write {
		opcode = nvme.IOWrite
	}
	r.Write, r.Data, r.Discard, r.Expect = write, data, false, 0
	if data == nil {
		r.Discard, r.Expect = true, blocks*r.queue.block
	}
	r.Cmd = nvmehost.BlockCommand(opcode, r.queue.id, nvme.LBA(lba), nvme.BlockCount(blocks))
	r.queue.Submit(&r.IO)
}
