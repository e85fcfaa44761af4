package quorum

import (
	"context"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// How often it is looked whether etcd's members changed.
const (
	lookEvery = 500 * time.Millisecond // at a member in this process
	askEvery  = 5 * time.Second        // of the others
)

// Follow directs a client to the members that can serve it, and calls fn with all members, now and whenever they
// changed, until ctx ends. own is this node's member, nil: it has none.
//
// A node with a member learns from that one, which needs nobody's answer, who the others are: to learn it from those that the
// client is directed to would end for good when they die before they are asked again. While its own member votes and knows a leader
// the client stays with it, so that no other node's death or silence touches a request; else it goes to the others that vote. A node
// without a member asks etcd, and whoever it has ever known when etcd does not answer.
func Follow(ctx context.Context, c *clientv3.Client, own *Member, fn func([]Info)) {
	f := follower{c: c, ever: c.Endpoints()}
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	var asked time.Time
	for {
		switch {
		case own != nil && !own.ended():
			f.found(own.Members(), own, fn)
		case time.Since(asked) >= askEvery:
			asked = time.Now()
			one, cancel := context.WithTimeout(ctx, dialPatience)
			all, err := Members(one, c)
			cancel()
			if err == nil {
				f.found(all, nil, fn)
			} else if ctx.Err() == nil {
				f.direct(f.ever)
			}
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// follower is what Follow has done so far.
type follower struct {
	c    *clientv3.Client
	ever []string // client URLs of all members that were ever known
	to   []string // where the client is directed; nil: as it was made
	last []Info
}

func (f *follower) found(all []Info, own *Member, fn func([]Info)) {
	for _, m := range all {
		if m.Client != "" && !slices.Contains(f.ever, m.Client) {
			f.ever = append(f.ever, m.Client)
		}
	}
	if to := serving(all, own); len(to) > 0 {
		f.direct(to)
	}
	if !slices.Equal(all, f.last) {
		f.last = all
		fn(all)
	}
}

// serving are the client URLs of the members that can serve the node whose own member is given, nil: it has none.
func serving(all []Info, own *Member) []string {
	var id uint64
	leads := false // somebody does
	if own != nil {
		id, leads = own.ID(), own.Leader() != 0
	}
	var voters, others []string
	for _, m := range all {
		switch {
		case !m.Votes || m.Client == "":
		case m.ID == id && leads:
			return []string{m.Client}
		case m.ID == id:
			voters = append(voters, m.Client)
		default:
			voters, others = append(voters, m.Client), append(others, m.Client)
		}
	}
	if len(others) > 0 {
		return others
	}
	return voters
}

func (f *follower) direct(to []string) {
	if !slices.Equal(to, f.to) {
		f.to = slices.Clone(to)
		f.c.SetEndpoints(f.to...)
	}
}
