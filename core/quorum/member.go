// Package quorum owns the etcd cluster that a cluster's metadata lives in: the member
// that runs in the agent's process, the connection to a member wherever it runs, and
// how etcd fares. It does not own what is stored there (packages meta and store), nor
// which nodes there are.
package quorum

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"

	"github.com/mooring-io/mooring/core/cert"
)

// How the members of an embedded cluster are set; docs/adr/0006 has the figures.
const (
	// tick is etcd's heartbeat, in ms: more often costs CPU at rest.
	tick = 150
	// election, in ms: a member that hears nothing for one to two of these asks for votes.
	election = 5 * tick
	// Quota is how large, in bytes, etcd's database may become; then it takes no more
	// writes (NOSPACE).
	Quota = 4 << 30
	// history is for how long former revisions are kept.
	history = "5m"
	// commitEvery is how long etcd gathers changes of its database before it writes them;
	// what makes them durable is its log, at once.
	commitEvery = 2 * time.Second
	// maxTxnOps leaves room for what the store's engine adds to store.MaxOps.
	maxTxnOps = 512
)

// MemberOptions say how this node's member runs.
type MemberOptions struct {
	Dir  string // of its data
	Name string // unique among the members; for life
	// Peer and Client are the addresses, host:port, at which other members and clients
	// reach it, and where it listens.
	Peer, Client string
	// Keys let members and clients verify each other. nil: plain TCP, for tests on
	// loopback.
	Keys *cert.Keys
	// Initial are the members by name, with their peer addresses, of an etcd cluster that
	// this one helps to make or joins. It is read at the member's first start only.
	Initial map[string]string
	Join    bool // the cluster exists
	Logger  hclog.Logger
}

// Member is this node's member of the embedded etcd cluster.
type Member struct {
	etcd *embed.Etcd
	done chan struct{}
	err  error // why it ended by itself; valid once done is closed
}

// Begun says whether a member has data in a folder, so that Initial is not read again.
func Begun(dir string) bool {
	fi, err := os.Stat(filepath.Join(dir, "member", "wal"))
	return err == nil && fi.IsDir()
}

// StartMember runs the member. It returns once the member has its data and listens;
// whether it reaches the others is for its clients to see.
func StartMember(o MemberOptions) (*Member, error) {
	c, err := o.config()
	if err != nil {
		return nil, fmt.Errorf("configure the etcd member: %w", err)
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start the etcd member: %w", err)
	}
	m := &Member{etcd: e, done: make(chan struct{})}
	go m.wait()
	return m, nil
}

func (m *Member) wait() {
	defer close(m.done)
	select {
	case <-m.etcd.Server.StopNotify():
		m.err = errors.New("the etcd member stopped: it was removed from its cluster, or its data is damaged")
	case err := <-m.etcd.Err():
		m.err = fmt.Errorf("the etcd member ended: %w", err)
	}
}

// Done is closed when the member has ended, by Close or by itself; Err says why.
func (m *Member) Done() <-chan struct{} { return m.done }

// Err says why the member ended by itself.
func (m *Member) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

func (m *Member) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// Ready is closed once the member knows a leader and serves.
func (m *Member) Ready() <-chan struct{} { return m.etcd.Server.ReadyNotify() }

// ID is the member's number in its cluster.
func (m *Member) ID() uint64 { return uint64(m.etcd.Server.MemberID()) }

// Leads says whether the member leads its cluster now.
func (m *Member) Leads() bool { return m.etcd.Server.Leader() == m.etcd.Server.MemberID() }

// Leader is the number of the member that leads as far as this one knows, 0: it knows none.
func (m *Member) Leader() uint64 { return m.etcd.Server.Lead() }

// Members are the members of the cluster as far as this one has applied etcd's log, in the order of the function
// of that name. Nobody else is asked: it needs no leader.
func (m *Member) Members() []Info {
	var all []*etcdserverpb.Member
	for _, x := range m.etcd.Server.Cluster().Members() {
		all = append(all, &etcdserverpb.Member{ID: uint64(x.ID), Name: x.Name, PeerURLs: x.PeerURLs, ClientURLs: x.ClientURLs, IsLearner: x.IsLearner})
	}
	return infos(all)
}

// Close ends the member in order. A leader hands over first.
func (m *Member) Close() error {
	m.etcd.Close()
	<-m.done
	return nil
}

func (o MemberOptions) config() (*embed.Config, error) {
	scheme := "http"
	if o.Keys != nil {
		scheme = "https"
	}
	at := func(address string) ([]url.URL, error) {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, err
		}
		return []url.URL{{Scheme: scheme, Host: address}}, nil
	}
	c := embed.NewConfig()
	c.Name, c.Dir = o.Name, o.Dir
	var err error
	if c.ListenPeerUrls, err = at(o.Peer); err != nil {
		return nil, err
	}
	if c.ListenClientUrls, err = at(o.Client); err != nil {
		return nil, err
	}
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = c.ListenPeerUrls, c.ListenClientUrls
	var initial []string
	for _, name := range slices.Sorted(maps.Keys(o.Initial)) {
		initial = append(initial, name+"="+scheme+"://"+o.Initial[name])
	}
	c.InitialCluster = strings.Join(initial, ",")
	c.ClusterState = embed.ClusterStateFlagNew
	if o.Join {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	if o.Keys != nil {
		c.PeerTLSInfo, c.ClientTLSInfo = tlsInfo(o.Keys), tlsInfo(o.Keys)
		c.TlsMinVersion = "TLS1.3"
	}
	c.TickMs, c.ElectionMs = tick, election
	c.QuotaBackendBytes = Quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, history
	c.BackendBatchInterval = commitEvery
	c.MaxTxnOps = maxTxnOps
	c.MaxLearners = 4
	// Else nobody could join, and so no dead member be replaced, while a member is dead.
	// AddMember, Balance and RemoveMember look for themselves.
	c.StrictReconfigCheck = false
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(o.Logger))
	c.LogLevel = zapcore.WarnLevel.String()
	return c, nil
}

// tlsInfo has both ends verify each other by the cluster's CA and the name that all
// nodes share; the files are read again at every handshake.
func tlsInfo(k *cert.Keys) transport.TLSInfo {
	trusted, own, key := k.Files()
	return transport.TLSInfo{
		CertFile: own, KeyFile: key, TrustedCAFile: trusted, ClientCertAuth: true,
		ServerName: cert.Member,
		// A certificate says which node, not which address.
		SkipClientSANVerify: true,
	}
}

// Addresses are a member's peer and client addresses on a node, by the node's data
// address: the last two of its ports. That between is its agent's.
func Addresses(address string) (peer, client string, err error) {
	if peer, err = nextPort(address, 2); err != nil {
		return "", "", err
	}
	client, err = nextPort(address, 3)
	return peer, client, err
}

// nextPort is the address n ports on.
func nextPort(address string, n uint64) (string, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil || port+n > 65535 {
		return "", fmt.Errorf("port %q leaves no room for %d more", p, n)
	}
	return net.JoinHostPort(host, strconv.FormatUint(port+n, 10)), nil
}

// WaitReady waits until the member serves, or ends.
func (m *Member) WaitReady(ctx context.Context) error {
	select {
	case <-m.Ready():
		return nil
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return fmt.Errorf("the etcd member does not reach a majority of its cluster: %w", ctx.Err())
	}
}
