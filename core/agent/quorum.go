package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/quorum"
)

// rosterEvery is how often the node whose member leads looks whether others should vote.
const rosterEvery = 5 * time.Second

// The folders of a node of a cluster in its data directory.
func certDir(c *config.Config) string { return filepath.Join(c.DataDir, "cert") }
func etcdDir(c *config.Config) string { return filepath.Join(c.DataDir, "etcd") }

// quorumLink is how a node of a cluster reaches the etcd that its metadata lives in.
type quorumLink struct {
	keys   *cert.Keys
	client *clientv3.Client
	prefix string         // of the keys in etcd
	member *quorum.Member // of this node; nil: it runs none
	roster roster
}

// roster are the members of the embedded etcd as this node last knew them.
type roster struct {
	mu  sync.Mutex
	all []quorum.Info
}

func (r *roster) set(all []quorum.Info) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = all
}

func (r *roster) get() []quorum.Info {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// linkQuorum has a node of a cluster reach etcd: its own member is started if it has
// one. What is reached is not waited for.
func (a *agent) linkQuorum(ctx context.Context, undo *stack) error {
	var err error
	if a.id, err = meta.EnsureIdentity(a.cfg.DataDir); err != nil {
		return err
	}
	if a.o.Witness && a.cfg.Cluster != nil && !a.cfg.Cluster.Embed {
		return errors.New("a witness votes in an etcd that the agents run: cluster { embed = true }. With endpoints there is nothing for it to do")
	}
	switch {
	case a.cfg.Cluster == nil && a.id.Place == meta.Alone:
		return nil
	case a.cfg.Cluster == nil:
		return fmt.Errorf("%s belongs to a node of a cluster, and the file has no cluster block", a.cfg.DataDir)
	case a.id.Place == meta.Alone:
		return errors.New("the file has a cluster block, but this node is in no cluster yet; on the first node run: mooring cluster init -config FILE; on every other one: mooring cluster join -config FILE TOKEN")
	case a.id.Place == meta.Joining:
		return errors.New("this node began to join a cluster and was not admitted yet; run again: mooring cluster join -config FILE TOKEN")
	}
	q := &quorumLink{prefix: a.cfg.Cluster.Prefix}
	if q.keys, err = cert.Open(certDir(a.cfg)); err != nil {
		return fmt.Errorf("the keys of this node: %w", err)
	}
	if !a.cfg.Cluster.Embed {
		if q.client, err = connectExternal(a.cfg.Cluster, a.log.Named("etcd")); err != nil {
			return err
		}
		undo.push(q.client.Close)
		a.quorum = q
		return nil
	}
	peers, err := quorum.LoadPeers(a.cfg.DataDir)
	if err != nil {
		return err
	}
	if q.client, err = quorum.Connect(quorum.ClientOptions{Endpoints: peers.Endpoints(), TLS: quorum.ClientTLS(q.keys), Logger: a.log.Named("etcd")}); err != nil {
		return err
	}
	undo.push(q.client.Close)
	if peers[a.id.Node.String()] != "" {
		if !quorum.Begun(etcdDir(a.cfg)) {
			if peers, err = a.firstPeers(ctx, q.client, peers); err != nil {
				return err
			}
		}
		if q.member, err = startMember(a.cfg, a.id, q.keys, peers, a.log.Named("etcd")); err != nil {
			return err
		}
		undo.push(q.member.Close)
	}
	a.quorum = q
	a.followRoster(undo)
	return nil
}

// firstPeers are the members as etcd has them now, for this node's member, which starts
// for the first time. It waits for etcd as long as need be.
func (a *agent) firstPeers(ctx context.Context, c *clientv3.Client, known quorum.Peers) (quorum.Peers, error) {
	if len(known) == 1 {
		return known, nil // the first member of all
	}
	name := a.id.Node.String()
	for {
		one, cancel := context.WithTimeout(ctx, rosterEvery)
		all, err := quorum.Members(one, c)
		cancel()
		if err == nil {
			p := quorum.Initial(all, name, known[name])
			if p[name] == "" {
				return nil, errors.New("this node has no member in the cluster's etcd any more; have it join again, with an empty data directory")
			}
			return p, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		a.log.Warn("the cluster's etcd is out of reach; this node's member waits for it", "error", err)
		if !a.waitAgain(ctx) {
			return nil, ctx.Err()
		}
	}
}

// startMember starts this node's member of the embedded etcd.
func startMember(c *config.Config, id meta.Identity, keys *cert.Keys, peers quorum.Peers, log hclog.Logger) (*quorum.Member, error) {
	peer, client, err := quorum.Addresses(c.Node.Address)
	if err != nil {
		return nil, err
	}
	name := id.Node.String()
	if peers[name] != peer {
		return nil, fmt.Errorf("node.address is %s, by which its etcd member would be at %s, but it joined as %s; the address is for as long as the node is in the cluster", c.Node.Address, peer, peers[name])
	}
	return quorum.StartMember(quorum.MemberOptions{
		Dir: etcdDir(c), Name: name, Peer: peer, Client: client, Keys: keys, Initial: peers, Join: len(peers) > 1, Logger: log,
	})
}

// followRoster keeps the client and what the next start begins with in line with etcd's
// members, and has those vote that should, until the agent ends.
func (a *agent) followRoster(undo *stack) {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	q := a.quorum
	saved, err := quorum.LoadPeers(a.cfg.DataDir)
	if err != nil {
		saved = nil // written anew below
	}
	wg.Go(func() {
		quorum.Follow(ctx, q.client, q.member, func(all []quorum.Info) {
			q.roster.set(all)
			peers := quorum.PeersOf(all)
			// Its own member may be too young to have a name there.
			if own, ok := saved[a.id.Node.String()]; ok && peers[a.id.Node.String()] == "" {
				peers[a.id.Node.String()] = own
			}
			if maps.Equal(peers, saved) {
				return
			}
			if err := peers.Save(a.cfg.DataDir); err != nil {
				a.log.Warn("the members of etcd could not be noted", "error", err)
				return
			}
			saved = peers
		})
	})
	if q.member != nil {
		wg.Go(func() { a.followMember(ctx) })
	}
	undo.push(func() error { stop(); wg.Wait(); return nil })
}

// followMember balances the votes while this node's member leads, and ends the agent
// when the member ends by itself.
func (a *agent) followMember(ctx context.Context) {
	for {
		select {
		case <-time.After(rosterEvery):
		case <-a.quorum.member.Done():
			a.log.Error("this node's etcd member has ended; the metadata is reached through others, if there are any", "error", a.quorum.member.Err())
			return
		case <-ctx.Done():
			return
		}
		one, cancel := context.WithTimeout(ctx, rosterEvery)
		changed, err := a.quorum.member.Balance(one, a.quorum.client)
		cancel()
		switch {
		case err != nil && ctx.Err() == nil:
			a.log.Warn("the votes in etcd could not be balanced", "error", err)
		case changed:
			a.log.Info("another number of etcd members votes now")
		}
	}
}

// connectExternal returns a client of an etcd that is not ours.
func connectExternal(c *config.Cluster, log hclog.Logger) (*clientv3.Client, error) {
	o := quorum.ClientOptions{Endpoints: c.Endpoints, Username: c.Username, Logger: log}
	secure := strings.HasPrefix(c.Endpoints[0], "https:")
	if secure || c.CAFile != "" || c.CertFile != "" {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.CAFile != "" {
		b, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cluster.ca_file: %w", err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("cluster.ca_file: there is no certificate in %s", c.CAFile)
		}
	}
	if c.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
			return nil, fmt.Errorf("cluster.cert_file and key_file: %w", err)
		}
		// Read at every connection, so that they can be renewed.
		o.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &pair, err
		}
	}
	if c.PasswordFile != "" {
		b, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("cluster.password_file: %w", err)
		}
		o.Password = strings.TrimSpace(string(b))
	}
	return quorum.Connect(o)
}

// witness serves as a voter, and as nothing else, until ctx ends.
func (a *agent) witness(ctx context.Context) error {
	if a.quorum == nil || a.quorum.member == nil {
		return errors.New("this node has no vote in the cluster's etcd, so it cannot be a witness; it joins by: mooring cluster join -witness -config FILE TOKEN")
	}
	if _, err := os.Stat(witnessMark(a.cfg)); errors.Is(err, fs.ErrNotExist) {
		return errors.New("this node joined as a storage node; run it without -witness")
	}
	fmt.Fprintf(a.o.Stdout, "witness %s votes in the etcd of cluster %s\nmooring: ready\n", a.cfg.Node.Name, a.id.Cluster)
	a.notifyReady()
	select {
	case <-ctx.Done():
		return nil
	case <-a.quorum.member.Done():
		return a.quorum.member.Err()
	}
}

// witnessMark is the file that says that a node joined as a witness.
func witnessMark(c *config.Config) string { return filepath.Join(c.DataDir, "witness") }
