package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/sdk/ring"
)

// opScrub reads a range from every member and looks whether all have the same, whole. It holds its blocks meanwhile.
const opScrub ring.Op = 0xfb

// Scrubbed is what a scrub has found.
type Scrubbed struct {
	Bytes     int64 // that were looked at, on each member
	Total     int64 // to be looked at
	Corrupt   int   // regions with a block whose checksum does not match, on some member
	Different int   // regions in which members differ though all their checksums match
	Repaired  int   // of both, those that are the same and whole on all members now
}

// Add adds up what was found in several extents.
func (s *Scrubbed) Add(o Scrubbed) {
	s.Bytes += o.Bytes
	s.Total += o.Total
	s.Corrupt += o.Corrupt
	s.Different += o.Different
	s.Repaired += o.Repaired
}

// scrubbing is one look at a region.
type scrubbing struct {
	member    int // that is being read
	corrupt   bool
	different bool
}

// Scrub reads everything that an extent has, from every member, in the order of hosts' commands and no faster than copies are made.
// What is damaged on a member, or differs, is made equal. An extent that was never written needs nothing.
func (a *Access) Scrub(ctx context.Context, v *Volume, index uint32, progress func(Scrubbed)) (Scrubbed, error) {
	var out Scrubbed
	fail := func(err error) (Scrubbed, error) {
		return out, fmt.Errorf("scrub extent %d of volume %s: %w", index, v.name, err)
	}
	regions, err := a.mapped(ctx, v, index)
	if err != nil {
		return fail(err)
	}
	size := v.regionBytes()
	out.Total = int64(regions.Count()) * size
	progress(out)
	for region, more := regions.Next(0); more; region, more = regions.Next(region + 1) {
		at := int64(index)*a.extentBytes + int64(region)*size
		r := span{at, at + size}
		s, err := a.scrub(ctx, v, r)
		if err != nil {
			return fail(err)
		}
		if s.corrupt {
			out.Corrupt++
		}
		if s.different {
			out.Different++
		}
		if s.corrupt || s.different {
			a.log.Warn("replicas of a region are damaged or differ", "volume", v.name, "offset", at, "bytes", size, "damaged", s.corrupt)
			if err := a.inner(ctx, v, opLevel, r, inner{}); err == nil {
				if s, err = a.scrub(ctx, v, r); err == nil && !s.corrupt && !s.different {
					out.Repaired++
					_ = a.reactor.Do(ctx, func() { v.stats.Repaired++ })
				}
			}
		}
		out.Bytes += size
		progress(out)
	}
	return out, nil
}

// scrub looks at one region.
func (a *Access) scrub(ctx context.Context, v *Volume, r span) (scrubbing, error) {
	if err := a.pace.take(ctx, int(r.to-r.from)); err != nil {
		return scrubbing{}, err
	}
	defer a.pace.give()
	s := &scrubbing{}
	err := a.inner(ctx, v, opScrub, r, inner{scrub: s})
	return *s, err
}

// inner runs a command of our own and waits for its end.
func (a *Access) inner(ctx context.Context, v *Volume, kind ring.Op, r span, in inner) error {
	return a.ask(ctx, func(done func(error)) {
		if v.closed || v.leaving || r.from >= int64(len(v.extents))*a.extentBytes {
			done(ErrChanged)
			return
		}
		in.done = func(s ring.Status) {
			if s != ring.StatusOK {
				done(fmt.Errorf("it cannot be read now: %v", s))
				return
			}
			done(nil)
		}
		v.run(kind, r, in)
	})
}

// mapped is the regions of an extent that have data on any member.
func (a *Access) mapped(ctx context.Context, v *Volume, index uint32) (extent.Regions, error) {
	var set []replica
	if err := a.reactor.Do(ctx, func() {
		if int(index) < len(v.extents) {
			set = append(set, v.extents[index].set...)
		}
	}); err != nil {
		return nil, err
	}
	out := extent.NewRegions(a.regions())
	for _, r := range set {
		if r.store == nil {
			return nil, errLeft
		}
		if err := a.ask(ctx, func(done func(error)) {
			r.store.Mapped(extent.ID{Volume: v.id, Index: index}, func(m extent.Regions, err error) { out.Or(m); done(err) })
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// startScrub reads the range from the first member, or begins anew.
func (o *op) startScrub() {
	if !o.takeBounce(2 * int(o.range_.to-o.range_.from)) {
		return
	}
	o.inner.scrub.member = 0
	o.scrubMember()
}

// scrubMember reads the range from the next member: of the first one into the front half of the memory, of others into the back half.
func (o *op) scrubMember() {
	v, s := o.vol, o.inner.scrub
	i := o.range_.from / v.access.extentBytes
	e := &v.extents[i]
	if e.state != extentReady || e.resolving != nil || !e.serves(extent.OpWrite) || s.member >= len(e.set) {
		o.fail(ring.StatusAborted, 0) // another time
		o.finish()
		return
	}
	half := len(o.bounce) / 2
	buf := o.bounce[:half]
	if s.member > 0 {
		buf = o.bounce[half:]
	}
	o.pending++
	o.sent = 0
	o.ask(e, s.member, &extent.IO{
		Op: extent.OpRead, ID: extent.ID{Volume: v.id, Index: uint32(i)}, Gen: e.generation,
		Block: uint32(o.range_.from % v.access.extentBytes / blockBytes), Blocks: uint32(half / blockBytes), Buf: buf,
	})
	if o.pending--; o.pending == 0 {
		o.step()
	}
}

// scrubbed goes on after a member was read.
func (o *op) scrubbed() {
	s := o.inner.scrub
	r := o.nth(0)
	half := len(o.bounce) / 2
	switch {
	case errors.Is(r.Err, extent.ErrCorrupt):
		o.vol.stats.Corrupt++
		if s.corrupt = true; s.member == 0 {
			o.finish() // nothing to compare with; it is read again when it is repaired
			return
		}
	case r.Err != nil:
		o.fail(ring.StatusPathLost, 0)
		o.finish()
		return
	case s.member > 0 && !bytes.Equal(o.bounce[:half], o.bounce[half:]):
		s.different = true
	}
	if s.member++; s.member >= len(o.vol.extents[o.range_.from/o.vol.access.extentBytes].set) {
		o.finish()
		return
	}
	o.scrubMember()
}
