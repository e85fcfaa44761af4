// Package engine holds what the embedded engines share: the check of a
// transaction's form, the table of sessions and the fan-out of hints. It does not
// own any storage.
package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Check says what is wrong with the form of a transaction, with ErrInvalid.
func Check(t store.Txn) error {
	if len(t.If) > store.MaxOps {
		return fmt.Errorf("%w: %d conditions, at most %d are possible", store.ErrInvalid, len(t.If), store.MaxOps)
	}
	if n := len(t.Put) + len(t.Delete); n > store.MaxOps {
		return fmt.Errorf("%w: %d operations, at most %d are possible", store.ErrInvalid, n, store.MaxOps)
	}
	if n := t.Size(); n > store.MaxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are possible", store.ErrInvalid, n, store.MaxBytes)
	}
	seen := make(map[string]struct{}, len(t.Put)+len(t.Delete))
	key := func(k string) error {
		if k == "" || len(k) > store.MaxKey {
			return fmt.Errorf("%w: a key of %d bytes, 1 to %d are possible", store.ErrInvalid, len(k), store.MaxKey)
		}
		if _, ok := seen[k]; ok {
			return fmt.Errorf("%w: key %q is changed twice", store.ErrInvalid, k)
		}
		seen[k] = struct{}{}
		return nil
	}
	for _, p := range t.Put {
		if err := key(p.Key); err != nil {
			return err
		}
	}
	for _, k := range t.Delete {
		if err := key(k); err != nil {
			return err
		}
	}
	for _, c := range t.If {
		if c.Key == "" || len(c.Key) > store.MaxKey {
			return fmt.Errorf("%w: a condition on a key of %d bytes", store.ErrInvalid, len(c.Key))
		}
	}
	return nil
}

// maxHintKeys bounds what a hint remembers; beyond it the hint means "anything".
const maxHintKeys = 128

// Hub fans hints out to watchers.
type Hub struct {
	done    chan struct{} // closed by Close
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	watchers map[*watcher]struct{}
}

// NewHub returns a hub without watchers.
func NewHub() *Hub { return &Hub{done: make(chan struct{}), watchers: map[*watcher]struct{}{}} }

type watcher struct {
	prefix string
	mu     sync.Mutex
	keys   map[string]struct{}
	any    bool
	wake   chan struct{} // capacity 1
}

// Watch is store.Store.Watch.
func (h *Hub) Watch(ctx context.Context, prefix string) <-chan store.Hint {
	out := make(chan store.Hint)
	w := &watcher{prefix: prefix, any: true, keys: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	w.wake <- struct{}{}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(out)
		return out
	}
	h.watchers[w] = struct{}{}
	h.running.Go(func() { h.serve(ctx, w, out) })
	return out
}

func (h *Hub) serve(ctx context.Context, w *watcher, out chan<- store.Hint) {
	defer close(out)
	defer func() {
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.done:
			return
		case <-w.wake:
		}
		// What comes while the consumer is busy is merged into the next hint.
		hint, news := w.take()
		if !news {
			continue // it was part of the hint before
		}
		select {
		case <-ctx.Done():
			return
		case <-h.done:
			return
		case out <- hint:
		}
	}
}

// take returns what was gathered, and whether that is anything.
func (w *watcher) take() (store.Hint, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var hint store.Hint
	if !w.any {
		hint.Keys = slices.Sorted(maps.Keys(w.keys))
	}
	news := w.any || len(hint.Keys) > 0
	w.any = false
	clear(w.keys)
	return hint, news
}

// Notify tells the watchers that these keys changed.
func (h *Hub) Notify(keys []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	for w := range h.watchers {
		if w.add(keys) {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// NotifyAll tells the watchers that any key may have changed.
func (h *Hub) NotifyAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	for w := range h.watchers {
		w.mu.Lock()
		w.any = true
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) add(keys []string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	hit := false
	for _, k := range keys {
		if !strings.HasPrefix(k, w.prefix) {
			continue
		}
		hit = true
		if len(w.keys) >= maxHintKeys {
			w.any = true
		}
		if !w.any {
			w.keys[k] = struct{}{}
		}
	}
	return hit
}

// Close ends all watches and closes their channels.
func (h *Hub) Close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.done)
	}
	h.mu.Unlock()
	h.running.Wait()
}
