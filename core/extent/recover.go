package extent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/vfs"
)

const (
	dataName  = "data"
	indexName = "index"

	defaultLogSize     = 32 << 20
	defaultSegmentSize = 64 << 20
	minReserve         = 2 * MaxWriteBlocks // slots; below that a write might wait for ever
	maxReserve         = 64 << 20 / BlockSize
)

// disk is a data file with blocking access to it, for opening and checking.
type disk struct {
	file vfs.File
	buf  []byte // aligned, 1 MiB
	log  hclog.Logger
}

func openDisk(fsys vfs.FS, dir string, create bool, log hclog.Logger) (*disk, error) {
	path := filepath.Join(dir, dataName)
	f, err := fsys.OpenFile(path, vfs.OpenOptions{Create: create, Direct: true, Lock: true})
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	case err != nil:
		return nil, fmt.Errorf("open data file: %w", err)
	}
	buf, err := vfs.AlignedBuffer(1 << 20)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &disk{file: f, buf: buf, log: log}, nil
}

func (d *disk) free() error {
	b := d.buf
	d.buf = nil
	if b == nil {
		return nil
	}
	return vfs.FreeBuffer(b)
}

// read fills p, aligned memory, from slot on; what lies beyond the end of the file reads as zeros.
func (d *disk) read(slot uint32, p []byte) error {
	n, err := d.file.ReadAt(p, int64(slot)*BlockSize)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

func (d *disk) write(slot uint32, p []byte) error {
	if _, err := d.file.WriteAt(p, int64(slot)*BlockSize); err != nil {
		return fmt.Errorf("write slot %d: %w", slot, err)
	}
	return nil
}

func (d *disk) writeSync(slot uint32, p []byte) error {
	if err := d.write(slot, p); err != nil {
		return err
	}
	return d.sync()
}

func (d *disk) sync() error {
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("sync data file: %w", err)
	}
	return nil
}

