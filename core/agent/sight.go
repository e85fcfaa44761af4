package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/meta"
)

// sight is what this node last read of the cluster's metadata, for those who look at the node while the metadata is out of reach. Nothing
// is decided by it.
type sight struct {
	mu      sync.Mutex
	nodes   []admin.Node
	stores  []meta.Store
	volumes []meta.Volume
}

// watchCluster keeps the sight in line with the metadata until ctx ends.
func (a *agent) watchCluster(ctx context.Context) {
	for range a.meta.Watch(ctx, meta.TopicNodes, meta.TopicSessions, meta.TopicStores, meta.TopicVolumes) {
		nodes, err := a.nodes(ctx)
		if err != nil {
			continue // with the next hint
		}
		stores, err := a.meta.Stores(ctx)
		if err != nil {
			continue
		}
		volumes, err := a.meta.Volumes(ctx)
		if err != nil {
			continue
		}
		a.seen.mu.Lock()
		a.seen.nodes, a.seen.stores, a.seen.volumes = nodes, stores, volumes
		a.seen.mu.Unlock()
	}
}

// MetaSilent implements admin.Agent.
func (a *agent) MetaSilent(ctx context.Context) time.Duration {
	if a.silent == nil {
		return 0
	}
	return a.silent(ctx)
}

// silence says it to an operator.
func silence(d time.Duration) string {
	return fmt.Sprintf("the cluster's etcd has not answered for %v; what is shown of the cluster is what this node knew until then", d.Round(time.Second))
}

// storesAndVolumes are those that the metadata has, or that were known when it last answered.
func (a *agent) storesAndVolumes(ctx context.Context) ([]meta.Store, []meta.Volume, error) {
	if a.MetaSilent(ctx) > 0 {
		a.seen.mu.Lock()
		defer a.seen.mu.Unlock()
		return a.seen.stores, a.seen.volumes, nil
	}
	stores, err := a.meta.Stores(ctx)
	if err != nil {
		return nil, nil, err
	}
	volumes, err := a.meta.Volumes(ctx)
	return stores, volumes, err
}

// SeenVolumes implements admin.Agent.
func (a *agent) SeenVolumes() []meta.Volume {
	a.seen.mu.Lock()
	defer a.seen.mu.Unlock()
	return a.seen.volumes
}
