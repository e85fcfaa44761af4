package node

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// bench does not write over what looks like a file system unless it is told to.
func TestBenchSparesFileSystems(t *testing.T) {
	a := start(t, 1, "-dev")
	bench := func(code int, args ...string) {
		t.Helper()
		out, err := a.mooring(append([]string{"bench", "nvme-tcp://" + a.addresses[0] + "/" + devNQN, "-time", "100ms", "-span", "1MiB"}, args...)...)
		exit := new(exec.ExitError)
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := exit.ProcessState.ExitCode(); err != nil && got != code || err == nil && code != 0 {
			t.Errorf("%q: exit code %d, want %d\n%s", args, got, code, out)
		}
		if code != 0 && !strings.Contains(out, "ext4") {
			t.Errorf("%q does not say what is there\n%s", args, out)
		}
	}
	bench(0, "-rw", "randrw", "-verify") // there is nothing yet
	host := a.connect(0, nvmehost.Options{Queues: 1})
	block := make([]byte, 4096)
	copy(block[0x438:], "\x53\xef")
	if err := host.Write(a.ctx, 1, 0, block, false); err != nil {
		t.Fatal(err)
	}
	bench(2, "-rw", "randwrite")
	bench(2, "-rw", "randread", "-verify")
	bench(0, "-rw", "randread")
	bench(0, "-rw", "randwrite", "-force")
}

// Names of objects are completed, those of things to be made are not.
func TestCompletion(t *testing.T) {
	a := start(t, 1, "-dev")
	for _, c := range []struct {
		args string
		want []string
	}{
		{"volume show ", []string{"dev"}},
		{"volume create ", nil},
		{"subsystem show ", []string{devNQN}},
		{"namespace detach ", []string{devNQN}},
		{"namespace attach x -volume ", []string{"dev"}},
		{"store drain ", []string{"main"}},
		{"plugin logs ", []string{"frontend-iscsi", "policy-inherit", "transport-tcp"}},
	} {
		out, err := a.mooring(append([]string{"__complete"}, strings.Split(c.args, " ")...)...)
		got, _, _ := strings.Cut("\n"+out, "\n:")
		if names := strings.Fields(got); err != nil || strings.Join(names, " ") != strings.Join(c.want, " ") {
			t.Errorf("%q: %q, %v, want %q", c.args, names, err, c.want)
		}
	}
}

