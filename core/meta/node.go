package meta

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// ControllersPerNode is how many controller IDs a node has for itself in every subsystem.
const ControllersPerNode = 2048

// MaxNodes follows from the controller IDs 1 to FFEFh that NVMe has. Base 3.1
const MaxNodes = 31

// Node is a member of the cluster.
type Node struct {
	ID   uuid.UUID `json:"id"`
	Name string    `json:"name"`
	// Slot is 0 to MaxNodes-1 and its own: the node's controller IDs and port IDs
	// follow from it.
	Slot    int       `json:"slot"`
	Created time.Time `json:"created"`
	// Address is where other nodes reach its data, host:port; "" outside a cluster.
	Address string `json:"address,omitempty"`
	// Zone and Rack are the failure domains that it is in, the rack within the zone; "": it is not said.
	Zone string `json:"zone,omitempty"`
	Rack string `json:"rack,omitempty"`
	// Draining says that it gets no new extents and no new paths, and that those it has are to leave.
	Draining bool `json:"draining,omitempty"`
	// Witness says that it only votes: it has no stores, serves no host and has no slot.
	Witness bool `json:"witness,omitempty"`
}

// noSlot is a witness's: it has no controllers.
const noSlot = -1

// Controllers is the range of controller IDs of the node, both inclusive.
func (n Node) Controllers() (first, last uint16) {
	first = uint16(1 + n.Slot*ControllersPerNode)
	return first, first + ControllersPerNode - 1
}

// JoinNode makes a node known, or renames it. Its ID is for life, as is whether it is a
// witness; its name is unique. Slot and Created are not the caller's to say.
func (m *Meta) JoinNode(ctx context.Context, want Node) (Node, error) {
	id, name := want.ID, want.Name
	for _, n := range []struct{ field, value string }{{"node", name}, {"zone", want.Zone}, {"rack", want.Rack}} {
		if n.value == "" && n.field != "node" {
			continue
		}
		if err := checkName(n.field, n.value); err != nil {
			return Node{}, err
		}
	}
	var out Node
	err := m.retry(ctx, func(x *txn) error {
		owner, nrev, err := load[uuid.UUID](ctx, m, keyNodeName(name))
		if err != nil && !isNotFound(err) {
			return err
		}
		if err == nil && owner != id {
			return fmt.Errorf("a node named %s: %w", name, ErrExists)
		}
		old, rev, err := load[Node](ctx, m, keyNode(id))
		switch {
		case err == nil && old.Witness != want.Witness:
			return fmt.Errorf("node %s is a witness for life or not at all; remove it and have it join again: %w", name, ErrConflict)
		case err == nil && old.Name == name:
			out = old
			out.Address, out.Zone, out.Rack = want.Address, want.Zone, want.Rack
			if out == old {
				return nil
			}
			x.update(keyNode(id), rev, out)
			return nil
		case err == nil:
			former, err := m.st.Get(ctx, keyNodeName(old.Name))
			if err != nil {
				return fmt.Errorf("read the name of node %s: %w", old.Name, err)
			}
			x.remove(keyNodeName(old.Name), former.Revision)
			out = old
			out.Name, out.Address, out.Zone, out.Rack = name, want.Address, want.Zone, want.Rack
		case isNotFound(err) && want.Witness:
			out = want
			out.Slot, out.Created = noSlot, m.now().UTC()
		case isNotFound(err):
			out = want
			out.Created = m.now().UTC()
			if out.Slot, err = m.freeSlot(ctx, x); err != nil {
				return err
			}
		default:
			return err
		}
		x.update(keyNodeName(name), nrev, id)
		x.update(keyNode(id), rev, out)
		return nil
	})
	return out, err
}

// freeSlot takes the lowest free slot; the counter makes takers meet.
func (m *Meta) freeSlot(ctx context.Context, x *txn) (int, error) {
	n, rev, err := load[uint64](ctx, m, keyCounter("slot"))
	if err != nil && !isNotFound(err) {
		return 0, err
	}
	nodes, err := m.Nodes(ctx)
	if err != nil {
		return 0, err
	}
	x.update(keyCounter("slot"), rev, n+1)
	for slot := range MaxNodes {
		if !slices.ContainsFunc(nodes, func(n Node) bool { return n.Slot == slot }) {
			return slot, nil
		}
	}
	return 0, invalid("nodes", "at most %d nodes in a cluster", MaxNodes)
}

// Nodes returns all nodes by ID.
func (m *Meta) Nodes(ctx context.Context) ([]Node, error) { return list[Node](ctx, m, "node/") }

// Node returns one node.
func (m *Meta) Node(ctx context.Context, id uuid.UUID) (Node, error) {
	n, _, err := load[Node](ctx, m, keyNode(id))
	if err != nil {
		return n, fmt.Errorf("node %s: %w", id, err)
	}
	return n, nil
}

// SetNodeDraining says whether a node is to be emptied.
func (m *Meta) SetNodeDraining(ctx context.Context, id uuid.UUID, on bool) error {
	return m.retry(ctx, func(x *txn) error {
		n, rev, err := load[Node](ctx, m, keyNode(id))
		if err != nil {
			return fmt.Errorf("node %s: %w", id, err)
		}
		if n.Draining != on {
			n.Draining = on
			x.update(keyNode(id), rev, n)
		}
		return nil
	})
}

// MayRemoveNode says why a node cannot be removed now, if it cannot.
func (m *Meta) MayRemoveNode(ctx context.Context, id uuid.UUID) error {
	return m.removeNode(ctx, id, &txn{})
}

// RemoveNode forgets a node that is not alive and whose stores hold no extent, with its
// stores and access points. Removing a missing one is no error.
func (m *Meta) RemoveNode(ctx context.Context, id uuid.UUID) error {
	return m.retry(ctx, func(x *txn) error { return m.removeNode(ctx, id, x) })
}

func (m *Meta) removeNode(ctx context.Context, id uuid.UUID, x *txn) error {
	n, rev, err := load[Node](ctx, m, keyNode(id))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	name, err := m.st.Get(ctx, keyNodeName(n.Name))
	if err != nil {
		return fmt.Errorf("read the name of node %s: %w", n.Name, err)
	}
	sessions, err := m.Sessions(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(sessions, func(s SessionInfo) bool { return s.Node == id }) {
		return &InUseError{What: "node " + n.Name, Users: []string{"its agent, which runs"}}
	}
	if err := m.removeStores(ctx, x, n); err != nil {
		return err
	}
	points, err := m.AccessPoints(ctx)
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.Node == id {
			x.Delete = append(x.Delete, keyAccessPoint(p.ID))
		}
	}
	x.remove(keyNode(id), rev)
	x.remove(keyNodeName(n.Name), name.Revision)
	return nil
}

// removeStores adds the stores of a node to what x removes, if none of them holds an extent.
func (m *Meta) removeStores(ctx context.Context, x *txn, n Node) error {
	use, err := m.StoreUse(ctx)
	if err != nil {
		return err
	}
	stores, err := m.Stores(ctx)
	if err != nil {
		return err
	}
	for _, s := range stores {
		if s.Node != n.ID {
			continue
		}
		if use[s.ID] > 0 {
			return &InUseError{What: "node " + n.Name, Users: []string{fmt.Sprintf("%d extents in store %s", use[s.ID], s.Name)}}
		}
		_, rev, err := load[Store](ctx, m, keyStore(s.ID))
		if err != nil {
			return fmt.Errorf("store %s: %w", s.Name, err)
		}
		x.remove(keyStore(s.ID), rev)
	}
	return nil
}
