package main

import (
	"context"
	"fmt"
	"os/exec"
)

// row is one line, or one group of lines, of the report.
type row struct {
	ID, Title string
	measure   func(context.Context, *harness, *report) error
}

// Store is what lies under both sides of a pair.
type Store string

// The stores.
const (
	onDisk   Store = "disk"
	inMemory Store = "memory"
)

// goals are the ratios that a row should reach; 0 is none.
type goals struct {
	IOPS   float64 `json:"iops"`    // ours to theirs, at least
	PerCPU float64 `json:"per_cpu"` // I/Os per CPU second, ours to theirs, more than
}

func rows() []row {
	rows := []row{ringRow()}
	for _, rw := range []string{"read", "write"} {
		rows = append(rows, spdkRow(onDisk, load{rw, 256 << 10, 16}, goals{IOPS: 0.9, PerCPU: 1}))
	}
	for _, rw := range []string{"randread", "randwrite"} {
		rows = append(rows,
			spdkRow(onDisk, load{rw, 4096, 1}, goals{PerCPU: 1}),
			spdkRow(onDisk, load{rw, 4096, 32}, goals{IOPS: 0.95, PerCPU: 1}),
			spdkRow(onDisk, load{rw, 4096, 128}, goals{IOPS: 0.95, PerCPU: 1}),
		)
	}
	for _, rw := range []string{"read", "write"} {
		rows = append(rows, agedRow(load{rw, 256 << 10, 16}, goals{IOPS: 0.9, PerCPU: 1}))
	}
	for _, rw := range []string{"randread", "randwrite"} {
		rows = append(rows,
			spdkRow(inMemory, load{rw, 4096, 1}, goals{IOPS: 0.6, PerCPU: 1}),
			spdkRow(inMemory, load{rw, 4096, 32}, goals{IOPS: 0.8, PerCPU: 1}),
			spdkRow(inMemory, load{rw, 4096, 128}, goals{IOPS: 0.6}),
		)
	}
	for _, peer := range []struct {
		name string
		goal goals
	}{{"tgt", goals{IOPS: 2, PerCPU: 1}}, {"spdk", goals{IOPS: 0.9, PerCPU: 1}}} {
		for _, l := range []load{
			{"randread", 4096, 1}, {"randread", 4096, 32}, {"randwrite", 4096, 1}, {"randwrite", 4096, 32}, {"read", 256 << 10, 16}, {"write", 256 << 10, 16},
		} {
			g := peer.goal
			if peer.name == "spdk" && l.QueueDepth == 1 {
				g.IOPS = 0
			}
			rows = append(rows, iscsiRow(peer.name, l, "", g))
			if l.QueueDepth == 32 {
				rows = append(rows, iscsiRow(peer.name, l, "&hdgst=1&ddgst=1", g))
			}
		}
	}
	return append(rows,
		fioRow(load{"randread", 4096, 32}, false, goals{IOPS: 0.85}),
		fioRow(load{"randwrite", 4096, 32}, false, goals{IOPS: 0.85}),
		fioRow(load{"randwrite", 4096, 32}, true, goals{IOPS: 2}),
		idleRow(),
	)
}

func (l load) String() string {
	return fmt.Sprintf("%d KiB %s QD%d", l.BlockBytes>>10, l.RW, l.QueueDepth)
}

func (l load) id() string { return fmt.Sprintf("%dk-%s-qd%d", l.BlockBytes>>10, l.RW, l.QueueDepth) }

// side measures one of the two that a pair compares.
type side func(context.Context) (Sample, error)

// spdkRow compares with SPDK's nvmf_tgt: an AIO bdev on a file on the same disk, or a malloc bdev where our data are on
// tmpfs. Neither side makes a write durable before it is flushed.
func spdkRow(at Store, l load, g goals) row {
	ns, peer := peerDisk, "SPDK aio"
	if at == inMemory {
		ns, peer = peerMemory, "SPDK malloc"
	}
	return pairRow("spdk-"+string(at)+"/"+l.id(), Pair{
		Load: l.String(), Store: at, Durability: "volatile", Peer: peer, Goals: g,
	}, func(ctx context.Context, b *harness) (ours, theirs side, err error) {
		p, err := b.spdk(ctx)
		if err != nil {
			return nil, nil, err
		}
		ours, err = b.ours(ctx, at, l, 0)
		return ours, func(ctx context.Context) (Sample, error) { return p.measure(ctx, b.options, p.namespace(ns), l) }, err
	})
}

