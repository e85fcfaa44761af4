package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

func TestLongFlags(t *testing.T) {
	in := []string{"bench", "-o=json", "-rw", "randread", "--bs=4KiB", "-qd=32", "-o", "json", "-w", "-1", "-0.5", "-1s", "--", "-left"}
	want := []string{"bench", "-o=json", "--rw", "randread", "--bs=4KiB", "--qd=32", "-o", "json", "-w", "-1", "-0.5", "-1s", "--", "-left"}
	if got := longFlags(in); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// fakeAgent answers every request with a refusal of one kind.
func fakeAgent(t *testing.T, kind string) string {
	t.Helper()
	return agentThat(t, func(w http.ResponseWriter) {
		if kind == "" {
			fmt.Fprintln(w, "[]")
			return
		}
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(admin.Problem{Error: "no", Kind: kind})
	})
}

// deadAgent leaves a socket at which nobody listens any more.
func deadAgent(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	return socket
}

// agentThat answers every request with what the function writes.
func agentThat(t *testing.T, fn func(http.ResponseWriter)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fn(w) })}
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { s.Close() })
	return socket
}

// TestExisted: a command that found things as they were to be says so.
func TestExisted(t *testing.T) {
	for _, args := range [][]string{
		{"volume", "create", "v", "-size", "1GiB"}, {"subsystem", "create", "nqn.2026-11.com.example:a"}, {"target", "create", "iqn.2026-11.com.example:a"},
		{"tenant", "create", "t"}, {"store", "add", "s", "/mnt/s"}, {"namespace", "attach", "nqn.2026-11.com.example:a", "-volume", "v"},
		{"lun", "attach", "iqn.2026-11.com.example:a", "-volume", "v"}, {"host", "allow", "nqn.2026-11.com.example:a", "any"}, {"plugin", "add", "/p"},
	} {
		for _, status := range []int{http.StatusCreated, http.StatusOK} {
			var out strings.Builder
			root := newRoot()
			root.SetOut(&out)
			root.SetArgs(longFlags(append(args, "-socket", agentThat(t, func(w http.ResponseWriter) {
				w.WriteHeader(status)
				fmt.Fprintln(w, "{}")
			}))))
			if err := root.ExecuteContext(context.Background()); err != nil || strings.Contains(out.String(), "already") != (status == http.StatusOK) {
				t.Errorf("%q, answered with %d: %v, %q", args, status, err, out.String())
			}
		}
	}
}

// benchURL is of a target that is not there: port 1 is nobody's.
const benchURL = "nvme-tcp://127.0.0.1:1/nqn.2026-11.com.example:none"

const iscsiURL = "iscsi://127.0.0.1:1/iqn.2026-11.com.example:none"

// TestComplaints: with -o json an error is an object with its kind and what to do.
func TestComplaints(t *testing.T) {
	for _, c := range []struct {
		args      []string
		kind      string
		exit      int
		text, fix string
	}{
		{[]string{"volume", "show", "a", "-o", "json", "-socket", fakeAgent(t, admin.KindNotFound)}, "not_found", exitNotFound, "no", "mooring volume list"},
		{[]string{"host", "allow", "a", "b", "-o", "json", "-socket", fakeAgent(t, admin.KindNotFound)}, "not_found", exitNotFound, "no", "mooring host list"},
		{[]string{"volume", "delete", "a", "-o=json", "-socket", fakeAgent(t, admin.KindInUse)}, "in_use", exitConflict, "no", "detach"},
		{[]string{"-o", "json", "volume", "list", "-nope"}, "usage", exitUsage, "nope", "mooring volume list -help"},
		{[]string{"volume", "show", "--output", "json"}, "usage", exitUsage, "accepts 1 arg", "mooring volume show -help"},
		{[]string{"volum", "-o", "json"}, "usage", exitUsage, "did you mean volume?", "mooring -help"},
		{[]string{"volume", "list", "-o", "json", "-socket", filepath.Join(t.TempDir(), "none")}, "no_agent", exitNoAgent, "start one", ""},
		{[]string{"volume", "list", "-o", "json", "-socket", deadAgent(t)}, "no_agent", exitNoAgent, "has ended without removing it", ""},
	} {
		args := longFlags(c.args)
		root := newRoot()
		root.SetArgs(args)
		cmd, err := root.ExecuteContextC(context.Background())
		if err == nil || !wantsJSON(args) {
			t.Errorf("%q: error %v, JSON %v", c.args, err, wantsJSON(args))
			continue
		}
		var out strings.Builder
		complain(&out, cmd, err, true)
		var p complaint
		if err := json.Unmarshal([]byte(out.String()), &p); err != nil {
			t.Errorf("%q: %v: %s", c.args, err, out.String())
		}
		if p.Kind != c.kind || p.Exit != c.exit || !strings.Contains(p.Error, c.text) || !strings.Contains(p.Fix, c.fix) {
			t.Errorf("%q: %+v", c.args, p)
		}
	}
	for _, args := range [][]string{nil, {"-o"}, {"-o", "table"}, {"x", "--", "-o", "json"}} {
		if wantsJSON(args) {
			t.Errorf("%q is taken for JSON", args)
		}
	}
}

