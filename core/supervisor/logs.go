package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	maxLogLines     = 2000
	maxLogBytes     = 1 << 20  // of text kept per plugin
	maxLogLineBytes = 16 << 10 // longer lines are cut
	// A plugin may write this many lines at once into the core's log, and then so
	// many per second; the rest is counted. All of them are in its own log.
	logBurst     = 1000
	logPerSecond = 200
)

// LogLine is one line that a plugin wrote.
type LogLine struct {
	Seq   uint64 // grows by one per line of this plugin, in this life of the core
	Time  time.Time
	Level string // as hclog spells it; "" if the line had none
	Text  string
}

// logbook keeps the last lines of one plugin, over all its lives, and passes them on
// to the core's log.
type logbook struct {
	core hclog.Logger // named after the plugin

	mu    sync.Mutex // guards all below
	lines []LogLine
	bytes int
	seq   uint64
	// What may be passed on now, and what was not since the last line that was.
	tokens     float64
	refilled   time.Time
	suppressed int
	// lastWords is the beginning of the panic of the present life, if there was one.
	lastWords string
}

func newLogbook(core hclog.Logger) *logbook {
	return &logbook{core: core, tokens: logBurst}
}

// read takes lines from r until it ends.
func (b *logbook) read(r io.Reader) {
	in := bufio.NewReaderSize(r, maxLogLineBytes)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			b.add(line)
			err = skipLine(in)
		} else if len(line) > 0 {
			b.add(line)
		}
		if err != nil {
			return
		}
	}
}

func skipLine(in *bufio.Reader) error {
	for {
		if _, err := in.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// Write takes what a plugin printed on its redirected standard output.
func (b *logbook) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		b.add(line)
	}
	return len(p), nil
}

func (b *logbook) add(raw []byte) {
	raw = bytes.TrimRight(raw, "\r\n")
	if len(raw) == 0 {
		return
	}
	now := time.Now()
	line := parseLine(raw)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep(LogLine{Time: now, Level: line.levelName(), Text: line.text()})
	if line.level == hclog.NoLevel && b.lastWords == "" && isPanic(line.message) {
		b.lastWords = line.message
	}
	if b.lastWords != "" && line.level == hclog.NoLevel {
		line.level = hclog.Error // the rest of the trace
	}
	b.pass(line, now)
}

// keep is called with mu held.
func (b *logbook) keep(l LogLine) {
	b.seq++
	l.Seq = b.seq
	b.lines = append(b.lines, l)
	b.bytes += len(l.Text)
	drop := 0
	for len(b.lines)-drop > maxLogLines || b.bytes > maxLogBytes {
		b.bytes -= len(b.lines[drop].Text)
		drop++
	}
	b.lines = slices.Delete(b.lines, 0, drop)
}

// pass is called with mu held.
func (b *logbook) pass(line logEntry, now time.Time) {
	level := line.level
	if level == hclog.NoLevel {
		level = hclog.Debug
	}
	if b.core.GetLevel() > level {
		return
	}
	b.tokens = min(b.tokens+now.Sub(b.refilled).Seconds()*logPerSecond, logBurst)
	b.refilled = now
	if b.tokens < 1 {
		b.suppressed++
		return
	}
	b.tokens--
	log := b.core
	if line.module != "" {
		log = log.Named(line.module)
	}
	if b.suppressed > 0 {
		b.core.Warn("the plugin writes too much; lines are in its own log only", "suppressed", b.suppressed)
		b.suppressed = 0
	}
	log.Log(level, line.message, line.pairs...)
}

// begin forgets the last words of a former life.
func (b *logbook) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastWords = ""
}

func (b *logbook) panicLine() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lastWords
}

// since returns the kept lines after seq.
func (b *logbook) since(seq uint64) []LogLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, _ := slices.BinarySearchFunc(b.lines, seq+1, func(l LogLine, s uint64) int {
		return int(int64(l.Seq - s))
	})
	return slices.Clone(b.lines[i:])
}

// logEntry is a line taken apart.
type logEntry struct {
	level   hclog.Level // NoLevel: not one of hclog's lines
	module  string
	message string
	pairs   []any
}

// parseLine takes apart a line of hclog's JSON form; any other line is a message
// without a level.
func parseLine(raw []byte) logEntry {
	var fields map[string]any
	if raw[0] != '{' || json.Unmarshal(raw, &fields) != nil {
		return logEntry{message: string(raw)}
	}
	take := func(key string) string {
		s, _ := fields[key].(string)
		delete(fields, key)
		return s
	}
	e := logEntry{level: hclog.LevelFromString(take("@level")), message: take("@message"), module: take("@module")}
	if e.level == hclog.NoLevel || e.level == hclog.Off {
		return logEntry{message: string(raw)}
	}
	take("@timestamp") // that of the core is the same but for microseconds
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		e.pairs = append(e.pairs, k, fields[k])
	}
	return e
}

func (e logEntry) levelName() string {
	if e.level == hclog.NoLevel {
		return ""
	}
	return e.level.String()
}

// text is the line as an operator reads it.
func (e logEntry) text() string {
	var s strings.Builder
	if e.module != "" {
		s.WriteString(e.module + ": ")
	}
	s.WriteString(e.message)
	for i := 0; i+1 < len(e.pairs); i += 2 {
		v, err := json.Marshal(e.pairs[i+1])
		if err != nil {
			continue
		}
		s.WriteString(" " + e.pairs[i].(string) + "=")
		s.Write(v)
	}
	return s.String()
}

func isPanic(s string) bool {
	return strings.HasPrefix(s, "panic: ") || strings.HasPrefix(s, "fatal error: ") || strings.HasPrefix(s, "SIGSEGV")
}
