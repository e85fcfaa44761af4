package access

import (
	"context"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/peer"
)

// Drive has the reactor drive a node's links to others.
func (r *Reactor) Drive(ctx context.Context, l *peer.Links) error {
	return r.Do(ctx, func() { r.addSource(linkSource{l}) })
}

// linkSource is a node's links as a source of the reactor.
type linkSource struct{ links *peer.Links }

func (s linkSource) poll() int   { return s.links.Poll() }
func (s linkSource) publish()    { s.links.Publish() }
func (s linkSource) sleep() bool { return s.links.Sleep() }
func (s linkSource) awake()      { s.links.Awake() }

// PeerStores is what peer.Options.Stores is to be.
func (a *Access) PeerStores(node uuid.UUID, all []*peer.Store) {
	stores := make([]Store, len(all))
	for i, s := range all {
		stores[i] = s
	}
	a.SetRemote(node, stores)
}

// Regions is how many regions an extent has.
func (a *Access) Regions() int { return a.regions() }
