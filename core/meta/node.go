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
	if err := checkName("node", name); err != nil {
		return Node{}, err
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
			if out = old; old.Address == want.Address {
				return nil
			}
			out.Address = want.Address
			x.update(keyNode(id), rev, out)
			return nil
		case err == nil:
			former, err := m.st.Get(ctx, keyNodeName(old.Name))
			if err != nil {
				return fmt.Errorf("read the name of node %s: %w", old.Name, err)
			}
			x.remove(keyNodeName(old.Name), former.Revision)
			out = old
			out.Name, out.Address = name, want.Address
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
