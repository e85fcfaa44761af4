package plugintest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	gproto "google.golang.org/protobuf/proto"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
)

// PolicyConfig describes a policy plugin to test.
type PolicyConfig struct {
	// New makes a plugin, as main does.
	New func() sdk.PolicyPlugin
	// Attributes are the values of its config block, as Configure gets them; the
	// schema's defaults are added.
	Attributes map[string]any
}

// RunPolicy is the conformance suite for policies, over the real control protocol: its
// subtests can be run by name. What a policy prefers is its own affair; whether
// its answers can be used, and be trusted not to move paths for nothing, is not. The
// random clusters follow the environment variable SEED, which is printed.
func RunPolicy(t *testing.T, config PolicyConfig) {
	if config.New == nil {
		t.Fatal("plugintest: New is needed")
	}
	seed := seedOf(t)
	for _, test := range []struct {
		name string
		run  func(*policySuite)
	}{
		{"Describe", (*policySuite).describe},
		{"Configure", (*policySuite).configure},
		{"AnswersAreValid", (*policySuite).valid},
		{"SameRequestSameAnswer", (*policySuite).same},
		{"OrderHasNoMeaning", (*policySuite).order},
		{"AskedAgainNothingMoves", (*policySuite).again},
		{"RequestIsNotChanged", (*policySuite).untouched},
		{"NothingUp", (*policySuite).nothingUp},
		{"Draining", (*policySuite).draining},
		{"NothingToDecide", (*policySuite).nothing},
		{"ManyAtOnce", (*policySuite).many},
		{"TenThousandPairs", (*policySuite).large},
		{"Health", (*policySuite).health},
		{"NothingLeaks", (*policySuite).leaks},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &policySuite{T: t, config: config, random: rand.New(rand.NewPCG(seed, 1))}
			s.start()
			test.run(s)
		})
	}
}

// policySuite is one subtest, and the core of one life of the plugin.
type policySuite struct {
	*testing.T
	config PolicyConfig
	random *rand.Rand

	plugin      proto.PluginClient
	policy      policy.Policy
	direct      sdk.PolicyPlugin // the same, not over the wire
	description *proto.Description
	stop        func()
}

// Clusters is how many random clusters a subtest goes through.
const clusters = 300

func (s *policySuite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.Cleanup(cancel)
	return ctx
}

// start serves a new plugin in memory and configures it.
func (s *policySuite) start() {
	s.Helper()
	s.direct = s.config.New()
	service, err := sdk.NewService(s.direct, sdk.Channel{})
	if err != nil {
		s.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(sdk.ServerOptions()...)
	service.Register(server)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) }) // ends with Stop
	conn, err := grpc.NewClient("passthrough:memory", append(sdk.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		s.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		conn.Close()
		server.Stop()
		wg.Wait()
		if err := service.Close(context.Background()); err != nil {
			s.Errorf("close: %v", err)
		}
	})
	s.Cleanup(s.stop)
	s.plugin, s.policy = proto.NewPluginClient(conn), policy.NewClient(conn)
	if s.description, err = s.plugin.Describe(s.ctx(), &proto.DescribeRequest{}); err != nil {
		s.Fatal(err)
	}
	settings, err := Config{Attributes: s.config.Attributes}.settings(s.description)
	if err != nil {
		s.Fatal(err)
	}
	s.configureWith(settings, true)
}

func (s *policySuite) configureWith(settings string, good bool) {
	s.Helper()
	resp, err := s.plugin.Configure(s.ctx(), &proto.ConfigureRequest{Json: settings})
	if err != nil {
		s.Fatal(err)
	}
	if (len(resp.Errors) == 0) != good {
		s.Errorf("configure with %s: %v", settings, resp.Errors)
	}
}

// place asks, and fails the test unless the answer can be used.
func (s *policySuite) place(req *policy.Request) *policy.Response {
	s.Helper()
	resp, err := s.policy.Place(s.ctx(), req)
	if err == nil {
		err = policy.Check(req, resp)
	}
	if err != nil {
		if len(req.Placements) > 100 {
			req, resp = nil, nil // nobody reads that
		}
		s.Fatalf("%v\nrequest %v\nanswer %v", err, req, resp)
	}
	return resp
}

func (s *policySuite) describe() {
	if s.description.Kind != proto.Kind_KIND_POLICY {
		s.Errorf("the kind is %v", s.description.Kind)
	}
	describes(s.T, s.plugin, s.description)
}

func (s *policySuite) configure() {
	s.configureWith("not JSON", false)
	s.place(RandomCluster(s.random))
}

func (s *policySuite) valid() {
	for range clusters {
		s.place(RandomCluster(s.random))
	}
}

