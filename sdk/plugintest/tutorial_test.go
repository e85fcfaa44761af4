package plugintest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const example = "../../docs/examples/text"

// The code in the tutorial, joined, is the example.
func TestTutorialIsExample(t *testing.T) {
	text, err := os.ReadFile("../../docs/plugin-tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string][]string{}
	for _, m := range regexp.MustCompile("(?s)```go (\\S+)\n(.*?)```\n").FindAllStringSubmatch(string(text), -1) {
		parts[m[1]] = append(parts[m[1]], m[2])
	}
	for _, name := range []string{"main.go", "main_test.go"} {
		want, err := os.ReadFile(filepath.Join(example, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(parts[name], "\n"); got != string(want) {
			t.Errorf("the tutorial's %s, %d bytes in %d parts, is not %s of the example, %d bytes", name, len(got), len(parts[name]), name, len(want))
		}
	}
}

// The example passes the suite, in a module of its own.
func TestExamplePasses(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go command is not on PATH")
	}
	module := t.TempDir()
	if err := os.CopyFS(module, os.DirFS(example)); err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", "github.com/mooring-io/mooring=" + root},
		{"test", "-mod=mod", "-count=1", "."},
	} {
		cmd := exec.Command(goTool, args...)
		cmd.Dir = module
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
