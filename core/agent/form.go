package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/cluster"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/badger"
	"github.com/mooring-io/mooring/core/meta/store/etcd"
	"github.com/mooring-io/mooring/core/quorum"
	"github.com/mooring-io/mooring/core/vfs"
)

// formPatience bounds how long etcd may take to come up.
const formPatience = 30 * time.Second

// InitCluster makes a stopped node, new or with volumes, the first one of a cluster. It
// may be cut off anywhere and called again; done says that the node was in its cluster
// already. progress hears of every step.
func InitCluster(ctx context.Context, c *config.Config, progress func(string)) (done bool, err error) {
	lock, err := lockDataDir(c.DataDir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	id, err := meta.EnsureIdentity(c.DataDir)
	if err != nil {
		return false, err
	}
	switch {
	case metaRestored(c):
		return false, fmt.Errorf("the metadata was restored from a backup; let the node run by itself until that is settled (see mooring doctor), before it grows into a cluster")
	case id.Place == meta.Joining:
		return false, errors.New("this node began to join another cluster; go on with mooring cluster join, or name an empty data directory")
	case id.Place == meta.InCluster:
		return true, retire(c, progress)
	}
	progress("making the cluster's CA and the certificate of node " + c.Node.Name)
	keys, err := cert.Create(certDir(c), id.Cluster, id.Node, c.Node.Name, time.Now())
	if err != nil {
		return false, err
	}
	client, stop, err := firstEtcd(ctx, c, id, keys, progress)
	if err != nil {
		return false, err
	}
	err = moveMeta(ctx, c, id, client, progress)
	if err := errors.Join(err, stop()); err != nil {
		return false, err
	}
	// This one write is the cut-over: before it the metadata is where it was, after it in etcd.
	progress("cutting over to etcd")
	id.Place = meta.InCluster
	if err := meta.SaveIdentity(c.DataDir, id); err != nil {
		return false, err
	}
	return false, retire(c, progress)
}

// firstEtcd connects to the etcd of a cluster that is being made. One of our own is
// begun anew each time: nothing depends on it before the cut-over.
func firstEtcd(ctx context.Context, c *config.Config, id meta.Identity, keys *cert.Keys, progress func(string)) (*clientv3.Client, func() error, error) {
	if !c.Cluster.Embed {
		progress("connecting to etcd")
		client, err := connectExternal(c.Cluster, hclog.NewNullLogger())
		if err != nil {
			return nil, nil, err
		}
		return client, client.Close, nil
	}
	progress("starting etcd")
	if err := os.RemoveAll(etcdDir(c)); err != nil {
		return nil, nil, err
	}
	peer, _, err := quorum.Addresses(c.Node.Address)
	if err != nil {
		return nil, nil, err
	}
	peers := quorum.Peers{id.Node.String(): peer}
	if err := peers.Save(c.DataDir); err != nil {
		return nil, nil, err
	}
	m, err := startMember(c, id, keys, peers, hclog.NewNullLogger())
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, formPatience)
	defer cancel()
	if err := m.WaitReady(ctx); err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	client, err := quorum.Connect(quorum.ClientOptions{Endpoints: peers.Endpoints(), TLS: quorum.ClientTLS(keys), Logger: hclog.NewNullLogger()})
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return client, func() error { return errors.Join(client.Close(), m.Close()) }, nil
}

