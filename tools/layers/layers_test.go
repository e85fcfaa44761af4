// Package layers holds the test that keeps the project's arrows pointing one way.
package layers

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mooring-io/mooring/"

// pure packages are codecs: the standard library only, and none of these.
var (
	pure      = []string{"sdk/iscsi", "sdk/nvme", "sdk/nvmetcp", "sdk/scsi"}
	forbidden = []string{"net", "os", "time", "context", "log", "log/slog"}
)

// coreOrder lists the core's packages, lowest first: a package imports only those before it.
var coreOrder = []string{
	"core/vfs", "core/cert", "core/redirector", "core/badgerdb", "core/config", "core/extent",
	"core/meta/store", "core/meta/store/internal/engine", "core/meta/store/badger", "core/meta/store/memory", "core/meta/store/etcd", "core/quorum",
	"core/meta", "core/cluster", "core/peer", "core/access", "core/path",
	"core/supervisor", "core/association", "core/admin", "core/rdma", "core/agent",
}

func TestImportsPointOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		fields := strings.Fields(line)
		from := strings.TrimPrefix(fields[0], module)
		seen++
		for _, to := range fields[1:] {
			foreign := strings.Contains(to, ".") && !strings.HasPrefix(to, module)
			if slices.Contains(pure, from) && (slices.Contains(forbidden, to) || foreign) {
				t.Errorf("%s is a codec and imports %s", from, to)
			}
			if in, ok := strings.CutPrefix(to, module); ok {
				if why := wrong(from, in); why != "" {
					t.Errorf("%s imports %s: %s", from, in, why)
				}
			}
		}
	}
	if seen < 10 {
		t.Fatalf("go list names %d packages only", seen)
	}
}

func wrong(from, to string) string {
	switch {
	case top(from) == "sdk" && top(to) != "sdk":
		return "the SDK stands alone"
	case top(from) == "core" && top(to) == "plugins":
		return "the core names no plugin"
	case top(from) == "plugins" && top(to) != "sdk" && !samePlugin(from, to):
		return "a plugin sees only the SDK"
	case top(from) == "core" && top(to) == "core":
		f, t := slices.Index(coreOrder, from), slices.Index(coreOrder, to)
		if f < 0 && !strings.HasSuffix(from, "test") {
			return "say in coreOrder where " + from + " belongs"
		}
		if f >= 0 && t >= f {
			return "arrows in the core run the other way"
		}
	}
	return ""
}

func top(p string) string { t, _, _ := strings.Cut(p, "/"); return t }

func samePlugin(a, b string) bool {
	x, y := strings.SplitN(a, "/", 3), strings.SplitN(b, "/", 3)
	return len(x) > 1 && len(y) > 1 && x[0] == y[0] && x[1] == y[1]
}
