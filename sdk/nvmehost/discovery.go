package nvmehost

import (
	"context"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// maxDiscoveryRecords bounds how many entries of a discovery log a host believes.
const maxDiscoveryRecords = 1 << 16

// discoveryTries is how often a log that changes while it is read is read again.
const discoveryTries = 5

// Discover asks the discovery service at address for what opts.HostNQN may connect to.
func Discover(ctx context.Context, address string, opts Options) ([]nvme.DiscoveryEntry, error) {
	opts.Queues = 0
	c, err := Connect(ctx, address, nvme.DiscoveryNQN, opts)
	if err != nil {
		return nil, err
	}
	defer c.Abandon()
	_, entries, err := c.DiscoveryLog(ctx)
	return entries, err
}

// DiscoveryLog reads the whole discovery log page; c must be a discovery controller. A page that
// changes meanwhile is read again. Base 5.16.1.23
func (c *Controller) DiscoveryLog(ctx context.Context) (generation uint64, entries []nvme.DiscoveryEntry, err error) {
	for range discoveryTries {
		head, err := c.discoveryHeader(ctx, true)
		if err != nil {
			return 0, nil, err
		}
		if head.Records > maxDiscoveryRecords {
			return 0, nil, fmt.Errorf("read discovery log: controller claims %d records", head.Records)
		}
		page := nvme.GetLogPage{LID: nvme.LogDiscovery, RetainEvent: true, Offset: nvme.DiscoveryHeaderSize}
		b, err := c.LogPage(ctx, page, int(head.Records)*nvme.DiscoveryEntrySize)
		if err != nil {
			return 0, nil, err
		}
		after, err := c.discoveryHeader(ctx, false)
		if err != nil {
			return 0, nil, err
		}
		if after.Generation != head.Generation {
			continue
		}
		entries = make([]nvme.DiscoveryEntry, head.Records)
		for i := range entries {
			entries[i], _, _ = nvme.ParseDiscoveryEntry(b[i*nvme.DiscoveryEntrySize:])
		}
		return head.Generation, entries, nil
	}
	return 0, nil, errors.New("read discovery log: it kept changing")
}

func (c *Controller) discoveryHeader(ctx context.Context, retain bool) (nvme.DiscoveryHeader, error) {
	b, err := c.LogPage(ctx, nvme.GetLogPage{LID: nvme.LogDiscovery, RetainEvent: retain}, nvme.DiscoveryHeaderSize)
	if err != nil {
		return nvme.DiscoveryHeader{}, err
	}
	h, _, err := nvme.ParseDiscoveryHeader(b)
	return h, err
}
