package agent

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
)

// What -dev serves.
const (
	DevListen      = "nvme-tcp://127.0.0.1:4420"
	DevListenISCSI = "iscsi://127.0.0.1:3260"
	DevSubsystem   = "nqn.2026-11.io.mooring:dev"
	DevTarget      = "iqn.2026-11.io.mooring:dev"
	devVolume      = "dev"
	devBytes       = 1 << 30
)

// devConfig is the configuration of a node to try things with.
func (a *agent) devConfig() error {
	dir := a.o.DataDir
	if dir == "" {
		tmp, err := os.MkdirTemp("", "mooring-dev-")
		if err != nil {
			return fmt.Errorf("make a folder for temporary data: %w", err)
		}
		dir, a.temp = tmp, tmp
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	src := fmt.Sprintf("data_dir = %q\nnode {\n  name = \"dev\"\n}\n", dir)
	if a.cfg, err = config.Parse([]byte(src), filepath.Join(dir, "dev.hcl")); err != nil {
		return err
	}
	a.cfg.Log.Level = "warn"
	a.cfg.Admin.Metrics = "127.0.0.1:0" // the fixed port is that of a node with a file
	listen := a.o.Listen
	if len(listen) == 0 {
		listen = []string{DevListen, DevListenISCSI}
	}
	for _, l := range listen {
		if err := config.CheckListen(l); err != nil {
			return fmt.Errorf("-listen: %w", err)
		}
	}
	a.o.Listen = listen
	return nil
}

// greet prints what to type next.
func (a *agent) greet() {
	w := a.o.Stdout
	fmt.Fprintf(w, "\nnode %s, version %s\n  data      %s (%s)\n", a.node.Name, a.o.Version, a.cfg.DataDir, a.dataNote())
	for _, l := range a.Listeners() {
		if l.State != "up" {
			fmt.Fprintf(w, "  NOT listening at %s: %s%s\n", l.URL, l.State, listenHint(l.State))
			continue
		}
		fmt.Fprintf(w, "  listening %s\n", l.URL)
		for _, o := range a.offers() {
			for _, line := range connectLines(l.URL, o) {
				fmt.Fprintf(w, "    %s\n", line)
			}
		}
		if !loopback(l.URL) {
			fmt.Fprintf(w, "  WARNING: %s is not on loopback, and there is no authentication yet: whoever reaches it can\n           read and write the volumes of every host name he gives. Trusted networks only.\n", l.URL)
		}
	}
	fmt.Fprintf(w, "  control   %s -socket %s status\n", os.Args[0], a.cfg.Admin.Socket)
	if a.metrics != "" {
		fmt.Fprintf(w, "  metrics   http://%s/metrics\n", a.metrics)
	}
	for _, n := range a.notes() {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
	fmt.Fprintf(w, "  stop      Ctrl-C, or kill %d\n", os.Getpid())
	if a.temp == "" {
		fmt.Fprintf(w, "  reset     stop it, then rm -r %s\n", a.cfg.DataDir)
	}
	fmt.Fprintln(w)
}

func (a *agent) dataNote() string {
	if a.temp != "" {
		return "temporary: removed at the end"
	}
	return "kept"
}

// connectLines are the commands that connect a host to one subsystem or target at one address.
func connectLines(listen string, o offer) []string {
	u, err := url.Parse(listen)
	if err != nil {
		return nil
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "ADDRESS"
	}
	address := net.JoinHostPort(host, u.Port())
	if u.Scheme == iscsiScheme && o.protocol == meta.ISCSI {
		lines := []string{
			"iscsiadm -m discovery -t sendtargets -p " + address,
			fmt.Sprintf("iscsiadm -m node -T %s -p %s --login", o.name, address),
		}
		if o.anyHost && o.first != 0 {
			lines = append(lines, fmt.Sprintf("qemu-img info iscsi://%s/%s/%d   # without kernel iSCSI", address, o.name, meta.LUNOf(o.first)))
		}
		return lines
	}
	transport, ok := strings.CutPrefix(u.Scheme, "nvme-")
	if !ok || o.protocol != meta.NVMe {
		return nil
	}
	lines := []string{fmt.Sprintf("nvme connect -t %s -a %s -s %s -n %s", transport, host, u.Port(), o.name)}
	if transport == "tcp" && o.anyHost && o.first != 0 {
		lines = append(lines, fmt.Sprintf("%s bench '%s://%s/%s?ns=%d' -rw randread -qd 32   # without kernel NVMe/TCP", os.Args[0], u.Scheme, address, o.name, o.first))
	}
	return lines
}

const iscsiScheme = "iscsi"

func loopback(listen string) bool {
	u, err := url.Parse(listen)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return ip != nil && ip.IsLoopback() || u.Hostname() == "localhost"
}
