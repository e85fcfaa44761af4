// Package policy is what a policy plugin sees: the request it decides on, the
// interface it implements, and what every policy needs beside its own rule.
//
// It owns the Policy interface with its gRPC halves, the view of a request (Read),
// the choice of non-optimized access points, and what makes an answer valid (Check,
// which is what the core asks). It owns no policy: those are plugins. Package spread
// below it solves the part that policies have in common.
package policy

import (
	"context"

	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/sdk/proto"
)

// The parts of a decision, as they travel. See mooring.proto for each field.
type (
	Request     = proto.PlaceRequest
	Response    = proto.PlaceResponse
	Host        = proto.PlaceHost
	Connection  = proto.PlaceConnection
	Namespace   = proto.PlaceNamespace
	AccessPoint = proto.PlaceAccessPoint
	Placement   = proto.Placement
)

// Limits on an answer, which Check enforces.
const (
	MaxNonOptimized = 2   // non-optimized access points of one placement
	MaxReason       = 500 // bytes of a reason
)

// Policy decides where hosts reach namespaces.
type Policy interface {
	// Place answers each placement of the request with what it is to be, and why.
	// It must be a pure function of req: no clock, no randomness, no memory of
	// former calls, and the same answer whatever the order of the lists. It may be
	// called from several goroutines at once, must not keep or change req, and should
	// give up when ctx ends: an answer that comes too late is dropped, and the
	// present placements stay.
	Place(ctx context.Context, req *Request) (*Response, error)
}

// Func makes a function a Policy.
type Func func(ctx context.Context, req *Request) (*Response, error)

// Place calls f.
func (f Func) Place(ctx context.Context, req *Request) (*Response, error) { return f(ctx, req) }

// Register serves p at s.
func Register(s grpc.ServiceRegistrar, p Policy) {
	proto.RegisterPolicyServer(s, &server{policy: p})
}

type server struct {
	proto.UnimplementedPolicyServer
	policy Policy
}

func (s *server) Place(ctx context.Context, req *Request) (*Response, error) {
	return s.policy.Place(ctx, req)
}

// NewClient is the Policy that is served at the other end of conn.
func NewClient(conn grpc.ClientConnInterface) Policy {
	return client{proto.NewPolicyClient(conn)}
}

type client struct{ proto.PolicyClient }

func (c client) Place(ctx context.Context, req *Request) (*Response, error) {
	return c.PolicyClient.Place(ctx, req)
}
