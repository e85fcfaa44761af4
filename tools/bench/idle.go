package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

const (
	idleVolumes = 100
	idleLooks   = 3
	idleSettle  = 5 * time.Second // between the last I/O and the first look
)

// Idle is what a node takes that has nothing to do.
type Idle struct {
	Volumes   int       `json:"volumes"`
	Processes int       `json:"processes"`
	CPU       []float64 `json:"cpu_percent"` // of one core, per look
	RSS       int64     `json:"rss_bytes"`   // sum over the processes
	PSS       int64     `json:"pss_bytes"`   // the same with shared pages counted once
}

// The goals for an idle node.
const (
	idleGoalCPU = 1.0       // percent of a core, less than
	idleGoalRSS = 200 << 20 // bytes, less than
)

func idleRow() row {
	return row{ID: "idle", Title: fmt.Sprintf("a node with %d volumes, a block written in each, and a connected host", idleVolumes), measure: measureIdle}
}

func measureIdle(ctx context.Context, b *harness, rep *report) error {
	var volumes []volume
	for i := range idleVolumes {
		volumes = append(volumes, volume{fmt.Sprintf("volume-%d", i+1), "sync", 1 << 30})
	}
	n, err := b.startNode(ctx, b.Dir, volumes, false)
	if err != nil {
		return err
	}
	c, err := nvmehost.Connect(ctx, n.address, nodeNQN, nvmehost.Options{Queues: 1, KeepAlive: 10 * time.Second})
	if err != nil {
		return n.child.trouble(err)
	}
	defer c.Close()
	data := make([]byte, 4096)
	for i := range volumes {
		data[0] = byte(i)
		if err := c.Write(ctx, nvme.NSID(i+1), 0, data, false); err != nil {
			return n.child.trouble(err)
		}
	}
	r := Idle{Volumes: len(volumes)}
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-n.child.ended:
			return n.child.trouble(errors.New("ended while it was idle"))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(idleSettle); err != nil {
		return err
	}
	for range idleLooks {
		pids := n.pids()
		before, began := cpuTime(pids), time.Now()
		if err := wait(b.Idle); err != nil {
			return err
		}
		r.CPU = append(r.CPU, 100*(cpuTime(pids)-before).Seconds()/time.Since(began).Seconds())
		r.RSS, r.PSS = memory(pids)
		r.Processes = len(pids)
	}
	progress("idle: %.2f %% of a core, %d MiB resident", medianOf(r.CPU).Median, r.RSS>>20)
	rep.Idles = append(rep.Idles, r)
	return nil
}
