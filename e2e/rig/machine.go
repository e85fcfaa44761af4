package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	defaultMemory  = 2048 // MiB
	defaultTimeout = 15 * time.Minute
	processors     = 2
	consoleTail    = 25       // lines of console quoted in an error
	maxLine        = 64 << 10 // bytes of one console or status line
)

// Config describes one boot.
type Config struct {
	Image  Image
	Script string // path of the script on this machine; it runs under sh with Env set
	// Files maps a path in the guest to the file of this machine that is copied there, with its permissions.
	Files map[string]string
	Env   map[string]string
	// Results is an existing folder of this machine that the guest sees as /results.
	Results    string
	Disks      []Disk // /dev/vda, /dev/vdb ...
	Memory     int    // MiB; 0 means 2048
	KernelArgs []string
	Console    io.Writer     // gets whole lines of the console; nil discards them
	OnStatus   func(string)  // called by one goroutine for each line that the script writes to /dev/ttyS1; may be nil
	Timeout    time.Duration // from boot to the script's end; 0 means three minutes
}

// ErrTimeout says that the script had not ended in time.
var ErrTimeout = errors.New("the guest's script has not ended in time")

// ExitError is the non-zero exit status of a guest's script.
type ExitError struct{ Status int }

func (e *ExitError) Error() string {
	return fmt.Sprintf("the guest's script ended with status %d", e.Status)
}

// Machine is one running guest. Its methods may be called from any goroutine.
type Machine struct {
	cfg      Config
	dir      string // sockets and the initial file system; removed at the end
	cancel   context.CancelFunc
	qemu     *exec.Cmd
	disks    []*diskServer
	listener net.Listener
	done     chan struct{} // closed when everything has ended and err is set
	err      error

	mu     sync.Mutex
	cut    bool     // CutPower was called
	status int      // of the script; -1 until reported
	tail   []string // last console lines
	bad    complaints
}

// Start boots a machine. When ctx ends the machine is killed. The caller must call Wait or CutPower.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	built, err := cfg.Image.build()
	if err != nil {
		return nil, fmt.Errorf("build guest image: %w", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Memory == 0 {
		cfg.Memory = defaultMemory
	}
	if cfg.Console == nil {
		cfg.Console = io.Discard
	}
	dir, err := os.MkdirTemp("", "rig-") // short, for socket paths
	if err != nil {
		return nil, err
	}
	m := &Machine{cfg: cfg, dir: dir, done: make(chan struct{}), status: -1}
	if err := m.start(ctx, built); err != nil {
		m.abandon()
		return nil, err
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context, built builtImage) (err error) {
	initrd := filepath.Join(m.dir, "initrd")
	if err := m.writeInitrd(initrd, built.archive); err != nil {
		return fmt.Errorf("write initial file system: %w", err)
	}
	args := m.baseArgs(built.kernel, initrd)
	for i, disk := range m.cfg.Disks {
		drive, server, err := disk.attach(m.dir, i)
		if err != nil {
			return err
		}
		if server != nil {
			m.disks = append(m.disks, server)
		}
		args = append(args, "-drive", drive)
	}
	statusPath := filepath.Join(m.dir, "status")
	if m.listener, err = net.Listen("unix", statusPath); err != nil {
		return err
	}
	args = append(args, "-chardev", "socket,id=status,path="+statusPath, "-serial", "chardev:status")

	ctx, m.cancel = context.WithTimeoutCause(ctx, m.cfg.Timeout, ErrTimeout)
	program, err := lookPath("qemu-system-x86_64")
	if err != nil {
		return err
	}
	m.qemu = exec.CommandContext(ctx, program, args...)
	m.qemu.SysProcAttr = ownGroup()
	console, consoleEnd := io.Pipe()
	m.qemu.Stdout, m.qemu.Stderr = consoleEnd, consoleEnd // one writer: os/exec serialises
	if err := m.qemu.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	go m.supervise(ctx, console, consoleEnd)
	return nil
}

// ownGroup makes a child that does not get the terminal's signals and dies with this process.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func (m *Machine) baseArgs(kernel, initrd string) []string {
	kernelArgs := []string{
		"console=ttyS0", "loglevel=5", "panic=-1", "oops=panic",
		"tsc=reliable", "no_timer_check", // else slow boots and slow clocks under emulation
		"nowatchdog", "rcupdate.rcu_cpu_stall_suppress=1", // a busy machine is not a kernel bug
		"mitigations=off", "random.trust_cpu=on", "cryptomgr.notests",
	}
	kernelArgs = append(kernelArgs, m.cfg.KernelArgs...)
	return []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", strconv.Itoa(processors),
		"-m", strconv.Itoa(m.cfg.Memory), "-nodefaults", "-nic", "none", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", strings.Join(kernelArgs, " "),
		"-virtfs", "local,path=" + m.cfg.Results + ",mount_tag=results,security_model=none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
	}
}

// writeInitrd puts the case's own archive behind the image's: the kernel unpacks one after the other.
func (m *Machine) writeInitrd(path, image string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	base, err := os.Open(image)
	if err != nil {
		return err
	}
	defer base.Close()
	if _, err := io.Copy(f, base); err != nil {
		return err
	}
	c := newCpioWriter(f)
	var env strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.cfg.Env)) {
		fmt.Fprintf(&env, "export %s='%s'\n", name, strings.ReplaceAll(m.cfg.Env[name], "'", `'\''`))
	}
	c.text("rig/env", 0o644, env.String())
	c.hostFile("rig/case.sh", m.cfg.Script)
	for _, guest := range slices.Sorted(maps.Keys(m.cfg.Files)) {
		c.hostFile(guest, m.cfg.Files[guest])
	}
	return c.close()
}

