package plugintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

// Run is the conformance suite for data plugins: what every data plugin must do, as subtests that can
// be run by name. The random choices follow the environment variable SEED, which is
// printed.
func Run(t *testing.T, config Config) {
	if err := config.check(); err != nil {
		t.Fatal(err)
	}
	seed := seedOf(t)
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"Describe", (*suite).describe},
		{"Configure", (*suite).configure},
		{"Listeners", (*suite).listeners},
		{"DataCrossesRings", (*suite).data},
		{"ManyHosts", (*suite).manyHosts},
		{"ErrorsReachHost", (*suite).errors},
		{"StrangersAreRefused", (*suite).strangers},
		{"HostLeavesUnderIO", (*suite).hostLeaves},
		{"NamespaceRemoved", (*suite).namespaceRemoved},
		{"AssociationEnded", (*suite).associationEnded},
		{"BadInput", (*suite).badInput},
		{"Health", (*suite).health},
		{"StopUnderIO", (*suite).stopUnderIO},
		{"CoreDies", (*suite).coreDies},
		{"NewLife", (*suite).newLife},
		{"NothingLeaks", (*suite).leaks},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(&suite{T: t, config: config, random: rand.New(rand.NewPCG(seed, 1))})
		})
	}
}

// seedOf returns what the random choices follow, and prints it.
func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// suite is one subtest.
type suite struct {
	*testing.T
	config Config
	random *rand.Rand
}

// patience bounds each wait for something that must happen.
const patience = 10 * time.Second

func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.Cleanup(cancel)
	return ctx
}

// listening starts a plugin with one listener.
func (s *suite) listening() (*Harness, string) {
	s.Helper()
	h := Start(s.T, s.config)
	return h, h.Listen(1)[0]
}

// eventually waits until ok.
func (s *suite) eventually(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("not %s after %v", what, patience)
		}
	}
}

func (s *suite) noHosts(h *Harness) {
	s.Helper()
	s.eventually("without associations", func() bool { return len(h.Hosts()) == 0 })
}

func (s *suite) block(blocks int) []byte {
	b := make([]byte, blocks*BlockBytes)
	for i := range b {
		b[i] = byte(s.random.Uint32())
	}
	return b
}

// serves fails the test unless a new host can write and read.
func (s *suite) serves(h *Harness, url string) {
	s.Helper()
	host := h.Connect(url)
	defer host.Close()
	want, got := s.block(4), make([]byte, 4*BlockBytes)
	off := int64(s.random.IntN(VolumeBytes/BlockBytes-4)) * BlockBytes
	if err := host.Write(s.ctx(), want, off); err != nil {
		s.Errorf("write %d bytes at %d: %v", len(want), off, err)
	} else if err := host.Read(s.ctx(), got, off); err != nil {
		s.Errorf("read %d bytes at %d: %v", len(got), off, err)
	} else if !bytes.Equal(want, got) {
		s.Errorf("read at %d: other data than was written", off)
	}
}

func (s *suite) describe() {
	h := Start(s.T, s.config)
	describes(s.T, h.life.plugin, h.life.description)
	scheme, _, _ := strings.Cut(s.config.Listen, "://")
	if has := h.life.description.ListenSchemes; !slices.Contains(has, scheme) {
		s.Errorf("listen scheme %q is not among %v", scheme, has)
	}
}

// describes checks what holds for the descriptions of all plugins.
func describes(t *testing.T, p proto.PluginClient, first *proto.Description) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	again, err := p.Describe(ctx, &proto.DescribeRequest{})
	if err != nil || again.String() != first.String() {
		t.Errorf("a second Describe says %v, %v; the first said %v", again, err, first)
	}
	if first.Version == "" {
		t.Error("the description has no version")
	}
	seen := map[string]bool{}
	for _, a := range first.Schema {
		if a.Help == "" || seen[a.Name] {
			t.Errorf("attribute %q has no help, or is there twice", a.Name)
		}
		seen[a.Name] = true
	}
}

