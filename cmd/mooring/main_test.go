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
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

func TestLongFlags(t *testing.T) {
	in := []string{"bench", "-rw", "randread", "--bs=4KiB", "-qd=32", "-o", "json", "-w", "-1", "-0.5", "--", "-left"}
	want := []string{"bench", "--rw", "randread", "--bs=4KiB", "--qd=32", "-o", "json", "-w", "-1", "-0.5", "--", "-left"}
	if got := longFlags(in); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// fakeAgent answers every request with a refusal of one kind.
func fakeAgent(t *testing.T, kind string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if kind == "" {
			fmt.Fprintln(w, "[]")
			return
		}
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(admin.Problem{Error: "no", Kind: kind})
	})}
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { s.Close() })
	return socket
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
		{"unknown flag", []string{"volume", "list", "-nope"}, exitUsage},
		{"missing argument", []string{"volume", "show"}, exitUsage},
		{"wrong size", []string{"volume", "create", "a", "-size", "1GB"}, exitUsage},
		{"agent without a configuration", []string{"agent"}, exitUsage},
		{"wrong bench URL", []string{"bench", "http://example.com"}, exitUsage},
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
