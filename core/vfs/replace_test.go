package vfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mooring-io/mooring/core/vfs"
)

func TestReplaceFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "another"} {
		if err := vfs.ReplaceFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Fatalf("got %q, %v; want %q", b, err, text)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Fatalf("mode %v, %v", fi.Mode(), err)
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Fatalf("%d files are left", len(all))
	}
	if err := vfs.ReplaceFile(filepath.Join(path, "below"), nil, 0o600); err == nil {
		t.Fatal("a file below a file was written")
	}
}
