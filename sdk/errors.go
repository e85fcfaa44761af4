package sdk

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors that keep their identity across gRPC, in both directions. Wrap them with
// what was being done; test them with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrInvalid     = errors.New("invalid argument")
	ErrNotAllowed  = errors.New("not allowed")
	ErrNotReady    = errors.New("not ready")                   // try again later
	ErrBusy        = errors.New("limit reached")               // of connections, memory...
	ErrUnsupported = errors.New("not supported")               // by this version or plugin
	ErrFenced      = errors.New("fenced by a newer holder")    // of a lease, path or ring
	ErrGone        = errors.New("the other process has ended") // plugin or core: its call may or may not have had effect
)

// identities pairs each error with its code on the wire. context.Canceled and
// context.DeadlineExceeded are carried too.
var identities = []struct {
	err  error
	code codes.Code
}{
	{ErrNotFound, codes.NotFound},
	{ErrInvalid, codes.InvalidArgument},
	{ErrNotAllowed, codes.PermissionDenied},
	{ErrNotReady, codes.FailedPrecondition},
	{ErrBusy, codes.ResourceExhausted},
	{ErrUnsupported, codes.Unimplemented},
	{ErrFenced, codes.Aborted},
	{ErrGone, codes.Unavailable},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// ToStatus makes err what travels over gRPC. The servers of this package and of the
// core apply it to what their methods return.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, id := range identities {
		if errors.Is(err, id.err) {
			return status.Error(id.code, err.Error())
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// FromStatus makes of what came over gRPC an error that errors.Is recognizes. The
// clients of this package and of the core apply it to what calls return.
func FromStatus(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, id := range identities {
		if s.Code() == id.code {
			return &remoteError{message: s.Message(), identity: id.err}
		}
	}
	return &remoteError{message: s.Message()}
}

// remoteError is an error of the other process.
type remoteError struct {
	message  string
	identity error // nil if it has none
}

func (e *remoteError) Error() string {
	if e.message == "" && e.identity != nil {
		return e.identity.Error()
	}
	return e.message
}

func (e *remoteError) Unwrap() error { return e.identity }

// GRPCStatus keeps the code when the error is passed on over another call.
func (e *remoteError) GRPCStatus() *status.Status {
	for _, id := range identities {
		if e.identity == id.err {
			return status.New(id.code, e.message)
		}
	}
	return status.New(codes.Unknown, e.message)
}

// maxMessage bounds a message in bytes: a request to place 100,000 pairs fits.
const maxMessage = 64 << 20

// ServerOptions make a gRPC server pass errors on by ToStatus, and take messages of up
// to 64 MiB.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			return resp, ToStatus(err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return ToStatus(next(srv, s))
		}),
	}
}

// DialOptions make a gRPC client return errors by FromStatus, and take messages of up
// to 64 MiB.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return FromStatus(next(ctx, method, req, reply, cc, opts...))
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := next(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, FromStatus(err)
			}
			return clientStream{s}, nil
		}),
	}
}

// clientStream translates the errors of a stream.
type clientStream struct{ grpc.ClientStream }

func (s clientStream) RecvMsg(m any) error { return FromStatus(s.ClientStream.RecvMsg(m)) }
func (s clientStream) SendMsg(m any) error { return FromStatus(s.ClientStream.SendMsg(m)) }
