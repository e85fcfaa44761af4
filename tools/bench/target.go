package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

const (
	nodeNQN   = "nqn.2026-11.io.mooring:bench"
	startTime = 30 * time.Second // for a target to be ready
	fillBytes = 256 << 10        // of one write when a namespace is filled
	fillDepth = 8
)

// harness has what rows measure; each thing is started by the first row that needs it.
type harness struct {
	options
	nodes      map[string]*node // by data folder's parent
	peer       *spdk            // nvmf_tgt
	peerISCSI  *spdk            // iscsi_tgt
	tgtd       *child
	tgtAddress string
	file       string // on the disk, for fio, tgt and SPDK
	undo       []func() error
}

func (b *harness) stop() error {
	var errs []error
	for i := len(b.undo) - 1; i >= 0; i-- {
		errs = append(errs, b.undo[i]())
	}
	return errors.Join(errs...)
}

// folder makes a folder below parent that lives as long as b.
func (b *harness) folder(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "mooring-bench-")
	if err != nil {
		return "", err
	}
	// A plugin under an uid of its own must be able to pass.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	if !b.Keep {
		b.undo = append(b.undo, func() error { return os.RemoveAll(dir) })
	}
	return dir, nil
}

// volume is one of a node's, a namespace to hosts.
type volume struct {
	name       string
	durability string
	bytes      int64
}

// node is a running Mooring agent.
type node struct {
	child   *child
	address string
	iscsi   string // where LUN 0 of nodeIQN is the first volume; "" is nowhere
	volumes []volume
	filled  map[int]bool // by index of volume
}

// benchVolumes are what the loads run on: namespaces 1 and 2.
func (b *harness) benchVolumes() []volume {
	return []volume{{"volatile", "volatile", b.Size}, {"sync", "sync", b.Size}}
}

// node returns the agent whose data are below parent.
func (b *harness) node(ctx context.Context, parent string) (*node, error) {
	if n := b.nodes[parent]; n != nil {
		return n, nil
	}
	n, err := b.startNode(ctx, parent, b.benchVolumes(), true)
	if err != nil {
		return nil, err
	}
	if b.nodes == nil {
		b.nodes = map[string]*node{}
	}
	b.nodes[parent] = n
	return n, nil
}

// startNode starts an agent with a namespace for each volume, and, if that is asked for, an iSCSI target.
func (b *harness) startNode(ctx context.Context, parent string, volumes []volume, target bool) (*node, error) {
	dir, err := b.folder(parent)
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	iscsi := ""
	if target {
		if iscsi, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(dir, "bench.hcl")
	if err := os.WriteFile(file, []byte(nodeConfig(dir, address, iscsi, volumes)), 0o600); err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	cmd := exec.Command(b.Mooring, "agent", "-config", file)
	cmd.Stdout, cmd.Env = in, b.Pinning.goEnvironment()
	c, err := b.Pinning.startChild(cmd, dir)
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	b.undo = append(b.undo, c.stop)
	ready := make(chan struct{}, 1)
	go func() {
		defer out.Close()
		for s := bufio.NewScanner(out); s.Scan(); { // to the end, so that the agent can always write
			if s.Text() == "mooring: ready" {
				select {
				case ready <- struct{}{}:
				default:
				}
			}
		}
	}()
	select {
	case <-ready:
		return &node{child: c, address: address, iscsi: iscsi, volumes: volumes, filled: map[int]bool{}}, nil
	case <-c.ended:
		return nil, c.trouble(fmt.Errorf("ended at once: %w", c.err))
	case <-time.After(startTime):
		return nil, c.trouble(errors.New("is not ready"))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// nodeConfig is a node with one store, one subsystem, whose namespace i+1 is volumes[i], and with an address for it a target, whose LUN 0 is the first.
func nodeConfig(dir, address, iscsi string, volumes []volume) string {
	var capacity int64 = 1 << 30
	for _, v := range volumes {
		capacity += 2 * v.bytes
	}
	var s strings.Builder
	fmt.Fprintf(&s, "data_dir = %q\n", filepath.Join(dir, "data"))
	fmt.Fprintf(&s, "log { level = \"warn\" }\nadmin { metrics = \"off\" }\n")
	fmt.Fprintf(&s, "store \"main\" { capacity = \"%dMiB\" }\n", capacity>>20)
	fmt.Fprintf(&s, "plugin \"transport-tcp\" { listen = [\"nvme-tcp://%s\"] }\n", address)
	if iscsi != "" {
		fmt.Fprintf(&s, "plugin \"frontend-iscsi\" { listen = [\"iscsi://%s\"] }\n", iscsi)
		fmt.Fprintf(&s, "target %q {\n  allow_any_host = true\n  lun \"0\" { volume = %q }\n}\n", nodeIQN, volumes[0].name)
	}
	for _, v := range volumes {
		fmt.Fprintf(&s, "volume %q {\n  size = \"%dMiB\"\n  durability = %q\n}\n", v.name, v.bytes>>20, v.durability)
	}
	fmt.Fprintf(&s, "subsystem %q {\n  allow_any_host = true\n", nodeNQN)
	for i, v := range volumes {
		fmt.Fprintf(&s, "  namespace \"%d\" { volume = %q }\n", i+1, v.name)
	}
	s.WriteString("}\n")
	return s.String()
}

func (n *node) pids() []int { return family(n.child.cmd.Process.Pid) }

func (n *node) url(i int) string {
	return fmt.Sprintf("nvme-tcp://%s/%s?ns=%d", n.address, nodeNQN, i+1)
}

// fill writes the whole of volume i twice: the second time the store grows to the size with which it goes on, so that no row pays
// for the first touch of its places.
func (n *node) fill(ctx context.Context, i int) error {
	if n.filled[i] {
		return nil
	}
	n.filled[i] = true
	for range 2 {
		if err := fill(ctx, n.address, nodeNQN, nvme.NSID(i+1)); err != nil {
			return err
		}
	}
	return nil
}

func fill(ctx context.Context, address, nqn string, nsid nvme.NSID) error {
	progress("filling namespace %d of %s", nsid, nqn)
	c, err := nvmehost.Connect(ctx, address, nqn, nvmehost.Options{Queues: 1, KeepAlive: 10 * time.Second})
	if err != nil {
		return err
	}
	id, err := c.Namespace(ctx, nsid)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	per := uint64(fillBytes >> id.Format().DataShift)
	var writers sync.WaitGroup
	errs := make([]error, fillDepth)
	for w := range fillDepth {
		writers.Go(func() {
			data := make([]byte, fillBytes)
			for i := range data {
				data[i] = byte(i * (i >> 8))
			}
			for at := uint64(w) * per; at+per <= uint64(id.Size) && errs[w] == nil; at += fillDepth * per {
				errs[w] = c.Write(ctx, nsid, nvme.LBA(at), data, false)
			}
		})
	}
	writers.Wait()
	return errors.Join(append(errs, c.Flush(ctx, nsid), c.Close())...)
}

// diskFile makes the file that fio and SPDK use: as large as a volume, and written in full.
func (b *harness) diskFile() (string, error) {
	if b.file != "" {
		return b.file, nil
	}
	dir, err := b.folder(b.Dir)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "disk")
	progress("writing %s", path)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i * (i >> 8))
	}
	for at := int64(0); at < b.Size && err == nil; at += int64(len(buf)) {
		_, err = f.WriteAt(buf, at)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	b.file = path
	return path, nil
}

// freeAddress finds a port on the loopback interface that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}