// supervise owns everything of a running machine until its end: it joins the readers and the processes.
func (m *Machine) supervise(ctx context.Context, console io.ReadCloser, consoleEnd io.Closer) {
	defer close(m.done)
	var readers sync.WaitGroup
	readers.Go(func() { readLines(console, m.consoleLine, true) })
	readers.Go(func() {
		conn, err := m.listener.Accept()
		if err != nil {
			return // QEMU ended before it connected
		}
		defer conn.Close()
		readLines(conn, m.statusLine, false)
	})
	waitErr := m.qemu.Wait()
	cause := context.Cause(ctx)
	m.cancel()
	consoleEnd.Close()
	m.listener.Close()
	readers.Wait()
	for _, d := range m.disks {
		d.kill()
		d.wait()
	}
	m.err = m.verdict(waitErr, cause)
	if err := os.RemoveAll(m.dir); err != nil && m.err == nil {
		m.err = err
	}
}

// readLines hands each line of r to fn without its end; a longer line than maxLine comes in pieces. A last line that
// was cut off is handed over only if partial is set.
func readLines(r io.Reader, fn func(string), partial bool) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 && (partial || line[len(line)-1] == '\n') {
			fn(strings.TrimRight(string(line), "\r\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// complaint matches what the kernel prints when something is wrong with it, behind its time stamp.
var complaint = regexp.MustCompile(`\[ *\d+\.\d+\].*(WARNING: |BUG: |BUG kmalloc|Oops|Kernel panic|general protection fault|` +
	`UBSAN: |blocked for more than \d+ seconds|possible recursive locking|Out of memory: )`)

// harmless matches what the kernel says before a warning that is Linux's own: when an iSCSI session ends while the power management of
// its target has work queued, it finds that one of its work queues waits for another kind.
var harmless = regexp.MustCompile(`workqueue: WQ_MEM_RECLAIM iscsi_ctrl_\S+:__iscsi_unbind_session \S+ is flushing !WQ_MEM_RECLAIM pm:pm_runtime_work`)

// complaints collects what the kernel is not content with.
type complaints struct {
	found  []string
	before string // the last line
}

func (c *complaints) read(line string) {
	if complaint.MatchString(line) && !(strings.Contains(line, "check_flush_dependency") && harmless.MatchString(c.before)) {
		c.found = append(c.found, line)
	}
	c.before = line
}

func (m *Machine) consoleLine(line string) {
	m.mu.Lock()
	if len(m.tail) == consoleTail {
		m.tail = m.tail[1:]
	}
	m.tail = append(m.tail, line)
	m.bad.read(line)
	m.mu.Unlock()
	fmt.Fprintln(m.cfg.Console, line)
}

func (m *Machine) statusLine(line string) {
	if text, ok := strings.CutPrefix(line, "rig: exit "); ok {
		if status, err := strconv.Atoi(text); err == nil {
			m.mu.Lock()
			m.status = status
			m.mu.Unlock()
			m.kill() // nothing is left to do in the guest
		}
		return
	}
	if m.cfg.OnStatus != nil && line != "" {
		m.cfg.OnStatus(line)
	}
}

// verdict judges a machine that has ended; everything that writes its fields has been joined.
func (m *Machine) verdict(waitErr, cause error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cut {
		return nil
	}
	bad := slices.Concat(m.bad.found, complaintsIn(filepath.Join(m.cfg.Results, "dmesg")))
	switch {
	case len(bad) > 0:
		return fmt.Errorf("the guest's kernel complains: %s", strings.Join(slices.Compact(bad), "\n"))
	case m.status > 0:
		return &ExitError{Status: m.status}
	case m.status == 0:
		return nil
	case cause != nil:
		return fmt.Errorf("%w; the console ends with:\n%s", cause, strings.Join(m.tail, "\n"))
	default:
		return fmt.Errorf("QEMU ended before the script did (%v); the console ends with:\n%s", waitErr, strings.Join(m.tail, "\n"))
	}
}

// complaintsIn looks through the messages that the guest left behind: the console leaves out the lesser ones.
func complaintsIn(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // a guest that never came so far
	}
	var bad complaints
	for line := range strings.Lines(string(text)) {
		bad.read(strings.TrimSpace(line))
	}
	return bad.found
}

// Wait blocks until the script has ended and nothing of the machine is left. It returns nil when the script's status
// was 0 and the kernel had nothing to complain of, else an *ExitError, ErrTimeout or what went wrong. After CutPower
// it returns nil.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// CutPower ends the machine and its disks at once, as a power failure would: what a forgetful Disk was not told to
// flush is gone. Everything that the guest had sent to the status port before has been passed on when it returns.
func (m *Machine) CutPower() {
	m.mu.Lock()
	m.cut = true
	m.mu.Unlock()
	m.kill()
	<-m.done
}

// kill ends the disks first, so that QEMU cannot hand them anything more.
func (m *Machine) kill() {
	for _, d := range m.disks {
		d.kill()
	}
	if m.cancel != nil {
		m.cancel()
	}
}

// abandon cleans up after a start that failed before there was anything to supervise.
func (m *Machine) abandon() {
	m.kill()
	if m.listener != nil {
		m.listener.Close()
	}
	for _, d := range m.disks {
		d.wait()
	}
	os.RemoveAll(m.dir) // a left-over costs only space
}