func (s *policySuite) same() {
	for range clusters {
		req := RandomCluster(s.random)
		if a, b := s.place(req), s.place(req); !gproto.Equal(sorted(a), sorted(b)) {
			s.Fatalf("%v\nanswered by %v\nand by %v", req, a, b)
		}
	}
}

func (s *policySuite) order() {
	for range clusters {
		req := RandomCluster(s.random)
		other := gproto.Clone(req).(*policy.Request)
		shuffle(s.random, other.Hosts)
		shuffle(s.random, other.Namespaces)
		shuffle(s.random, other.AccessPoints)
		shuffle(s.random, other.Placements)
		if a, b := s.place(req), s.place(other); !gproto.Equal(sorted(a), sorted(b)) {
			s.Fatalf("%v\nanswered by %v\nand in another order by %v", req, a, b)
		}
	}
}

func (s *policySuite) again() {
	for range clusters {
		req := RandomCluster(s.random)
		req.Rebalance = false
		first := s.place(req)
		req.Placements = first.Placements
		second := s.place(req)
		for i, p := range sorted(second).Placements {
			was := sorted(first).Placements[i]
			if p.Optimized != was.Optimized || !slices.Equal(p.NonOptimized, was.NonOptimized) {
				s.Fatalf("%v\nanswered by itself, but with %v for %v", req, p, was)
			}
		}
	}
}

func (s *policySuite) untouched() {
	for range clusters {
		req := RandomCluster(s.random)
		was := gproto.Clone(req)
		resp, err := s.direct.Place(s.ctx(), req)
		if err != nil {
			s.Fatal(err)
		}
		for _, a := range resp.Placements { // what the caller does with it
			for i := range a.NonOptimized {
				a.NonOptimized[i] = "changed"
			}
		}
		if !gproto.Equal(req, was) {
			s.Fatalf("%v\nbecame %v", was, req)
		}
	}
}

func (s *policySuite) nothingUp() {
	req := RandomCluster(s.random)
	for _, a := range req.AccessPoints {
		a.Up = false
	}
	s.place(req)
	req.AccessPoints = nil
	s.place(req)
}

// draining has node after node drain: what is there leaves it, and nothing goes there, until it drains no more.
func (s *policySuite) draining() {
	req := LargeCluster(6, 6, 5)
	for _, at := range req.AccessPoints {
		req.Placements = s.place(req).Placements
		at.Draining = true
		req.Placements = s.place(req).Placements
		for _, p := range req.Placements {
			if p.Optimized == at.Id || slices.Contains(p.NonOptimized, at.Id) {
				s.Fatalf("%s drains, and host %s, namespace %s is placed at %s, %v", at.Id, p.Host, p.Namespace, p.Optimized, p.NonOptimized)
			}
		}
		at.Draining = false
	}
}

func (s *policySuite) nothing() {
	s.place(&policy.Request{})
	req := RandomCluster(s.random)
	req.Placements = nil
	s.place(req)
}