func (s *suite) configure() {
	h, url := s.listening()
	settings, err := s.config.settings(h.life.description)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := h.life.plugin.Configure(s.ctx(), &proto.ConfigureRequest{Json: settings})
	if err != nil || len(resp.Errors) > 0 {
		s.Errorf("the same configuration again: %v, %v", resp, err)
	}
	resp, err = h.life.plugin.Configure(s.ctx(), &proto.ConfigureRequest{Json: "not JSON"})
	if err == nil && len(resp.Errors) == 0 {
		s.Error("a configuration that is not JSON was accepted")
	}
	s.serves(h, url)
}

func (s *suite) listeners() {
	h := Start(s.T, s.config)
	urls := h.Listen(2)
	if urls[0] == urls[1] {
		s.Fatalf("two listeners at one address: %v", urls)
	}
	host := h.Connect(urls[0])
	defer host.Close()
	if again := h.Listen(2); !slices.Equal(again, urls) {
		s.Errorf("the same listeners set again are at %v, were at %v", again, urls)
	}
	if err := host.Read(s.ctx(), make([]byte, BlockBytes), 0); err != nil {
		s.Errorf("a connection did not survive that the same listeners were set again: %v", err)
	}
	if s.config.Unbindable != "" {
		h.mu.Lock()
		list := slices.Clone(h.listeners)
		h.mu.Unlock()
		list = append(list, &proto.Listener{Url: s.config.Unbindable, AccessPointId: AccessPoints + "bad"})
		states := h.setListeners(list)
		if states[2].Error == "" || states[0].Error != "" || states[1].Error != "" {
			s.Errorf("with an address that cannot be bound: %v", states)
		}
	}
	if after := h.Listen(1); after[0] != urls[0] {
		s.Errorf("a listener moved from %s to %s when another was taken away", urls[0], after[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if late, err := s.config.Connect(ctx, Target{URL: urls[1], Subsystem: Subsystem, NSID: NSID, Host: AnyHost}); err == nil {
		late.Close()
		s.Error("a listener that was taken away still accepts hosts")
	}
	s.serves(h, urls[0])
}

func (s *suite) data() {
	h, url := s.listening()
	host := h.Connect(url)
	model := make([]byte, VolumeBytes)
	before := h.Counters()
	var written, read uint64
	for range 200 {
		blocks := 1 + s.random.IntN(128)
		off := int64(s.random.IntN(VolumeBytes/BlockBytes-blocks)) * BlockBytes
		n := blocks * BlockBytes
		if s.random.IntN(2) == 0 {
			b := s.block(blocks)
			if err := host.Write(s.ctx(), b, off); err != nil {
				s.Fatalf("write %d bytes at %d: %v", n, off, err)
			}
			copy(model[off:], b)
			written += uint64(n)
			continue
		}
		b := make([]byte, n)
		if err := host.Read(s.ctx(), b, off); err != nil {
			s.Fatalf("read %d bytes at %d: %v", n, off, err)
		}
		if !bytes.Equal(b, model[off:off+int64(n)]) {
			s.Fatalf("read %d bytes at %d: other data than was written", n, off)
		}
		read += uint64(n)
	}
	if err := host.Flush(s.ctx()); err != nil {
		s.Errorf("flush: %v", err)
	}
	got := make([]byte, VolumeBytes)
	if _, err := h.Volume(NSID).ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
		s.Errorf("the volume has other data than the host has written: %v", err)
	}
	after := h.Counters()
	if w, r := after.WriteBytes-before.WriteBytes, after.ReadBytes-before.ReadBytes; w < written || r < read {
		s.Errorf("%d and %d bytes crossed the rings, the host wrote %d and read %d", w, r, written, read)
	}
	if err := host.Close(); err != nil {
		s.Errorf("close: %v", err)
	}
	s.noHosts(h)
}

func (s *suite) manyHosts() {
	h, url := s.listening()
	const hosts, share = 8, VolumeBytes / 8
	var wg sync.WaitGroup
	for i := range hosts {
		random := rand.New(rand.NewPCG(s.random.Uint64(), 1))
		wg.Go(func() {
			if err := s.oneOfMany(url, i*share, share, random); err != nil {
				s.Errorf("host %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	s.noHosts(h)
}

// oneOfMany writes and reads a part of the volume, from offset from on.
func (s *suite) oneOfMany(url string, from, size int, random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	host, err := s.config.Connect(ctx, Target{URL: url, Subsystem: Subsystem, NSID: NSID, Host: AnyHost})
	if err != nil {
		return err
	}
	defer host.Close()
	b := make([]byte, 8*BlockBytes)
	for range 50 {
		off := int64(from + random.IntN(size/BlockBytes-8)*BlockBytes)
		mark := byte(random.Uint32())
		if err := host.Write(ctx, bytes.Repeat([]byte{mark}, len(b)), off); err != nil {
			return fmt.Errorf("write at %d: %w", off, err)
		}
		if err := host.Read(ctx, b, off); err != nil {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		if bytes.Count(b, []byte{mark}) != len(b) {
			return fmt.Errorf("read at %d: another host's data", off)
		}
	}
	return nil
}

func (s *suite) errors() {
	h, url := s.listening()
	host := h.Connect(url)
	defer host.Close()
	for _, status := range []ring.Status{ring.StatusMediaError, ring.StatusNoSpace, ring.StatusInternal, ring.StatusReservationConflict} {
		h.Volumes().Intercept(func(e *ring.Entry) (ring.Status, bool) { return status, e.Op == ring.OpWrite })
		if err := host.Write(s.ctx(), s.block(1), 0); err == nil {
			s.Errorf("a write that ended with %q succeeded at the host", status)
		}
		h.Volumes().Intercept(nil)
		s.serves(h, url)
	}
}

func (s *suite) strangers() {
	h, url := s.listening()
	for _, target := range []Target{
		{URL: url, Subsystem: Subsystem, NSID: NSID, Host: DeniedHost},
		{URL: url, Subsystem: Subsystem + "-not", NSID: NSID, Host: AnyHost},
	} {
		if host, err := s.config.Connect(s.ctx(), target); err == nil {
			host.Close()
			s.Errorf("host %s is let into %s", target.Host, target.Subsystem)
		}
	}
	s.serves(h, url)
}

func (s *suite) hostLeaves() {
	h, url := s.listening()
	host := h.Connect(url)
	h.Volumes().Hold()
	var wg sync.WaitGroup
	wg.Go(func() { _ = host.Write(s.ctx(), s.block(8), 0) }) // either way
	s.eventually("held in the core", func() bool { return h.Volumes().Held() > 0 })
	host.Close()
	wg.Wait()
	h.Volumes().Release()
	s.noHosts(h)
	s.serves(h, url)
}

func (s *suite) namespaceRemoved() {
	h, url := s.listening()
	h.AddNamespace(2, 1<<20)
	host, err := s.config.Connect(s.ctx(), Target{URL: url, Subsystem: Subsystem, NSID: 2, Host: AnyHost})
	if err != nil {
		s.Fatalf("connect to a namespace that was added: %v", err)
	}
	defer host.Close()
	if err := host.Write(s.ctx(), s.block(1), 0); err != nil {
		s.Errorf("write to a namespace that was added: %v", err)
	}
	h.RemoveNamespace(2)
	if err := host.Write(s.ctx(), s.block(1), 0); err == nil {
		s.Error("a namespace that was removed can still be written")
	}
	s.serves(h, url)
}

func (s *suite) associationEnded() {
	h, url := s.listening()
	host := h.Connect(url)
	defer host.Close()
	if err := host.Read(s.ctx(), make([]byte, BlockBytes), 0); err != nil {
		s.Fatal(err)
	}
	h.EndAssociations("the operator said so")
	s.noHosts(h)
	if err := host.Read(s.ctx(), make([]byte, BlockBytes), 0); err == nil {
		s.Error("an association that was ended can still read")
	}
	s.serves(h, url)
}

func (s *suite) badInput() {
	if s.config.Raw == nil {
		s.Skip("Config.Raw is not given")
	}
	h, url := s.listening()
	send := func(data []byte) {
		// The plugin may wait for more, as long as it does no harm.
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_ = s.config.Raw(ctx, url, data)
	}
	send(nil)
	for range 100 {
		b := make([]byte, s.random.IntN(4096))
		for i := range b {
			b[i] = byte(s.random.Uint32())
		}
		send(b)
	}
	for _, c := range []byte{0x00, 0xff, '\n', ' '} {
		send(bytes.Repeat([]byte{c}, 64<<10))
	}
	if err := h.Broken(); err != nil {
		s.Errorf("bad input made the plugin break its rings: %v", err)
	}
	s.noHosts(h)
	s.serves(h, url)
}

func (s *suite) health() {
	h := Start(s.T, s.config)
	stream, err := h.life.plugin.Health(s.ctx(), &proto.HealthRequest{IntervalMs: 20})
	if err != nil {
		s.Fatal(err)
	}
	for range 3 {
		r, err := stream.Recv()
		if err != nil {
			s.Fatalf("health stream: %v", err)
		}
		if !r.Healthy {
			s.Errorf("an idle plugin is not healthy: %s", r.Reason)
		}
	}
}

func (s *suite) stopUnderIO() {
	h, url := s.listening()
	host := h.Connect(url)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx := s.ctx(); host.Write(ctx, make([]byte, 8*BlockBytes), 0) == nil; {
		}
	})
	before := h.Counters().Entries
	s.eventually("under I/O", func() bool { return h.Counters().Entries > before+10 })
	h.StopPlugin()
	wg.Wait()
	host.Close()
	s.gone(url)
}

// gone fails the test if somebody listens at url.
func (s *suite) gone(url string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	host, err := s.config.Connect(ctx, Target{URL: url, Subsystem: Subsystem, NSID: NSID, Host: AnyHost})
	if err == nil {
		host.Close()
		s.Errorf("%s still accepts hosts after the plugin's end", url)
	}
}

func (s *suite) coreDies() {
	h, url := s.listening()
	host := h.Connect(url)
	h.Volumes().Hold()
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = host.Write(s.ctx(), s.block(8), 0) })
	s.eventually("held in the core", func() bool { return h.Volumes().Held() > 0 })
	h.KillCore()
	wg.Wait()
	if err == nil {
		s.Error("a write that the dead core never did was acknowledged")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		s.Error("a write hangs that the dead core will never do")
	}
	host.Close()
	s.gone(url)
}

func (s *suite) newLife() {
	h, url := s.listening()
	host := h.Connect(url)
	want, got := s.block(16), make([]byte, 16*BlockBytes)
	if err := host.Write(s.ctx(), want, 4096); err != nil {
		s.Fatal(err)
	}
	h.KillCore()
	host.Close()
	h.StartPlugin()
	url = h.URLs()[0]
	host = h.Connect(url)
	defer host.Close()
	if err := host.Read(s.ctx(), got, 4096); err != nil || !bytes.Equal(want, got) {
		s.Errorf("what was written before is not there in the next life: %v", err)
	}
	s.serves(h, url)
}

func (s *suite) leaks() {
	once := func() {
		h, url := s.listening()
		for range 5 {
			s.serves(h, url)
		}
		s.noHosts(h)
		h.StopPlugin()
	}
	once() // what is made once and kept is no leak
	goroutines, files := runtime.NumGoroutine(), openFiles(s.T)
	for range 3 {
		once()
	}
	await(s.T, goroutines)
	if now := openFiles(s.T); now > files {
		s.Errorf("%d open files after three lives, %d before", now, files)
	}
}

// await waits until there are no more goroutines than there were.
func await(t *testing.T, goroutines int) {
	t.Helper()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines after three lives, %d before:\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