// zero writes zeros over [from, to) slots.
func (d *disk) zero(from, to uint32) error {
	clear(d.buf)
	for from < to {
		n := min(to-from, uint32(len(d.buf)/BlockSize))
		if err := d.write(from, d.buf[:n*BlockSize]); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// extend makes the file as long as slots, if it is shorter.
func (d *disk) extend(slots int64) error {
	size, err := d.file.Size()
	if err != nil || size >= slots*BlockSize {
		return err
	}
	if err := d.file.Allocate(size, slots*BlockSize-size); err != nil {
		return fmt.Errorf("allocate the last segment: %w", err)
	}
	return nil
}

// superblock returns the newest intact copy; ok is false when there never was one.
func (d *disk) superblock() (sb superblock, ok bool, err error) {
	blank := 0
	var failures []error
	for i := range uint32(superblockSlots) {
		p := d.buf[:BlockSize]
		if err := d.read(i, p); err != nil {
			failures = append(failures, fmt.Errorf("read superblock %d: %w: %w", i, ErrCorrupt, err))
			continue
		}
		if !slices.ContainsFunc(p, func(b byte) bool { return b != 0 }) {
			blank++
			continue
		}
		s, err := decodeSuperblock(p)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if !ok || s.sequence > sb.sequence {
			sb, ok = s, true
		}
	}
	if ok || blank == superblockSlots {
		return sb, ok, nil
	}
	return sb, false, errors.Join(failures...)
}

// writeSuperblock replaces both copies, one after the other.
func (d *disk) writeSuperblock(sb *superblock) error {
	p := d.buf[:BlockSize]
	sb.encode(p)
	for i := range uint32(superblockSlots) {
		if err := d.writeSync(i, p); err != nil {
			return err
		}
	}
	return nil
}

// format makes an empty store. The superblock comes last: without it there is no store.
func (d *disk) format(o *Options) (sb superblock, err error) {
	sb, err = newSuperblock(o)
	if err != nil {
		return sb, err
	}
	if err := d.file.Allocate(0, int64(sb.firstSlot)*BlockSize); err != nil {
		return sb, fmt.Errorf("allocate log: %w", err)
	}
	if err := errors.Join(d.zero(0, sb.firstSlot), d.sync(), o.FS.SyncDir(o.Dir), o.FS.SyncDir(filepath.Dir(o.Dir))); err != nil {
		return sb, err
	}
	return sb, d.writeSuperblock(&sb)
}

func newSuperblock(o *Options) (sb superblock, err error) {
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return sb, err
	}
	capacity := o.Capacity
	if capacity == 0 {
		free, err := o.FS.Free(o.Dir)
		if err != nil {
			return sb, err
		}
		capacity = free - free/32
	}
	logSlots := int64(or(o.LogSize, min(defaultLogSize, capacity/32))) / BlockSize
	first := logStart + 2*logSlots
	sb = superblock{
		sequence: 1, cluster: o.ClusterID, store: uuid.New(), salt: le.Uint64(salt[:]),
		extentSize: uint64(or(o.ExtentSize, DefaultExtentSize)), capacity: uint64(capacity),
		firstSlot: uint32(first), logSlots: uint32(logSlots), replaySeq: 1, refLimit: 1,
	}
	area := int64(sb.geometry().area)
	segment := or(o.SegmentSize, min(defaultSegmentSize, capacity/16)) / BlockSize
	sb.segmentSlots = uint32(max(segment, area))
	return sb, sb.geometry().validate()
}

func or(v, otherwise int64) int64 {
	if v == 0 {
		return otherwise
	}
	return v
}

// image is the state of a store as its files give it.
type image struct {
	disk     *disk
	sb       superblock
	geo      geometry
	extents  []*Extent
	refs     map[uint32]*Extent
	deleting []Record
	last     uint64 // the last batch accepted
	slots    slots
	areas    map[uint32]bool // in use
	dirty    []pageRef
	spare    map[pageRef]bool // whose first copy is damaged
	mapped   uint32
	topRef   uint32
}

// load reads index, map pages and log. It writes nothing.
func (d *disk) load(sb superblock, index Index, report func(Problem)) (*image, error) {
	m := &image{disk: d, sb: sb, geo: sb.geometry(), refs: map[uint32]*Extent{}, areas: map[uint32]bool{}, spare: map[pageRef]bool{}}
	m.slots = *newSlots(m.geo)
	size, err := d.file.Size()
	if err != nil {
		return nil, err
	}
	// A power loss may have taken the end of the last segment, where nothing was: settle makes it whole.
	for size/BlockSize > int64(m.geo.first)+int64(m.slots.total()) {
		m.slots.grow()
	}
	err = index.Load(func(r Record) error {
		m.topRef = max(m.topRef, r.Ref)
		if r.State != StateLive {
			m.deleting = append(m.deleting, r)
			return nil
		}
		if m.refs[r.Ref] != nil || m.areas[r.Area] || !m.slots.contains(r.Area) || !m.slots.contains(r.Area+m.geo.area-1) {
			return fmt.Errorf("index record of extent %s: %w", r.ID, ErrCorrupt)
		}
		e, err := newExtent(m.geo, r)
		if err != nil {
			return err
		}
		m.extents = append(m.extents, e)
		m.refs[r.Ref], m.areas[r.Area] = e, true
		return nil
	})
	if err == nil {
		// The order of the index is not ours; a fixed one makes every opening do the same.
		slices.SortFunc(m.extents, func(a, b *Extent) int { return int(int64(a.ref) - int64(b.ref)) })
		slices.SortFunc(m.deleting, func(a, b Record) int { return int(int64(a.Ref) - int64(b.Ref)) })
		for _, e := range m.extents {
			if err = m.loadMap(e, report); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = m.replay()
	}
	if err == nil {
		err = m.account(report)
	}
	if err != nil {
		m.free()
		return nil, err
	}
	return m, nil
}

func (m *image) free() {
	for _, e := range m.extents {
		e.free()
	}
}

func (m *image) markHeader(e *Extent) {
	if !e.headDirty {
		e.headDirty = true
		m.dirty = append(m.dirty, pageRef{e, headerRef})
	}
}

func (m *image) markDirty(e *Extent, page uint32) {
	if !e.pages[page].dirty {
		e.pages[page].dirty = true
		m.dirty = append(m.dirty, pageRef{e, page})
	}
}

// loadMap reads the map of e. The first copy of a page is always the newer one when it is whole. A seal leaves no record that would have
// the second copy of a header page written again, so that is looked at, too.
func (m *image) loadMap(e *Extent, report func(Problem)) error {
	perRead := uint32(len(m.disk.buf) / BlockSize)
	var header [BlockSize]byte
	total := 1 + m.geo.pages + 1 // the first copies, and that of the header page behind them
	for from := uint32(0); from < total; from += perRead {
		n := min(perRead, total-from)
		p := m.disk.buf[:n*BlockSize]
		if err := m.disk.read(e.area+from, p); err != nil {
			clear(p) // every page for itself from the other copy
		}
		var bad []uint32
		for i := range n {
			slot := p[i*BlockSize:][:BlockSize]
			switch page := from + i - 1; {
			case page == m.geo.pages:
				if !bytes.Equal(slot, header[:]) {
					m.markHeader(e)
				}
			case !m.takePage(e, page, slot):
				bad = append(bad, page)
			case page == headerRef:
				copy(header[:], slot)
			}
		}
		for _, page := range bad {
			m.loadSpare(e, page, report)
		}
	}
	return nil
}

// loadSpare reads a page whose first copy is damaged from the second one, and has both written anew.
func (m *image) loadSpare(e *Extent, page uint32, report func(Problem)) {
	if page == headerRef {
		m.markHeader(e)
	} else {
		m.markDirty(e, page)
	}
	m.spare[pageRef{e, page}] = true
	p := m.disk.buf[:BlockSize]
	for copies := range uint32(2) { // the first again: reading many at once may have failed for another page
		err := m.disk.read(m.geo.refSlot(pageRef{e, page}, copies), p)
		if err == nil && m.takePage(e, page, p) {
			return
		}
	}
	if page == headerRef {
		report(Problem{Extent: e.id, What: "both copies of the header page are damaged: all its regions count as dirty"})
		e.replica.dirty.Add(0, m.geo.regions())
		return
	}
	first := page * pageEntries
	report(Problem{Extent: e.id, Block: first, What: fmt.Sprintf("both copies of map page %d are damaged: its blocks are lost", page)})
	for b := first; b < min(first+pageEntries, m.geo.blocks); b++ {
		e.set(b, entry{slot: slotLost})
	}
}

func (m *image) takePage(e *Extent, page uint32, p []byte) bool {
	h, ok := parseMapPage(p, m.sb.salt)
	if !ok || h.id != e.id || h.ref != e.ref || h.area != e.area || h.number != uint16(page) {
		return false
	}
	if page == headerRef {
		e.replica.decode(p)
		return true
	}
	first := page * pageEntries
	part := e.entries[first:min(first+pageEntries, m.geo.blocks)]
	decodeEntries(p, part)
	used := uint16(0)
	for _, n := range part {
		if n.slot != slotZero {
			used++
		}
	}
	e.pages[page].used = used
	m.last = max(m.last, h.lsn) // until the replay has said what it found
	return true
}

// loggedBatch is an intact batch of the log that may have to be replayed.
type loggedBatch struct {
	batchHeader
	records []byte
}

// replay applies the batches that the map pages may lack. It accepts every batch that is proven durable and, of the rest, those in front of
// the first one that is not wholly on the disk: none behind it was acknowledged.
func (m *image) replay() error {
	pageLast := m.last
	log, err := vfs.AlignedBuffer(2 * int(m.geo.logSlots) * BlockSize)
	if err != nil {
		return err
	}
	defer func() { _ = vfs.FreeBuffer(log) }()
	if err := m.disk.read(logStart, log); err != nil {
		return fmt.Errorf("read log: %w: %w", ErrCorrupt, err)
	}
	chain, err := m.chain(log)
	if err != nil {
		return err
	}
	proven := m.sb.replaySeq - 1
	for _, b := range chain {
		proven = max(proven, b.durable)
	}
	m.last = m.sb.replaySeq - 1
	for _, b := range chain {
		if b.seq > proven {
			whole, err := m.verify(b.records)
			if err != nil {
				return err
			}
			if !whole {
				break
			}
		}
		if err := m.applyBatch(b.records); err != nil {
			return err
		}
		m.last = b.seq
	}
	if pageLast > m.last || proven > m.last {
		return fmt.Errorf("log ends at batch %d, but batch %d was durable: %w", m.last, max(pageLast, proven), ErrCorrupt)
	}
	return nil
}

// chain follows the intact batches of this incarnation from the one where replay begins.
func (m *image) chain(log []byte) (chain []loggedBatch, err error) {
	half := int(m.geo.logSlots) * BlockSize
	at, end := int(m.sb.replayHalf)*half, (int(m.sb.replayHalf)+1)*half
	next := m.sb.replaySeq
	take := func() bool {
		h, records, ok := parseBatch(log[at:end], m.sb.salt)
		if !ok || h.incarnation != m.sb.incarnation || h.seq != next {
			return false
		}
		chain = append(chain, loggedBatch{h, records})
		at += int(h.pages()) * BlockSize
		next++
		return true
	}
	for take() {
	}
	other := 1 - int(m.sb.replayHalf) // then in the other half, from its start
	at, end = other*half, (other+1)*half
	for take() {
	}
	// A batch further on that knows the missing one as durable proves that the log lost it.
	for at := 0; at < len(log); at += BlockSize {
		h, _, ok := parseBatch(log[at:], m.sb.salt)
		if ok && h.incarnation == m.sb.incarnation && h.seq > next && h.durable >= next {
			return nil, fmt.Errorf("batch %d of the log is damaged: %w", next, ErrCorrupt)
		}
	}
	return chain, nil
}

// verify tells whether all data that the records of a batch name is on the disk.
func (m *image) verify(records []byte) (bool, error) {
	for len(records) > 0 {
		r, rest, ok := nextRecord(records)
		if !ok {
			return false, fmt.Errorf("log record: %w", ErrCorrupt)
		}
		records = rest
		e := m.refs[r.ref]
		if e == nil || r.kind != recordWrite {
			continue
		}
		for i := uint32(0); i < r.count; {
			n := min(r.count-i, uint32(len(m.disk.buf)/BlockSize))
			p := m.disk.buf[:n*BlockSize]
			if err := m.disk.read(r.slot+i, p); err != nil {
				return false, nil
			}
			for k := range n {
				if blockCRC(e.seed, r.block+i+k, p[k*BlockSize:][:BlockSize]) != le.Uint32(r.crcs[4*(i+k):]) {
					return false, nil
				}
			}
			i += n
		}
	}
	return true, nil
}

func (m *image) applyBatch(records []byte) error {
	for len(records) > 0 {
		r, rest, ok := nextRecord(records)
		if !ok || uint64(r.block)+uint64(r.count) > uint64(m.geo.blocks) {
			return fmt.Errorf("log record: %w", ErrCorrupt)
		}
		records = rest
		e := m.refs[r.ref]
		if e == nil {
			continue // deleted since
		}
		if e.mark(m.geo, r) {
			m.markHeader(e)
		}
		if r.kind == recordClean {
			continue
		}
		for i := range r.count {
			n := entry{}
			if r.kind == recordWrite {
				n = entry{slot: r.slot + i, crc: le.Uint32(r.crcs[4*i:])}
			}
			e.set(r.block+i, n)
			m.markDirty(e, (r.block+i)/pageEntries)
		}
	}
	return nil
}

// account takes the slots that are in use; one used twice, or beyond the file, is lost.
func (m *image) account(report func(Problem)) error {
	segments := map[uint32]bool{}
	for _, area := range m.usedAreas() {
		seg := (area - m.geo.first) / m.geo.segment
		if !segments[seg] {
			segments[seg] = true
			m.slots.take(m.geo.first+seg*m.geo.segment, m.geo.segment)
		}
	}
	for _, e := range m.extents {
		for block, n := range e.entries {
			if n.slot == slotZero || n.slot == slotLost {
				continue
			}
			if !m.slots.contains(n.slot) || !m.slots.isFree(n.slot) {
				report(Problem{Extent: e.id, Block: uint32(block), What: fmt.Sprintf("slot %d is in use twice or not in the file", n.slot)})
				return fmt.Errorf("map of extent %s: %w", e.id, ErrCorrupt)
			}
			m.slots.take(n.slot, 1)
			m.mapped++
		}
	}
	return nil
}

func (m *image) usedAreas() []uint32 {
	var areas []uint32
	for area := range m.areas {
		areas = append(areas, area)
	}
	slices.Sort(areas)
	return areas
}

// Exists says whether the folder dir holds a store, whole or not.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, dataName))
	return err == nil
}

// Open opens the store in o.Dir, creating it when the folder has none. It recovers, checkpoints under a new incarnation and only
// then returns. It blocks and does not need the queue to be turned.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Clock == nil {
		o.Clock = systemClock
	}
	if o.Index == nil {
		o.Index = func(dir string, log hclog.Logger) (Index, error) {
			return OpenBadgerIndex(filepath.Join(dir, indexName), log)
		}
	}
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open extent store %s: %w", o.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, o Options) (_ *Store, err error) {
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, err
	}
	d, err := openDisk(o.FS, o.Dir, true, o.Logger)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.file.Close())
		}
		err = errors.Join(err, d.free())
	}()
	sb, ok, err := d.superblock()
	if err == nil && !ok {
		sb, err = d.format(&o)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case sb.cluster != o.ClusterID:
		return nil, fmt.Errorf("store belongs to cluster %s, not %s: %w", sb.cluster, o.ClusterID, ErrInvalid)
	case o.ExtentSize != 0 && uint64(o.ExtentSize) != sb.extentSize:
		return nil, fmt.Errorf("store has extents of %d bytes, not %d: %w", sb.extentSize, o.ExtentSize, ErrInvalid)
	}
	if o.Capacity > 0 {
		sb.capacity = uint64(o.Capacity)
	}
	index, err := o.Index(o.Dir, o.Logger.Named("index"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(own(sb, index), o.FS.SyncDir(o.Dir)); err != nil {
		return nil, errors.Join(err, index.Close())
	}
	m, err := d.load(sb, index, func(p Problem) { o.Logger.Error("extent store is damaged", "problem", p.String()) })
	if err == nil {
		if err = ctx.Err(); err == nil {
			err = m.settle(index)
		}
		if err != nil {
			m.free()
		}
	}
	var s *Store
	if err == nil {
		if s, err = newStore(o, m, index); err != nil {
			m.free()
		}
	}
	if err != nil {
		return nil, errors.Join(err, index.Close())
	}
	return s, nil
}

// own checks that index belongs to the store. A store that was opened before must find its index: with an empty one it would give the
// space of all its extents away.
func own(sb superblock, index Index) error {
	owner, err := index.Owner()
	switch {
	case err != nil:
		return err
	case owner == sb.store:
		return nil
	case owner == uuid.Nil && sb.incarnation == 0:
		return index.Bind(sb.store)
	case owner == uuid.Nil:
		return fmt.Errorf("the index is lost or was never finished; rebuild it from the data file: %w", ErrCorrupt)
	case sb.incarnation == 0: // the data file had no superblock and has just been made
		return fmt.Errorf("the index is that of store %s, but its data file is lost or empty; put it back: %w", owner, ErrCorrupt)
	default:
		return fmt.Errorf("the index belongs to store %s, not %s: %w", owner, sb.store, ErrInvalid)
	}
}

// settle makes what load found durable under a new incarnation: what was rejected can never come back.
func (m *image) settle(index Index) error {
	d := m.disk
	err := d.extend(int64(m.geo.first) + int64(m.slots.total()))
	if errors.Is(err, syscall.ENOSPC) && m.slots.drop() {
		err = nil // it was never whole: the file system was full when it was to be added
	}
	if err != nil {
		return err
	}
	if err := d.sync(); err != nil { // what was accepted, before pages that refer to it
		return err
	}
	s := &Store{geo: m.geo, sb: m.sb}
	s.written = m.last
	for pass := range uint32(2) {
		for _, ref := range m.dirty {
			copies := 1 - pass // the copy that may be damaged comes first: the other one is whole
			if m.spare[ref] {
				copies = pass
			}
			p := d.buf[:BlockSize]
			if ref.page == headerRef {
				s.encodeHeader(p, ref.ext, ref.ext.gen)
			} else {
				s.encodePage(p, ref.ext, ref.page)
			}
			if err := d.write(m.geo.refSlot(ref, copies), p); err != nil {
				return err
			}
		}
		if err := d.sync(); err != nil {
			return err
		}
	}
	for _, ref := range m.dirty {
		if ref.page == headerRef {
			ref.ext.headDirty = false
		} else {
			ref.ext.pages[ref.page].dirty = false
		}
	}
	for _, r := range m.deleting {
		clear(d.buf[:BlockSize])
		for copies := range uint32(2) {
			if err := d.writeSync(m.geo.pageSlot(r.Area, copies, -1), d.buf[:BlockSize]); err != nil {
				return err
			}
		}
		if err := index.Update(nil, []ID{r.ID}, false); err != nil {
			return err
		}
	}
	m.sb.sequence++
	m.sb.incarnation++
	m.sb.replayHalf, m.sb.replaySeq = 0, m.last+1
	m.topRef = max(m.topRef+1, m.sb.refLimit)
	m.sb.refLimit = m.topRef + refHeadroom
	return d.writeSuperblock(&m.sb)
}

func newStore(o Options, m *image, index Index) (*Store, error) {
	limit := (int64(m.sb.capacity)/BlockSize - int64(m.geo.first)) / int64(m.geo.segment) * int64(m.geo.segment)
	limit = max(min(limit, int64(maxSlots)-int64(m.geo.first)), int64(m.slots.total()))
	keep := min(max(limit/64, minReserve), maxReserve)
	keep = or(o.reserve, keep)
	if limit < keep+2*int64(m.geo.segment) {
		return nil, fmt.Errorf("capacity of %d bytes is too small: at least %d are needed: %w", m.sb.capacity,
			(int64(m.geo.first)+keep+3*int64(m.geo.segment))*BlockSize, ErrInvalid)
	}
	s := &Store{
		o: o, log: o.Logger, file: m.disk.file, queue: o.Queue, clock: o.Clock, geo: m.geo, id: m.sb.store, life: m.sb.incarnation,
		index: newIndexer(index, o.Queue.Post), limit: uint32(limit), keep: uint32(keep), raw: m.disk.file.Direct(),
		sb: m.sb, extents: map[ID]*Extent{}, refs: map[uint32]*Extent{}, control: map[ID]*controlOp{}, nextRef: m.topRef,
		slots: m.slots, mapped: m.mapped, epoch: 2, volumes: map[uuid.UUID]*volume{},
	}
	s.st.DataFileDirect = s.raw
	s.seq, s.written, s.proves = m.last, m.last, m.last
	s.synced, s.proven, s.want = m.last, m.last, m.last
	s.syncer.op.Done = s.syncEnded
	for _, e := range m.extents {
		s.addExtent(e)
		for _, n := range e.entries {
			if n.slot != slotZero && n.slot != slotLost {
				e.vol.blocks.Add(1)
			}
		}
	}
	done := map[uint32]bool{}
	for _, area := range m.usedAreas() {
		seg := m.geo.first + (area-m.geo.first)/m.geo.segment*m.geo.segment
		if !done[seg] {
			done[seg] = true
			s.addAreas(seg, func(a uint32) bool { return m.areas[a] })
		}
	}
	s.publishLocked()
	return s, nil
}
