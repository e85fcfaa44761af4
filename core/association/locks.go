package association

import "sync"

// locks are locks by key. A key takes memory only while somebody holds or wants its lock.
type locks[K comparable] struct {
	mu   sync.Mutex
	byID map[K]*keyLock // guarded by mu
}

type keyLock struct {
	sync.Mutex
	users int // who hold it or wait for it; guarded by locks.mu
}

// lock takes the lock of k and returns what gives it back.
func (l *locks[K]) lock(k K) (unlock func()) {
	l.mu.Lock()
	m := l.byID[k]
	if m == nil {
		if l.byID == nil {
			l.byID = map[K]*keyLock{}
		}
		m = &keyLock{}
		l.byID[k] = m
	}
	m.users++
	l.mu.Unlock()
	m.Lock()
	return func() {
		m.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(l.byID, k)
		}
	}
}
