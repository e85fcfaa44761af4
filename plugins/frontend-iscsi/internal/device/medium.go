package device

import (
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// Bounds of what one command may name.
const (
	// compareBytes is the most that COMPARE AND WRITE covers.
	compareBytes = 64 << 10
	// movedBytes is the most that a command that moves its blocks covers. What is more than a
	// buffer is moved and carried out in parts.
	movedBytes = 64 << 20
	// sameBytes is the most that WRITE SAME covers.
	sameBytes = 128 << 20
	// sameChunk is how much of a WRITE SAME is written at a time.
	sameChunk = 256 << 10
	// unmapRanges is how many ranges an UNMAP may have.
	unmapRanges = 256
	// allocationGrain is what the core allocates and frees, in bytes.
	allocationGrain = 4096
)

// ranged parses the range of a command and checks it. flags are the bits of byte 1 that the command
// knows; protection information is not kept, so that its field must be 0. It reports false when the
// task is refused.
func (t *Task) ranged(flags byte) bool {
	t.access = scsi.ParseAccess(&t.CDB)
	a := &t.access
	switch {
	case a.Flags&scsi.FlagProtect != 0:
		t.invalidCDB(1, 7)
	case a.Flags&^scsi.FlagProtect&^flags&0x1e != 0:
		t.invalidCDB(1, 4)
	case a.LBA > t.unit.blocks || uint64(a.Blocks) > t.unit.blocks-a.LBA:
		t.outOfRange(a.LBA)
	default:
		return true
	}
	return false
}

func (t *Task) outOfRange(lba uint64) {
	t.refuseSense(&scsi.Sense{
		Key: scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCLBAOutOfRange}, HasInfo: true, Info: max(lba, t.unit.blocks),
	})
}

// moves plans the transfer of the command's blocks. It reports false when they are too many, and the
// task is refused.
func (t *Task) moves() bool {
	t.size = t.length()
	t.Total = t.size
	if t.size > movedBytes {
		t.invalidCDB(lengthField(scsi.Opcode(t.CDB[0])), -1)
		return false
	}
	return true
}

// takes plans that the initiator sends the command's blocks, a part of them at a time; run carries a
// part out. An initiator that expects to send fewer bytes than the command names has as many written
// if partial says so, and what lies beyond is left alone: SAM-5 5.4.3 has the transport protocol say
// what happens then, and FCP-4 9.4.2 is the one that does.
func (n *Nexus) takes(t *Task, partial bool, run func(*Task)) {
	if !t.moves() {
		return
	}
	t.run = run
	have := uint64(0)
	if t.Writes {
		have = uint64(t.Expected)
	}
	if have < t.size {
		if !partial {
			t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidFieldInUnit})
			return
		}
		t.size = have
	}
	if t.size == 0 {
		t.run = completeGood
		return
	}
	t.Out = int(min(t.size, uint64(n.maxTransfer)))
	switch {
	case t.size%(1<<t.unit.shift) != 0: // the last block is completed with what is there
		t.run = func(t *Task) { t.complement(run) }
	case t.Data.Len() >= t.Out:
		t.Data = t.Data.Slice(0, t.Out)
		return
	}
	n.takeBuffer(t, t.wholeBlocks(t.Out))
}

// wholeBlocks rounds a number of bytes up to blocks.
func (t *Task) wholeBlocks(n int) int {
	mask := 1<<t.unit.shift - 1
	return (n + mask) &^ mask
}

// complement fills the last block of the present part up with what the volume has there, then runs
// the part.
func (t *Task) complement(run func(*Task)) {
	have := t.Out - t.Base
	whole, one := t.wholeBlocks(have), 1<<t.unit.shift
	if have == whole {
		run(t)
		return
	}
	buf, ok := t.nexus.pool.Alloc(one)
	if !ok {
		t.failStatus(scsi.StatusBusy)
		return
	}
	t.borrowed = buf
	t.submit(block.OpRead, 0, buf, t.offset()+uint64(t.Base+whole-one), uint64(one), func(t *Task) {
		copy(t.Data.Bytes()[have:whole], buf.Bytes()[have-(whole-one):])
		t.giveBack()
		run(t)
	})
}

// part is the present part of the transfer: the buffer, and where it belongs in the volume.
func (t *Task) part() (buf block.Buffer, offset, length uint64) {
	n := t.wholeBlocks(t.Out - t.Base)
	return t.Data.Slice(0, n), t.offset() + uint64(t.Base), uint64(n)
}

