package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mooring-io/mooring/sdk/proto"
)

// ErrBadRequest is what Read returns for a request that contradicts itself.
var ErrBadRequest = errors.New("bad request")

// Cluster is a request in the form that decisions are made in: sorted, so that the
// order of the request's lists has no influence, and with what belongs together
// joined. It refers to the request. Immutable.
type Cluster struct {
	Pairs        []*Pair        // by host key, then namespace key
	AccessPoints []*AccessPoint // by ID
	Rebalance    bool           // evenness comes before staying

	points map[string]*AccessPoint
}

// Pair is one host and one namespace, to be placed.
type Pair struct {
	Host      *Host
	Namespace *Namespace
	Present   *Placement // Optimized is empty for one that was never placed
	*Reach
}

// Reach is where the hosts's namespaces of one subsystem can be reached. Pairs share it.
type Reach struct {
	// Candidates may become the optimized access point, by ID: those that are up and
	// speak the host's protocol; of these, where the host is connected, if it is
	// connected to any; and of these, those that do not drain, if there is one. Empty
	// if nothing is up: the placement must stay as it is then.
	Candidates []*AccessPoint
	Connected  []string // where the host has associations with the subsystem, the earliest first

	usable  []*AccessPoint // up and of the protocol, by ID
	nodes   int            // of usable
	reached []*AccessPoint // usable, and where the host is connected if it is anywhere, by ID
	beside  []*AccessPoint // usable, and may be non-optimized, by ID
}

// Candidate says whether an access point may become the optimized one.
func (r *Reach) Candidate(id string) bool {
	_, ok := slices.BinarySearchFunc(r.Candidates, id, byID)
	return ok
}

// Reaches says whether the host could use a path that is optimized at an access point, draining or not.
func (r *Reach) Reaches(id string) bool {
	_, ok := slices.BinarySearchFunc(r.reached, id, byID)
	return ok
}

func byID(a *AccessPoint, id string) int { return strings.Compare(a.GetId(), id) }

// Stays says whether the present optimized access point may stay.
func (p *Pair) Stays() bool { return p.Candidate(p.Present.GetOptimized()) }

// Kept is how many placements stay if a pair stays where it is: one, or none if it is
// provisional.
func Kept(present *Placement) int {
	if present.GetProvisional() {
		return 0
	}
	return 1
}

// Read makes a Cluster of a request.
func Read(r *Request) (*Cluster, error) {
	c := &Cluster{
		AccessPoints: slices.Clone(r.GetAccessPoints()), Rebalance: r.GetRebalance(), points: map[string]*AccessPoint{},
	}
	slices.SortFunc(c.AccessPoints, func(a, b *AccessPoint) int { return strings.Compare(a.GetId(), b.GetId()) })
	for _, a := range c.AccessPoints {
		if a.GetId() == "" || c.points[a.GetId()] != nil {
			return nil, fmt.Errorf("%w: access point %q is there twice, or has no ID", ErrBadRequest, a.GetId())
		}
		c.points[a.GetId()] = a
	}
	hosts := map[string]*Host{}
	for _, h := range r.GetHosts() {
		if hosts[h.GetKey()] != nil {
			return nil, fmt.Errorf("%w: host %q is there twice", ErrBadRequest, h.GetKey())
		}
		hosts[h.GetKey()] = h
	}
	namespaces := map[string]*Namespace{}
	for _, n := range r.GetNamespaces() {
		if namespaces[n.GetKey()] != nil {
			return nil, fmt.Errorf("%w: namespace %q is there twice", ErrBadRequest, n.GetKey())
		}
		namespaces[n.GetKey()] = n
	}
	type at struct{ host, subsystem string }
	reaches := map[at]*Reach{}
	type key struct{ host, namespace string }
	seen := make(map[key]bool, len(r.GetPlacements()))
	for _, p := range r.GetPlacements() {
		h, n := hosts[p.GetHost()], namespaces[p.GetNamespace()]
		k := key{p.GetHost(), p.GetNamespace()}
		if h == nil || n == nil || seen[k] {
			return nil, fmt.Errorf("%w: placement of host %q and namespace %q is there twice, or one of them is unknown", ErrBadRequest, p.GetHost(), p.GetNamespace())
		}
		seen[k] = true
		w := at{p.GetHost(), n.GetSubsystem()}
		if reaches[w] == nil {
			reaches[w] = c.reach(h, n.GetSubsystem())
		}
		c.Pairs = append(c.Pairs, &Pair{Host: h, Namespace: n, Present: p, Reach: reaches[w]})
	}
	slices.SortFunc(c.Pairs, func(a, b *Pair) int {
		if o := strings.Compare(a.Host.GetKey(), b.Host.GetKey()); o != 0 {
			return o
		}
		return strings.Compare(a.Namespace.GetKey(), b.Namespace.GetKey())
	})
	return c, nil
}

