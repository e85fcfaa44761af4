package nvmf

import (
	"encoding/binary"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// ioCommand is one command of the NVM command set.
type ioCommand struct {
	// begin judges the command and plans its transfer. The namespace is active, allows I/O in
	// its ANA state, and the range of blocks, if the command has one, lies within it.
	begin   func(q *Queue, c *Command, ns *namespace) nvme.Status
	run     func(*Command) // nil: not supported
	ranged  bool           // SLBA and NLB are there
	effects nvme.Effects
}

// ioCommands is what an I/O queue knows. NVM 3.2, Base 7
var ioCommands [256]ioCommand

func init() {
	const write = nvme.EffectSupported | nvme.EffectContent
	ioCommands = [256]ioCommand{
		nvme.IOFlush:               {beginPlain, executeFlush, false, nvme.EffectSupported},
		nvme.IOWrite:               {beginWrite, executeWrite, true, write},
		nvme.IORead:                {beginRead, executeRead, true, nvme.EffectSupported},
		nvme.IOCompare:             {beginCompare, executeCompare, true, nvme.EffectSupported},
		nvme.IOWriteZeroes:         {beginPlain, executeWriteZeroes, true, write},
		nvme.IODatasetManagement:   {beginDataset, executeDataset, false, write},
		nvme.IOVerify:              {beginPlain, executeVerify, true, nvme.EffectSupported},
		nvme.IOReservationRegister: {beginReservation, executeReservation, false, nvme.EffectSupported},
		nvme.IOReservationReport:   {beginReservationReport, executeReservationReport, false, nvme.EffectSupported},
		nvme.IOReservationAcquire:  {beginReservation, executeReservation, false, nvme.EffectSupported},
		nvme.IOReservationRelease:  {beginReservation, executeReservation, false, nvme.EffectSupported},
	}
}

// queueStats is what an I/O queue counts; only its thread touches it.
type queueStats struct {
	reads, writes         uint64 // commands
	readBytes, writeBytes uint64
	mediaErrors           uint64
}

func (q *Queue) beginIO(c *Command) {
	st := q.admitIO(c)
	if !st.OK() {
		c.refuse(st)
	}
	if c.SQE.Fuse() != nvme.FuseNone || q.fused != nil || q.fusedFailed {
		q.fuse(c)
	}
}

// admitIO judges an I/O command.
func (q *Queue) admitIO(c *Command) nvme.Status {
	cmd := &ioCommands[c.SQE.Opcode()]
	if cmd.run == nil {
		return nvme.StatusInvalidOpcode.WithDNR()
	}
	ns, st := q.view.find(c.SQE.NSID())
	if ns == nil {
		return st
	}
	if !ns.refusal.OK() {
		return ns.refusal
	}
	if cmd.ranged {
		start, n := uint64(c.SQE.StartLBA()), uint64(c.SQE.Blocks())
		if start > uint64(ns.blocks) || n > uint64(ns.blocks)-start {
			return nvme.StatusLBAOutOfRange.WithDNR()
		}
	}
	c.ns, c.run = ns, cmd.run
	return cmd.begin(q, c, ns)
}

func beginPlain(*Queue, *Command, *namespace) nvme.Status { return nvme.StatusSuccess }

func beginRead(q *Queue, c *Command, ns *namespace) nvme.Status {
	return q.moveBlocks(c, TransferToHost, ns, 1)
}

func beginWrite(q *Queue, c *Command, ns *namespace) nvme.Status {
	return q.moveBlocks(c, TransferFromHost, ns, 1)
}

// beginCompare makes room for the data of the Write as well, if the Compare is the first half of
// a fused pair.
func beginCompare(q *Queue, c *Command, ns *namespace) nvme.Status {
	if c.SQE.Fuse() != nvme.FuseFirst {
		return q.moveBlocks(c, TransferFromHost, ns, 1)
	}
	if n := int(c.SQE.Blocks()) << ns.shift; n > fusedBytes || 2*n > q.maxTransfer {
		return nvme.StatusAtomicWriteUnitExceeded.WithDNR()
	}
	return q.moveBlocks(c, TransferFromHost, ns, 2)
}

// moveBlocks plans the transfer of the command's blocks, with room for so many times that.
func (q *Queue) moveBlocks(c *Command, dir Transfer, ns *namespace, times int) nvme.Status {
	n := int(c.SQE.Blocks()) << ns.shift // at most 256 MiB
	if n > q.maxTransfer {
		return nvme.StatusInvalidField.WithDNR() // MDTS
	}
	return q.moveWith(c, dir, n, n*times)
}

// submit sends the command's range to the core as op. The buffer, if any, is set already.
func (c *Command) submit(op block.Op, flags block.Flags) {
	if c.SQE.FUA() {
		flags |= block.FUA
	}
	shift := c.ns.shift
	c.submitRange(op, flags, uint64(c.SQE.StartLBA())<<shift, uint64(c.SQE.Blocks())<<shift)
}

// submitRange sends a range of the volume, in bytes, to the core.
func (c *Command) submitRange(op block.Op, flags block.Flags, offset, length uint64) {
	r := &c.req
	r.Op, r.Flags, r.Volume = op, flags, c.ns.handle
	r.Offset, r.Length = offset, length
	c.submitted = true
	c.q.thread.Submit(r)
}

// durable is the flag of a write that the host takes for durable.
func (c *Command) durable() block.Flags {
	if c.ns.writeFUA {
		return block.FUA
	}
	return 0
}

func executeRead(c *Command) {
	c.req.Buf = c.Data
	c.submit(block.OpRead, 0)
}

func executeWrite(c *Command) {
	if c.mate != nil || c.SQE.Fuse() != nvme.FuseNone {
		executeFused(c)
		return
	}
	c.req.Buf = c.Data
	c.submit(block.OpWrite, c.durable())
}

func executeCompare(c *Command) {
	if c.SQE.Fuse() != nvme.FuseNone {
		executeFused(c)
		return
	}
	c.req.Buf = c.Data
	c.submit(block.OpCompare, 0)
}

func executeVerify(c *Command) { c.submit(block.OpVerify, 0) }

func executeWriteZeroes(c *Command) {
	flags := c.durable()
	if c.SQE.Deallocate() {
		flags |= block.Deallocate
	}
	c.submit(block.OpWriteZeroes, flags)
}

func executeFlush(c *Command) { c.submitRange(block.OpFlush, 0, 0, 0) }

// requestDone is called when the block request of a command has ended.
func (c *Command) requestDone() {
	q := c.q
	c.submitted = false
	c.req.Buf = block.Buffer{}
	st := c.blockStatus()
	switch {
	case !st.OK():
		q.countFailure(c, st)
	case c.SQE.Opcode() == nvme.IODatasetManagement:
		c.nextRange()
		return
	default:
		q.count(c)
	}
	if m := c.mate; m != nil {
		c.mate, m.mate = nil, nil
		second := st
		if !st.OK() {
			second = nvme.StatusAbortFailedFused
		}
		q.complete(c, st)
		q.complete(m, second)
		return
	}
	q.complete(c, st)
}

func (q *Queue) count(c *Command) {
	switch c.req.Op {
	case block.OpRead, block.OpCompare:
		q.stats.reads++
		q.stats.readBytes += c.req.Length
	case block.OpWrite, block.OpCompareAndWrite:
		q.stats.writes++
		q.stats.writeBytes += c.req.Length
	case block.OpFlush, block.OpVerify, block.OpDiscard, block.OpWriteZeroes:
	}
}

// Dataset Management. NVM 3.2.3

func beginDataset(q *Queue, c *Command, _ *namespace) nvme.Status {
	return q.move(c, TransferFromHost, nvme.ParseDatasetManagement(&c.SQE).Ranges*nvme.DatasetRangeSize)
}

// executeDataset deallocates the ranges one after the other, when all of them are valid. Its
// other attributes are hints, and not taken.
func executeDataset(c *Command) {
	if nvme.ParseDatasetManagement(&c.SQE).Attributes&nvme.DatasetDeallocate == 0 {
		completeOK(c)
		return
	}
	for i := range c.Length / nvme.DatasetRangeSize {
		start, n := c.datasetRange(i)
		if start > uint64(c.ns.blocks) || n > uint64(c.ns.blocks)-start {
			c.q.complete(c, nvme.StatusLBAOutOfRange.WithDNR())
			return
		}
	}
	c.nextRange()
}

// nextRange deallocates the next range that is not empty, or completes the command.
func (c *Command) nextRange() {
	for c.ranges < c.Length/nvme.DatasetRangeSize {
		start, n := c.datasetRange(c.ranges)
		c.ranges++
		if n > 0 {
			c.submitRange(block.OpDiscard, 0, start<<c.ns.shift, n<<c.ns.shift)
			return
		}
	}
	completeOK(c)
}

// datasetRange returns first block and number of blocks of range i.
func (c *Command) datasetRange(i int) (start, n uint64) {
	b := c.Data.Bytes()[i*nvme.DatasetRangeSize:]
	return binary.LittleEndian.Uint64(b[8:]), uint64(binary.LittleEndian.Uint32(b[4:]))
}
