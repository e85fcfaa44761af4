//go:build e2e

package powerloss

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"

	"github.com/mooring-io/mooring/core/admin"
)

// volume is what a volume is like; the zero value is none.
type volume struct {
	exists     bool
	size       int64 // bytes
	durability string
	nsid       uint32 // 0: not attached
}

// volumes is what there may be by what the admin API has answered: while a request is under way its outcome is open.
type volumes struct {
	api   *admin.Client
	names []string
	may   map[string][]volume
}

func newVolumes(n int) *volumes {
	v := &volumes{may: map[string][]volume{}}
	for i := range n {
		name := fmt.Sprintf("volume-%d", i)
		v.names = append(v.names, name)
		v.may[name] = []volume{{}}
	}
	return v
}

// do makes one change of a volume.
func (v *volumes) do(ctx context.Context, name string, next volume, method, path string, in any) error {
	now := v.may[name][0]
	v.may[name] = []volume{now, next}
	if err := v.api.Do(ctx, method, path, in, nil); err != nil {
		return fmt.Errorf("%s %s for %+v: %w", method, path, next, err)
	}
	v.may[name] = []volume{next}
	return nil
}

func volumePath(name string) string { return "/v1/volumes/" + url.PathEscape(name) }

func namespacesPath() string { return "/v1/subsystems/" + url.PathEscape(devNQN) + "/namespaces" }

// step makes a random change. It is called by one goroutine, when all outcomes are known.
func (v *volumes) step(ctx context.Context, random *rand.Rand) error {
	i := random.IntN(len(v.names))
	name := v.names[i]
	now := v.may[name][0]
	next := now
	switch {
	case !now.exists:
		next = volume{exists: true, size: int64(1+random.IntN(100)) << 20, durability: []string{"sync", "volatile"}[random.IntN(2)]}
		return v.do(ctx, name, next, "POST", "/v1/volumes", admin.VolumeCreate{Name: name, Size: next.size, Durability: next.durability})
	case random.IntN(2) == 0:
		next.size += int64(1+random.IntN(50)) << 20
		return v.do(ctx, name, next, "PATCH", volumePath(name), admin.VolumeSet{Size: next.size})
	case now.nsid == 0 && random.IntN(2) == 0:
		return v.do(ctx, name, volume{}, "DELETE", volumePath(name), nil)
	case now.nsid == 0:
		next.nsid = uint32(10 + i)
		return v.do(ctx, name, next, "POST", namespacesPath(), admin.NamespaceAttach{Volume: name, NSID: next.nsid})
	default:
		next.nsid = 0
		return v.do(ctx, name, next, "DELETE", fmt.Sprintf("%s/%d", namespacesPath(), now.nsid), nil)
	}
}

// found judges what there is, and from then on that is what there may be.
func (v *volumes) found(ctx context.Context) error {
	var all []admin.Volume
	var sub admin.Subsystem
	if err := v.api.Do(ctx, "GET", "/v1/volumes", nil, &all); err != nil {
		return err
	}
	if err := v.api.Do(ctx, "GET", "/v1/subsystems/"+url.PathEscape(devNQN), nil, &sub); err != nil {
		return err
	}
	for _, name := range v.names {
		var is volume
		for _, o := range all {
			if o.Name == name {
				is.exists, is.size, is.durability = true, o.Size, o.Durability
			}
		}
		for _, n := range sub.Namespaces {
			if n.Volume == name || n.Volume == "default/"+name {
				is.nsid = n.NSID
			}
		}
		if !slices.Contains(v.may[name], is) {
			return fmt.Errorf("volume %s is %+v, but it may be %+v", name, is, v.may[name])
		}
		v.may[name] = []volume{is}
	}
	return nil
}
