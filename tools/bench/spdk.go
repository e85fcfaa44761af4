package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
)

const peerNQN = "nqn.2016-06.io.spdk:bench"

// Namespaces of the peer.
const (
	peerDisk   nvme.NSID = 1 // an AIO bdev on harness.diskFile
	peerMemory nvme.NSID = 2 // a malloc bdev
)

// spdk is a running nvmf_tgt or iscsi_tgt. It polls: when it is not measured it is stopped, so that it takes nothing from the others.
type spdk struct {
	child   *child
	address string
	socket  string
	version string
}

// spdkArgs are the arguments of nvmf_tgt and iscsi_tgt: one core, which both may have since only one runs at a time, and memory
// that needs no huge pages.
func (b *harness) spdkArgs() []string {
	core := max(b.Pinning.Target, 0)
	return []string{"-m", fmt.Sprintf("%#x", 1<<core), "--disable-cpumask-locks", "--no-huge", "-s", fmt.Sprint(b.Size>>20 + 1024)}
}

// rpc is one call that sets the target up.
type rpc struct {
	Method string         `json:"method"`
	Params map[string]any `json:"params"`
}

// setup is what the target is told, in this order. docs/performance.md repeats it.
func (b *harness) spdkSetup(file, address string) []rpc {
	host, port, _ := net.SplitHostPort(address) // our own
	return []rpc{
		{"nvmf_create_transport", map[string]any{"trtype": "TCP", "max_queue_depth": 256, "max_io_size": 1 << 20}},
		{"bdev_aio_create", map[string]any{"name": "disk", "filename": file, "block_size": 4096}},
		{"bdev_malloc_create", map[string]any{"name": "memory", "num_blocks": b.Size / 4096, "block_size": 4096}},
		{"nvmf_create_subsystem", map[string]any{"nqn": peerNQN, "allow_any_host": true}},
		{"nvmf_subsystem_add_ns", map[string]any{"nqn": peerNQN, "namespace": map[string]any{"bdev_name": "disk", "nsid": peerDisk}}},
		{"nvmf_subsystem_add_ns", map[string]any{"nqn": peerNQN, "namespace": map[string]any{"bdev_name": "memory", "nsid": peerMemory}}},
		{"nvmf_subsystem_add_listener", map[string]any{"nqn": peerNQN, "listen_address": map[string]any{
			"trtype": "TCP", "adrfam": "ipv4", "traddr": host, "trsvcid": port,
		}}},
	}
}

// spdk returns the running peer, set up and filled.
func (b *harness) spdk(ctx context.Context) (*spdk, error) {
	if b.peer != nil {
		return b.peer, nil
	}
	if b.SPDK == "" {
		return nil, &missingError{"MOORING_BENCH_SPDK does not name an nvmf_tgt"}
	}
	file, err := b.diskFile()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p, err := b.startSPDK(ctx, b.SPDK, address, b.spdkSetup(file, address))
	if err != nil {
		return nil, err
	}
	if err := p.child.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return nil, err
	}
	if err := fill(ctx, address, peerNQN, peerMemory); err != nil { // the file of the other one is full
		return nil, err
	}
	b.peer = p
	return p, p.pause()
}

// startSPDK starts one of SPDK's targets, sets it up and stops it.
func (b *harness) startSPDK(ctx context.Context, program, address string, calls []rpc) (*spdk, error) {
	dir, err := b.folder(b.Dir)
	if err != nil {
		return nil, err
	}
	p := &spdk{address: address, socket: filepath.Join(dir, "rpc.sock")}
	cmd := exec.Command(program, append(b.spdkArgs(), "-r", p.socket)...)
	if p.child, err = b.Pinning.startChild(cmd, dir); err != nil {
		return nil, err
	}
	b.undo = append(b.undo, p.child.stop)
	if err := p.setUp(ctx, calls); err != nil {
		return nil, p.child.trouble(err)
	}
	return p, p.pause()
}

func (p *spdk) setUp(ctx context.Context, calls []rpc) error {
	conn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	enc, dec := json.NewEncoder(conn), json.NewDecoder(conn)
	ask := func(c rpc) (json.RawMessage, error) {
		req := map[string]any{"jsonrpc": "2.0", "id": 1, "method": c.Method}
		if c.Params != nil {
			req["params"] = c.Params
		}
		if err := enc.Encode(req); err != nil {
			return nil, err
		}
		var answer struct {
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := dec.Decode(&answer); err != nil {
			return nil, err
		}
		if answer.Error != nil {
			return nil, fmt.Errorf("%s: %s", c.Method, answer.Error.Message)
		}
		return answer.Result, nil
	}
	for _, c := range calls {
		if _, err := ask(c); err != nil {
			return err
		}
	}
	raw, err := ask(rpc{Method: "spdk_get_version"})
	if err != nil {
		return err
	}
	var v struct{ Version string }
	p.version = "unknown"
	if json.Unmarshal(raw, &v) == nil {
		p.version = strings.TrimSpace(v.Version)
	}
	return nil
}

// dial waits for the control socket.
func (p *spdk) dial(ctx context.Context) (net.Conn, error) {
	for end := time.Now().Add(startTime); ; {
		conn, err := net.Dial("unix", p.socket)
		if err == nil {
			return conn, conn.SetDeadline(time.Now().Add(startTime))
		}
		if time.Now().After(end) {
			return nil, err
		}
		select {
		case <-p.child.ended:
			return nil, fmt.Errorf("ended at once: %w", p.child.err)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// namespace is the URL of one.
func (p *spdk) namespace(ns nvme.NSID) string {
	return fmt.Sprintf("nvme-tcp://%s/%s?ns=%d", p.address, peerNQN, ns)
}

func (p *spdk) pause() error { return p.child.cmd.Process.Signal(syscall.SIGSTOP) }

// measure lets the peer run for one measurement.
func (p *spdk) measure(ctx context.Context, o options, url string, l load) (s Sample, err error) {
	if err := p.child.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, p.pause()) }()
	return hostLoad(ctx, o, url, []int{p.child.cmd.Process.Pid}, l)
}
