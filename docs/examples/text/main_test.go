package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, plugintest.Config{
		New:        func() sdk.DataPlugin { return &plugin{} },
		Listen:     "text-tcp://127.0.0.1:0",
		Unbindable: "text-tcp://192.0.2.1:1",
		Connect:    connect,
		Raw:        raw,
	})
}

func dial(ctx context.Context, url string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", strings.TrimPrefix(url, "text-tcp://"))
}

func raw(ctx context.Context, url string, data []byte) error {
	conn, err := dial(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write(data); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// host is a host that speaks the protocol.
type host struct {
	conn net.Conn
	in   *bufio.Reader
}

func connect(ctx context.Context, target plugintest.Target) (plugintest.Host, error) {
	conn, err := dial(ctx, target.URL)
	if err != nil {
		return nil, err
	}
	h := &host{conn: conn, in: bufio.NewReader(conn)}
	if err := h.ask(ctx, fmt.Sprintf("HELLO %s %d %s\n", target.Subsystem, target.NSID, target.Host), nil, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return h, nil
}

func (h *host) Read(ctx context.Context, p []byte, off int64) error {
	return h.ask(ctx, fmt.Sprintf("READ %d %d\n", off, len(p)), nil, p)
}

func (h *host) Write(ctx context.Context, p []byte, off int64) error {
	return h.ask(ctx, fmt.Sprintf("WRITE %d %d\n", off, len(p)), p, nil)
}

func (h *host) Flush(ctx context.Context) error { return h.ask(ctx, "FLUSH\n", nil, nil) }

func (h *host) Close() error { return h.conn.Close() }

func (h *host) ask(ctx context.Context, line string, data, answer []byte) error {
	deadline, _ := ctx.Deadline()
	h.conn.SetDeadline(deadline.Add(time.Millisecond))
	if _, err := h.conn.Write(append([]byte(line), data...)); err != nil {
		return err
	}
	status, err := h.in.ReadString('\n')
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	if status != "OK\n" {
		return errors.New(strings.TrimSpace(status))
	}
	_, err = io.ReadFull(h.in, answer)
	return err
}
