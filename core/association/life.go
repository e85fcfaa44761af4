package association

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	gproto "google.golang.org/protobuf/proto"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

// maxPendingEvents bounds what is kept for a plugin that does not read its Watch.
const maxPendingEvents = 4096

// life is one life of a data plugin. It is the Core service that this plugin sees.
type life struct {
	proto.UnimplementedCoreServer
	service *Service
	inst    *supervisor.Instance
	client  *access.Client
	opening sync.Mutex    // one OpenRings at a time
	changed chan struct{} // capacity 1: something below changed
	proofs  proofs

	mu      sync.Mutex
	exports bool                      // to be sent
	grants  map[*association]struct{} // to be sent
	events  []*proto.Update           // ends and reservation events to be sent, in order
	told    uint64                    // number of the last reservation event

	last *proto.Exports // sent last; owned by Watch's goroutine
}

// OpenRings implements proto.CoreServer.
func (l *life) OpenRings(ctx context.Context, r *proto.OpenRingsRequest) (*proto.OpenRingsResponse, error) {
	l.opening.Lock()
	defer l.opening.Unlock()
	rings := access.Rings{Threads: int(r.Threads), Entries: int(r.RingEntries), PoolBytes: int64(r.PoolBytes)}
	incarnation, err := l.client.OpenRings(ctx, rings, func(d ring.Descriptors) error { return ring.Send(l.inst.Descriptors, d) })
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &proto.OpenRingsResponse{Incarnation: incarnation}, nil
}

// Watch implements proto.CoreServer. What is sent is always the state at the moment
// of sending, so a slow plugin gets fewer updates, never old ones.
func (l *life) Watch(_ *proto.WatchRequest, out grpc.ServerStreamingServer[proto.Update]) error {
	l.want(func() {
		l.exports, l.last = true, nil
		l.service.mu.Lock()
		for _, a := range l.service.assocs {
			if a.life == l {
				l.grants[a] = struct{}{}
			}
		}
		l.service.mu.Unlock()
	})
	for {
		select {
		case <-out.Context().Done():
			return nil
		case <-l.changed:
		}
		for _, u := range l.take(out.Context()) {
			if err := out.Send(u); err != nil {
				return err
			}
		}
	}
}

// want notes, by fn, that something is to be sent.
func (l *life) want(fn func()) {
	l.mu.Lock()
	fn()
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// take returns what is to be sent now. Exports come before the grants that refer
// to them.
func (l *life) take(ctx context.Context) []*proto.Update {
	l.mu.Lock()
	exports, grants, events := l.exports, l.grants, l.events
	l.exports, l.grants, l.events = false, map[*association]struct{}{}, nil
	l.mu.Unlock()
	var out []*proto.Update
	if exports {
		e, err := l.service.exportsNow(ctx)
		if err != nil {
			if ctx.Err() == nil {
				l.service.log.Error("exports cannot be read", "plugin", l.inst.Plugin, "error", err)
			}
			l.mu.Lock()
			l.exports = true // with the next change
			l.mu.Unlock()
		} else if !gproto.Equal(e, l.last) {
			l.last = e
			out = append(out, &proto.Update{Update: &proto.Update_Exports{Exports: e}})
		}
	}
	for a := range grants {
		out = append(out, &proto.Update{Update: &proto.Update_Grants{Grants: a.grantsNow()}})
	}
	return append(out, events...)
}

// tell queues an event for the plugin.
func (l *life) tell(u *proto.Update) {
	l.want(func() {
		if len(l.events) < maxPendingEvents {
			if u.GetReservation() != nil {
				l.told++
				u.Number = l.told
			}
			l.events = append(l.events, u)
		}
	})
}

func (l *life) tellGrants(a *association) { l.want(func() { l.grants[a] = struct{}{} }) }

func (l *life) tellExports() { l.want(func() { l.exports = true }) }

// lastTold is the number of the last reservation event that the plugin is told.
func (l *life) lastTold() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}
