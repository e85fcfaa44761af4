package device

import (
	"slices"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// copyLimits is what EXTENDED COPY takes.
var copyLimits = scsi.CopyLimits{
	MaxCSCDs: 64, MaxSegments: 64, MaxListBytes: 4096 - scsi.CopyHeaderSize, MaxSegment: 0xffff << 12, MaxConcurrent: 1, GranularityLog: 12,
}

// copyChunk is how much is copied at a time.
const copyChunk = 512 << 10

// copying is an EXTENDED COPY under way: each segment is read and written some at a time, one after
// the other, between logical units that the initiator sees.
type copying struct {
	task     *Task
	units    []*unit // by CSCD
	segments []scsi.Segment
	next     int    // segment
	at       uint64 // bytes of it that are copied
	bytes    uint64 // of all
	buf      block.Buffer
	list     scsi.CopyHeader
}

// EXTENDED COPY (LID1). SPC-4 6.4

func beginExtendedCopy(n *Nexus, t *Task) {
	if t.writable() {
		n.list(t, scsi.CopyHeaderSize, int(copyLimits.MaxListBytes)+scsi.CopyHeaderSize, executeExtendedCopy)
	}
}

func executeExtendedCopy(t *Task) {
	illegal := func(asc scsi.ASC) { t.fail(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: asc}) }
	list := t.Data.Bytes()
	h, err := scsi.ParseCopyHeader(list)
	if err != nil || scsi.CopyHeaderSize+h.CSCDBytes+h.SegmentBytes+h.InlineBytes > len(list) || h.CSCDBytes%scsi.CSCDSize != 0 {
		illegal(scsi.ASCParameterListLength)
		return
	}
	if h.InlineBytes > 0 {
		illegal(scsi.ASCInlineDataExceeded)
		return
	}
	c := &copying{task: t, list: h}
	list = list[scsi.CopyHeaderSize:]
	if h.CSCDBytes/scsi.CSCDSize > int(copyLimits.MaxCSCDs) {
		illegal(scsi.ASCTooManyTargets)
		return
	}
	for d := list[:h.CSCDBytes]; len(d) > 0; d = d[scsi.CSCDSize:] {
		one, err := scsi.ParseCSCD(d)
		if err != nil || one.Code != scsi.CSCDIdentification {
			illegal(scsi.ASCUnsupportedTarget)
			return
		}
		c.units = append(c.units, t.nexus.view.named(one.Designator))
	}
	for d := list[h.CSCDBytes:][:h.SegmentBytes]; len(d) > 0; {
		s, n, err := scsi.ParseSegment(d)
		switch {
		case err != nil || n > len(d):
			illegal(scsi.ASCParameterListLength)
			return
		case s.Code != scsi.SegmentBlocks:
			illegal(scsi.ASCUnsupportedSegment)
			return
		case len(c.segments) == int(copyLimits.MaxSegments):
			illegal(scsi.ASCTooManySegments)
			return
		}
		c.segments = append(c.segments, s)
		d = d[n:]
	}
	c.start()
}

// named finds the unit that a designator names, or nil.
func (v *view) named(d scsi.Designator) *unit {
	for _, u := range v.units {
		if u == nil {
			continue
		}
		for _, own := range u.designators() {
			if own.Type == d.Type && slices.Equal(own.ID, d.ID) {
				return u
			}
		}
	}
	return nil
}

// start checks every segment before the first is copied.
func (c *copying) start() {
	t := c.task
	for _, s := range c.segments {
		if asc, ok := c.check(s); !ok {
			t.fail(scsi.ASCKey{Key: scsi.CopyAborted, ASC: asc})
			return
		}
	}
	buf, ok := t.nexus.pool.Alloc(copyChunk)
	if !ok {
		t.failStatus(scsi.StatusBusy)
		return
	}
	c.buf = buf
	t.borrowed = buf
	c.read(t)
}