func (s *policySuite) many() {
	req := RandomCluster(s.random)
	want := sorted(s.place(req))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				resp, err := s.policy.Place(s.ctx(), req)
				if err != nil || !gproto.Equal(sorted(resp), want) {
					s.Errorf("%v, %v, want %v", resp, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func (s *policySuite) large() {
	req := LargeCluster(100, 100, 12)
	began := time.Now()
	resp := s.place(req)
	s.Logf("10,000 pairs placed in %v", time.Since(began))
	req.Placements = resp.Placements
	req.AccessPoints[0].Up = false
	s.place(req)
}

func (s *policySuite) health() {
	stream, err := s.plugin.Health(s.ctx(), &proto.HealthRequest{IntervalMs: 20})
	if err != nil {
		s.Fatal(err)
	}
	for range 3 {
		if r, err := stream.Recv(); err != nil || !r.Healthy {
			s.Fatalf("an idle plugin says %v, %v", r, err)
		}
	}
}

func (s *policySuite) leaks() {
	once := func() {
		for range 5 {
			s.place(RandomCluster(s.random))
		}
		s.stop()
		s.start()
	}
	once() // what is made once and kept is no leak
	goroutines := runtime.NumGoroutine()
	for range 3 {
		once()
	}
	await(s.T, goroutines)
}

func sorted(r *policy.Response) *policy.Response {
	out := gproto.Clone(r).(*policy.Response)
	slices.SortFunc(out.Placements, func(a, b *policy.Placement) int {
		return slices.Compare([]string{a.Host, a.Namespace}, []string{b.Host, b.Namespace})
	})
	return out
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// RandomCluster makes a small cluster as a policy may meet it: access points up, down
// and draining, several to a node, of both protocols; hosts that are connected to
// some, all or none of them; namespaces in groups; placements that are new, good, or
// not possible any more.
func RandomCluster(r *rand.Rand) *policy.Request {
	req := &policy.Request{Rebalance: r.IntN(4) == 0}
	for i := range 1 + r.IntN(5) {
		a := &policy.AccessPoint{
			Id: fmt.Sprintf("ap%d", i), Node: fmt.Sprintf("node%d", r.IntN(4)), Protocol: policy.NVMe,
			Up: r.IntN(6) > 0, Draining: r.IntN(8) == 0, Load: uint64(max(0, r.IntN(8)-4)),
		}
		if r.IntN(8) == 0 {
			a.Protocol = policy.ISCSI
		}
		req.AccessPoints = append(req.AccessPoints, a)
	}
	for i := range 1 + r.IntN(6) {
		n := &policy.Namespace{Key: fmt.Sprintf("ns%d", i), Subsystem: fmt.Sprintf("sub%d", r.IntN(3)), Tenant: "tenant", Weight: 1}
		if g := r.IntN(4); g < 2 {
			n.Group = fmt.Sprintf("group%d", g)
		}
		req.Namespaces = append(req.Namespaces, n)
	}
	for i := range 1 + r.IntN(4) {
		h := &policy.Host{Key: fmt.Sprintf("host%d", i), Name: fmt.Sprintf("nqn.2026-11.io.mooring:host%d", i), Protocol: policy.NVMe}
		if r.IntN(10) == 0 {
			h.Protocol = policy.ISCSI
		}
		share := r.IntN(5) // of the access points: none to all
		for _, sub := range []string{"sub0", "sub1", "sub2"} {
			k := &policy.Connection{Subsystem: sub}
			for _, n := range r.Perm(len(req.AccessPoints)) {
				if a := req.AccessPoints[n]; a.Protocol == h.Protocol && r.IntN(4) < share {
					k.AccessPoints = append(k.AccessPoints, a.Id)
				}
			}
			if k.AccessPoints != nil {
				h.Connections = append(h.Connections, k)
			}
		}
		req.Hosts = append(req.Hosts, h)
		for _, n := range req.Namespaces {
			if r.IntN(5) > 0 {
				req.Placements = append(req.Placements, randomPlacement(r, req, h, n))
			}
		}
	}
	return req
}

func randomPlacement(r *rand.Rand, req *policy.Request, h *policy.Host, n *policy.Namespace) *policy.Placement {
	p := &policy.Placement{Host: h.Key, Namespace: n.Key, Provisional: r.IntN(6) == 0}
	if r.IntN(3) == 0 {
		return p
	}
	for i, at := range r.Perm(len(req.AccessPoints)) {
		id := req.AccessPoints[at].Id
		switch {
		case i == 0 && r.IntN(10) == 0:
			p.Optimized = "gone"
		case i == 0:
			p.Optimized = id
		case i < 3 && r.IntN(4) > 0:
			p.NonOptimized = append(p.NonOptimized, id)
		}
	}
	slices.Sort(p.NonOptimized)
	return p
}

// LargeCluster has that many hosts with as many namespaces each, in groups of three,
// and all of them are connected to every access point, each on a node of its own.
func LargeCluster(hosts, namespaces, accessPoints int) *policy.Request {
	req := &policy.Request{}
	var ids []string
	for i := range accessPoints {
		a := &policy.AccessPoint{Id: fmt.Sprintf("node-%02d/nvme-tcp://192.0.2.%d:4420", i, i), Node: fmt.Sprintf("node-%02d", i), Protocol: policy.NVMe, Up: true}
		req.AccessPoints = append(req.AccessPoints, a)
		ids = append(ids, a.Id)
	}
	for i := range hosts {
		sub := fmt.Sprintf("nqn.2026-11.io.mooring:subsystem-%04d", i)
		name := fmt.Sprintf("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-%012d", i)
		h := &policy.Host{Key: "nvme:" + name, Name: name, Protocol: policy.NVMe, Connections: []*policy.Connection{{Subsystem: sub, AccessPoints: ids}}}
		req.Hosts = append(req.Hosts, h)
		for n := range namespaces {
			ns := &policy.Namespace{
				Key: fmt.Sprintf("%s/%04d", sub, n), Subsystem: sub, Tenant: "default", Weight: 1, Group: fmt.Sprintf("default/%d-%d", i, n/3),
			}
			req.Namespaces = append(req.Namespaces, ns)
			req.Placements = append(req.Placements, &policy.Placement{Host: h.Key, Namespace: ns.Key})
		}
	}
	return req
}