// nextPart has the next part sent, or ends the task.
func nextPart(t *Task) {
	n := t.nexus
	if uint64(t.Out) == t.size {
		n.complete(t)
		return
	}
	t.Base = t.Out
	t.Out += int(min(t.size-uint64(t.Base), uint64(n.maxTransfer)))
	t.state = taskBegun
	n.port.Ready(t)
}

// lengthField is where the transfer length stands.
func lengthField(o scsi.Opcode) int {
	switch o >> 5 {
	case 0:
		return 4
	case 1, 2:
		return 7
	case 5:
		return 6
	}
	if o == scsi.CompareAndWrite {
		return 13
	}
	return 10
}

// writable refuses a task on a unit that is write protected.
func (t *Task) writable() bool {
	if t.unit.protected {
		t.refuse(scsi.ASCKey{Key: scsi.DataProtect, ASC: scsi.ASCWriteProtected})
		return false
	}
	return true
}

// offset and length are the range of the command in bytes.
func (t *Task) offset() uint64 { return t.access.LBA << t.unit.shift }
func (t *Task) length() uint64 { return uint64(t.access.Blocks) << t.unit.shift }

// fua is the flag of requests for a command with a FUA bit.
func (t *Task) fua() block.Flags {
	if t.access.Flags&scsi.FlagFUA != 0 {
		return block.FUA
	}
	return 0
}

// durable is the flag of requests that change data.
func (t *Task) durable() block.Flags {
	if t.unit.durable {
		return block.FUA
	}
	return 0
}

// READ. SBC-3 5.10 to 5.13

func beginRead(n *Nexus, t *Task) {
	if !t.ranged(scsi.FlagDPO|scsi.FlagFUA) || !t.moves() {
		return
	}
	if t.size == 0 || !t.Reads || t.Expected == 0 {
		t.run = completeGood
		return
	}
	mask := uint64(1)<<t.unit.shift - 1
	t.size = min(t.size, (uint64(t.Expected)+mask)&^mask)
	t.run = executeRead
	n.takeBuffer(t, int(min(t.size, uint64(n.maxTransfer))))
}

func executeRead(t *Task) {
	length := min(t.size-t.at, uint64(t.Data.Len()))
	t.submit(block.OpRead, t.fua(), t.Data.Slice(0, int(length)), t.offset()+t.at, length, readDone)
}

// readDone has what was read sent; if there is more it is read when the buffer is free again.
func readDone(t *Task) {
	length := min(t.size-t.at, uint64(t.Data.Len()))
	t.Answer = t.Data.Bytes()[:min(length, uint64(t.Expected)-t.at)]
	t.at += length
	if t.at < t.size {
		t.More = true
		t.state = taskSending
		t.nexus.port.Complete(t)
		return
	}
	t.nexus.complete(t)
}

// Continue goes on with a task whose Complete had More, when what it sent has left.
func (n *Nexus) Continue(t *Task) {
	if t.state != taskSending {
		panic("device: Continue of a task that is " + t.state.String())
	}
	t.state, t.More, t.Answer = taskRunning, false, nil
	if t.dropped {
		n.abandoned(t)
		return
	}
	t.run(t)
}

// WRITE. SBC-3 5.32 to 5.35

func beginWrite(n *Nexus, t *Task) {
	if t.ranged(scsi.FlagDPO|scsi.FlagFUA) && t.writable() {
		n.takes(t, true, executeWrite)
	}
}

func executeWrite(t *Task) {
	buf, offset, length := t.part()
	t.submit(block.OpWrite, t.fua()|t.durable(), buf, offset, length, nextPart)
}

// WRITE AND VERIFY. SBC-3 5.36 to 5.39

func beginWriteVerify(n *Nexus, t *Task) {
	if !t.ranged(scsi.FlagDPO|scsi.FlagByteCheck) || !t.writable() {
		return
	}
	if t.access.ByteCheck() > 1 {
		t.invalidCDB(1, 2)
		return
	}
	n.takes(t, true, executeWriteVerify)
}

// executeWriteVerify writes through, then reads what is on the medium.
func executeWriteVerify(t *Task) {
	buf, offset, length := t.part()
	t.submit(block.OpWrite, block.FUA, buf, offset, length, func(t *Task) {
		if t.access.ByteCheck() == 1 {
			t.submit(block.OpCompare, 0, buf, offset, length, nextPart)
			return
		}
		t.submit(block.OpVerify, 0, block.Buffer{}, offset, length, nextPart)
	})
}