// What the agent refuses is listed, and its exit code says whose fault it is.
func TestRefusals(t *testing.T) {
	exit := new(exec.ExitError)
	if out, err := exec.Command(filepath.Join(programs, "mooring"), "agent", "-dev", "-listen", "gopher://127.0.0.1:70").CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "there are: iscsi, nvme-tcp") {
		t.Errorf("an unknown scheme: %v\n%s", err, out)
	}
	f := newFile(t, freePort(t))
	f.volumes += "plugin \"none\" {\n}\n"
	f.volumes = strings.Replace(f.volumes, "volume = \"v\"", "volume = \"other\"", 1)
	f.write(t)
	if out, err := exec.Command(filepath.Join(programs, "mooring"), "agent", "validate", f.path).CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "volume \"other\" of tenant default has no block") || !strings.Contains(string(out), "no plugin none") {
		t.Errorf("validate: %v\n%s", err, out)
	}
	g := newFile(t, freePort(t))
	g.plugin = "listen = [\"nvme-tcp://127.0.0.1:4420\", \"iscsi://127.0.0.1:3260\"]\n config {\n  max_connections = \"many\"\n }"
	g.write(t)
	out, err := exec.Command(filepath.Join(programs, "mooring"), "agent", "validate", g.path).CombinedOutput()
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), g.path+" line 15, column 41: Listener of another plugin") || !strings.Contains(string(out), "line 17") {
		t.Errorf("validate with a listener of another plugin: %v\n%s", err, out)
	}
	// What only the plugin can judge is wrong in the same place for both.
	g.plugin = "listen = [\"nvme-tcp://127.0.0.1:4420\"]\n config {\n  queue_depth = 1\n }"
	g.write(t)
	for _, args := range [][]string{{"agent", "validate", g.path}, {"agent", "-config", g.path}} {
		out, err := exec.Command(filepath.Join(programs, "mooring"), args...).CombinedOutput()
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "1 is not within 2 to 32768") || !strings.Contains(string(out), g.path) {
			t.Errorf("%v of a value that the plugin refuses: %v\n%s", args, err, out)
		}
	}
	a := start(t, 0, "-config", f.path)
	list, err := a.mooring("plugin", "list", "-o", "json")
	var plugins []struct{ Name, State string }
	if err = errors.Join(err, json.Unmarshal([]byte(list), &plugins)); err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	states := map[string]string{}
	for _, p := range plugins {
		states[p.Name] = p.State
	}
	if states["none"] != "refused" || states["transport-tcp"] != "running" {
		t.Errorf("plugins: %v", states)
	}
	if strings.Contains(list, "0001-01-01") {
		t.Errorf("a plugin is what it is since the year 1\n%s", list)
	}
	plugin := filepath.Join(programs, "plugins", "policy-inherit")
	for _, c := range []struct {
		code int
		args string
		says string
	}{
		{2, "plugin add /nope", "/nope"},
		{2, "plugin add /etc/passwd", "not an executable"},
		{1, "plugin add /bin/true", "did not come up"},
		{0, "plugin add " + plugin, "registered already"},
		{2, "store add x /proc/foo", "/proc/foo"},
		{2, "store add x /etc/passwd", "not a directory"},
		{4, "store add x " + filepath.Join(f.dir, "data/stores/main"), "store main"},
		{3, "tenant delete nope", "not found"},
		{2, "meta restore -config " + f.path + " /nope", "/nope"},
	} {
		out, err := a.mooring(strings.Fields(c.args)...)
		code := 0
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != c.code || !strings.Contains(out, c.says) || strings.Contains(out, "invalid argument") {
			t.Errorf("%s: exit code %d, want %d\n%s", c.args, code, c.code, out)
		}
	}
	// A wrong file is refused with its line, and nothing before that.
	f.volumes += "volume \"w\" {}\n"
	f.write(t)
	if out, err := a.mooring("agent", "reload"); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.HasPrefix(out, "mooring: "+f.path) {
		t.Errorf("reload of a wrong file: %v\n%s", err, out)
	}
}

// bench ends with an error when its namespace is detached, and does not try for ever.
func TestBenchEndsWithItsNamespace(t *testing.T) {
	for _, more := range []string{"", "-multipath"} {
		a := start(t, 1, "-dev")
		type ended struct {
			out string
			err error
		}
		bench := make(chan ended, 1)
		go func() {
			args := []string{"bench", "nvme-tcp://" + a.addresses[0] + "/" + devNQN, "-time", "5m", "-span", "1MiB", "-qd", "4"}
			if more != "" {
				args = append(args, more)
			}
			out, err := a.mooring(args...)
			bench <- ended{out, err}
		}()
		for reads := uint64(0); reads == 0; {
			out, err := a.mooring("volume", "show", "dev", "-o", "json")
			v := struct {
				ReadOps uint64 `json:"read_ops"`
			}{}
			if err = errors.Join(err, json.Unmarshal([]byte(out), &v)); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			reads = v.ReadOps
		}
		if out, err := a.mooring("namespace", "detach", devNQN, "1"); err != nil {
			t.Fatalf("detach: %v\n%s", err, out)
		}
		exit := new(exec.ExitError)
		if b := <-bench; !errors.As(b.err, &exit) || exit.ExitCode() != 1 || !strings.Contains(b.out, "namespace 1 is not there any more") {
			t.Errorf("%s: %v\n%s", more, b.err, b.out)
		}
	}
}
