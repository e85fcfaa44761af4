package quorum_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/quorum"
	"github.com/mooring-io/mooring/core/quorum/quorumtest"
)

func TestMain(m *testing.M) { quorumtest.VerifyTestMain(m) }

// A client that knows only the member that dies, as a node's does that joined when that one alone voted, is
// directed to its own node's member, and away from it while that knows no leader.
func TestFollow(t *testing.T) {
	c := quorumtest.Start(t, 3)
	lead := c.Leader()
	own, other := (lead+1)%3, (lead+2)%3
	urls := c.Endpoints()
	client, err := quorum.Connect(quorum.ClientOptions{Endpoints: urls[lead : lead+1], Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var told [][]quorum.Info
	done := make(chan struct{})
	go func() {
		defer close(done)
		quorum.Follow(ctx, client, c.Member(own), func(all []quorum.Info) { told = append(told, all) })
	}()
	defer func() {
		cancel()
		<-done
		if len(told) == 0 || len(told[len(told)-1]) != 3 {
			t.Errorf("told of the members: %+v", told)
		}
	}()
	directed := func(want ...string) {
		t.Helper()
		for slices.Sort(want); ; {
			got := client.Endpoints()
			if slices.Sort(got); slices.Equal(got, want) {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("the client is directed to %q, not %q", got, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	directed(urls[own])
	c.Stop(lead)
	directed(urls[own])
	// It is not for the client to send again what changes something, and an election takes a moment.
	for {
		_, err := client.Put(ctx, "k", "v")
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("after the death of the leader: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.Stop(other) // the last one has no majority
	directed(urls[lead], urls[other])
	c.Restart(other)
	directed(urls[own])
	if _, err := client.Get(ctx, "k"); err != nil {
		t.Errorf("with a majority again: %v", err)
	}
}
