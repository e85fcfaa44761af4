package association

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/proto"
)

// moveWithin is how long an initiator has to log out when its link moves; then its session is closed.
const moveWithin = 10 * time.Second

// redirect refuses a session that belongs at another access point, with the address of that.
func (s *Service) redirect(ctx context.Context, iqn string, h access.Host, asked string) error {
	at, err := s.Paths.Link(ctx, iqn, h, asked)
	if err != nil || at.ID == asked {
		return err
	}
	node, err := s.Meta.Node(ctx, at.Node)
	if err != nil {
		return err
	}
	address, err := portalAddress(at.URL, node.Address)
	if err != nil {
		return err
	}
	return &refused{result: proto.AssociateResult_ASSOCIATE_ELSEWHERE, text: "its link is at " + at.ID, address: address}
}

// portalAddress is the address:port of an access point. One that listens at every address of its node
// is reached where the node's data is.
func portalAddress(listener, node string) (string, error) {
	u, err := url.Parse(listener)
	if err != nil || u.Hostname() == "" || u.Port() == "" {
		return "", fmt.Errorf("access point %q has no address and port", listener)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil || !ip.IsUnspecified() {
		return u.Host, nil
	}
	host, _, err := net.SplitHostPort(node)
	if err != nil {
		return "", fmt.Errorf("%s listens at every address, and its node says none where others reach it: name one in listen", listener)
	}
	return net.JoinHostPort(host, u.Port()), nil
}

// followLink has a session of a redirected target leave when its link is elsewhere. The caller holds
// the pair's lock.
func (a *association) followLink(link meta.Path) {
	if link.Optimized == "" || link.Optimized == a.accessPoint || link.Moves == a.sent {
		return
	}
	a.sent = link.Moves
	a.life.tell(&proto.Update{Update: &proto.Update_Move{Move: &proto.AssociationMove{
		Association: a.id, Seconds: uint32(moveWithin / time.Second), Reason: "its link moves to " + link.Optimized + ": " + link.Reason,
	}}})
}

// leased returns a context that ends when the node's Meta session cannot be used any more: what
// waits for Meta then may wait for long.
func (s *Service) leased(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	s.wg.Go(func() {
		for left := s.Session.Left(); left > 0; left = s.Session.Left() {
			timer := time.NewTimer(left)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
		cancel()
	})
	return ctx, cancel
}

// elsewhere is where an initiator goes while this node cannot use its Meta session; "" if it can, or
// there is no other portal. Those of nodes that drain are the last resort.
func (s *Service) elsewhere(initiator, target string) string {
	if s.Session.Left() > 0 {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.portals) == 0 {
		return ""
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(initiator + " " + target)) // it does not fail
	return s.portals[h.Sum32()%uint32(len(s.portals))]
}

// readPortals notes where initiators can be sent when Meta is out of reach.
func (s *Service) readPortals(ctx context.Context) error {
	points, err := s.Meta.AccessPoints(ctx)
	if err != nil {
		return err
	}
	nodes, err := s.Meta.Nodes(ctx)
	if err != nil {
		return err
	}
	at := map[uuid.UUID]string{}
	for _, n := range nodes {
		at[n.ID] = n.Address
	}
	var staying, leaving []string
	for _, p := range points {
		if p.Node == s.Node.ID || !p.Up || p.Redirector || !strings.HasPrefix(p.URL, "iscsi:") {
			continue
		}
		address, err := portalAddress(p.URL, at[p.Node])
		switch {
		case err != nil:
		case p.Draining:
			leaving = append(leaving, address)
		default:
			staying = append(staying, address)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.portals = staying; staying == nil {
		s.portals = leaving
	}
	return nil
}
