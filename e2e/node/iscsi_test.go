package node

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const devIQN = "iqn.2026-11.io.mooring:dev"

// program finds a program of a Debian package, or skips the test.
func program(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: apt-get install %s, or make deps", name, debian)
	}
	return path
}

// skipsOf says why it is right that iscsi-test-cu leaves tests out, by what it says about them.
var skipsOf = map[string]string{
	"--allow-sanitize flag is not set":      "destroys the volume; SANITIZE is not offered",
	"Logical unit is not removable":         "a volume is no removable medium",
	"Media is not removable":                "a volume is no removable medium",
	"Logical unit is not write-protected":   "the volume may be written",
	"WRITEATOMIC16 is not implemented":      "WRITE ATOMIC (16) is of SBC-4",
	"Multipath unavailable":                 "one path is given to the tests",
	"LBPPB < 2":                             "blocks of 4096 bytes are the allocation unit",
	"WRITESAME10 does not support 0-blocks": "WSNZ is set: a WRITE SAME of everything is refused",
	"WRITESAME16 does not support 0-blocks": "WSNZ is set: a WRITE SAME of everything is refused",
}

// maxSkips is more than Debian's tgt leaves out less one.
const maxSkips = 48

// conformance is what iscsi-test-cu found.
type conformance struct {
	tests   int
	failed  []string
	skipped map[string]string // test → what it said
}

var (
	suiteLine = regexp.MustCompile(`^Suite: (\S+)`)
	testLine  = regexp.MustCompile(`^\s+Test: (\S+) \.\.\.(.*)`)
	skipText  = regexp.MustCompile(`\[SKIPPED\] (.*)`)
)

func parseConformance(out []byte) conformance {
	c := conformance{skipped: map[string]string{}}
	suite, test := "", ""
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		line := lines.Text()
		if m := suiteLine.FindStringSubmatch(line); m != nil {
			suite = m[1]
			continue
		}
		if m := testLine.FindStringSubmatch(line); m != nil {
			test = suite + "." + m[1]
			c.tests++
			line = m[2]
		}
		if m := skipText.FindStringSubmatch(line); m != nil {
			c.skipped[test] = m[1]
		}
		if strings.HasSuffix(line, "FAILED") {
			c.failed = append(c.failed, test)
		}
	}
	return c
}

