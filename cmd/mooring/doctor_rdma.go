package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/rdma"
)

func doctorRDMACommand(g *globals) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "rdma", Short: "Look for what keeps RoCE v2 from working or makes it slow, and say how to mend it", Args: cobra.NoArgs,
		Long: `Look at this machine's RDMA devices, their network interfaces, and the addresses that
nvme-rdma listeners name: those of the file that -config names, else those of the agent
that runs here. Needs no agent.`,
		RunE: func(c *cobra.Command, _ []string) error {
			m := rdma.Machine{Sys: os.DirFS("/sys"), Dev: os.DirFS("/dev"), PFC: rdma.PFC}
			if err := ownLimit(&m); err != nil {
				return err
			}
			var err error
			if m.Interfaces, err = interfaces(); err != nil {
				return err
			}
			if file != "" {
				err = fromFile(&m, file)
			} else {
				fromAgent(c, g, &m)
			}
			if err != nil {
				return err
			}
			found, err := m.Examine()
			if err != nil {
				return err
			}
			return g.findings(c.OutOrStdout(), found)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the node's HCL `file`, whose listeners are looked at")
	return c
}

func ownLimit(m *rdma.Machine) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return fmt.Errorf("ask for the limit of locked memory: %w", err)
	}
	m.MemLock, m.MemLockOf = l.Cur, "this shell"
	if os.Geteuid() == 0 {
		m.MemLock = rdma.Unlimited // an agent that is started here raises it
	}
	return nil
}

func interfaces() ([]rdma.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []rdma.Interface
	for _, i := range all {
		x := rdma.Interface{Name: i.Name, Loopback: i.Flags&net.FlagLoopback != 0}
		addrs, err := i.Addrs()
		if err != nil {
			continue // removed meanwhile
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				x.Addrs = append(x.Addrs, p.Addr())
			}
		}
		out = append(out, x)
	}
	return out, nil
}

func fromFile(m *rdma.Machine, file string) error {
	cfg, err := config.Load(file)
	if err != nil {
		return &usageError{err}
	}
	for _, p := range cfg.Plugins {
		for _, l := range p.Listen {
			m.Listeners = append(m.Listeners, l)
			if strings.HasPrefix(l, rdma.Scheme+":") {
				m.Pool = p.PoolBytes
			}
		}
	}
	return nil
}

// fromAgent asks an agent that runs here. Without one only the devices are looked at.
func fromAgent(c *cobra.Command, g *globals, m *rdma.Machine) {
	var s admin.Status
	if g.client().Do(c.Context(), "GET", "/v1/status", nil, &s) != nil {
		return
	}
	of := func(pid int, whose string) {
		if limit, ok := memLock(pid); ok {
			m.MemLock, m.MemLockOf = limit, whose
		}
	}
	of(s.PID, "the agent")
	for _, a := range s.Access {
		m.Listeners = append(m.Listeners, a.URL)
		for _, p := range s.Plugins {
			if p.Name == a.Plugin && p.PID != 0 && strings.HasPrefix(a.URL, rdma.Scheme+":") {
				of(p.PID, "plugin "+p.Name)
			}
		}
	}
}

// memLock is how many bytes a process may lock.
func memLock(pid int) (uint64, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0, false
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		soft, ok := strings.CutPrefix(sc.Text(), "Max locked memory")
		f := strings.Fields(soft)
		if !ok || len(f) == 0 {
			continue
		}
		if f[0] == "unlimited" {
			return rdma.Unlimited, true
		}
		n, err := strconv.ParseUint(f[0], 10, 64)
		return n, err == nil
	}
	return 0, false
}
