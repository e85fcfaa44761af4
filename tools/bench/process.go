package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pinning says on which CPU each role runs; -1 is any.
type pinning struct {
	Target int // the target's processes, and fio, which does a target's work
	Host   int // the load generator
	Nice   int // of all of them; below 0, which takes root, others on the machine disturb them less
}

// defaults fills in what is -2: the same for everybody that is compared, and apart from the load if there are two CPUs.
func (p *pinning) defaults() {
	target, host := 0, 1
	if runtime.NumCPU() < 2 {
		target, host = -1, -1
	}
	if p.Target == -2 {
		p.Target = target
	}
	if p.Host == -2 {
		p.Host = host
	}
}

func cpuName(cpu int) string {
	if cpu < 0 {
		return "any CPU"
	}
	return "CPU " + strconv.Itoa(cpu)
}

// start starts cmd, and with it all that it will start, on one CPU.
func (p pinning) start(cmd *exec.Cmd, cpu int) error {
	started := make(chan error, 1)
	go func() {
		// A child inherits affinity and priority of the thread that forks it. This one ends with its goroutine.
		runtime.LockOSThread()
		started <- p.startHere(cmd, cpu)
	}()
	return <-started
}

func (p pinning) startHere(cmd *exec.Cmd, cpu int) error {
	if cpu >= 0 {
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("pin to CPU %d: %w", cpu, err)
		}
	}
	if p.Nice != 0 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, p.Nice); err != nil {
			return fmt.Errorf("take the priority %d: %w", p.Nice, err)
		}
	}
	return cmd.Start()
}

func (p pinning) run(cmd *exec.Cmd, cpu int) error {
	if err := p.start(cmd, cpu); err != nil {
		return err
	}
	return cmd.Wait()
}

// goEnvironment is for Go programs that are pinned: with one CPU to see, the runtime would run Go code on one thread only,
// which it would not do on the machine as it is.
func (p pinning) goEnvironment() []string {
	env := os.Environ()
	if os.Getenv("GOMAXPROCS") == "" && p.Target >= 0 {
		env = append(env, fmt.Sprintf("GOMAXPROCS=%d", runtime.NumCPU()))
	}
	return env
}

// family returns a process and all its descendants.
func family(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid; the name may contain anything. proc(5)
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		own, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || len(f) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(f[1])); err == nil {
			children[parent] = append(children[parent], own)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// cpuTime is the user and system time of processes; those that are gone count nothing.
func cpuTime(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		var ts unix.Timespec
		if unix.ClockGettime(int32(^pid<<3|2), &ts) == nil { // clock_getcpuclockid(3)
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}

// memory is the resident memory of processes in bytes: the sum of what each has, and with shared pages divided among those
// who share them.
func memory(pids []int) (rss, pss int64) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) != 3 {
				continue
			}
			n, _ := strconv.ParseInt(f[1], 10, 64) // a header line, which has no number, counts nothing
			switch f[0] {
			case "Rss:":
				rss += n << 10
			case "Pss:":
				pss += n << 10
			}
		}
	}
	return rss, pss
}

// child is a target's process.
type child struct {
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
	err   error // valid when ended is closed
}

// startChild starts a target with its output, but for stdout if that is set, in a file in dir.
func (p pinning) startChild(cmd *exec.Cmd, dir string) (*child, error) {
	log, err := os.Create(filepath.Join(dir, filepath.Base(cmd.Path)+".log"))
	if err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	c := &child{cmd: cmd, log: log, ended: make(chan struct{})}
	// It must not outlive this program, nor get its signals from the terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.start(cmd, p.Target); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// stop ends the process in order, and by force after a minute.
func (c *child) stop() error {
	defer c.log.Close()
	_ = c.cmd.Process.Signal(syscall.SIGCONT) // fails only when it has ended
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		_ = c.cmd.Process.Kill()
		<-c.ended
		return fmt.Errorf("%s did not end within a minute", c.cmd.Path)
	}
	return nil
}

// trouble explains why a process is not what it should be.
func (c *child) trouble(why error) error {
	b, err := os.ReadFile(c.log.Name())
	if err != nil {
		return errors.Join(why, err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Errorf("%s: %w; its last words:\n%s", c.cmd.Path, why, strings.Join(lines[max(0, len(lines)-10):], "\n"))
}
