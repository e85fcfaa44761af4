//go:build e2e

package powerloss

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/e2e/forgetfs"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

const (
	devNQN      = "nqn.2026-11.io.mooring:dev"
	extentBytes = 256 << 20
	diskBytes   = 512 << 20 // of the file system; the data on it is sparse

	writers     = 4 // per volume
	runBlocks   = 16
	syncExtents = 4 // of the dev volume, 1 GiB
	volExtents  = 6 // of the volatile volume

	defaultCuts = 30
	cutsPerDisk = 6
	lifeTimeout = 60 * time.Second
)

// TestPowerLoss cuts the power of a node again and again.
func TestPowerLoss(t *testing.T) {
	require(t)
	seed, cuts := number(t, "SEED", 1), number(t, "POWERLOSS_CUTS", defaultCuts)
	t.Logf("SEED=%d", seed)
	bin := build(t)
	done, kills := 0, 0
	for i := uint64(0); done < int(cuts); i++ {
		h := newHistory(t, bin, seed*1000+i)
		n := h.run(min(cutsPerDisk, int(cuts)-done))
		done, kills = done+n, kills+h.kills
	}
	t.Logf("%d power cuts, %d kills", done, kills)
}

// A folder that was made durably is there even where a file system promises no more for names than POSIX does.
func TestFoldersSurvive(t *testing.T) {
	require(t)
	fs, dir := forgetfs.NewDisk(forgetfs.Options{Strict: true}), t.TempDir()
	for seed := range uint64(10) {
		m, err := fs.Mount(dir)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "a", "b", strconv.FormatUint(seed, 10))
		err = vfs.NewOS().MkdirAll(name)
		fs.Cut()
		if err = errors.Join(err, m.Unmount()); err != nil {
			t.Fatal(err)
		}
		fs = fs.Survivor(seed)
		if m, err = fs.Mount(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
		fs.Cut()
		if err := m.Unmount(); err != nil {
			t.Fatal(err)
		}
		fs = fs.Survivor(seed)
	}
}

func require(t *testing.T) {
	t.Helper()
	missing := forgetfs.Missing()
	if os.Geteuid() != 0 {
		missing = []string{"root"}
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		missing = append(missing, "unshare (util-linux)")
	}
	if len(missing) == 0 {
		return
	}
	text := "missing: " + strings.Join(missing, ", ")
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// history is what one machine goes through.
type history struct {
	t      *testing.T
	bin    programs
	seed   uint64
	random *rand.Rand
	host   nvmehost.Options
	fs     *forgetfs.Disk
	mount  *forgetfs.Mount
	dir    string
	bootID string
	disks  []*disk // [0] sync, [1] volatile
	vols   *volumes
	lives  int
	kills  int
	power  bool // how the last life ended
}

func newHistory(t *testing.T, bin programs, seed uint64) *history {
	h := &history{
		t: t, bin: bin, seed: seed, random: rand.New(rand.NewPCG(seed, 7)), dir: t.TempDir(), bootID: newBootID(), power: true, vols: newVolumes(4),
		host: nvmehost.Options{HostNQN: "nqn.2014-08.org.example:powerloss", HostID: nvme.HostID{15: 1}, Queues: 2},
	}
	h.fs = forgetfs.NewDisk(forgetfs.Options{Bytes: diskBytes})
	blockSize := []int{512, 4096}[h.random.IntN(2)]
	h.disks = []*disk{
		newDisk("dev", 1, 4096, true, syncExtents, writers),
		newDisk("volatile", 2, blockSize, false, volExtents, writers),
	}
	return h
}

// run cuts the power n times, with a kill here and there, and looks at last whether all is in order. It returns n.
func (h *history) run(n int) int {
	h.remount()
	defer func() {
		if err := h.mount.Unmount(); err != nil {
			h.t.Error(err)
		}
	}()
	for range n {
		for h.lives > 0 && h.random.IntN(4) == 0 {
			h.kills++
			h.life(endKill)
		}
		h.life(endCut)
		if err := h.mount.Unmount(); err != nil {
			h.t.Fatal(err)
		}
		h.fs = h.fs.Survivor(h.random.Uint64())
		h.bootID = newBootID()
		h.remount()
	}
	h.life(endStop)
	out, err := exec.Command(filepath.Join(string(h.bin), "mooring"), "check", "-store", filepath.Join(h.dir, "stores", "main")).CombinedOutput()
	if err != nil {
		h.t.Fatalf("history %d: check: %v\n%s", h.seed, err, out)
	}
	return n
}

func (h *history) remount() {
	h.t.Helper()
	var err error
	if h.mount, err = h.fs.Mount(h.dir); err != nil {
		h.t.Fatal(err)
	}
}

// ending is how a life of the agent ends.
type ending uint8

const (
	endCut  ending = iota // the power goes
	endKill               // the process is killed, the machine goes on
	endStop               // in order
)

func (e ending) String() string { return [...]string{"a power cut", "a kill", "a stop"}[e] }

// life is one life of the agent.
type life struct {
	*history
	agent *agent
	ctx   context.Context
	over  context.CancelFunc // the agent is about to be killed, or something is wrong
	host  *nvmehost.Controller
	work  sync.WaitGroup

	mu    sync.Mutex
	dying bool  // errors are expected; guarded by mu
	err   error // the first that was not; guarded by mu
}

// fail notes an error that no end of the agent explains.
func (l *life) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dying && !l.fs.IsCut() && l.err == nil {
		l.err = err
	}
	l.over()
}