// VERIFY. SBC-3 5.29 to 5.31

func beginVerify(n *Nexus, t *Task) {
	if !t.ranged(scsi.FlagDPO | scsi.FlagByteCheck) {
		return
	}
	t.run = completeGood
	switch t.access.ByteCheck() {
	case 0:
		if t.access.Blocks > 0 {
			t.run = executeVerify
		}
	case 1:
		n.takes(t, false, executeCompare)
	case 3: // one block, to compare with each
		if !t.moves() || t.size == 0 {
			return
		}
		if n.wants(t, 1<<t.unit.shift) {
			t.run = executeCompareSame
		}
	default:
		t.invalidCDB(1, 2)
	}
}

func executeVerify(t *Task) {
	t.submit(block.OpVerify, 0, block.Buffer{}, t.offset(), t.length(), nil)
}

func executeCompare(t *Task) {
	buf, offset, length := t.part()
	t.submit(block.OpCompare, 0, buf, offset, length, nextPart)
}

// executeCompareSame compares the one block with one block after the other.
func executeCompareSame(t *Task) {
	if t.at >= t.length() {
		t.nexus.complete(t)
		return
	}
	at := t.at
	t.at += 1 << t.unit.shift
	t.submit(block.OpCompare, 0, t.Data, t.offset()+at, 1<<t.unit.shift, executeCompareSame)
}

// COMPARE AND WRITE. SBC-3 5.2

func beginCompareWrite(n *Nexus, t *Task) {
	if !t.ranged(scsi.FlagDPO|scsi.FlagFUA) || !t.writable() {
		return
	}
	size := int(t.length())
	if size > compareBytes || size == 0 && t.Writes && t.Expected > 0 {
		t.invalidCDB(13, 7)
		return
	}
	t.run = completeGood
	if t.exactly(2*size) && n.wants(t, 2*size) && size > 0 {
		t.run = executeCompareWrite
	}
}

func executeCompareWrite(t *Task) {
	t.submit(block.OpCompareAndWrite, t.fua()|t.durable(), t.Data, t.offset(), t.length(), nil)
}

// ORWRITE. SBC-3 5.6

func beginOrWrite(n *Nexus, t *Task) {
	if !t.ranged(scsi.FlagDPO|scsi.FlagFUA) || !t.writable() {
		return
	}
	n.takes(t, false, executeOrWrite)
}

// oring is an ORWRITE under way: its blocks are read, combined, and written if they are still what
// was read, some at a time. Nobody sees a block half done.
type oring struct {
	buf block.Buffer // what was read, then what is to be written
	at  int          // bytes of the present part that are done
}

func executeOrWrite(t *Task) {
	buf, ok := t.nexus.pool.Alloc(2 * min(t.Out-t.Base, compareBytes))
	if !ok {
		t.failStatus(scsi.StatusBusy)
		return
	}
	o := &oring{buf: buf}
	t.borrowed = buf
	o.read(t)
}

func (o *oring) chunk(t *Task) int { return min(t.Out-t.Base-o.at, o.buf.Len()/2) }

func (o *oring) read(t *Task) {
	if o.at == t.Out-t.Base {
		t.giveBack()
		nextPart(t)
		return
	}
	c := o.chunk(t)
	t.submit(block.OpRead, 0, o.buf.Slice(0, c), t.offset()+uint64(t.Base+o.at), uint64(c), o.write)
}

func (o *oring) write(t *Task) {
	c := o.chunk(t)
	have, want, with := o.buf.Bytes()[:c], o.buf.Bytes()[c:2*c], t.Data.Bytes()[o.at:][:c]
	for i := range want {
		want[i] = have[i] | with[i]
	}
	t.submit(block.OpCompareAndWrite, t.fua()|t.durable(), o.buf.Slice(0, 2*c), t.offset()+uint64(t.Base+o.at), uint64(c), func(t *Task) {
		o.at += c
		o.read(t)
	})
	t.retry = o.read // if somebody wrote in between
}

// WRITE SAME. SBC-3 5.40 and 5.41

