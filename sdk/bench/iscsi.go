package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/iscsihost"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// maxAttentions is how many unit attentions in a row a command is repeated for.
const maxAttentions = 8

// iscsiHost is an initiator with one session for each queue.
type iscsiHost struct {
	loop     *hostio.Loop
	target   Target
	options  iscsihost.Options
	lun      scsi.LUN
	lu       unit
	sessions []*iscsihost.Session
}

func connectISCSI(ctx context.Context, loop *hostio.Loop, cfg Config, t Target) (host, error) {
	began := time.Now()
	h := &iscsiHost{loop: loop, target: t, lun: scsi.LUN(t.Unit)}
	h.options = iscsihost.Options{
		Initiator: cfg.Host, HeaderDigest: t.HeaderDigest, DataDigest: t.DataDigest, CHAP: cfg.CHAP, Timeout: cfg.Timeout,
		OnMove: func(from, to string) {
			if cfg.OnPath != nil {
				cfg.OnPath(PathChange{Elapsed: time.Since(began), Path: fmt.Sprintf("a session moved from %s to %s", from, to)})
			}
		},
	}
	if h.options.Initiator == "" {
		h.options.Initiator = iscsihost.NewName()
	}
	err := h.login(ctx)
	if err == nil {
		err = h.look(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// login adds a session whose unit has nothing more to tell.
func (h *iscsiHost) login(ctx context.Context) error {
	s, err := iscsihost.Open(ctx, h.loop, h.target.Address, h.target.Name, h.options)
	if err != nil {
		return err
	}
	h.sessions = append(h.sessions, s)
	for range maxAttentions {
		if err = s.Do(ctx, &iscsihost.IO{LUN: h.lun}); !attention(err) { // TEST UNIT READY
			break
		}
	}
	if err != nil {
		return fmt.Errorf("logical unit %d: %w", h.lun, err)
	}
	return nil
}

// look finds out how large the unit is and what it takes.
func (h *iscsiHost) look(ctx context.Context) error {
	s := h.sessions[0]
	b := make([]byte, 32)
	err := s.Do(ctx, &iscsihost.IO{LUN: h.lun, CDB: [16]byte{0: byte(scsi.ServiceActionIn16), 1: scsi.ReadCapacity16, 13: byte(len(b))}, Data: b})
	if err != nil {
		return fmt.Errorf("read the capacity of logical unit %d: %w", h.lun, err)
	}
	c, err := scsi.ParseCapacity16(b)
	if err != nil {
		return err
	}
	if c.BlockBytes < 512 || c.BlockBytes > 64<<10 || c.LastLBA >= 1<<52 {
		return fmt.Errorf("logical unit %d says that it has %d blocks of %d bytes", h.lun, c.LastLBA+1, c.BlockBytes)
	}
	h.lu = unit{name: fmt.Sprintf("logical unit %d", h.lun), block: int(c.BlockBytes), bytes: int64(c.LastLBA+1) * int64(c.BlockBytes)}
	pages, err := h.vpd(ctx, scsi.VPDSupportedPages)
	if err == nil && slices.Contains(pages, byte(scsi.VPDBlockLimits)) {
		pages, err = h.vpd(ctx, scsi.VPDBlockLimits)
		if l, perr := scsi.ParseBlockLimits(pages); err == nil && perr == nil {
			h.lu.maxIO = int(l.MaxTransfer) * h.lu.block
		}
	}
	h.lu.maxDepth = s.Window()
	return err
}

// vpd reads the content of a page.
func (h *iscsiHost) vpd(ctx context.Context, page scsi.VPDPage) ([]byte, error) {
	b := make([]byte, 252) // of older units an allocation length above 255 is too much
	io := iscsihost.IO{LUN: h.lun, CDB: [16]byte{0: byte(scsi.Inquiry), 1: 1, 2: byte(page), 4: byte(len(b))}, Data: b}
	if err := h.sessions[0].Do(ctx, &io); err != nil {
		return nil, fmt.Errorf("read VPD page %02xh: %w", uint8(page), err)
	}
	_, content, err := scsi.ParseVPD(b[:len(b)-int(max(io.Residual, 0))])
	return content, err
}

func (h *iscsiHost) unit() unit { return h.lu }

func (h *iscsiHost) open(ctx context.Context, n int) ([]queue, error) {
	for len(h.sessions) < n {
		if err := h.login(ctx); err != nil {
			return nil, fmt.Errorf("session %d of %d: %w", len(h.sessions)+1, n, err)
		}
	}
	var out []queue
	for _, s := range h.sessions {
		out = append(out, &iscsiQueue{s, h})
	}
	return out, nil
}

// gone says whether there is no such unit any more. SPC-4 annex F
func (h *iscsiHost) gone(err error) bool {
	var s *iscsihost.StatusError
	return errors.As(err, &s) && s.Sense.Key == scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCNoSuchUnit}
}

func (h *iscsiHost) close() error {
	var err error
	for _, s := range h.sessions {
		if s.Err() != nil || s.Outstanding() > 0 { // the run ended early
			s.Close()
			continue
		}
		err = errors.Join(err, s.Logout())
	}
	return err
}

// attention says whether a command only heard news, and is to be repeated. SAM-5 5.14
func attention(err error) bool {
	var s *iscsihost.StatusError
	return errors.As(err, &s) && s.Status == scsi.StatusCheckCondition && s.Sense.Key.Key == scsi.UnitAttention
}

// iscsiQueue is a session.
type iscsiQueue struct {
	*iscsihost.Session
	host *iscsiHost
}

func (q *iscsiQueue) lost() error { return q.Err() }

func (q *iscsiQueue) prepare(done func(error)) request {
	r := &iscsiRequest{queue: q}
	r.LUN = q.host.lun
	r.Done = func(io *iscsihost.IO) {
		if r.Err == nil && r.Status == scsi.StatusGood && r.Residual == 0 {
			done(nil) // without asking what kind of error it is
			return
		}
		err := io.Result()
		if attention(err) && r.attentions < maxAttentions {
			r.attentions++
			q.Submit(io)
			return
		}
		if err == nil {
			err = fmt.Errorf("the target moved %d bytes fewer than it was to", r.Residual)
		}
		done(err)
	}
	return r
}

type iscsiRequest struct {
	iscsihost.IO
	queue      *iscsiQueue
	attentions int // in a row
}

func (r *iscsiRequest) start(write bool, lba uint64, blocks int, data []byte) {
	opcode := scsi.Read16
	if write {
		opcode = scsi.Write16
	}
	r.CDB = scsi.Access{LBA: lba, Blocks: uint32(blocks)}.CDB(opcode)
	r.Write, r.Data, r.Discard, r.Expect, r.attentions = write, data, false, 0, 0
	if data == nil {
		r.Discard, r.Expect = true, blocks*r.queue.host.lu.block
	}
	r.queue.Submit(&r.IO)
}
