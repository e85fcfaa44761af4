// Command bench measures Mooring beside something else in one run and prints what it found as ratios. It owns the
// choice of loads, the taking of turns, and the report. It does not own the load itself (package sdk/bench,
// fio), nor any peer: those are programs on the machine that it is told of.
//
// docs/performance.md says how to run it and keeps the last table.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// options are what the command line and the environment say.
type options struct {
	Pairs   int           // of measurements per row
	Time    time.Duration // of one measurement
	Idle    time.Duration // of one look at an idle node
	Size    int64         // of every volume and file, in bytes
	Dir     string        // on the disk to measure
	MemDir  string        // on tmpfs
	Only    *regexp.Regexp
	Output  string
	Doc     string
	From    string // reports to print instead of measuring
	Mooring string // the binary
	SPDK    string // path of an nvmf_tgt; "" is none
	Pinning pinning
	Keep    bool
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == loadCommand {
		exit(runLoad(os.Stdin, os.Stdout))
	}
	o, list, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if list {
		for _, r := range rows() {
			fmt.Printf("%-28s %s\n", r.ID, r.Title)
		}
		return
	}
	if o.From != "" {
		exit(render(o))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse() (o options, list bool, err error) {
	var only string
	var quick bool
	flag.IntVar(&o.Pairs, "pairs", 9, "measure each side of a row this `often`, by turns")
	flag.DurationVar(&o.Time, "time", 3*time.Second, "how long one measurement takes")
	flag.DurationVar(&o.Idle, "idle", 20*time.Second, "how long an idle node is watched, each of three times")
	flag.BoolVar(&quick, "quick", false, "3 pairs of 1 s: to see that it works, not to quote")
	flag.Int64Var(&o.Size, "size", 1<<30, "`bytes` of each volume and file")
	flag.StringVar(&o.Dir, "dir", os.Getenv("BENCH_DIR"), "`folder` on the disk to measure (default: the one for temporary files; BENCH_DIR)")
	flag.StringVar(&o.MemDir, "mem-dir", "/dev/shm", "`folder` on tmpfs, for the rows in memory")
	flag.StringVar(&only, "only", "", "only the rows whose name matches this `regexp`")
	flag.BoolVar(&list, "list", false, "list the rows")
	flag.StringVar(&o.Output, "o", "markdown", "markdown or json")
	flag.StringVar(&o.Doc, "doc", "", "also put the table into this `file`, between its bench marks")
	flag.StringVar(&o.From, "from", "", "measure nothing: print these reports of -o json, `a.json,b.json…`, as one, under the first's conditions")
	flag.StringVar(&o.Mooring, "mooring", "bin/mooring", "the `binary` to measure")
	flag.StringVar(&o.SPDK, "spdk", os.Getenv("MOORING_BENCH_SPDK"), "`path` of SPDK's nvmf_tgt (MOORING_BENCH_SPDK); rows against it are skipped without")
	flag.IntVar(&o.Pinning.Target, "target-cpu", -2, "CPU of targets and of fio; -1 is any (default 0, any on a single CPU)")
	flag.IntVar(&o.Pinning.Host, "host-cpu", -2, "CPU of the load generator; -1 is any (default 1, any on a single CPU)")
	flag.IntVar(&o.Pinning.Nice, "nice", 0, "scheduling `priority` of both sides, for a machine that others use")
	flag.BoolVar(&o.Keep, "keep", false, "leave the folders of the targets behind")
	flag.Parse()
	if flag.NArg() > 0 {
		return o, list, fmt.Errorf("argument %q is not known", flag.Arg(0))
	}
	if quick {
		o.Pairs, o.Time, o.Idle = 3, time.Second, 5*time.Second
	}
	if o.Output != "markdown" && o.Output != "json" {
		return o, list, fmt.Errorf("-o is markdown or json, not %q", o.Output)
	}
	if o.Pairs < 1 || o.Time < 100*time.Millisecond || o.Size < 64<<20 || o.Size%(1<<20) != 0 {
		return o, list, errors.New("at least 1 pair, 100ms and 64 MiB; the size in whole MiB")
	}
	o.Pinning.defaults()
	if o.Only, err = regexp.Compile(only); err != nil {
		return o, list, err
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	for _, p := range []*string{&o.Dir, &o.MemDir, &o.Mooring} {
		if *p, err = filepath.Abs(*p); err != nil {
			return o, list, err
		}
	}
	return o, list, nil
}

func run(ctx context.Context, o options) (err error) {
	b := &harness{options: o}
	defer func() { err = errors.Join(err, b.stop()) }()
	rep := report{Conditions: conditions(ctx, o)}
	for _, r := range rows() {
		if !o.Only.MatchString(r.ID) {
			continue
		}
		err := r.measure(ctx, b, &rep)
		var missing *missingError
		switch {
		case errors.As(err, &missing):
			fmt.Fprintf(os.Stderr, "%s: skipped: %v\n", r.ID, err)
			rep.Skipped = append(rep.Skipped, skipped{r.ID, r.Title, missing.Error()})
			continue
		case err != nil:
			return fmt.Errorf("row %s: %w", r.ID, err)
		}
	}
	rep.Conditions.finish(b)
	return rep.print(o)
}

// render prints reports of former runs.
func render(o options) error {
	var rep report
	for i, path := range strings.Split(o.From, ",") {
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var r report
		if err := json.Unmarshal(src, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if i == 0 {
			rep.Conditions = r.Conditions
		}
		rep.Rings = append(rep.Rings, r.Rings...)
		rep.Pairs = append(rep.Pairs, r.Pairs...)
		rep.Idles = append(rep.Idles, r.Idles...)
		rep.Skipped = append(rep.Skipped, r.Skipped...)
	}
	return rep.print(o)
}

func (rep *report) print(o options) error {
	if o.Output == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(rep); err != nil {
			return err
		}
	} else {
		rep.markdown(os.Stdout)
	}
	if o.Doc != "" {
		return rep.intoDocument(o.Doc)
	}
	return nil
}

// missingError says what a row needs that this machine does not have.
type missingError struct{ what string }

func (e *missingError) Error() string { return e.what }
