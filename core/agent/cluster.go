package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/net/netutil"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/cluster"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/quorum"
)

// errAlone refuses what only a node of a cluster can do.
var errAlone = fmt.Errorf("this node is in no cluster; docs/operations.md says how one is formed: %w", meta.ErrConflict)

// maxStrangers is how many connections of those who ask to join there may be at a time.
const maxStrangers = 16

// witnessAdvice is for a cluster of two storage nodes whose agents run etcd.
const witnessAdvice = "with two nodes only one has the metadata's vote, and its death stops the other: add a witness (on a third machine: mooring cluster join -witness, then mooring agent -witness), a third node, or use an etcd that exists"

// members are the nodes that may speak to this one, as Meta says.
type members struct {
	mu    sync.Mutex
	known map[uuid.UUID]bool
}

func (m *members) set(nodes []meta.Node) {
	known := map[uuid.UUID]bool{}
	for _, n := range nodes {
		known[n.ID] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = known
}

func (m *members) admit(id uuid.UUID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known[id] {
		return fmt.Errorf("node %s: %w", id, cert.ErrStranger)
	}
	return nil
}

// startDoor opens the port on which agents speak to each other, and on which others join.
func (a *agent) startDoor(ctx context.Context, undo *stack) error {
	if a.quorum == nil {
		return nil
	}
	at, err := cluster.AgentAddress(a.cfg.Node.Address)
	if err != nil {
		return err
	}
	l, err := cert.Listen(at, a.quorum.keys, a.known.admit, a.log.Named("cluster"))
	if err != nil {
		return err
	}
	undo.push(l.Close)
	door := &cluster.Doorman{Keys: a.quorum.keys, Meta: a.meta, Door: a, Logger: a.log.Named("cluster"), Now: time.Now}
	a.serveBy(cluster.HTTP(l.Serve(cert.Cluster1)), door.ForNodes(), undo)
	if a.quorum.keys.Authority() != nil {
		a.serveBy(netutil.LimitListener(cluster.HTTP(l.Serve(cert.Join1)), maxStrangers), door.ForStrangers(), undo)
	}
	life, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.renewCertificate(life) })
	wg.Go(func() { a.watchCluster(life) })
	undo.push(func() error { stop(); wg.Wait(); return nil })
	return nil
}

// Register implements cluster.Door.
func (a *agent) Register(ctx context.Context, in cluster.Application) (cluster.Admission, error) {
	var out cluster.Admission
	cfg := a.config()
	if in.Embed != cfg.Cluster.Embed {
		return out, errors.New("the cluster block of its file says something else than this node's: embed, or endpoints, is the same on all nodes")
	}
	if _, err := cluster.AgentAddress(in.Address); err != nil {
		return out, err
	}
	nodes, err := a.meta.Nodes(ctx)
	if err != nil {
		return out, err
	}
	if i := slices.IndexFunc(nodes, func(n meta.Node) bool { return n.Address == in.Address && n.ID != in.Node }); i >= 0 {
		return out, fmt.Errorf("node %s has the address %s already", nodes[i].Name, in.Address)
	}
	known := slices.ContainsFunc(nodes, func(n meta.Node) bool { return n.ID == in.Node })
	if _, err := a.meta.JoinNode(ctx, meta.Node{ID: in.Node, Name: in.Name, Address: in.Address, Witness: in.Witness}); err != nil {
		return out, err
	}
	if cfg.Cluster.Embed {
		if err := a.seat(ctx, in, &out); err != nil {
			return out, err
		}
	}
	if !known {
		a.event(meta.Info, "node-joined", in.Name, in.Address)
	}
	return out, nil
}

// seat gives a node that joins a member of etcd, if there is room.
func (a *agent) seat(ctx context.Context, in cluster.Application, out *cluster.Admission) error {
	peer, _, err := quorum.Addresses(in.Address)
	if err != nil {
		return err
	}
	err = quorum.AddMember(ctx, a.quorum.client, peer)
	full := errors.Is(err, quorum.ErrNoSeat)
	if err != nil && (!full || in.Witness) {
		return err
	}
	all, err := quorum.Members(ctx, a.quorum.client)
	if err != nil {
		return err
	}
	out.Peers = quorum.PeersOf(all)
	if !full {
		out.Peers[in.Node.String()] = peer
	}
	if len(all) == 2 {
		out.Note = witnessAdvice
	}
	return nil
}