// moveMeta brings the metadata of a node on its own into etcd, or begins a cluster's.
func moveMeta(ctx context.Context, c *config.Config, id meta.Identity, client *clientv3.Client, progress func(string)) (err error) {
	first, cancel := context.WithTimeout(ctx, formPatience)
	begun, err := etcd.Begun(first, client, c.Cluster.Prefix)
	cancel()
	if err != nil {
		return err
	}
	if begun {
		progress("removing what an attempt before, cut off, left in etcd")
		if err := etcd.Wipe(ctx, client, c.Cluster.Prefix); err != nil {
			return err
		}
	}
	to, err := etcd.Open(ctx, etcd.Options{Client: client, Prefix: c.Cluster.Prefix})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := os.Stat(metaDir(c)); errors.Is(err, fs.ErrNotExist) {
		m, err := meta.Open(ctx, meta.Options{Store: to}, meta.Cluster{ID: id.Cluster, ExtentBytes: extent.DefaultExtentSize})
		if err != nil {
			return err
		}
		_, err = m.JoinNode(ctx, meta.Node{ID: id.Node, Name: c.Node.Name, Address: c.Node.Address})
		return err
	} else if err != nil {
		return err
	}
	from, err := badger.Open(badger.Options{Dir: metaDir(c)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	// A node that never came further than its first start may have an empty store.
	if _, err := meta.Open(ctx, meta.Options{Store: from}, meta.Cluster{ID: id.Cluster, ExtentBytes: extent.DefaultExtentSize}); err != nil {
		return err
	}
	progress("copying the metadata into etcd")
	if err := copyMeta(ctx, from, to); err != nil && !errors.Is(err, store.ErrNotEmpty) {
		return err
	}
	progress("comparing the copy")
	a, err := digest(ctx, from)
	if err != nil {
		return err
	}
	b, err := digest(ctx, to)
	if err != nil {
		return err
	}
	if a != b {
		return fmt.Errorf("what lies in etcd under %q is not what this node has: another cluster, or another life of this one, lives there; name another prefix, or remove it (etcdctl del --prefix %s) if it is of no use", c.Cluster.Prefix, c.Cluster.Prefix)
	}
	return nil
}

// copyMeta fills an empty store from another one.
func copyMeta(ctx context.Context, from, to store.Store) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := from.Backup(ctx, w)
		w.CloseWithError(err)
		done <- err
	}()
	err := to.Restore(ctx, r)
	r.CloseWithError(errors.New("the copy has ended"))
	if read := <-done; err == nil {
		err = read
	}
	return err
}

// digest is a checksum of everything in a store but sessions, which is the same in every engine.
func digest(ctx context.Context, s store.Store) ([sha256.Size]byte, error) {
	h := sha256.New()
	err := s.Backup(ctx, h)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// retire puts the former store of a node that is in its cluster out of the way.
func retire(c *config.Config, progress func(string)) error {
	old := metaDir(c)
	if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	to := old + "-retired"
	progress("the former metadata is kept in " + to)
	if err := os.Rename(old, to); err != nil {
		return fmt.Errorf("put the former metadata out of the way: %w", err)
	}
	return vfs.SyncDir(filepath.Dir(old))
}

// JoinCluster has a stopped, empty node join a cluster. It may be cut off anywhere and
// called again with the same token. note is what the operator should know.
func JoinCluster(ctx context.Context, c *config.Config, t cluster.Token, witness bool) (note string, err error) {
	lock, err := lockDataDir(c.DataDir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	id, err := meta.LoadIdentity(c.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		id = meta.Identity{Cluster: t.Cluster, Node: uuid.New(), Place: meta.Joining}
		if err := meta.SaveIdentity(c.DataDir, id); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	case id.Place == meta.Alone:
		return "", fmt.Errorf("%s holds a node of its own, with its own volumes; only an empty data directory joins a cluster. If there is nothing in it that you need, move it away", c.DataDir)
	case id.Cluster != t.Cluster:
		return "", fmt.Errorf("%s belongs to cluster %s, the token to cluster %s", c.DataDir, id.Cluster, t.Cluster)
	case id.Place == meta.InCluster:
		return "", fmt.Errorf("this node is in cluster %s already; start its agent", id.Cluster)
	}
	a := cluster.Application{Node: id.Node, Name: c.Node.Name, Address: c.Node.Address, Embed: c.Cluster.Embed, Witness: witness}
	got, err := cluster.Join(ctx, certDir(c), t, a, time.Now())
	if err != nil {
		return "", err
	}
	if witness {
		if err := vfs.ReplaceFile(witnessMark(c), []byte("this node only votes: mooring agent -witness\n"), 0o600); err != nil {
			return "", err
		}
	}
	if len(got.Peers) > 0 {
		// What a former attempt may have begun is of no use to the member that it has now.
		if err := errors.Join(os.RemoveAll(etcdDir(c)), quorum.Peers(got.Peers).Save(c.DataDir)); err != nil {
			return "", err
		}
	}
	id.Place = meta.InCluster
	return got.Note, meta.SaveIdentity(c.DataDir, id)
}