func (h *history) life(end ending) {
	h.lives++
	l := &life{history: h}
	l.ctx, l.over = context.WithTimeout(context.Background(), lifeTimeout)
	defer l.over()
	random := rand.New(rand.NewPCG(h.seed, uint64(100+h.lives)))
	if end == endCut {
		l.arm(random)
	}
	began, _ := h.fs.Changes()
	l.agent = h.bin.startAgent(h.t, h.dir, h.bootID)
	phase, err := l.live(random, end)
	reached, _ := h.fs.Changes()
	if err == nil && end == endStop {
		err = l.agent.stop()
	}
	err = l.end(end, err)
	h.t.Logf("history %d, life %d: %s, then %s, after %d changes of the disk", h.seed, h.lives, phase, end, reached-began)
	if err != nil {
		h.t.Fatalf("SEED=%d, history %d, life %d, %s: %v\n%s", h.seed/1000, h.seed, h.lives, phase, err, l.agent.log.String())
	}
	h.power = end == endCut
	for _, d := range h.disks {
		d.died(h.power)
	}
}

// arm has the power go at a random change of the disk, and end the life.
func (l *life) arm(random *rand.Rand) {
	at := 200 + random.Int64N(1500)
	if random.IntN(4) == 0 {
		at = 1 + random.Int64N(300) // while it starts
	}
	down := l.fs.CutAt(at)
	go func() {
		select {
		case <-down:
			l.over()
		case <-l.ctx.Done():
		}
	}()
}

// end kills the agent, waits for its end and returns what went wrong until then.
func (l *life) end(end ending, err error) error {
	late := errors.Is(l.ctx.Err(), context.DeadlineExceeded)
	if err != nil {
		l.fail(err)
	}
	l.mu.Lock()
	l.dying = true
	err = l.err
	l.mu.Unlock()
	l.over()
	l.agent.kill()
	if end == endCut {
		if err := l.mount.Unmount(); err != nil {
			l.t.Error(err)
		}
	}
	_ = l.agent.wait() // killed
	l.work.Wait()
	if l.host != nil {
		l.host.Abandon()
	}
	if late && err == nil {
		err = fmt.Errorf("the life lasts longer than %v", lifeTimeout)
	}
	return err
}

