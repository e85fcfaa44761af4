package plugintest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const examples = "../../docs/examples"

// tutorials are the pages under docs, with the example that each of them builds.
var tutorials = map[string]string{"plugin-tutorial.md": "text", "policy-tutorial.md": "policy-preferred"}

// The code in a tutorial, joined, is its example.
func TestTutorialIsExample(t *testing.T) {
	for page, example := range tutorials {
		text, err := os.ReadFile(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		parts := map[string][]string{}
		for _, m := range regexp.MustCompile("(?s)```go (\\S+)\n(.*?)```\n").FindAllStringSubmatch(string(text), -1) {
			parts[m[1]] = append(parts[m[1]], m[2])
		}
		for _, name := range []string{"main.go", "main_test.go"} {
			want, err := os.ReadFile(filepath.Join(examples, example, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(parts[name], "\n"); got != string(want) {
				t.Errorf("the %s of %s, %d bytes in %d parts, is not that of the example %s, %d bytes", name, page, len(got), len(parts[name]), example, len(want))
			}
		}
	}
}

// The examples pass the suites, each in a module of its own.
func TestExamplesPass(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go command is not on PATH")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, example := range tutorials {
		module := t.TempDir()
		if err := os.CopyFS(module, os.DirFS(filepath.Join(examples, example))); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"mod", "edit", "-replace", "github.com/mooring-io/mooring=" + root},
			{"test", "-mod=mod", "-count=1", "."},
		} {
			cmd := exec.Command(goTool, args...)
			cmd.Dir = module
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: go %s: %v\n%s", example, strings.Join(args, " "), err, out)
			}
		}
	}
}
