package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	nodeIQN = "iqn.2026-11.io.mooring:bench"
	peerIQN = "iqn.2026-11.com.example:bench"
)

// iscsiRow compares logical units with those of another target, on a file on the same disk, with O_DIRECT on both sides (tgt: aio). Neither
// makes a write durable before it is flushed.
func iscsiRow(peer string, l load, query string, g goals) row {
	id, title := "iscsi-"+peer+"/"+l.id(), map[string]string{"tgt": "tgt aio", "spdk": "SPDK iscsi_tgt aio"}[peer]
	if query != "" {
		id, title = id+"-digests", title+", digests"
	}
	return pairRow(id, Pair{Load: "iSCSI " + l.String(), Store: onDisk, Durability: "volatile", Peer: title, Goals: g},
		func(ctx context.Context, b *harness) (ours, theirs side, err error) {
			start := b.tgt
			if peer == "spdk" {
				start = b.spdkISCSI
			}
			if theirs, err = start(ctx, l, query); err != nil {
				return nil, nil, err
			}
			n, err := b.node(ctx, b.Dir)
			if err != nil {
				return nil, nil, err
			}
			if err := n.fill(ctx, 0); err != nil {
				return nil, nil, n.child.trouble(err)
			}
			return func(ctx context.Context) (Sample, error) {
				s, err := hostLoad(ctx, b.options, fmt.Sprintf("iscsi://%s/%s?lun=0%s", n.iscsi, nodeIQN, query), n.pids(), l)
				if err != nil {
					err = n.child.trouble(err)
				}
				return s, err
			}, theirs, nil
		})
}

// tgt returns a load on Debian's tgt, which is started by the first row that needs it.
func (b *harness) tgt(ctx context.Context, l load, query string) (side, error) {
	if b.tgtd == nil {
		if err := b.startTgt(ctx); err != nil {
			return nil, err
		}
	}
	c, address := b.tgtd, b.tgtAddress
	return func(ctx context.Context) (Sample, error) {
		s, err := hostLoad(ctx, b.options, fmt.Sprintf("iscsi://%s/%s?lun=1%s", address, peerIQN, query), family(c.cmd.Process.Pid), l)
		if err != nil {
			err = c.trouble(err)
		}
		return s, err
	}, nil
}

// tgtControl names tgtd's control socket: not the one of a tgtd that the machine may run.
const tgtControl = "4260"

func (b *harness) startTgt(ctx context.Context) error {
	if _, err := exec.LookPath("tgtd"); err != nil || os.Getuid() != 0 {
		return &missingError{"tgtd is not installed (Debian: apt-get install tgt), or this is not root, which it needs"}
	}
	file, err := b.diskFile()
	if err != nil {
		return err
	}
	dir, err := b.folder(b.Dir)
	if err != nil {
		return err
	}
	if b.tgtAddress, err = freeAddress(); err != nil {
		return err
	}
	if err := os.MkdirAll("/var/run/tgtd", 0o755); err != nil {
		return err
	}
	c, err := b.Pinning.startChild(exec.Command("tgtd", "-f", "-C", tgtControl, "--iscsi", "portal="+b.tgtAddress), dir)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, func() error {
		_ = exec.Command("tgtadm", "-C", tgtControl, "--op", "update", "--mode", "sys", "--name", "State", "-v", "offline").Run()
		_ = exec.Command("tgtadm", "-C", tgtControl, "--lld", "iscsi", "--op", "delete", "--force", "--mode", "target", "--tid", "1").Run()
		return errors.Join(exec.Command("tgtadm", "-C", tgtControl, "--op", "delete", "--mode", "system").Run(), c.stop())
	})
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "-T", peerIQN},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", file, "--bstype", "aio"},
		{"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
	} {
		args = append([]string{"-C", tgtControl, "--lld", "iscsi"}, args...)
		for end := time.Now().Add(startTime); ; time.Sleep(50 * time.Millisecond) { // until its control socket is there
			out, err := exec.CommandContext(ctx, "tgtadm", args...).CombinedOutput()
			if err == nil {
				break
			}
			if time.Now().After(end) || ctx.Err() != nil {
				return c.trouble(fmt.Errorf("tgtadm %v: %w: %s", args, err, out))
			}
		}
	}
	b.tgtd = c
	return nil
}

// spdkISCSI returns a load on SPDK's iscsi_tgt, which lies beside its nvmf_tgt.
func (b *harness) spdkISCSI(ctx context.Context, l load, query string) (side, error) {
	if b.peerISCSI == nil {
		program := filepath.Join(filepath.Dir(b.SPDK), "iscsi_tgt")
		if _, err := os.Stat(program); b.SPDK == "" || err != nil {
			return nil, &missingError{"there is no iscsi_tgt beside what MOORING_BENCH_SPDK names"}
		}
		file, err := b.diskFile()
		if err != nil {
			return nil, err
		}
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		if b.peerISCSI, err = b.startSPDK(ctx, program, address, spdkISCSISetup(file, address)); err != nil {
			return nil, err
		}
	}
	p := b.peerISCSI
	return func(ctx context.Context) (Sample, error) {
		return p.measure(ctx, b.options, fmt.Sprintf("iscsi://%s/%s?lun=0%s", p.address, peerIQN, query), l)
	}, nil
}

func spdkISCSISetup(file, address string) []rpc {
	host, port, _ := net.SplitHostPort(address) // our own
	return []rpc{
		{"bdev_aio_create", map[string]any{"name": "disk", "filename": file, "block_size": 4096}},
		{"iscsi_create_portal_group", map[string]any{"tag": 1, "portals": []any{map[string]any{"host": host, "port": port}}}},
		{"iscsi_create_initiator_group", map[string]any{"tag": 1, "initiators": []any{"ANY"}, "netmasks": []any{"ANY"}}},
		{"iscsi_create_target_node", map[string]any{
			"name": peerIQN, "alias_name": "bench", "queue_depth": 64, "disable_chap": true,
			"pg_ig_maps": []any{map[string]any{"pg_tag": 1, "ig_tag": 1}}, "luns": []any{map[string]any{"bdev_name": "disk", "lun_id": 0}},
		}},
	}
}
