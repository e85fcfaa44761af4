package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

// A reload adds, changes and removes a redirector, which status and doctor show; here its plugin is missing.
func TestRedirectorOfTheFile(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, "")
	file := filepath.Join(dir, "node.hcl")
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(redirector, says string, shown ...string) {
		t.Helper()
		text := string(src)
		if says != "" {
			text += "plugin \"frontend-iscsi\" {\n" + redirector + "}\n"
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var r admin.ReloadReport
		n.do("POST", "/v1/reload", nil, &r)
		if says != "" && (len(r.NotApplied) != 1 || !strings.Contains(r.NotApplied[0], says)) {
			t.Errorf("%+v", r)
		}
		var s admin.Status
		n.do("GET", "/v1/status", nil, &s)
		var urls []string
		for _, l := range s.Access {
			if urls = append(urls, l.URL); !l.Redirector || l.State == "up" || l.Other != "" {
				t.Errorf("%+v", l)
			}
		}
		var told []string
		var found []admin.Finding
		n.do("GET", "/v1/doctor", nil, &found)
		for _, f := range found {
			if url, ok := strings.CutPrefix(f.What, "the redirector "); ok {
				url, _, _ = strings.Cut(url, ": ")
				if told = append(told, url); f.Level != "error" {
					t.Errorf("%+v", f)
				}
			}
		}
		if !slices.Equal(urls, shown) || !slices.Equal(told, shown) {
			t.Errorf("status shows %v, doctor %v; not %v", urls, told, shown)
		}
	}
	block := func(address string) string {
		return "  redirector \"iscsi://" + address + "\" {\n    interface = \"eth0\"\n  }\n"
	}
	const missing = "frontend-iscsi"
	reload(block("192.0.2.100:3260"), missing, "iscsi://192.0.2.100:3260")
	reload(block("[2001:db8::100]:3260"), missing, "iscsi://[2001:db8::100]:3260")
	reload("", missing)
	reload(block("192.0.2.100:3260"), missing, "iscsi://192.0.2.100:3260")
	reload("", "")
}
