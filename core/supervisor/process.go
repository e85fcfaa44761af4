package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk"
)

// grandchildGrace is how long pipes may stay open after a plugin's death: a process
// that it left behind could hold them for ever.
const grandchildGrace = 500 * time.Millisecond

// process runs one plugin file for go-plugin. What is executed is the open file that
// was checked against the catalog, not whatever has its name a moment later; that
// also spares a plugin under its own user the right to reach the directory.
//
// It is started on a locked operating system thread, since the kernel kills the
// plugin when the thread that forked it ends.
type process struct {
	name  string
	path  string // as registered
	file  *os.File
	env   []string // of go-plugin
	level string   // lowest log level of interest
	user  *user    // nil: the core's
	dir   string   // private socket directory; removed by go-plugin or by close
	log   *logbook

	cmd     *exec.Cmd
	socket  int // core's end of the descriptor socket; -1: none, or handed over
	stdout  *os.File
	stderr  *os.File
	readers sync.WaitGroup

	mu     sync.Mutex // guards what follows
	pid    int        // 0: not started
	doomed bool       // to be killed as soon as it is started
	gone   bool       // about to be reaped: its number may be another's soon

	dead    chan struct{} // closed when the process is reaped
	waitErr error         // set before dead is closed
}

// newProcess owns file from here on.
func newProcess(name, path string, file *os.File, u *user, log *logbook) *process {
	return &process{name: name, path: path, file: file, user: u, log: log, level: log.core.GetLevel().String(), socket: -1, dead: make(chan struct{})}
}

var _ runner.Runner = (*process)(nil)

// passedOn are the variables that plugins get from the core's environment.
var passedOn = []string{"PATH", "LANG", "LC_ALL", "TZ", "GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GOCOVERDIR"}

func (p *process) Start(context.Context) error {
	fd, err := unix.FcntlInt(p.file.Fd(), unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		return fmt.Errorf("duplicate descriptor of plugin file: %w", err)
	}
	defer unix.Close(fd)
	sockets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("descriptor socket: %w", err)
	}
	p.socket = sockets[0]
	theirs := os.NewFile(uintptr(sockets[1]), "descriptors")
	defer theirs.Close()

	var outW, errW *os.File
	if p.stdout, outW, err = os.Pipe(); err != nil {
		return err
	}
	defer outW.Close()
	if p.stderr, errW, err = os.Pipe(); err != nil {
		return err
	}
	defer errW.Close()

	p.cmd = &exec.Cmd{
		// Descriptor 100 and above stays where it is between fork and exec.
		Path: "/proc/self/fd/" + strconv.Itoa(fd), Args: []string{p.path},
		Env: p.environ(), Dir: "/",
		Stdout: outW, Stderr: errW, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if p.user != nil {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.user.uid, Gid: p.user.gid}
	}
	if err := p.cmd.Start(); err != nil {
		return p.explainStart(err)
	}
	p.mu.Lock()
	p.pid = p.cmd.Process.Pid
	doomed := p.doomed
	p.mu.Unlock()
	p.readers.Go(func() { p.log.read(p.stderr) })
	go p.reap()
	if doomed {
		p.kill()
	}
	return nil
}

func (p *process) environ() []string {
	env := append([]string{}, p.env...)
	for _, key := range passedOn {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return append(env, sdk.EnvDescriptorFD+"=3", sdk.EnvLogLevel+"="+p.level, "HOME=/", "TMPDIR="+p.dir)
}

func (p *process) explainStart(err error) error {
	switch {
	case errors.Is(err, syscall.EACCES) && p.user != nil:
		return fmt.Errorf("start %s as user %d: %w: let everybody execute it (chmod o+rx), on a file system without noexec", p.path, p.user.uid, err)
	case errors.Is(err, syscall.EPERM) && p.user != nil:
		return fmt.Errorf("start %s as user %d: %w: this environment does not let the core change users", p.path, p.user.uid, err)
	case errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("start %s: %w: it is no program for this machine", p.path, err)
	}
	return fmt.Errorf("start %s: %w", p.path, err)
}

// reap waits for the end of the process, ends what it left behind in its process
// group, and closes dead.
func (p *process) reap() {
	defer close(p.dead)
	pid := p.cmd.Process.Pid
	for {
		// Not reaped yet, so that the group's number cannot be another's.
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	p.mu.Lock()
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	p.gone = true
	p.mu.Unlock()
	p.waitErr = p.cmd.Wait()
	// Readers end by themselves unless somebody else holds the pipes.
	cut := time.AfterFunc(grandchildGrace, func() { p.stdout.Close(); p.stderr.Close() })
	p.readers.Wait()
	if cut.Stop() {
		p.stderr.Close()
		_ = p.stdout.SetReadDeadline(time.Now().Add(grandchildGrace)) // go-plugin's
	}
}

// kill ends the process and all of its group, now or as soon as it is started. It
// does not wait.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doomed = true
	if p.pid != 0 && !p.gone {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it is dead if it cannot be killed
	}
}

// started says whether there is or was a process; if so, dead will be closed.
func (p *process) started() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid != 0
}

// wasKilled says that it is kill that the process died of. It must be dead.
func (p *process) wasKilled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e *exec.ExitError
	return p.doomed && errors.As(p.waitErr, &e) && e.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// close releases what is left once the process is dead, or was not started.
func (p *process) close() {
	p.file.Close()
	if p.socket >= 0 {
		unix.Close(p.socket)
		p.socket = -1
	}
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			f.Close()
		}
	}
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

// descriptors is the core's end of the descriptor socket; the caller owns it.
func (p *process) descriptors() (*net.UnixConn, error) {
	f := os.NewFile(uintptr(p.socket), "descriptors of "+p.name)
	p.socket = -1
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor socket: %w", err)
	}
	return c.(*net.UnixConn), nil
}

// exitReason says how the process ended, once it is dead.
func (p *process) exitReason() string {
	reason := "exited with status 0"
	var e *exec.ExitError
	if errors.As(p.waitErr, &e) {
		if ws := e.Sys().(syscall.WaitStatus); ws.Signaled() {
			reason = "killed by signal " + unix.SignalName(ws.Signal())
		} else {
			reason = fmt.Sprintf("exited with status %d", ws.ExitStatus())
		}
	} else if p.waitErr != nil {
		reason = p.waitErr.Error()
	}
	if words := p.log.panicLine(); words != "" {
		reason += ": " + words
	}
	return reason
}

// The rest is what go-plugin asks of a runner.

func (p *process) Wait(context.Context) error {
	<-p.dead
	return nil // its log line about the status is ours to write
}

func (p *process) Kill(context.Context) error {
	p.kill()
	return nil
}

func (p *process) Stdout() io.ReadCloser { return p.stdout }

// Stderr is empty: the supervisor reads the plugin's log itself.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(bytes.NewReader(nil)) }

func (p *process) Name() string { return p.name }

func (p *process) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return ""
	}
	return strconv.Itoa(p.pid)
}

func (p *process) Diagnose(context.Context) string {
	return "It must call sdk.Serve, and print nothing to standard output before."
}

// PluginToHost lets the core connect to nothing but the plugin's own sockets.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(filepath.Clean(address)) != p.dir || strings.Contains(address, "\x00") {
		return "", "", fmt.Errorf("the plugin listens on %s %q, which is not in its own directory", network, address)
	}
	return network, address, nil
}

func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