// check says what is wrong with a segment.
func (c *copying) check(s scsi.Segment) (scsi.ASC, bool) {
	if int(s.Source) >= len(c.units) || int(s.Destination) >= len(c.units) {
		return scsi.ASCUnreachableTarget, false
	}
	from, to := c.units[s.Source], c.units[s.Destination]
	if from == nil || to == nil || from.refusal != 0 || to.refusal != 0 {
		return scsi.ASCUnreachableTarget, false
	}
	n := c.length(s)
	if n%(1<<from.shift) != 0 || n%(1<<to.shift) != 0 || to.protected {
		return scsi.ASCNone, false
	}
	return scsi.ASCNone, fits(from, s.FromLBA, n) && fits(to, s.ToLBA, n)
}

func fits(u *unit, lba, n uint64) bool {
	return lba <= u.blocks && n>>u.shift <= u.blocks-lba
}

// length is how much a segment copies, in bytes.
func (c *copying) length(s scsi.Segment) uint64 {
	u := c.units[s.Source]
	if s.ByDestination {
		u = c.units[s.Destination]
	}
	return uint64(s.Blocks) << u.shift
}

func (c *copying) chunk(s scsi.Segment) uint64 { return min(c.length(s)-c.at, uint64(c.buf.Len())) }

// read reads the next part, or ends the copy.
func (c *copying) read(t *Task) {
	for c.next < len(c.segments) && c.at == c.length(c.segments[c.next]) {
		c.next++
		c.at = 0
	}
	if c.next == len(c.segments) {
		c.done()
		t.nexus.complete(t)
		return
	}
	s := c.segments[c.next]
	n := c.chunk(s)
	t.submitTo(c.units[s.Source], block.OpRead, 0, c.buf.Slice(0, int(n)), s.FromLBA<<c.units[s.Source].shift+c.at, n, c.write)
}

func (c *copying) write(t *Task) {
	s := c.segments[c.next]
	to := c.units[s.Destination]
	n := c.chunk(s)
	var flags block.Flags
	if to.durable {
		flags = block.FUA
	}
	t.submitTo(to, block.OpWrite, flags, c.buf.Slice(0, int(n)), s.ToLBA<<to.shift+c.at, n, func(t *Task) {
		c.at += n
		c.bytes += n
		c.read(t)
	})
}

// keptCopies is how many results of copies a nexus keeps.
const keptCopies = 16

// copied is the result of a copy that RECEIVE COPY RESULTS may ask for.
type copied struct {
	lun    scsi.LUN
	id     uint8
	result scsi.CopyResult
}

// done keeps the result, unless the list has no identifier. SPC-4 6.4.3.2
func (c *copying) done() {
	n := c.task.nexus
	if c.list.Usage == 3 {
		return
	}
	r := copied{c.task.unit.lun, c.list.ListID, scsi.CopyResult{State: 1, Segments: uint16(len(c.segments)), KiB: uint32(c.bytes >> 10)}}
	n.copies = slices.DeleteFunc(n.copies, func(o copied) bool { return o.lun == r.lun && o.id == r.id })
	if len(n.copies) == keptCopies {
		n.copies = n.copies[1:]
	}
	n.copies = append(n.copies, r)
}

// RECEIVE COPY RESULTS. SPC-4 6.17 to 6.19

func beginCopyResults(n *Nexus, t *Task) {
	if scsi.ServiceAction(t.CDB[:]) == scsi.CopyOperatingParameters {
		t.run = func(t *Task) { t.answer(copyLimits.AppendOperatingParameters(t.scratch())) }
		return
	}
	i := slices.IndexFunc(n.copies, func(c copied) bool { return c.lun == t.unit.lun && c.id == t.CDB[2] })
	if i < 0 {
		t.invalidCDB(2, 7)
		return
	}
	r := n.copies[i].result
	n.copies = slices.Delete(n.copies, i, i+1)
	t.run = func(t *Task) { t.answer(r.Append(t.scratch())) }
}