// The hint names the list of what does not exist, else that of what the command is about.
func TestHints(t *testing.T) {
	root := newRoot()
	allow, _, err := root.Find([]string{"host", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"volume default/x: not found": "mooring volume list shows those there are", "tenant t: not found": "mooring tenant list shows those there are",
		"it is nowhere": "mooring host list shows those there are",
	} {
		if got := fix(allow, admin.KindNotFound, text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// The exit codes are documented in docs/cli.md.
func TestExitCodes(t *testing.T) {
	list := func(socket string) []string { return []string{"volume", "list", "-socket", socket} }
	for _, c := range []struct {
		what string
		args []string
		want int
	}{
		{"worked", list(fakeAgent(t, "")), exitOK},
		{"refused: internal", list(fakeAgent(t, admin.KindInternal)), exitFailed},
		{"refused: invalid", list(fakeAgent(t, admin.KindInvalid)), exitUsage},
		{"refused: not found", list(fakeAgent(t, admin.KindNotFound)), exitNotFound},
		{"refused: exists", list(fakeAgent(t, admin.KindExists)), exitConflict},
		{"refused: in use", list(fakeAgent(t, admin.KindInUse)), exitConflict},
		{"refused: managed", list(fakeAgent(t, admin.KindManaged)), exitConflict},
		{"nobody there", list(filepath.Join(t.TempDir(), "none")), exitNoAgent},
		{"unknown command", []string{"volum"}, exitUsage},
		{"unknown shell", []string{"completion", "foo"}, exitUsage},
		{"known shell", []string{"completion", "bash"}, exitOK},
		{"help on nothing there is", []string{"help", "foo"}, exitUsage},
		{"help on nothing there is in a group", []string{"help", "volume", "foo"}, exitUsage},
		{"help on a command", []string{"help", "volume", "create"}, exitOK},
		{"resize to nothing", []string{"volume", "resize", "a", "0"}, exitUsage},
		{"backup into no folder", []string{"meta", "backup", "/nope/file"}, exitUsage},
		{"check of no store", []string{"check", "-store", "/nope"}, exitUsage},
		{"unknown flag", []string{"volume", "list", "-nope"}, exitUsage},
		{"missing argument", []string{"volume", "show"}, exitUsage},
		{"wrong size", []string{"volume", "create", "a", "-size", "1GB"}, exitUsage},
		{"agent without a configuration", []string{"agent"}, exitUsage},
		{"wrong bench URL", []string{"bench", "http://example.com"}, exitUsage},
		{"no size", []string{"volume", "create", "a"}, exitUsage},
		{"bench: no time", []string{"bench", benchURL, "-time", "0"}, exitUsage},
		{"bench: negative time", []string{"bench", benchURL, "-time", "-1s"}, exitUsage},
		{"bench: no queue", []string{"bench", benchURL, "-queues", "0"}, exitUsage},
		{"bench: no depth", []string{"bench", benchURL, "-qd", "0"}, exitUsage},
		{"bench: block of nothing", []string{"bench", benchURL, "-bs", "0"}, exitUsage},
		{"bench: odd block", []string{"bench", benchURL, "-bs", "1000"}, exitUsage},
		{"bench: block above all", []string{"bench", benchURL, "-bs", "65MiB"}, exitUsage},
		{"bench: iSCSI with several ways", []string{"bench", iscsiURL, iscsiURL}, exitUsage},
		{"bench: secret in a file that is not there", []string{"bench", iscsiURL, "-secret-file", "/nonexistent"}, exitUsage},
		{"bench: CHAP without a secret", []string{"bench", iscsiURL, "-user", "me"}, exitUsage},
		{"bench: secret in the URL", []string{"bench", "iscsi://user:secret@127.0.0.1:1/iqn.2026-11.com.example:none"}, exitUsage},
		{"bench: no portal there", []string{"bench", iscsiURL}, exitFailed},
		{"bench: mix above all", []string{"bench", benchURL, "-mix", "101"}, exitUsage},
		{"bench: nobody there", []string{"bench", benchURL}, exitFailed},
	} {
		if got := run(context.Background(), c.args); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.what, got, c.want)
		}
	}
	if got := exitCode(fmt.Errorf("wrapped: %w", &degradedError{})); got != exitDegraded {
		t.Errorf("degraded: %d", got)
	}
	if got := exitCode(errors.New("any")); got != exitFailed {
		t.Errorf("any other error: %d", got)
	}
}
