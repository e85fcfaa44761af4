package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/sdk/bench"
	"github.com/mooring-io/mooring/sdk/iscsihost"
)

func benchCommand(g *globals) *cobra.Command {
	cfg := bench.Config{ProgressEvery: time.Second}
	var bs, span, secret, mutual string
	c := &cobra.Command{
		Use: "bench URL...", Short: "Load a namespace or a logical unit with our own hosts and measure it", Args: cobra.MinimumNArgs(1),
		Long: `Load a namespace with Mooring's own NVMe/TCP host, or a logical unit with its own iSCSI
initiator: no kernel module, no root. Writing destroys what is there; over what looks like
a file system or a partition table it is refused without -force. Where the agent runs on
this machine, its CPU time is measured too.

An initiator follows the redirects of the portal, also in the middle. For CHAP, give
-secret-file, or the secret in the environment variable MOORING_CHAP_SECRET; and with
-mutual-secret-file or MOORING_CHAP_MUTUAL_SECRET the target has to prove who it is.

With several URLs of one namespace, or with -multipath, it is a host with native
multipath: it follows ANA, connects again, and goes on when ways are lost. The longest
stall is then the greatest latency. Each change of a way is told.`,
		Example: "  mooring bench 'nvme-tcp://127.0.0.1:4420/nqn.2026-11.io.mooring:dev?ns=1' -rw randread -bs 4KiB -qd 32 -time 10s\n" +
			"  mooring bench 'iscsi://127.0.0.1:3260/iqn.2026-11.io.mooring:dev?lun=0' -rw randrw -verify",
		RunE: func(c *cobra.Command, args []string) error {
			cfg.URL, cfg.More = args[0], args[1:]
			n, err := sizeArg("-bs", bs)
			if err != nil {
				return err
			}
			cfg.BlockBytes = int(n)
			if cfg.SpanBytes, err = sizeArg("-span", span); err != nil {
				return err
			}
			iscsi := false
			for _, u := range args {
				t, err := bench.ParseURL(u)
				if err != nil {
					return &usageError{err}
				}
				iscsi = iscsi || t.Scheme == bench.SchemeISCSI
			}
			if iscsi && (len(args) > 1 || cfg.Multipath) {
				return &usageError{errors.New("several URLs, and -multipath, are for nvme-tcp; an initiator follows the redirects of one portal")}
			}
			if iscsi {
				if cfg.CHAP, err = benchCHAP(c, cfg.CHAP, secret, mutual); err != nil {
					return err
				}
			}
			if !slices.Contains(bench.Modes, cfg.RW) {
				return &usageError{fmt.Errorf("-rw is one of %s; it is %q", strings.Join(bench.Modes, ", "), cfg.RW)}
			}
			if err := checkBench(&cfg, c); err != nil {
				return &usageError{err}
			}
			cfg.PIDs = agentPIDs(c, g)
			if g.output != "json" {
				cfg.Progress = func(p bench.Progress) {
					fmt.Fprintf(os.Stderr, "%5.0f s  %-9s %9.0f IOPS  %8.1f MiB/s  %d errors\n", p.Elapsed.Seconds(), p.Phase, p.IOPS, p.MiBPerSecond, p.Errors+p.VerifyErrors)
				}
			}
			if g.output != "json" {
				cfg.OnPath = func(p bench.PathChange) { fmt.Fprintf(os.Stderr, "%7.3f s  %s\n", p.Elapsed.Seconds(), p.Path) }
			}
			r, err := bench.Run(c.Context(), cfg)
			if occupied := new(bench.OccupiedError); errors.As(err, &occupied) {
				return &usageError{fmt.Errorf("%w; -force writes all the same", err)}
			}
			if out := new(bench.RangeError); errors.As(err, &out) {
				return &usageError{err}
			}
			if r == nil {
				return err
			}
			if err != nil { // such as a target that dies; what was measured until then is shown
				err = fmt.Errorf("the run ended early, after %.1f s: %w", r.Seconds, err)
			}
			if g.output == "json" {
				err = errors.Join(g.print(c.OutOrStdout(), r, "", nil), err)
			} else {
				printBench(c, r, len(cfg.PIDs) > 0)
			}
			if err == nil && r.Errors+r.VerifyErrors > 0 {
				err = fmt.Errorf("%d I/Os failed, %d blocks were wrong", r.Errors, r.VerifyErrors)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.RW, "rw", "randread", "`mode`: "+strings.Join(bench.Modes, ", "))
	f.IntVar(&cfg.Mix, "mix", 50, "`percent` of reads in randrw and rw")
	f.StringVar(&bs, "bs", "4KiB", "`size` of one I/O")
	f.IntVar(&cfg.QueueDepth, "qd", 32, "I/Os in flight on each queue")
	f.IntVar(&cfg.Queues, "queues", 1, "I/O queue pairs or sessions, each a connection")
	f.DurationVar(&cfg.Time, "time", 10*time.Second, "how long to measure")
	f.StringVar(&span, "span", "0", "use only this much of the namespace's beginning; 0 is all")
	f.BoolVar(&cfg.Verify, "verify", false, "write a pattern and check everything that is read")
	f.BoolVar(&cfg.Multipath, "multipath", false, "go on when the connection is lost; implied by several URLs")
	f.BoolVar(&cfg.RoundRobin, "round-robin", false, "with several URLs: take turns between equally good ways")
	f.DurationVar(&cfg.Timeout, "timeout", 15*time.Second, "with several URLs: give a way up that does not answer for so long; iSCSI: abort a task that does not")
	f.BoolVar(&cfg.Force, "force", false, "write although there seems to be a file system or a partition table")
	f.StringVar(&cfg.Host, "host", "", "connect as the host of this `NAME`, an NQN or IQN, where not any host is allowed")
	f.StringVar(&cfg.CHAP.User, "user", "", "iSCSI: the `name` for CHAP; without, that of the initiator")
	f.StringVar(&secret, "secret-file", "", "iSCSI: `file` with the secret for CHAP; - is standard input")
	f.StringVar(&cfg.CHAP.MutualUser, "mutual-user", "", "iSCSI: the `name` that the target must prove")
	f.StringVar(&mutual, "mutual-secret-file", "", "iSCSI: `file` with the secret that the target must prove to know")
	f.Uint64Var(&cfg.Seed, "seed", 1, "of offsets and patterns")
	return c
}

// benchCHAP completes how an initiator proves who it is: secrets come from files, or from the environment.
func benchCHAP(c *cobra.Command, chap iscsihost.CHAP, file, mutualFile string) (iscsihost.CHAP, error) {
	var err error
	if chap.Secret, err = secretFrom(c, file); err != nil {
		return chap, err
	}
	if chap.MutualSecret, err = secretFrom(c, mutualFile); err != nil {
		return chap, err
	}
	chap.User = cmp.Or(chap.User, os.Getenv("MOORING_CHAP_USER"))
	chap.Secret = cmp.Or(chap.Secret, os.Getenv("MOORING_CHAP_SECRET"))
	chap.MutualSecret = cmp.Or(chap.MutualSecret, os.Getenv("MOORING_CHAP_MUTUAL_SECRET"))
	if err := chap.Check(); err != nil {
		return chap, &usageError{err}
	}
	return chap, nil
}

// checkBench refuses values that package bench would take for "the default".
func checkBench(cfg *bench.Config, c *cobra.Command) error {
	for _, f := range []struct {
		name string
		ok   bool
		want string
	}{
		{"mix", cfg.Mix >= 0 && cfg.Mix <= 100, "a percentage"},
		{"bs", cfg.BlockBytes >= 512 && cfg.BlockBytes <= 64<<20 && cfg.BlockBytes%512 == 0, "a multiple of 512, up to 64MiB"},
		{"qd", cfg.QueueDepth >= 1 && cfg.QueueDepth <= 65_535, "from 1 to 65535"},
		{"queues", cfg.Queues >= 1 && cfg.Queues <= 65_535, "from 1 to 65535"},
		{"time", cfg.Time > 0, "more than nothing, such as 10s"},
		{"seed", cfg.Seed > 0, "a number from 1"},
	} {
		if !f.ok {
			return fmt.Errorf("-%s must be %s; it is %s", f.name, f.want, c.Flag(f.name).Value)
		}
	}
	if cfg.Mix == 0 { // none reads
		switch cfg.RW {
		case "randrw":
			cfg.RW = "randwrite"
		case "rw":
			cfg.RW = "write"
		}
	}
	return nil
}

// agentPIDs are the processes of the agent on this machine, if there is one.
func agentPIDs(c *cobra.Command, g *globals) []int {
	var s admin.Status
	if g.client().Do(c.Context(), "GET", "/v1/status", nil, &s) != nil {
		return nil
	}
	pids := []int{s.PID}
	for _, p := range s.Plugins {
		if p.PID != 0 {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

func printBench(c *cobra.Command, r *bench.Result, cpu bool) {
	w := c.OutOrStdout()
	line := func(name string, f bench.Figures) {
		if f.IOs == 0 {
			return
		}
		fmt.Fprintf(w, "%-6s %10.0f IOPS %9.1f MiB/s   latency µs: mean %.1f  p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n",
			name, f.IOPS, f.MiBPerSecond, f.Latency.Mean, f.Latency.P50, f.Latency.P99, f.Latency.P999, f.Latency.Max)
	}
	line("read", r.Read)
	line("write", r.Write)
	if r.Read.IOs > 0 && r.Write.IOs > 0 {
		line("total", r.Total)
	}
	if cpu {
		fmt.Fprintf(w, "target %10.2f CPU s, %.2f µs per I/O\n", r.TargetCPU, r.TargetPerIO)
	}
	if r.Verified > 0 || r.VerifyErrors > 0 {
		fmt.Fprintf(w, "verify %10s blocks, %d wrong\n", strconv.FormatUint(r.Verified, 10), r.VerifyErrors)
	}
	for _, m := range r.Mismatches {
		fmt.Fprintln(w, "wrong: ", m)
	}
	for s, n := range r.ErrorCounts {
		fmt.Fprintf(w, "errors: %s × %d\n", s, n)
	}
}
