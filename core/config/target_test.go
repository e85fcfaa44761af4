package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTarget(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("from the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Parse([]byte(`
host "db" {
  nqn = "nqn.2026-11.io.mooring:h"
  iqn = "iqn.2026-11.io.mooring:h"
}
target "iqn.2026-11.io.mooring:x" {
  hosts = ["db", "iqn.2026-11.io.mooring:other"]
  chap {
    user          = "me"
    secret_file   = "secret"
    mutual_secret = "in the open here"
  }
  lun "0" {
    volume     = "a"
    visible_to = ["db"]
  }
}
subsystem "nqn.2026-11.io.mooring:x" {
  hosts = ["db"]
}`), filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	x := c.Targets[0]
	if fmt.Sprint(x.Hosts) != "[iqn.2026-11.io.mooring:h iqn.2026-11.io.mooring:other]" || x.Mode != "redirect" || x.Tenant != "default" || x.Line != 6 {
		t.Errorf("target %+v", x)
	}
	if x.CHAP == nil || string(x.CHAP.Secret) != "from the file" || string(x.CHAP.MutualSecret) != "in the open here" || x.CHAP.User != "me" {
		t.Errorf("CHAP of the target: user %q, secrets of %d and %d bytes", x.CHAP.User, len(x.CHAP.Secret), len(x.CHAP.MutualSecret))
	}
	if len(x.LUNs) != 1 || x.LUNs[0].LUN != 0 || x.LUNs[0].VisibleTo[0] != "iqn.2026-11.io.mooring:h" || c.Subsystems[0].Hosts[0] != "nqn.2026-11.io.mooring:h" {
		t.Errorf("LUNs %+v, subsystem's hosts %v", x.LUNs, c.Subsystems[0].Hosts)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(format, *x.CHAP); strings.Contains(text, "the file") || strings.Contains(text, "open here") {
			t.Errorf("%s prints a secret: %s", format, text)
		}
	}
}

// What is wrong in a line is told without the secret that stands in it.
func TestSecretsAreNotTold(t *testing.T) {
	for _, src := range []string{
		"target \"iqn.2026-11.io.mooring:x\" {\n chap {\n  secret = \"hush-hush\"\n }\n}",
		"target \"iqn.2026-11.io.mooring:x\" {\n chap { mutual_secret = \"hush-hush\" }\n}",
		"target \"iqn.2026-11.io.mooring:x\" {\n secret = \"hush-hush\"\n}",
	} {
		if _, err := Parse([]byte(src), "test.hcl"); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", src, err)
		}
	}
}