// agedRow is spdkRow on disk after random 4 KiB writes: a store that never overwrites in place has scattered what was in
// sequence.
func agedRow(l load, g goals) row {
	return pairRow("spdk-disk-aged/"+l.id(), Pair{
		Load: l.String() + " after random writes", Store: onDisk, Durability: "volatile", Peer: "SPDK aio", Goals: g,
	}, func(ctx context.Context, b *harness) (ours, theirs side, err error) {
		p, err := b.spdk(ctx)
		if err != nil {
			return nil, nil, err
		}
		if ours, err = b.ours(ctx, onDisk, l, 0); err != nil {
			return nil, nil, err
		}
		age, err := b.ours(ctx, onDisk, load{"randwrite", 4096, 128}, 0)
		if err != nil {
			return nil, nil, err
		}
		progress("writing at random")
		for written := 0.0; written < float64(b.Size); {
			s, err := age(ctx)
			if err != nil {
				return nil, nil, err
			}
			written += s.IOPS * s.Seconds * 4096
		}
		return ours, func(ctx context.Context) (Sample, error) { return p.measure(ctx, b.options, p.namespace(peerDisk), l) }, nil
	})
}

// fioRow compares with fio on a file on the same disk, without any target between.
func fioRow(l load, sync bool, g goals) row {
	p := Pair{Load: l.String(), Store: onDisk, Durability: "volatile", Peer: "fio", Goals: g}
	id, volume := "fio/"+l.id(), 0
	if sync {
		p.Durability, p.Peer, id, volume = "sync", "fio --sync=1", id+"-sync", 1
	}
	return pairRow(id, p, func(ctx context.Context, b *harness) (ours, theirs side, err error) {
		if _, err := exec.LookPath("fio"); err != nil {
			return nil, nil, &missingError{"fio is not installed (Debian: apt-get install fio)"}
		}
		file, err := b.diskFile()
		if err != nil {
			return nil, nil, err
		}
		ours, err = b.ours(ctx, onDisk, l, volume)
		return ours, func(ctx context.Context) (Sample, error) { return fio(ctx, b.options, file, l, sync) }, err
	})
}

// ours is a load on a volume of the node at a store.
func (b *harness) ours(ctx context.Context, at Store, l load, volume int) (side, error) {
	parent := b.Dir
	if at == inMemory {
		parent = b.MemDir
	}
	n, err := b.node(ctx, parent)
	if err != nil {
		return nil, err
	}
	if err := n.fill(ctx, volume); err != nil {
		return nil, n.child.trouble(err)
	}
	return func(ctx context.Context) (Sample, error) {
		s, err := hostLoad(ctx, b.options, n.url(volume), n.pids(), l)
		if err != nil {
			err = n.child.trouble(err)
		}
		return s, err
	}, nil
}

// pairRow is a row that measures two sides by turns. Who begins alternates too, so that a drift of the machine favours
// nobody.
func pairRow(id string, p Pair, prepare func(context.Context, *harness) (ours, theirs side, err error)) row {
	p.ID = id
	measure := func(ctx context.Context, b *harness, rep *report) error {
		ours, theirs, err := prepare(ctx, b)
		if err != nil {
			return err
		}
		for i := range b.Pairs {
			var a, z Sample
			steps := []func() error{
				func() (err error) { a, err = ours(ctx); return err },
				func() (err error) { z, err = theirs(ctx); return err },
			}
			if i%2 == 1 {
				steps[0], steps[1] = steps[1], steps[0]
			}
			for _, s := range steps {
				if err := s(); err != nil {
					return err
				}
			}
			p.Ours, p.Theirs = append(p.Ours, a), append(p.Theirs, z)
			progress("%s %d/%d: %.0f and %.0f IOPS, %.1f and %.1f µs CPU per I/O", id, i+1, b.Pairs, a.IOPS, z.IOPS, a.PerIO(), z.PerIO())
		}
		p.compare()
		rep.Pairs = append(rep.Pairs, p)
		return nil
	}
	return row{ID: id, Title: fmt.Sprintf("%s, %s, %s, beside %s", p.Load, p.Store, p.Durability, p.Peer), measure: measure}
}

// Pair is the result of a row that compares two sides.
type Pair struct {
	ID         string   `json:"id"`
	Load       string   `json:"load"`
	Store      Store    `json:"store"`
	Durability string   `json:"durability"` // when a write is acknowledged, on both sides
	Peer       string   `json:"peer"`
	Goals      goals    `json:"goals"`
	Ours       []Sample `json:"ours"` // by pair
	Theirs     []Sample `json:"theirs"`
	IOPS       Interval `json:"iops_ratio"`
	PerCPU     Interval `json:"per_cpu_ratio"`
}

func (p *Pair) compare() {
	var iops, perCPU []float64
	for i, a := range p.Ours {
		z := p.Theirs[i]
		iops = append(iops, a.IOPS/z.IOPS)
		perCPU = append(perCPU, a.PerCPU()/z.PerCPU())
	}
	p.IOPS, p.PerCPU = medianOf(iops), medianOf(perCPU)
}