func beginWriteSame(n *Nexus, t *Task) {
	if !t.ranged(scsi.FlagAnchor|scsi.FlagUnmap) || !t.writable() {
		return
	}
	a := &t.access
	noData := scsi.Opcode(t.CDB[0]) == scsi.WriteSame16 && a.Flags&scsi.FlagNoData != 0
	switch {
	case a.Flags&scsi.FlagAnchor != 0:
		t.invalidCDB(1, 4)
		return
	case a.Flags&0x06 != 0: // LBDATA and PBDATA are obsolete
		t.invalidCDB(1, 2)
		return
	case a.Blocks == 0 || t.length() > sameBytes:
		t.invalidCDB(lengthField(scsi.Opcode(t.CDB[0])), -1)
		return
	}
	if noData {
		t.run = executeZeroes
		return
	}
	t.run = executeWriteSame
	if t.exactly(1 << t.unit.shift) {
		n.wants(t, 1<<t.unit.shift)
	}
}

// executeZeroes writes zeros, and frees the blocks if it may.
func executeZeroes(t *Task) {
	flags := t.durable()
	if t.access.Flags&scsi.FlagUnmap != 0 {
		flags |= block.Deallocate
	}
	t.submit(block.OpWriteZeroes, flags, block.Buffer{}, t.offset(), t.length(), nil)
}

func executeWriteSame(t *Task) {
	if isZero(t.Data.Bytes()) {
		executeZeroes(t)
		return
	}
	one := t.Data.Bytes()
	buf, ok := t.nexus.pool.Alloc(int(min(t.length(), sameChunk)))
	if !ok {
		t.failStatus(scsi.StatusBusy)
		return
	}
	for b := buf.Bytes(); len(b) > 0; b = b[len(one):] {
		copy(b, one)
	}
	t.borrowed = buf
	var next func(t *Task)
	next = func(t *Task) {
		if t.at == t.length() {
			t.nexus.complete(t)
			return
		}
		at := t.at
		c := min(t.length()-at, uint64(buf.Len()))
		t.at += c
		t.submit(block.OpWrite, t.durable(), buf.Slice(0, int(c)), t.offset()+at, c, next)
	}
	next(t)
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// UNMAP. SBC-3 5.28

func beginUnmap(n *Nexus, t *Task) {
	if t.CDB[1]&0x01 != 0 { // ANCHOR
		t.invalidCDB(1, 0)
		return
	}
	if !t.writable() {
		return
	}
	n.list(t, 8, 8+16*unmapRanges, executeUnmap)
}

// executeUnmap frees the ranges one after the other, when all of them are valid.
func executeUnmap(t *Task) {
	list, err := scsi.ParseUnmap(t.Data.Bytes())
	if err != nil {
		t.fail(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCParameterListLength})
		return
	}
	for i := range scsi.UnmapRanges(list) {
		if r := scsi.UnmapRangeAt(list, i); r.LBA > t.unit.blocks || uint64(r.Blocks) > t.unit.blocks-r.LBA {
			t.failSense(&scsi.Sense{Key: scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCLBAOutOfRange}})
			return
		}
	}
	nextUnmap(t)
}

// nextUnmap frees the next range. Blocks that share a grain with others cannot be freed; zeros are
// written to them, so that an unmapped block reads as zeros wherever it lies.
func nextUnmap(t *Task) {
	list, _ := scsi.ParseUnmap(t.Data.Bytes())
	for int(t.at) < scsi.UnmapRanges(list) {
		r := scsi.UnmapRangeAt(list, int(t.at))
		t.at++
		offset, length := r.LBA<<t.unit.shift, uint64(r.Blocks)<<t.unit.shift
		switch {
		case length == 0:
			continue
		case (offset|length)%allocationGrain == 0:
			t.submit(block.OpDiscard, 0, block.Buffer{}, offset, length, nextUnmap)
		default:
			t.submit(block.OpWriteZeroes, block.Deallocate|t.durable(), block.Buffer{}, offset, length, nextUnmap)
		}
		return
	}
	t.nexus.complete(t)
}

// SYNCHRONIZE CACHE and PRE-FETCH. SBC-3 5.7, 5.8, 5.26 and 5.27

func beginSync(_ *Nexus, t *Task) {
	if t.ranged(scsi.FlagImmediate) {
		t.run = executeSync
	}
}

func executeSync(t *Task) { t.submit(block.OpFlush, 0, block.Buffer{}, 0, 0, nil) }

// beginPrefetch has nothing to do: there is no cache that blocks could be fetched to.
func beginPrefetch(_ *Nexus, t *Task) {
	if t.ranged(scsi.FlagImmediate) {
		t.run = completeGood
	}
}
