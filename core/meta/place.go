package meta

import (
	"context"
	"slices"

	"github.com/google/uuid"
)

// MediaClasses are what a store's medium can be called.
var MediaClasses = []string{"nvme", "ssd", "hdd"}

// takes says whether new extents of the volume may go to a store.
func (env *leaseEnv) takes(s Store) bool {
	return s.State == StoreActive && env.alive[s.Node] && !env.nodes[s.Node].Draining && (env.volume.Media == "" || s.Media == env.volume.Media)
}

// domains counts replicas by node and by failure domain. A rack is one of its zone; what has no label is
// in the domain without a name.
type domains struct {
	nodes map[uuid.UUID]Node
	used  map[uuid.UUID]bool // nodes
	zones map[string]int
	racks map[[2]string]int
}

func newDomains(nodes map[uuid.UUID]Node) *domains {
	return &domains{nodes: nodes, used: map[uuid.UUID]bool{}, zones: map[string]int{}, racks: map[[2]string]int{}}
}

func (d *domains) add(node uuid.UUID) {
	n := d.nodes[node]
	d.used[node] = true
	d.zones[n.Zone]++
	d.racks[[2]string{n.Zone, n.Rack}]++
}

// crowd is how many replicas a node would share its zone, and its rack, with.
func (d *domains) crowd(node uuid.UUID) (zone, rack int) {
	n := d.nodes[node]
	return d.zones[n.Zone], d.racks[[2]string{n.Zone, n.Rack}]
}

// next chooses where one more replica goes: never on a node that has one, in the zone and then the
// rack that have the fewest, and among equals the best ranked. Chosen so, one by one, replicas are spread as evenly over
// zones, and then over racks, as any choice with the same first one is. nil: there is none.
func (d *domains) next(ranked []Store) *Store {
	var best *Store
	for i := range ranked {
		s := &ranked[i]
		if d.used[s.Node] {
			continue
		}
		if best != nil {
			zone, rack := d.crowd(s.Node)
			z, r := d.crowd(best.Node)
			if zone > z || zone == z && rack >= r {
				continue
			}
		}
		best = s
	}
	return best
}

// spread chooses up to n stores, the first ranked and then by domains.next.
func spread(ranked []Store, nodes map[uuid.UUID]Node, n int) (out []Store) {
	d := newDomains(nodes)
	for len(out) < n {
		s := d.next(ranked)
		if s == nil {
			break
		}
		d.add(s.Node)
		out = append(out, *s)
	}
	return out
}

// Spread is how far the replicas of a new extent would be from each other.
type Spread struct {
	Nodes, Racks, Zones int // over how many they go
	// HasRacks and HasZones say that nodes have such labels.
	HasRacks, HasZones bool
}

// Spread says how n replicas on a media class, or on any with "", can be placed by the stores that are active now, without some nodes.
func (m *Meta) Spread(ctx context.Context, n int, media string, without ...uuid.UUID) (Spread, error) {
	var out Spread
	stores, err := m.Stores(ctx)
	if err != nil {
		return out, err
	}
	nodes, err := m.nodesByID(ctx)
	if err != nil {
		return out, err
	}
	for _, x := range nodes {
		out.HasRacks = out.HasRacks || x.Rack != ""
		out.HasZones = out.HasZones || x.Zone != ""
	}
	stores = slices.DeleteFunc(stores, func(s Store) bool {
		return s.State != StoreActive || nodes[s.Node].Draining || slices.Contains(without, s.Node) || media != "" && s.Media != media
	})
	d := newDomains(nodes)
	for _, s := range spread(stores, nodes, n) {
		d.add(s.Node)
	}
	out.Nodes, out.Racks, out.Zones = len(d.used), len(d.racks), len(d.zones)
	return out, nil
}

func (m *Meta) nodesByID(ctx context.Context) (map[uuid.UUID]Node, error) {
	all, err := m.Nodes(ctx)
	out := make(map[uuid.UUID]Node, len(all))
	for _, n := range all {
		out[n.ID] = n
	}
	return out, err
}
