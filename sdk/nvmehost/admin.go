package nvmehost

import (
	"context"
	"fmt"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// logChunk is how much of a log page is read with one command, in bytes.
const logChunk = 4096

// Property reads a controller property. Base 6.4
func (c *Controller) Property(ctx context.Context, p nvme.Property) (uint64, error) {
	cqe, err := c.Admin(ctx, nvme.PropertyGet{Size: p.Size(), Offset: p}.Command(), nil, false)
	if err != nil {
		return 0, fmt.Errorf("get property %s: %w", p, err)
	}
	return cqe.Result64(), nil
}

// SetProperty writes a controller property. Base 6.6
func (c *Controller) SetProperty(ctx context.Context, p nvme.Property, v uint64) error {
	cmd := nvme.PropertySet{Size: p.Size(), Offset: p, Value: v}.Command()
	if _, err := c.Admin(ctx, cmd, nil, false); err != nil {
		return fmt.Errorf("set property %s: %w", p, err)
	}
	return nil
}

// Identify reads an Identify data structure of nvme.IdentifySize bytes. Base 5.17
func (c *Controller) Identify(ctx context.Context, cns nvme.CNS, nsid nvme.NSID) ([]byte, error) {
	return c.IdentifyWith(ctx, nvme.Identify{CNS: cns, NSID: nsid})
}

// IdentifyWith is Identify with every field of the command.
func (c *Controller) IdentifyWith(ctx context.Context, id nvme.Identify) ([]byte, error) {
	b := make([]byte, nvme.IdentifySize)
	if _, err := c.Admin(ctx, id.Command(), b, false); err != nil {
		return nil, fmt.Errorf("identify %02xh of namespace %d: %w", uint8(id.CNS), id.NSID, err)
	}
	return b, nil
}

// Namespaces lists the active namespaces.
func (c *Controller) Namespaces(ctx context.Context) (nvme.NSList, error) {
	b, err := c.Identify(ctx, nvme.CNSActiveNamespaces, 0)
	if err != nil {
		return nil, err
	}
	list, _, err := nvme.ParseNSList(b)
	return list, err
}

// Namespace reads the Identify Namespace data, and remembers the block size for Read and Write.
func (c *Controller) Namespace(ctx context.Context, nsid nvme.NSID) (nvme.IdentifyNamespace, error) {
	b, err := c.Identify(ctx, nvme.CNSNamespace, nsid)
	if err != nil {
		return nvme.IdentifyNamespace{}, err
	}
	id, _, err := nvme.ParseIdentifyNamespace(b)
	if err == nil && id.Size == 0 {
		err = fmt.Errorf("namespace %d is not active", nsid)
	}
	if err != nil {
		return id, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shapes[nsid] = nsShape{blockBytes: 1 << id.Format().DataShift, blocks: id.Size}
	return id, nil
}

// LogPage reads n bytes of a log page, in pieces as MDTS demands. g names the page; its Length is
// not used. Only the last piece unmasks the event unless g.RetainEvent. Base 5.16
func (c *Controller) LogPage(ctx context.Context, g nvme.GetLogPage, n int) ([]byte, error) {
	b := make([]byte, (n+3)&^3)
	retain := g.RetainEvent
	for off := 0; off < len(b); off += logChunk {
		part := b[off:min(off+logChunk, len(b))]
		g.Length = uint64(len(part))
		g.RetainEvent = retain || off+logChunk < len(b)
		if _, err := c.Admin(ctx, g.Command(), part, false); err != nil {
			return nil, fmt.Errorf("get log page %02xh at %d: %w", uint8(g.LID), off, err)
		}
		g.Offset += uint64(len(part))
	}
	return b[:n], nil
}

// ANALog reads the ANA log page. Base 5.16.1.13
func (c *Controller) ANALog(ctx context.Context) (nvme.ANALog, error) {
	n := nvme.ANALogHeaderSize + int(c.Identity.ANAGroupCount)*nvme.ANAGroupSize + int(c.Identity.MaxNamespaces)*4
	b, err := c.LogPage(ctx, nvme.GetLogPage{LID: nvme.LogANA, NSID: nvme.BroadcastNSID}, n)
	if err != nil {
		return nvme.ANALog{}, err
	}
	log, _, err := nvme.ParseANALog(b)
	return log, err
}

// SetFeatures sets a feature. data may be nil. Base 5.27
func (c *Controller) SetFeatures(ctx context.Context, f nvme.Features, data []byte) (uint32, error) {
	f.Opcode = nvme.AdminSetFeatures
	cqe, err := c.Admin(ctx, f.Command(), data, true)
	if err != nil {
		return cqe.DW0(), fmt.Errorf("set %s: %w", f.ID, err)
	}
	return cqe.DW0(), nil
}

// GetFeatures reads a feature. data may be nil. Base 5.15
func (c *Controller) GetFeatures(ctx context.Context, f nvme.Features, data []byte) (uint32, error) {
	f.Opcode = nvme.AdminGetFeatures
	cqe, err := c.Admin(ctx, f.Command(), data, false)
	if err != nil {
		return cqe.DW0(), fmt.Errorf("get %s: %w", f.ID, err)
	}
	return cqe.DW0(), nil
}

// SetQueueCount asks for n I/O queue pairs and returns how many were granted. Base 5.27.1.5
func (c *Controller) SetQueueCount(ctx context.Context, n int) (int, error) {
	want := nvme.QueueCounts{Submission: uint32(n), Completion: uint32(n)}
	v, err := c.SetFeatures(ctx, nvme.Features{ID: nvme.FeatureQueues, Value: want.Value()}, nil)
	if err != nil {
		return 0, err
	}
	got := nvme.ParseQueueCounts(v)
	return int(min(got.Submission, got.Completion)), nil
}

// SetEvents chooses which asynchronous events are reported. Base 5.27.1.8
func (c *Controller) SetEvents(ctx context.Context, events nvme.AsyncEvents) error {
	_, err := c.SetFeatures(ctx, nvme.Features{ID: nvme.FeatureAsyncEvents, Value: uint32(events)}, nil)
	return err
}

// Abort asks for the end of a command and reports whether it was aborted. Base 5.1
func (c *Controller) Abort(ctx context.Context, queue nvme.QueueID, cid nvme.CommandID) (bool, error) {
	cqe, err := c.Admin(ctx, nvme.Abort{Queue: queue, CID: cid}.Command(), nil, false)
	if err != nil {
		return false, fmt.Errorf("abort command %d of queue %d: %w", cid, queue, err)
	}
	return cqe.DW0()&1 == nvme.AbortDone, nil
}
