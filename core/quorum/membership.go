package quorum

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mooring-io/mooring/core/vfs"
)

// MaxMembers is how many members an embedded cluster has at most; further nodes have none.
const MaxMembers = 5

// Votes is how many of the members of an embedded cluster vote. Two never do: they halt
// when either of them dies, which is worse than one.
func Votes(members int) int {
	switch {
	case members < 3:
		return 1
	case members < MaxMembers:
		return 3
	}
	return MaxMembers
}

// Info is one member of an embedded cluster as etcd knows it.
type Info struct {
	ID     uint64
	Name   string // "" until it was started for the first time
	Peer   string // host:port
	Client string // URL; "" until it was started
	Votes  bool
}

// Members lists the members, those that vote first, and then by peer address.
func Members(ctx context.Context, c *clientv3.Client) ([]Info, error) {
	r, err := c.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the members of etcd: %w", err)
	}
	return infos(r.Members), nil
}

func infos(in []*etcdserverpb.Member) []Info {
	var out []Info
	for _, m := range in {
		i := Info{ID: m.ID, Name: m.Name, Votes: !m.IsLearner}
		if len(m.PeerURLs) > 0 {
			if u, err := url.Parse(m.PeerURLs[0]); err == nil {
				i.Peer = u.Host
			}
		}
		if len(m.ClientURLs) > 0 {
			i.Client = m.ClientURLs[0]
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Info) int {
		if a.Votes != b.Votes {
			if a.Votes {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Peer, b.Peer)
	})
	return out
}

// ErrNoSeat says that an embedded cluster has as many members as it may have.
var ErrNoSeat = fmt.Errorf("the embedded etcd has its %d members already", MaxMembers)

// AddMember gives a node a member, which does not vote yet, at its peer address
// (host:port), unless it has one. The node starts it afterwards.
func AddMember(ctx context.Context, c *clientv3.Client, peer string) error {
	all, err := Members(ctx, c)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(m Info) bool { return m.Peer == peer }) {
		return nil
	}
	if len(all) >= MaxMembers {
		return ErrNoSeat
	}
	if _, err = c.MemberAddAsLearner(ctx, []string{"https://" + peer}); err != nil {
		return fmt.Errorf("add a member to etcd: %w", err)
	}
	return nil
}

// ErrTwoVotes says that two votes would be left, or none, or fewer that answer than it takes.
var ErrTwoVotes = errors.New("etcd would be left with two votes, or without a majority that answers")

// RemoveMember takes a node's member, by its name or peer address, out of the cluster, if it has one.
func RemoveMember(ctx context.Context, c *clientv3.Client, name, peer string) error {
	list, err := Members(ctx, c)
	if err != nil {
		return err
	}
	all := Ask(ctx, c, list, removePatience)
	i := slices.IndexFunc(all, func(m Health) bool { return m.Name == name || m.Peer == peer })
	if i < 0 {
		return nil
	}
	gone := all[i]
	votes, answer, follow := 0, 0, 0
	for _, m := range slices.Delete(all, i, i+1) {
		switch {
		case m.Votes && m.Answers:
			answer++
			votes++
		case m.Votes:
			votes++
		case m.Answers:
			follow++ // and will vote
		}
	}
	if gone.Votes && (2*answer <= votes || votes == 2 && follow == 0) {
		return ErrTwoVotes
	}
	if _, err := c.MemberRemove(ctx, gone.ID); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("remove the member at %s from etcd: %w", gone.Peer, err)
	}
	return nil
}

// Balance has as many members vote as should, by promoting those that are up to date,
// and says whether it changed anything. It may be called on any node; only the one that
// leads does anything.
func (m *Member) Balance(ctx context.Context, c *clientv3.Client) (changed bool, err error) {
	if !m.Leads() {
		return false, nil
	}
	all := m.Members()
	voters := 0
	for _, i := range all {
		if i.Votes {
			voters++
		}
	}
	missing := Votes(len(all)) - voters
	if missing <= 0 {
		return false, nil
	}
	var ready []Info
	for _, i := range all {
		if !i.Votes && m.upToDate(ctx, c, i) {
			ready = append(ready, i)
		}
	}
	// One alone would make two voters, or four: as many may fail as before, and one more can.
	if len(ready) < missing {
		return false, nil
	}
	for _, i := range ready[:missing] {
		_, err := c.MemberPromote(ctx, i.ID)
		if err != nil && !errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return changed, fmt.Errorf("have the etcd member at %s vote: %w", i.Peer, err)
		}
		changed = true
	}
	return changed, nil
}

