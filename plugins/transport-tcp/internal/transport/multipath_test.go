package transport

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost/multipath"
	"github.com/mooring-io/mooring/sdk/proto"
)

// A host with two ways follows their ANA states, all five of them, and waits while none is usable.
func TestMultipath(t *testing.T) {
	const (
		opt, non, inaccessible = proto.AnaState_ANA_OPTIMIZED, proto.AnaState_ANA_NON_OPTIMIZED, proto.AnaState_ANA_INACCESSIBLE
		lost, change           = proto.AnaState_ANA_PERSISTENT_LOSS, proto.AnaState_ANA_CHANGE
	)
	a, b := newRig(t, rigOptions{}), newRig(t, rigOptions{})
	rigs := []*rig{a, b}
	b.stub.setState(non)
	ctx := testContext(t)
	open := func(o multipath.Options) *multipath.Device {
		t.Helper()
		o.NQN, o.NSID, o.HostNQN, o.Addresses = testNQN, 1, testHost, []string{a.address, b.address}
		d, err := multipath.Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	}
	d := open(multipath.Options{})
	if n := d.Namespace(); n.Size != testVolume/512 {
		t.Errorf("a namespace of %d blocks", n.Size)
	}
	mark := byte(0)
	// where writes one block and says which of the two got it.
	where := func(d *multipath.Device) *rig {
		t.Helper()
		mark++
		block := bytes.Repeat([]byte{mark}, 4096)
		if err := d.Write(ctx, nvme.LBA(mark), block, false); err != nil {
			t.Fatal(err)
		}
		for _, r := range rigs {
			got := make([]byte, len(block))
			if _, err := r.volume.ReadAt(got, int64(mark)*512); err == nil && bytes.Equal(got, block) {
				return r
			}
		}
		t.Fatal("the block is nowhere")
		return nil
	}
	shows := func(states ...nvme.ANAState) {
		t.Helper()
		a.eventually("the host sees the states", func() bool {
			for i, p := range d.Paths() {
				if !p.Connected || p.State != states[i] {
					return false
				}
			}
			return true
		})
	}
	for _, c := range []struct {
		a, b proto.AnaState
		want *rig
	}{
		{opt, non, a}, {non, opt, b}, {opt, inaccessible, a}, {inaccessible, non, b}, {lost, opt, b}, {change, non, b}, {non, lost, a}, {opt, change, a}, {opt, non, a},
	} {
		a.stub.setState(c.a)
		b.stub.setState(c.b)
		shows(nvme.ANAState(c.a), nvme.ANAState(c.b))
		if got := where(d); got != c.want {
			t.Errorf("states %v and %v: the write went to the wrong one", c.a, c.b)
		}
	}

	hasty := open(multipath.Options{HoldFor: 50 * time.Millisecond})
	// Nothing is usable: I/O waits, and goes on when something is.
	a.stub.setState(inaccessible)
	b.stub.setState(change)
	shows(nvme.ANAInaccessible, nvme.ANAChange)
	result := make(chan error, 1)
	go func() { result <- d.Write(ctx, 4096, make([]byte, 4096), false) }()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := d.Read(short, 0, make([]byte, 4096)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read without a way: %v", err)
	}
	if err := hasty.Flush(ctx); !errors.Is(err, multipath.ErrNoPath) {
		t.Errorf("a flush without a way for HoldFor: %v", err)
	}
	select {
	case err := <-result:
		t.Fatalf("a write without a way: %v", err)
	default:
	}
	b.stub.setState(non)
	if err := <-result; err != nil {
		t.Error(err)
	}

	// Turns between two that are equally good.
	a.stub.setState(opt)
	b.stub.setState(opt)
	turns := open(multipath.Options{RoundRobin: true})
	a.eventually("both ways are up", func() bool { p := turns.Paths(); return p[0].Connected && p[1].Connected })
	if x, y := where(turns), where(turns); x == y {
		t.Error("round-robin takes one of two")
	}

	// What is the command's fault is not tried again.
	if err := d.Read(ctx, testVolume/512, make([]byte, 4096)); !errors.Is(err, nvme.StatusLBAOutOfRange) {
		t.Errorf("a read beyond the end: %v", err)
	}
}
