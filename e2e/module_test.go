//go:build e2e

package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	ourModule   = "github.com/mooring-io/mooring"
	theirModule = "example.com/transport-tcp"
)

// TestForeignPlugin is TestInitiator again with the transport built in a module of
// its own, against nothing of ours but the SDK: what a built-in plugin can do, a
// third party's can.
func TestForeignPlugin(t *testing.T) {
	if targetUnderTest() != "mooring" {
		t.Skip("there is no plugin to build for another target")
	}
	bin := buildForeignPlugin(t)
	t.Setenv("MOORING_BIN", bin)
	m := run(t, guestCase{script: "initiator.sh"})
	t.Run("every byte crossed a ring", m.ringBytes)
}

// buildForeignPlugin copies the transport into a new module, builds it there, and
// returns a folder of binaries with it.
func buildForeignPlugin(t *testing.T) string {
	t.Helper()
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	module, bin := t.TempDir(), t.TempDir()
	copySources(t, filepath.Join(repo, "plugins", "transport-tcp"), module)
	mod, err := os.ReadFile(filepath.Join(repo, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	// The same versions of everything as in our go.mod, so that nothing is fetched.
	text := strings.Replace(string(mod), "module "+ourModule, "module "+theirModule, 1)
	text += "\nrequire " + ourModule + " v0.0.0\n\nreplace " + ourModule + " => " + repo + "\n"
	sum, err := os.ReadFile(filepath.Join(repo, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(module, "go.mod"), []byte(text))
	write(t, filepath.Join(module, "go.sum"), sum)

	for _, imported := range strings.Fields(string(goTool(t, module, "list", "-mod=mod", "-deps", "."))) {
		if in, ok := strings.CutPrefix(imported, ourModule+"/"); ok && in != "sdk" && !strings.HasPrefix(in, "sdk/") {
			t.Errorf("the plugin needs %s, which is not part of the SDK", imported)
		}
	}
	goTool(t, module, "build", "-mod=mod", "-o", filepath.Join(bin, "plugins", "transport-tcp"), ".")
	agent, err := os.ReadFile(filepath.Join(binaries(), "mooring"))
	if err != nil {
		require(t, []string{filepath.Join(binaries(), "mooring")})
	}
	write(t, filepath.Join(bin, "mooring"), agent)
	if err := os.Chmod(filepath.Join(bin, "mooring"), 0o755); err != nil {
		t.Fatal(err)
	}
	return bin
}

// copySources copies a folder's Go files but tests, moving them to the new module.
func copySources(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		out := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		return os.WriteFile(out, bytes.ReplaceAll(src, []byte(ourModule+"/plugins/transport-tcp"), []byte(theirModule)), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func goTool(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}