func (c *Cluster) reach(h *Host, subsystem string) *Reach {
	r := &Reach{}
	for _, k := range h.GetConnections() {
		if k.GetSubsystem() == subsystem {
			r.Connected = append(r.Connected, k.GetAccessPoints()...)
		}
	}
	for _, a := range c.AccessPoints {
		if a.GetUp() && a.GetProtocol() == h.GetProtocol() {
			r.usable = append(r.usable, a)
		}
	}
	r.nodes = nodesOf(r.usable)
	connected := func(a *AccessPoint) bool { return slices.Contains(r.Connected, a.GetId()) }
	staying := func(a *AccessPoint) bool { return !a.GetDraining() }
	r.reached = prefer(r.usable, connected)
	r.Candidates = prefer(r.reached, staying)
	r.beside = prefer(r.usable, staying)
	if nodesOf(r.beside) < 1+MaxNonOptimized {
		r.beside = r.usable
	}
	return r
}

func nodesOf(points []*AccessPoint) int {
	nodes := map[string]bool{}
	for _, a := range points {
		nodes[a.GetNode()] = true
	}
	return len(nodes)
}

// prefer returns those that are wanted, or all if none is.
func prefer(all []*AccessPoint, wanted func(*AccessPoint) bool) []*AccessPoint {
	var out []*AccessPoint
	for _, a := range all {
		if wanted(a) {
			out = append(out, a)
		}
	}
	if out == nil {
		return all
	}
	return out
}

// AccessPoint returns one by its ID, or nil.
func (c *Cluster) AccessPoint(id string) *AccessPoint { return c.points[id] }

// WhyNot says why an access point is no candidate of a pair, in the words of a reason.
func (c *Cluster) WhyNot(p *Pair, id string) string {
	a := c.points[id]
	switch {
	case a == nil:
		return id + " is gone"
	case !a.GetUp():
		return id + " is down"
	case a.GetProtocol() != p.Host.GetProtocol():
		return id + " speaks another protocol"
	case len(p.Connected) > 0 && !slices.Contains(p.Connected, id):
		return "the host is not connected to " + id
	case a.GetDraining():
		return id + " is draining"
	}
	return id + " cannot be used"
}

// Place answers a pair: with one of its Candidates as the optimized access point,
// and non-optimized ones that Check accepts. These are on other nodes as long as
// there are any, and do not drain as long as three nodes are left without those; among
// equals, where the host is connected, what does not drain and what is non-optimized
// already comes first, and then what follows in the order of IDs, so that the paths of
// one access point have different ones to fall back on.
func (c *Cluster) Place(p *Pair, optimized, reason string) *Placement {
	out := &Placement{Host: p.Host.GetKey(), Namespace: p.Namespace.GetKey(), Optimized: optimized, Reason: reason}
	if len(reason) > MaxReason {
		out.Reason = strings.ToValidUTF8(reason[:MaxReason], "")
	}
	out.NonOptimized = p.standbys(optimized)
	return out
}

// Stay answers a pair with what it has, where nothing can be chosen because nothing
// is up.
func (c *Cluster) Stay(p *Pair) *Placement {
	return &Placement{
		Host: p.Host.GetKey(), Namespace: p.Namespace.GetKey(), Optimized: p.Present.GetOptimized(),
		NonOptimized: slices.Clone(p.Present.GetNonOptimized()), Reason: "no access point is up",
	}
}

// besides says whether an access point may be non-optimized.
func (r *Reach) besides(id string) bool {
	_, ok := slices.BinarySearchFunc(r.beside, id, byID)
	return ok
}

func (p *Pair) standbys(optimized string) []string {
	first, _ := slices.BinarySearchFunc(p.usable, optimized, byID)
	type option struct {
		*AccessPoint
		rank int // lower is better
	}
	var options []option
	nodes := map[string]bool{}
	for i := range p.usable {
		a := p.usable[(first+i)%len(p.usable)]
		if a.GetId() == optimized {
			nodes[a.GetNode()] = true
			continue
		}
		if !p.besides(a.GetId()) {
			continue
		}
		o := option{AccessPoint: a}
		if !slices.Contains(p.Connected, a.GetId()) {
			o.rank += 4
		}
		if a.GetDraining() {
			o.rank += 2
		}
		if !slices.Contains(p.Present.GetNonOptimized(), a.GetId()) && a.GetId() != p.Present.GetOptimized() {
			o.rank++
		}
		options = append(options, o)
	}
	slices.SortStableFunc(options, func(a, b option) int { return a.rank - b.rank })
	var out []string
	for _, again := range []bool{false, true} {
		for _, o := range options {
			if len(out) < MaxNonOptimized && !slices.Contains(out, o.GetId()) && (again || !nodes[o.GetNode()]) {
				nodes[o.GetNode()] = true
				out = append(out, o.GetId())
			}
		}
	}
	slices.Sort(out)
	return out
}

// NVMe and ISCSI are the protocols of hosts and access points.
const (
	NVMe  = proto.Protocol_PROTOCOL_NVME
	ISCSI = proto.Protocol_PROTOCOL_ISCSI
)
