package quorum

import (
	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger carries etcd's lines into ours, two levels down: what it warns of happens at
// every start and whenever a node is away, and is of no interest to an operator.
func zapLogger(log hclog.Logger) *zap.Logger {
	if log == nil {
		return zap.NewNop()
	}
	return zap.New(&core{log: log})
}

type core struct{ log hclog.Logger }

// level is ours for one of etcd's.
func level(l zapcore.Level) hclog.Level {
	switch {
	case l >= zapcore.DPanicLevel:
		return hclog.Error
	case l == zapcore.ErrorLevel:
		return hclog.Info
	case l == zapcore.WarnLevel:
		return hclog.Debug
	}
	return hclog.Trace
}

func (c *core) enabled(l hclog.Level) bool {
	now := c.log.GetLevel()
	return now != hclog.NoLevel && l >= now
}

// Enabled implements zapcore.LevelEnabler.
func (c *core) Enabled(l zapcore.Level) bool { return c.enabled(level(l)) }

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log.With(pairs(fields)...)}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.Log(level(e.Level), e.Message, pairs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }

func pairs(fields []zapcore.Field) []any {
	m := zapcore.NewMapObjectEncoder()
	var out []any
	for _, f := range fields {
		f.AddTo(m)
		out = append(out, f.Key, m.Fields[f.Key])
	}
	return out
}
