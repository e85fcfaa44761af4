// Package ring is the shared memory between a core and one I/O thread of a data
// plugin: a submission ring, a completion ring, a data pool and two doorbells.
//
// It owns the bytes and the order in which they become visible, the checks that
// need nothing but those bytes, and the suppression of doorbells. It does not know
// what a volume is: whether a handle was granted and a range lies inside the
// volume is for the core to judge. docs/format/ring-abi.md has the layout; plugin
// authors in Go want package block, which drives a PluginEnd.
//
// # Who may write what
//
//	                 written by   mapped by the plugin
//	submission ring  plugin       read-write
//	completion ring  core         read-only, enforced by a seal
//	pool             both         read-write
//
// Every cursor counts up for ever and has one writer. A slot's index is its cursor
// modulo the number of entries, which is the same for both rings. The number of
// commands in flight never exceeds it: from Submit until the completion is taken,
// a command holds one of as many tags, and the core refuses an entry beyond that
// bound. Therefore neither ring can overflow.
//
// # Sleeping
//
// A side that is about to block calls Sleep, which announces that, looks once more
// and says whether it may. The other side looks at the announcement after it has
// published something, and rings once per announcement. All of this rests on
// sync/atomic being sequentially consistent: either the sleeper sees the new
// cursor, or the publisher sees the announcement.
//
// # Concurrency
//
// Each end is used by one goroutine at a time, except Counters, which any may call
// until Close.
package ring