// Nodes implements admin.Agent.
func (a *agent) Nodes(ctx context.Context) ([]admin.Node, error) {
	d := a.MetaSilent(ctx)
	if d == 0 {
		return a.nodes(ctx)
	}
	a.seen.mu.Lock()
	defer a.seen.mu.Unlock()
	out := []admin.Node{}
	for _, n := range a.seen.nodes {
		n.Silent = d
		out = append(out, n)
	}
	return out, nil
}

func (a *agent) nodes(ctx context.Context) ([]admin.Node, error) {
	nodes, err := a.meta.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	sessions, err := a.meta.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	stores, err := a.meta.Stores(ctx)
	if err != nil {
		return nil, err
	}
	votes, err := a.votes(ctx)
	if err != nil {
		return nil, err
	}
	out := []admin.Node{}
	for _, n := range nodes {
		o := admin.Node{Name: n.Name, ID: n.ID.String(), Address: n.Address, Zone: n.Zone, Rack: n.Rack, Witness: n.Witness, State: "down", Vote: votes[n.ID.String()], Self: n.ID == a.node.ID}
		for _, s := range sessions {
			if s.Node == n.ID {
				o.State, o.Since = "up", s.Started
			}
		}
		if n.Witness {
			o.State = "witness"
		}
		if n.Draining {
			if o.Drain, err = a.drainState(ctx, n, stores); err != nil {
				return nil, err
			}
		}
		for _, s := range stores {
			if s.Node == n.ID {
				o.Stores++
				o.Capacity += s.Capacity
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(x, y admin.Node) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// RemoveNode implements admin.Agent.
func (a *agent) RemoveNode(ctx context.Context, name string) error {
	if a.quorum == nil {
		return errAlone
	}
	nodes, err := a.meta.Nodes(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(nodes, func(n meta.Node) bool { return n.Name == name })
	if i < 0 {
		return fmt.Errorf("node %s: %w", name, meta.ErrNotFound)
	}
	n := nodes[i]
	if n.ID == a.node.ID {
		return fmt.Errorf("node %s is this one; stop its agent, and ask another node: %w", name, meta.ErrConflict)
	}
	if err := a.meta.MayRemoveNode(ctx, n.ID); err != nil {
		return err
	}
	if a.config().Cluster.Embed {
		peer, _, err := quorum.Addresses(n.Address)
		if err != nil {
			return err
		}
		err = quorum.RemoveMember(ctx, a.quorum.client, n.ID.String(), peer)
		if errors.Is(err, quorum.ErrTwoVotes) {
			return fmt.Errorf("%w; have another node join first, or a witness (mooring cluster join -witness): %w", err, meta.ErrConflict)
		}
		if err != nil {
			return err
		}
	}
	if err := a.meta.RemoveNode(ctx, n.ID); err != nil {
		return err
	}
	a.event(meta.Warning, "node-removed", name, n.Address)
	return nil
}

// votes says of each node with a member of etcd what that does, by node ID.
func (a *agent) votes(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	if a.quorum == nil || !a.config().Cluster.Embed {
		return out, nil
	}
	all, err := quorum.Members(ctx, a.quorum.client)
	for _, m := range all {
		out[m.Name] = "follows"
		if m.Votes {
			out[m.Name] = "votes"
		}
	}
	return out, err
}

// Cluster implements admin.Agent.
func (a *agent) Cluster(ctx context.Context) (admin.Cluster, error) {
	if a.quorum == nil {
		return admin.Cluster{}, errAlone
	}
	out := admin.Cluster{ID: a.meta.Cluster().ID.String(), Embed: a.config().Cluster.Embed, Members: []admin.Member{}, Warnings: []string{}}
	nodes, err := a.Nodes(ctx)
	if err != nil {
		return out, err
	}
	health, err := a.health(ctx)
	if err != nil {
		return out, err
	}
	if d := a.MetaSilent(ctx); d > 0 {
		out.Warnings = append(out.Warnings, silence(d))
	}
	for _, h := range health {
		m := admin.Member{Name: h.Name, Client: h.Client, Votes: h.Votes, Leads: h.Leads, Database: h.Database, Trouble: h.Trouble}
		if i := slices.IndexFunc(nodes, func(n admin.Node) bool { return n.ID == h.Name }); i >= 0 {
			m.Name = nodes[i].Name
		}
		if out.Embed {
			m.Quota = quorum.Quota
		}
		if h.Trouble != "" {
			out.Warnings = append(out.Warnings, fmt.Sprintf("etcd member %s: %s", m.Name, h.Trouble))
		}
		out.Members = append(out.Members, m)
	}
	if out.Embed && len(nodes) == 2 {
		out.Warnings = append(out.Warnings, witnessAdvice)
	}
	return out, nil
}

// health asks the members of etcd how they fare: those that etcd lists, or that were known when it last did.
func (a *agent) health(ctx context.Context) ([]quorum.Health, error) {
	all := a.quorum.roster.get()
	if a.MetaSilent(ctx) == 0 {
		var err error
		if all, err = quorum.Members(ctx, a.quorum.client); err != nil {
			return nil, err
		}
	}
	return quorum.Ask(ctx, a.quorum.client, all, askPatience), nil
}

// askPatience is how long those who look at the node wait for each member of etcd.
const askPatience = 2 * time.Second

// clusterPatience bounds how long those who look at the node wait for the cluster's etcd.
const clusterPatience = 3 * time.Second

// clusterWarnings are what is not as it should be about the cluster, if the node is in one.
func (a *agent) clusterWarnings(ctx context.Context) []string {
	if a.quorum == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, clusterPatience)
	defer cancel()
	c, err := a.Cluster(ctx)
	if err != nil {
		return []string{fmt.Sprintf("the cluster's etcd is out of reach: %v", err)}
	}
	return c.Warnings
}

// JoinToken implements admin.Agent.
func (a *agent) JoinToken(ctx context.Context, life time.Duration) (string, error) {
	if a.quorum == nil {
		return "", errAlone
	}
	ca := a.quorum.keys.Authority()
	if ca == nil {
		return "", fmt.Errorf("this node does not have the key of the cluster's CA (%s/ca.key); make the token on one that has it, which is the one that ran cluster init: %w", certDir(a.config()), meta.ErrConflict)
	}
	id, secret, err := a.meta.CreateJoinToken(ctx, life)
	if err != nil {
		return "", err
	}
	at, err := cluster.AgentAddress(a.config().Node.Address)
	if err != nil {
		return "", err
	}
	a.event(meta.Info, "join-token", id, "valid for "+life.String())
	return cluster.Token{Cluster: a.meta.Cluster().ID, Address: at, Fingerprint: cert.Fingerprint(ca.Certificate()), ID: id, Secret: secret}.String(), nil
}

// Certificate implements admin.Agent.
func (a *agent) Certificate(context.Context) (admin.Certificate, error) {
	if a.quorum == nil {
		return admin.Certificate{}, errAlone
	}
	own := a.quorum.keys.Certificate()
	out := admin.Certificate{
		Node: a.node.Name, Serial: own.SerialNumber.Text(16), NotBefore: own.NotBefore, NotAfter: own.NotAfter,
		Due: a.quorum.keys.Due(time.Now()), HasAuthority: a.quorum.keys.Authority() != nil,
	}
	for _, c := range a.quorum.keys.Trusted() {
		out.Authorities = append(out.Authorities, cert.Fingerprint(c))
	}
	return out, nil
}

// RenewCertificate implements admin.Agent: it asks the nodes, one after the other, for a
// new certificate of this node.
func (a *agent) RenewCertificate(ctx context.Context) error {
	if a.quorum == nil {
		return errAlone
	}
	nodes, err := a.meta.Nodes(ctx)
	if err != nil {
		return err
	}
	// This one last: whoever has the CA's key here knows it already.
	slices.SortFunc(nodes, func(x, y meta.Node) int {
		if x.ID == a.node.ID {
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
	var failed []error
	for _, n := range nodes {
		if n.Witness {
			continue // it has no port for it
		}
		at, err := cluster.AgentAddress(n.Address)
		if err == nil {
			err = cluster.Renew(ctx, certDir(a.config()), a.quorum.keys, n.ID, at, time.Now())
		}
		if err == nil {
			a.event(meta.Info, "certificate-renewed", a.node.Name, "by node "+n.Name)
			return nil
		}
		failed = append(failed, fmt.Errorf("node %s: %w", n.Name, err))
	}
	return fmt.Errorf("no node renews the certificate: %w", errors.Join(failed...))
}

// renewEvery is how often a node looks whether its certificate is due.
const renewEvery = 6 * time.Hour

// renewCertificate renews the node's certificate when it is due, until ctx ends.
func (a *agent) renewCertificate(ctx context.Context) {
	for {
		if a.quorum.keys.Due(time.Now()) {
			if err := a.RenewCertificate(ctx); err != nil && ctx.Err() == nil {
				a.log.Error("this node's certificate ends soon and could not be renewed; see mooring cluster cert", "ends", a.quorum.keys.Certificate().NotAfter, "error", err)
			}
		}
		select {
		case <-time.After(renewEvery):
		case <-ctx.Done():
			return
		}
	}
}
