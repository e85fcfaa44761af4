package quorum

import (
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/mooring-io/mooring/core/cert"
)

// Bounds of a connection to etcd.
const (
	// A silent connection is asked for a sign of life after pingEvery (gRPC allows no
	// less), and given up when data is not acknowledged for pingPatience.
	pingEvery    = 10 * time.Second
	pingPatience = 2 * time.Second
	// A member that is away is tried again after this, growing to the last.
	firstTry, lastTry = 100 * time.Millisecond, time.Second
	dialPatience      = 2 * time.Second
)

// ClientOptions say how etcd is reached.
type ClientOptions struct {
	Endpoints []string // URLs, or host:port with TLS
	TLS       *tls.Config
	Username  string // "" is without authentication
	Password  string
	Logger    hclog.Logger
}

// Connect returns a client of etcd. It connects when it is used, and to all
// endpoints; requests go to them in turn.
func Connect(o ClientOptions) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: slices.Clone(o.Endpoints), TLS: o.TLS, Username: o.Username, Password: o.Password,
		DialTimeout: dialPatience, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingPatience,
		Logger: zapLogger(o.Logger),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstTry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastTry},
			MinConnectTimeout: dialPatience,
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return c, nil
}

// ClientTLS is the configuration for clients of an embedded cluster's members. etcd's
// client takes the endpoint's address for the server's name.
func ClientTLS(k *cert.Keys) *tls.Config { return k.DialUnnamed() }