// live starts, verifies and works until the life is over, and returns how far it came.
func (l *life) live(random *rand.Rand, end ending) (phase string, err error) {
	if err := l.agent.up(l.ctx); err != nil {
		return "starting", err
	}
	l.vols.api = admin.NewClient(l.agent.socket)
	if err := l.vols.found(l.ctx); err != nil {
		return "verifying volumes", err
	}
	if err := l.ensureVolatile(); err != nil {
		return "making the volatile volume", err
	}
	if l.host, err = nvmehost.Connect(l.ctx, l.agent.address, devNQN, l.history.host); err != nil {
		return "connecting", err
	}
	for _, d := range l.disks {
		if err := l.verify(d); err != nil {
			return "verifying data", err
		}
	}
	if end == endStop {
		return "verified", nil
	}
	l.workload(random)
	if end == endKill {
		select {
		case <-l.ctx.Done():
		case <-time.After(time.Duration(50+random.IntN(300)) * time.Millisecond):
		}
	} else {
		<-l.ctx.Done()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dying = true
	return "working", l.err
}

// ensureVolatile makes the volatile volume as namespace 2, as far as it is not there.
func (l *life) ensureVolatile() error {
	d := l.disks[1]
	if d.next > 0 {
		return nil // it was written to: it has to be there
	}
	in := admin.VolumeCreate{Name: d.name, Size: volExtents * extentBytes, BlockSize: d.blockSize, Durability: "volatile"}
	err := l.vols.api.Do(l.ctx, "POST", "/v1/volumes", in, nil)
	if err = exists(err); err != nil {
		return err
	}
	err = l.vols.api.Do(l.ctx, "POST", namespacesPath(), admin.NamespaceAttach{Volume: d.name, NSID: uint32(d.nsid)}, nil)
	return exists(err)
}

func exists(err error) error {
	var refusal *admin.Error
	if errors.As(err, &refusal) && (refusal.Kind == admin.KindExists || refusal.Kind == admin.KindInUse) {
		return nil
	}
	return err
}

// verify reads all blocks in use and judges them.
func (l *life) verify(d *disk) error {
	for _, r := range d.runs {
		b := make([]byte, r.count*d.blockSize)
		if err := l.host.Read(l.ctx, d.nsid, r.first, b); err != nil {
			return err
		}
		for i := range r.count {
			if err := d.found(r.first+nvme.LBA(i), b[i*d.blockSize:][:d.blockSize], l.power); err != nil {
				return err
			}
		}
	}
	return nil
}

// workload starts all that goes on until the life is over.
func (l *life) workload(random *rand.Rand) {
	begin := func(fn func(*rand.Rand) error) {
		own := rand.New(rand.NewPCG(random.Uint64(), 3))
		l.work.Go(func() {
			for l.ctx.Err() == nil {
				if err := fn(own); err != nil {
					l.fail(err)
					return
				}
			}
		})
	}
	busy := 1 + random.IntN(syncExtents)
	for _, d := range l.disks {
		for w := range writers {
			begin(func(random *rand.Rand) error { return l.io(d, random.IntN(busy)*writers+w, random) })
		}
	}
	begin(func(random *rand.Rand) error {
		pause(l.ctx, random, 30*time.Millisecond)
		return l.flush(l.disks[1])
	})
	begin(func(random *rand.Rand) error {
		pause(l.ctx, random, 20*time.Millisecond)
		return l.vols.step(l.ctx, random)
	})
	if random.IntN(2) == 0 {
		begin(func(random *rand.Rand) error {
			pause(l.ctx, random, 10*time.Millisecond)
			return l.mount.WriteBack()
		})
	}
}

// pause spreads what is done now and then.
func pause(ctx context.Context, random *rand.Rand, upTo time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(random.Int64N(int64(upTo)))):
	}
}

// io makes one random request in the i-th run of d and judges its result.
func (l *life) io(d *disk, i int, random *rand.Rand) error {
	r := d.runs[i]
	r.first += nvme.LBA(random.IntN(r.count))
	r.count = min(1+random.IntN(runBlocks), int(d.runs[i].first)+d.runs[i].count-int(r.first))
	b := make([]byte, r.count*d.blockSize)
	switch p := random.IntN(20); {
	case p < 3:
		return l.read(d, r, b)
	case p < 5:
		d.begin(r, true)
		if err := l.host.WriteZeroes(l.ctx, d.nsid, r.first, nvme.BlockCount(r.count), p == 3); err != nil {
			return err
		}
		d.ack(r, false)
		return nil
	}
	fua := random.IntN(8) == 0
	number := d.begin(r, false)
	for k := range r.count {
		fillBlock(b[k*d.blockSize:][:d.blockSize], d.nsid, r.first+nvme.LBA(k), number)
	}
	if err := l.host.Write(l.ctx, d.nsid, r.first, b, fua); err != nil {
		return err
	}
	d.ack(r, fua)
	return nil
}

// read reads blocks that nobody writes meanwhile: they are as last written.
func (l *life) read(d *disk, r run, b []byte) error {
	if err := l.host.Read(l.ctx, d.nsid, r.first, b); err != nil {
		return err
	}
	for k := range r.count {
		lba := r.first + nvme.LBA(k)
		got, err := blockNumber(b[k*d.blockSize:][:d.blockSize], d.nsid, lba)
		if want := d.latest(lba); err != nil || got != want {
			return fmt.Errorf("volume %s, block %d reads as write %d, %v; written was %d", d.name, lba, got, err, want)
		}
	}
	return nil
}

// flush makes what was acknowledged durable. After lost writes it fails, once.
func (l *life) flush(d *disk) error {
	covers := d.acked()
	err := l.host.Flush(l.ctx, d.nsid)
	d.mu.Lock()
	lost, may := d.mustFail, d.failable && !d.told
	var status nvme.Status
	if errors.As(err, &status) && may {
		d.mustFail, d.told = false, true
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	switch {
	case err != nil:
		return err
	case lost:
		return fmt.Errorf("volume %s lost acknowledged writes when the power went, and the next flush succeeded", d.name)
	}
	d.flushed(covers)
	return nil
}
