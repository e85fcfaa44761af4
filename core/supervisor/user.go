package supervisor

import (
	"fmt"
	"os"
	osuser "os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// DefaultBaseUID plus a plugin's slot in the catalog is the user that it runs as
// when the core is root. Nothing else should have these numbers.
const DefaultBaseUID = 64500

// user is whom a plugin runs as.
type user struct{ uid, gid uint32 }

// chooseUser returns nil for the core's own user: a core that is not root cannot
// choose. name is a user's name or number; "" is the plugin's own one.
func chooseUser(name string, base, slot int) (*user, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if name == "" {
		id := uint32(base + slot)
		return &user{uid: id, gid: id}, nil
	}
	if name == "root" || name == "0" {
		return nil, fmt.Errorf("user %q: a plugin never runs as root", name)
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return &user{uid: uint32(n), gid: uint32(n)}, nil
	}
	u, err := osuser.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("user %q: %w", name, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("user %q has the number %q", name, u.Uid)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("user %q has the group %q", name, u.Gid)
	}
	if uid == 0 {
		return nil, fmt.Errorf("user %q: a plugin never runs as root", name)
	}
	return &user{uid: uint32(uid), gid: uint32(gid)}, nil
}

// hardenCore keeps plugins out of the core's /proc entries, from where they could
// reopen its memory, and lets them lock theirs.
func hardenCore() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the core non-dumpable: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// Plugins inherit it; there is no way to give it to a child alone before exec.
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited); err != nil {
		// Only RDMA needs it, and a container may forbid it.
		var now unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now) == nil {
			now.Cur = now.Max
			_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &now)
		}
	}
	return nil
}

// hardenThread makes what is started from the calling thread unable to gain
// privileges by executing anything.
func hardenThread() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
