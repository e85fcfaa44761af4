package agent

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/peer"
)

// startLinks makes what connects this node's stores and those of others, on the reactor.
func (a *agent) startLinks(ctx context.Context, undo *stack) error {
	if a.quorum == nil {
		return nil
	}
	a.links = peer.New(peer.Options{
		Regions: a.access.Regions(), Clock: access.SystemClock().Monotonic, Post: a.reactor.Post, Stores: a.access.PeerStores,
		Nodes: a.access.PeerNode, Driver: a.access, Logger: a.log,
	})
	undo.push(a.endLinks)
	return a.reactor.Drive(ctx, a.links)
}

// endLinks ends all links, and returns when nothing of other nodes is under way here, or
// it takes too long.
func (a *agent) endLinks() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := a.reactor.Do(ctx, a.links.Close); err != nil {
		return err
	}
	for idle := false; !idle; {
		if err := a.reactor.Do(ctx, func() { idle = a.links.Idle() }); err != nil {
			return err
		}
		if !idle {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// lend serves a store of this node to the others.
func (a *agent) lend(ctx context.Context, s *extent.Store) error {
	if a.links == nil {
		return nil
	}
	return a.reactor.Do(ctx, func() { a.links.AddStore(s) })
}

// unlend ends that.
func (a *agent) unlend(ctx context.Context, s *extent.Store) error {
	if a.links == nil {
		return nil
	}
	return a.reactor.Do(ctx, func() { a.links.RemoveStore(s) })
}

// startPeers opens the data port, and keeps links to the stores of all other nodes.
func (a *agent) startPeers(ctx context.Context, undo *stack) error {
	if a.quorum == nil {
		return nil
	}
	nodes, err := a.meta.Nodes(ctx)
	if err != nil {
		return err
	}
	a.known.set(nodes)
	network := &peer.Network{Links: a.links, Keys: a.quorum.keys, Queue: a.queue, Post: a.reactor.Post}
	l, err := cert.Listen(a.cfg.Node.Address, a.quorum.keys, a.known.admit, a.log.Named("peer"))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	life, stop := context.WithCancel(context.Background())
	undo.push(func() error { stop(); err := l.Close(); wg.Wait(); return err })
	served := l.Serve(cert.Peer1)
	wg.Go(func() {
		if err := network.Accept(served); err != nil {
			a.fail(err)
		}
	})
	wg.Go(func() { a.followNodes(life, network) })
	return nil
}

// followNodes keeps links to the nodes that there are, until ctx ends.
func (a *agent) followNodes(ctx context.Context, n *peer.Network) {
	type dial struct {
		address string
		stop    context.CancelFunc
	}
	dials := map[uuid.UUID]dial{}
	var wg sync.WaitGroup
	defer wg.Wait()
	for range a.meta.Watch(ctx, meta.TopicNodes) {
		nodes, err := a.meta.Nodes(ctx)
		if err != nil {
			continue // with the next hint
		}
		a.known.set(nodes)
		want := map[uuid.UUID]string{}
		for _, x := range nodes {
			if x.ID != a.node.ID && !x.Witness && x.Address != "" {
				want[x.ID] = x.Address
			}
		}
		for id, d := range dials {
			if want[id] != d.address {
				d.stop()
				delete(dials, id)
			}
		}
		for id, address := range want {
			if _, ok := dials[id]; ok {
				continue
			}
			one, stop := context.WithCancel(ctx)
			dials[id] = dial{address, stop}
			wg.Go(func() { n.Dial(one, id, address) })
		}
	}
}
