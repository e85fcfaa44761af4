package supervisor

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func newTestBook(level hclog.Level) (*logbook, *bytes.Buffer) {
	var out bytes.Buffer
	return newLogbook(hclog.New(&hclog.LoggerOptions{Output: &out, Level: level, Name: "plugin.x", DisableTime: true})), &out
}

func TestLogLines(t *testing.T) {
	b, out := newTestBook(hclog.Info)
	b.read(strings.NewReader(`{"@level":"info","@message":"hello","@module":"tcp","@timestamp":"2026-01-01T00:00:00.000000Z","b":[1],"a":"x"}
{"@level":"debug","@message":"not for the core"}
{"no":"hclog"}
plain
panic: oh
goroutine 1 [running]:
no newline`))
	var texts []string
	for _, l := range b.since(0) {
		texts = append(texts, l.Level+"|"+l.Text)
	}
	want := []string{`info|tcp: hello a="x" b=[1]`, "debug|not for the core", `|{"no":"hclog"}`, "|plain", "|panic: oh", "|goroutine 1 [running]:", "|no newline"}
	if strings.Join(texts, "\n") != strings.Join(want, "\n") {
		t.Errorf("lines\n%s", strings.Join(texts, "\n"))
	}
	if got := out.String(); got != "[INFO]  plugin.x.tcp: hello: a=x b=[1]\n[ERROR] plugin.x: panic: oh\n[ERROR] plugin.x: goroutine 1 [running]:\n[ERROR] plugin.x: no newline\n" {
		t.Errorf("core's log\n%s", got)
	}
	if b.panicLine() != "panic: oh" {
		t.Errorf("last words %q", b.panicLine())
	}
	if rest := b.since(5); len(rest) != 2 || rest[0].Seq != 6 {
		t.Errorf("since 5: %+v", rest)
	}
	if rest := b.since(7); len(rest) != 0 {
		t.Errorf("since 7: %+v", rest)
	}
}

func TestLogIsBounded(t *testing.T) {
	b, out := newTestBook(hclog.Debug)
	long := strings.Repeat("x", 4*maxLogLineBytes)
	for i := range 3 * maxLogLines {
		fmt.Fprintf(b, "line %d\n", i)
	}
	b.read(strings.NewReader(long + "\n" + long + "\nend\n"))
	lines := b.since(0)
	if n := len(lines); n != maxLogLines || lines[n-1].Text != "end" || lines[n-1].Seq != 3*maxLogLines+3 || len(lines[n-2].Text) != maxLogLineBytes {
		t.Errorf("%d lines, the last is %+v", n, lines[n-1].Seq)
	}
	if n := strings.Count(out.String(), "\n"); n > 2*logBurst {
		t.Errorf("%d lines in the core's log", n)
	}
	for range maxLogLines {
		b.read(strings.NewReader(long[:maxLogLineBytes/2] + "\n"))
	}
	if b.bytes > maxLogBytes {
		t.Errorf("%d bytes are kept", b.bytes)
	}
}