func TestParseConformance(t *testing.T) {
	c := parseConformance([]byte("Suite: Inquiry\n  Test: Standard ...passed\n  Test: AllocLength ...    [SKIPPED] LBPPB < 2. Skipping test\npassed\n" +
		"Suite: Read6\n  Test: Simple ...FAILED\n    1. x.c:12  - ret == 0\n  Test: Noisy ...\n    read\nFAILED\n"))
	want := "{4 [Read6.Simple Read6.Noisy] map[Inquiry.AllocLength:LBPPB < 2. Skipping test]}"
	if got := fmt.Sprint(c); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What libiscsi's conformance suite tests of the demo volume passes, but for tests that do not apply.
func TestISCSIConformance(t *testing.T) {
	suite := program(t, "iscsi-test-cu", "libiscsi-bin")
	a := startAt(t, []string{"iscsi"}, "-dev")
	cmd := exec.CommandContext(a.ctx, suite, "-d", "-t", "ALL", fmt.Sprintf("iscsi://%s/%s/0", a.addresses[0], devIQN))
	out, err := cmd.CombinedOutput()
	c := parseConformance(out)
	if err != nil || len(c.failed) > 0 {
		t.Errorf("iscsi-test-cu: %v; failed: %s\n%s", err, strings.Join(c.failed, ", "), out)
	}
	if c.tests < 200 {
		t.Errorf("only %d tests were run\n%s", c.tests, out)
	}
	if len(c.skipped) > maxSkips {
		t.Errorf("%d tests were left out, more than %d", len(c.skipped), maxSkips)
	}
	t.Logf("%d of %d tests passed, %d were left out:", c.tests-len(c.failed)-len(c.skipped), c.tests, len(c.skipped))
	for test, said := range c.skipped {
		why := ""
		for prefix, reason := range skipsOf {
			if strings.HasPrefix(said, prefix) {
				why = reason
			}
		}
		if why == "" {
			t.Errorf("%s was left out without a reason that we know: %s", test, said)
			continue
		}
		t.Logf("  %s: %s (%s)", test, why, said)
	}
}

// QEMU's own initiator writes and reads back by way of the demo volume.
func TestQEMUInitiator(t *testing.T) {
	qemuIO := program(t, "qemu-io", "qemu-utils")
	a := startAt(t, []string{"iscsi"}, "-dev")
	url := fmt.Sprintf("iscsi://%s/%s/0", a.addresses[0], devIQN)
	out, err := exec.CommandContext(a.ctx, qemuIO, "-f", "raw", url,
		"-c", "write -P 0xa5 1M 3M", "-c", "write -P 0x5a 4096 4096", "-c", "read -P 0xa5 1M 3M", "-c", "read -P 0x5a 4k 4k",
		"-c", "discard 2M 1M", "-c", "read -P 0 2M 1M", "-c", "read -P 0xa5 3M 1M", "-c", "flush").CombinedOutput()
	if strings.Contains(string(out), "Unknown protocol") {
		t.Skip("QEMU's iSCSI driver is not installed: apt-get install qemu-block-extra, or make deps")
	}
	if err != nil || bytes.Contains(out, []byte("verification failed")) {
		t.Errorf("qemu-io: %v\n%s", err, out)
	}
}

// An initiator of Debian's logs in with the secret that was set on the command line, in both directions, and without
// it stays out; the volume is one of 512-byte blocks that is a namespace at the same time.
func TestCHAP(t *testing.T) {
	inq := program(t, "iscsi-inq", "libiscsi-bin")
	a := startAt(t, []string{"iscsi", "nvme-tcp"}, "-dev")
	const target = "iqn.2026-11.com.example:guarded"
	secrets := t.TempDir()
	file := func(name, secret string) string {
		path := filepath.Join(secrets, name)
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	theirs, ours := file("theirs", "initiators-know"), file("ours", "the-target-knows")
	a.mustCLI("volume", "create", "v", "-size", "64MiB", "-block-size", "512")
	a.mustCLI("target", "create", target, "-allow-any-host")
	a.mustCLI("lun", "attach", target, "-volume", "v", "-lun", "5")
	a.mustCLI("target", "chap", target, "-user", "me", "-secret-file", theirs, "-mutual-user", "we", "-mutual-secret-file", ours)
	a.mustCLI("namespace", "attach", devNQN, "-volume", "v")
	for _, c := range []struct {
		login, mutual string
		ok            bool
	}{
		{"", "", false}, {"me%wrong-secret", "", false}, {"you%initiators-know", "", false}, {"me%initiators-know", "", true},
		{"me%initiators-know", "the-target-knows", true}, {"me%initiators-know", "something-else", false},
	} {
		at := ""
		if c.login != "" {
			at = c.login + "@"
		}
		cmd := exec.CommandContext(a.ctx, inq, fmt.Sprintf("iscsi://%s%s/%s/5", at, a.addresses[0], target))
		if c.mutual != "" {
			cmd.Env = append(os.Environ(), "LIBISCSI_CHAP_TARGET_USERNAME=we", "LIBISCSI_CHAP_TARGET_PASSWORD="+c.mutual)
		}
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.ok || c.ok && !bytes.Contains(out, []byte("MOORING")) {
			t.Errorf("as %q, mutual %q: %v\n%s", c.login, c.mutual, err, out)
		}
	}
	for _, args := range [][]string{{"target", "list"}, {"target", "show", target}, {"target", "list", "-o", "json"}, {"events"}, {"status", "-o", "json"}} {
		if out := a.mustCLI(args...); strings.Contains(out, "know") {
			t.Errorf("mooring %s tells a secret:\n%s", strings.Join(args, " "), out)
		}
	}
	if log := a.log.String(); strings.Contains(log, "initiators-know") || strings.Contains(log, "target-knows") {
		t.Error("the log tells a secret")
	}
}
