package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"testing"

	"github.com/mooring-io/mooring/plugins/transport-tcp/internal/transport"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
	"github.com/mooring-io/mooring/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, plugintest.Config{
		New:        func() sdk.DataPlugin { return &plugin{cfg: transport.DefaultConfig()} },
		Listen:     "nvme-tcp://127.0.0.1:0",
		Unbindable: "nvme-tcp://192.0.2.1:4420",
		Connect:    connect,
		Raw:        raw,
	})
}

// host is one namespace through our own NVMe/TCP host.
type host struct {
	c     *nvmehost.Controller
	nsid  nvme.NSID
	block int64
}

func connect(ctx context.Context, target plugintest.Target) (plugintest.Host, error) {
	u, err := url.Parse(target.URL)
	if err != nil {
		return nil, err
	}
	c, err := nvmehost.Connect(ctx, u.Host, target.Subsystem, nvmehost.Options{
		HostNQN: target.Host, Queues: 2, HeaderDigest: true, DataDigest: true, MaxR2T: 4,
	})
	if err != nil {
		return nil, err
	}
	id, err := c.Namespace(ctx, nvme.NSID(target.NSID))
	if err != nil {
		c.Abandon()
		return nil, err
	}
	return &host{c, nvme.NSID(target.NSID), 1 << id.Format().DataShift}, nil
}

func (h *host) Read(ctx context.Context, p []byte, off int64) error {
	return h.c.Read(ctx, h.nsid, nvme.LBA(off/h.block), p)
}

func (h *host) Write(ctx context.Context, p []byte, off int64) error {
	return h.c.Write(ctx, h.nsid, nvme.LBA(off/h.block), p, false)
}

func (h *host) Flush(ctx context.Context) error { return h.c.Flush(ctx, h.nsid) }

func (h *host) Close() error { return h.c.Close() }

func raw(ctx context.Context, target string, data []byte) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// The plugin may close the connection before it has read everything.
	if _, err := conn.Write(data); err != nil {
		return nil
	}
	_, _ = io.Copy(io.Discard, conn)
	if ctx.Err() != nil {
		return fmt.Errorf("the plugin did not close the connection: %w", ctx.Err())
	}
	return nil
}