// upToDate says whether a member that does not vote has nearly all that the leader has.
func (m *Member) upToDate(ctx context.Context, c *clientv3.Client, i Info) bool {
	if i.Client == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	r, err := c.Status(ctx, i.Client)
	return err == nil && r.RaftAppliedIndex >= m.etcd.Server.AppliedIndex()*9/10
}

// Health is how one member fares.
type Health struct {
	Info
	Leads    bool
	Answers  bool
	Database int64  // bytes
	Trouble  string // "" is well
}

// Ask asks members how they fare, and waits for them for at most so long. Those that do not answer say so in Trouble.
func Ask(ctx context.Context, c *clientv3.Client, all []Info, patience time.Duration) []Health {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out := make([]Health, len(all))
	done := make(chan struct{})
	for n, i := range all {
		go func() {
			defer func() { done <- struct{}{} }()
			out[n] = ask(ctx, c, i)
		}()
	}
	for range all {
		<-done
	}
	return out
}

// removePatience is how long members are waited for without which one is not removed.
const removePatience = 10 * time.Second

func ask(ctx context.Context, c *clientv3.Client, i Info) Health {
	h := Health{Info: i}
	if i.Client == "" {
		h.Trouble = "never started"
		return h
	}
	r, err := c.Status(ctx, i.Client)
	if err != nil {
		h.Trouble = "does not answer"
		return h
	}
	h.Answers = true
	h.Leads, h.Database, h.Trouble = r.Leader == i.ID, r.DbSize, strings.Join(r.Errors, "; ")
	return h
}

// Peers are the members of the embedded cluster, peer addresses by name, as this node
// last knew them: what its own member starts from, and where its client begins.
type Peers map[string]string

const peersFile = "peers.json"

// LoadPeers reads what SavePeers wrote into a folder.
func LoadPeers(dir string) (Peers, error) {
	b, err := os.ReadFile(filepath.Join(dir, peersFile))
	if err != nil {
		return nil, fmt.Errorf("read the members of etcd: %w", err)
	}
	var p Peers
	if err := json.Unmarshal(b, &p); err != nil || len(p) == 0 {
		return nil, fmt.Errorf("%s is damaged", filepath.Join(dir, peersFile))
	}
	return p, nil
}

// Save keeps the peers in a folder, durably.
func (p Peers) Save(dir string) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		panic(err) // plain fields
	}
	if err := vfs.ReplaceFile(filepath.Join(dir, peersFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the members of etcd: %w", err)
	}
	return nil
}

// Endpoints are the client URLs of the peers.
func (p Peers) Endpoints() []string {
	var out []string
	for _, peer := range p {
		if c, err := nextPort(peer, 1); err == nil {
			out = append(out, "https://"+c)
		}
	}
	slices.Sort(out)
	return out
}

// PeersOf are the members that have a name.
func PeersOf(all []Info) Peers {
	p := Peers{}
	for _, i := range all {
		if i.Name != "" {
			p[i.Name] = i.Peer
		}
	}
	return p
}

// Initial are the peers from which a new member starts: all that etcd lists at that
// time, whether they have started or not. It knows itself by its own name.
func Initial(all []Info, name, peer string) Peers {
	p := Peers{}
	for _, i := range all {
		switch {
		case i.Peer == peer:
			p[name] = peer
		case i.Name != "":
			p[i.Name] = i.Peer
		default:
			p[fmt.Sprintf("%x", i.ID)] = i.Peer // etcd goes by the addresses
		}
	}
	return p
}
