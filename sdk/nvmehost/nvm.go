package nvmehost

import (
	"context"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// nsShape is what is remembered of a namespace.
type nsShape struct {
	blockBytes int
	blocks     nvme.BlockCount
}

var errNoQueue = errors.New("controller has no I/O queue")

// shape returns the remembered shape of a namespace, or asks for it.
func (c *Controller) shape(ctx context.Context, nsid nvme.NSID) (nsShape, error) {
	c.mu.Lock()
	s, ok := c.shapes[nsid]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	if _, err := c.Namespace(ctx, nsid); err != nil {
		return nsShape{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shapes[nsid], nil
}

// anyQueue returns the I/O queues in turn.
func (c *Controller) anyQueue() (*Queue, error) {
	if len(c.io) == 0 {
		return nil, errNoQueue
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextIO = (c.nextIO + 1) % len(c.io)
	return c.io[c.nextIO], nil
}

// BlockCommand returns a command on blocks of a namespace: Read, Write, Compare, Write Zeroes or
// Verify. NVM 3.2
func BlockCommand(op nvme.Opcode, nsid nvme.NSID, lba nvme.LBA, n nvme.BlockCount) nvme.Command {
	var cmd nvme.Command
	cmd.SetOpcode(op)
	cmd.SetNSID(nsid)
	cmd.SetStartLBA(lba)
	cmd.SetBlocks(n)
	return cmd
}

// blockIO runs a command on len(data) bytes, or on n blocks without data.
func (c *Controller) blockIO(ctx context.Context, cmd nvme.Command, data []byte, write bool) error {
	q, err := c.anyQueue()
	if err != nil {
		return err
	}
	if _, err := c.do(ctx, q, cmd, data, write); err != nil {
		return fmt.Errorf("%s namespace %d, %d blocks at %d: %w",
			cmd.Opcode().IOName(), cmd.NSID(), cmd.Blocks(), cmd.StartLBA(), err)
	}
	return nil
}

func (c *Controller) dataIO(ctx context.Context, op nvme.Opcode, nsid nvme.NSID, lba nvme.LBA, data []byte, fua bool) error {
	s, err := c.shape(ctx, nsid)
	if err != nil {
		return err
	}
	if len(data) == 0 || len(data)%s.blockBytes != 0 {
		return fmt.Errorf("%s namespace %d: %d bytes are not a number of %d-byte blocks", op.IOName(), nsid, len(data), s.blockBytes)
	}
	cmd := BlockCommand(op, nsid, lba, nvme.BlockCount(len(data)/s.blockBytes))
	cmd.SetFUA(fua)
	return c.blockIO(ctx, cmd, data, op != nvme.IORead)
}

// Read fills data with the blocks from lba on, in one command.
func (c *Controller) Read(ctx context.Context, nsid nvme.NSID, lba nvme.LBA, data []byte) error {
	return c.dataIO(ctx, nvme.IORead, nsid, lba, data, false)
}

// Write writes data to the blocks from lba on, in one command; with fua it is durable then.
func (c *Controller) Write(ctx context.Context, nsid nvme.NSID, lba nvme.LBA, data []byte, fua bool) error {
	return c.dataIO(ctx, nvme.IOWrite, nsid, lba, data, fua)
}

// Compare compares the blocks from lba on with data.
func (c *Controller) Compare(ctx context.Context, nsid nvme.NSID, lba nvme.LBA, data []byte) error {
	return c.dataIO(ctx, nvme.IOCompare, nsid, lba, data, false)
}

// CompareAndWrite is the fused pair: the blocks become data if they are old. Both errors are
// nil when it was done. NVM 2.1.3
func (c *Controller) CompareAndWrite(ctx context.Context, nsid nvme.NSID, lba nvme.LBA, old, data []byte) (compare, write error) {
	s, err := c.shape(ctx, nsid)
	if err != nil {
		return err, err
	}
	n := nvme.BlockCount(len(old) / s.blockBytes)
	first := &IO{Cmd: BlockCommand(nvme.IOCompare, nsid, lba, n), Data: old, Write: true}
	first.Cmd.SetFuse(nvme.FuseFirst)
	second := &IO{Cmd: BlockCommand(nvme.IOWrite, nsid, lba, n), Data: data, Write: true}
	second.Cmd.SetFuse(nvme.FuseSecond)
	if len(c.io) == 0 {
		return errNoQueue, errNoQueue
	}
	if err := c.DoMany(ctx, 0, first, second); err != nil {
		return err, err
	}
	return first.Status(), second.Status()
}

// Flush makes what was written to a namespace durable. NVM 3.2, Base 7.1
func (c *Controller) Flush(ctx context.Context, nsid nvme.NSID) error {
	q, err := c.anyQueue()
	if err != nil {
		return err
	}
	var cmd nvme.Command
	cmd.SetOpcode(nvme.IOFlush)
	cmd.SetNSID(nsid)
	if _, err := c.do(ctx, q, cmd, nil, false); err != nil {
		return fmt.Errorf("flush namespace %d: %w", nsid, err)
	}
	return nil
}

// WriteZeroes zeroes n blocks from lba on; with deallocate their space may be freed. NVM 3.2.8
func (c *Controller) WriteZeroes(ctx context.Context, nsid nvme.NSID, lba nvme.LBA, n nvme.BlockCount, deallocate bool) error {
	cmd := BlockCommand(nvme.IOWriteZeroes, nsid, lba, n)
	cmd.SetDeallocate(deallocate)
	return c.blockIO(ctx, cmd, nil, false)
}

// Verify checks n blocks from lba on without reading them to the host. NVM 3.2.6
func (c *Controller) Verify(ctx context.Context, nsid nvme.NSID, lba nvme.LBA, n nvme.BlockCount) error {
	return c.blockIO(ctx, BlockCommand(nvme.IOVerify, nsid, lba, n), nil, false)
}

// Deallocate frees ranges, at most nvme.MaxDatasetRanges. NVM 3.2.3
func (c *Controller) Deallocate(ctx context.Context, nsid nvme.NSID, ranges ...nvme.DatasetRange) error {
	q, err := c.anyQueue()
	if err != nil {
		return err
	}
	cmd := nvme.DatasetManagement{NSID: nsid, Ranges: len(ranges), Attributes: nvme.DatasetDeallocate}.Command()
	var data []byte
	for _, r := range ranges {
		data = r.Append(data)
	}
	if _, err := c.do(ctx, q, cmd, data, true); err != nil {
		return fmt.Errorf("deallocate %d ranges of namespace %d: %w", len(ranges), nsid, err)
	}
	return nil
}

// Reserve runs a Reservation Register, Acquire or Release with its keys. Base 7.2 to 7.4
func (c *Controller) Reserve(ctx context.Context, r nvme.ReservationCommand, keys nvme.ReservationKeys) error {
	q, err := c.anyQueue()
	if err != nil {
		return err
	}
	data := keys.Append(nil)
	if r.Opcode == nvme.IOReservationRelease {
		data = keys.Current.Append(nil)
	}
	if _, err := c.do(ctx, q, r.Command(), data, true); err != nil {
		return fmt.Errorf("%s on namespace %d: %w", r.Opcode.IOName(), r.NSID, err)
	}
	return nil
}

// Reservations reads the reservation status of a namespace with 128-bit host identifiers.
// Base 7.5
func (c *Controller) Reservations(ctx context.Context, nsid nvme.NSID) (nvme.ReservationStatus, error) {
	q, err := c.anyQueue()
	if err != nil {
		return nvme.ReservationStatus{}, err
	}
	b := make([]byte, 4096)
	cmd := nvme.ReservationReport{NSID: nsid, Length: uint64(len(b)), Extended: true}.Command()
	if _, err := c.do(ctx, q, cmd, b, false); err != nil {
		return nvme.ReservationStatus{}, fmt.Errorf("report reservations of namespace %d: %w", nsid, err)
	}
	st, _, err := nvme.ParseReservationStatus(b, true)
	return st, err
}
