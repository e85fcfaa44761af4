package plugintest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"

	"google.golang.org/grpc"
	gproto "google.golang.org/protobuf/proto"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

// core is the Core service of one life of a plugin.
type core struct {
	proto.UnimplementedCoreServer
	harness     *Harness
	incarnation uint64
	descriptors *net.UnixConn

	mu           sync.Mutex
	ends         []*ring.CoreEnd                    // guarded by mu
	servers      []*blocktest.Server                // guarded by mu
	watchers     []chan *proto.Update               // guarded by mu
	associations map[uint64]*proto.AssociateRequest // guarded by mu
}

// OpenRings makes rings and serves the harness's volumes on them.
func (c *core) OpenRings(_ context.Context, req *proto.OpenRingsRequest) (*proto.OpenRingsResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ends) > 0 {
		return nil, fmt.Errorf("the rings are open: %w", sdk.ErrInvalid)
	}
	for i := range req.Threads {
		end, err := ring.Create(ring.Config{
			Entries: int(req.RingEntries), PoolBytes: int64(req.PoolBytes), Incarnation: c.incarnation, Thread: i,
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", sdk.ErrInvalid, err)
		}
		c.ends = append(c.ends, end)
		c.servers = append(c.servers, c.harness.volumes.Serve(end))
		if err := ring.Send(c.descriptors, end.Descriptors()); err != nil {
			return nil, err
		}
	}
	return &proto.OpenRingsResponse{Incarnation: c.incarnation}, nil
}

// Watch sends what is exported, and what changes.
func (c *core) Watch(_ *proto.WatchRequest, stream grpc.ServerStreamingServer[proto.Update]) error {
	updates := make(chan *proto.Update, 256)
	c.mu.Lock()
	c.watchers = append(c.watchers, updates)
	c.mu.Unlock()
	if err := stream.Send(c.harness.exports()); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case u := <-updates:
			if err := stream.Send(u); err != nil {
				return err
			}
		}
	}
}

// tell sends u to whoever watches; one that is 256 updates behind misses it.
func (c *core) tell(u *proto.Update) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.watchers {
		select {
		case w <- u:
		default:
		}
	}
}

// Associate grants what the host may see.
func (c *core) Associate(_ context.Context, req *proto.AssociateRequest) (*proto.AssociateResponse, error) {
	refuse := func(r proto.AssociateResult, why string) (*proto.AssociateResponse, error) {
		return &proto.AssociateResponse{Result: r, Message: why}, nil
	}
	switch {
	case req.Host == nil || req.Host.Name == "":
		return nil, fmt.Errorf("associate without a host: %w", sdk.ErrInvalid)
	case req.Host.Protocol == proto.Protocol_PROTOCOL_UNSPECIFIED:
		return nil, fmt.Errorf("associate without the host's protocol: %w", sdk.ErrInvalid)
	case req.Host.Protocol == proto.Protocol_PROTOCOL_NVME && len(req.Host.HostId) != 16:
		return nil, fmt.Errorf("associate with a host identifier of %d bytes, want 16: %w", len(req.Host.HostId), sdk.ErrInvalid)
	case !c.harness.listensAt(req.AccessPointId):
		return nil, fmt.Errorf("associate at access point %q, which is not one of the plugin's listeners: %w", req.AccessPointId, sdk.ErrInvalid)
	case req.Subsystem != Subsystem:
		return refuse(proto.AssociateResult_ASSOCIATE_NO_SUBSYSTEM, "there is only "+Subsystem)
	case req.Host.Name == DeniedHost:
		return refuse(proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED, "not allowed")
	}
	id := c.harness.nextID()
	c.mu.Lock()
	c.associations[id] = gproto.Clone(req).(*proto.AssociateRequest)
	c.mu.Unlock()
	controller := req.ControllerId
	if controller == 0xFFFF || controller == 0 {
		controller = uint32(id)
	}
	return &proto.AssociateResponse{Association: id, ControllerId: controller, Grants: c.harness.grants(id)}, nil
}

// Dissociate ends an association.
func (c *core) Dissociate(_ context.Context, req *proto.DissociateRequest) (*proto.DissociateResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.associations, req.Association)
	return &proto.DissociateResponse{}, nil
}

// Reserve knows of no reservations.
func (c *core) Reserve(_ context.Context, req *proto.ReserveRequest) (*proto.ReserveResponse, error) {
	r := &proto.ReserveResponse{State: &proto.ReservationState{}}
	if req.Action != proto.ReserveAction_RESERVE_REPORT {
		r.Result = proto.ReserveResult_RESERVE_CONFLICT
	}
	return r, nil
}

// hosts are the names of the hosts that are associated.
func (c *core) hosts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, a := range c.associations {
		out = append(out, a.Host.Name)
	}
	slices.Sort(out)
	return out
}

func (c *core) ids() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []uint64
	for id := range c.associations {
		out = append(out, id)
	}
	return out
}

// end ends the rings.
func (c *core) end() {
	c.mu.Lock()
	servers := c.servers
	c.mu.Unlock()
	for _, s := range servers {
		s.Stop()
	}
}

// counters sums up what crossed the rings.
func (c *core) counters() ring.Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum ring.Counters
	for _, e := range c.ends {
		n := e.Counters()
		sum.Entries += n.Entries
		sum.ReadBytes += n.ReadBytes
		sum.WriteBytes += n.WriteBytes
	}
	return sum
}

// broken says how the plugin broke the rings, or nil.
func (c *core) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		select {
		case <-s.Ended():
			if err := s.Err(); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}
