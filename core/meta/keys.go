package meta

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// The keys of the store; docs/format/meta-store.md describes what is under them.
// Names are checked before they become part of a key, so that none holds a slash;
// NQNs may, and stand where the rest of the key still tells them apart.
const keyCluster = "cluster"

func keyCounter(name string) string         { return "counter/" + name }
func keyNode(id uuid.UUID) string           { return "node/" + id.String() }
func keyNodeName(name string) string        { return "nodename/" + name }
func keySession(id SessionID) string        { return fmt.Sprintf("session/%016x", uint64(id)) }
func keyStore(id uuid.UUID) string          { return "store/" + id.String() }
func keyOwner(volume uuid.UUID) string      { return "owner/" + volume.String() }
func keyTenant(name string) string          { return "tenant/" + name }
func keyVolume(id uuid.UUID) string         { return "volume/" + id.String() }
func keyVolumeName(t, name string) string   { return "volname/" + t + "/" + name }
func keyHost(name string) string            { return "host/" + name }
func keySubsystem(nqn string) string        { return "subsystem/" + nqn }
func keyTenantVolumes(name string) string   { return "tenantvol/" + name }
func keyTenantSub(t, nqn string) string     { return "tenantsub/" + t + "/" + nqn }
func keyAttached(volume uuid.UUID) string   { return "attached/" + volume.String() }
func keyReservation(v uuid.UUID) string     { return "reservation/" + v.String() }
func keyExtents(v uuid.UUID) string         { return "extent/" + v.String() + "/" }
func keyChunk(v uuid.UUID, c uint32) string { return fmt.Sprintf("extent/%s/%08x", v, c) }
func keyBehind(v uuid.UUID) string          { return "behind/" + v.String() }
func keyToldAll(v uuid.UUID) string         { return "told/" + v.String() + "/" }
func keyTold(v uuid.UUID, h HostID) string  { return keyToldAll(v) + h.key() }
func keyAccessPoint(id string) string       { return "accesspoint/" + id }
func keyRedirector(a netip.Addr) string     { return "redirector/" + a.String() }
func keyJoinToken(id string) string         { return "jointoken/" + id }

// esc makes an NQN or host name a key component without slashes.
func esc(s string) string { return strings.NewReplacer("%", "%25", "/", "%2f").Replace(s) }

func keyNamespaces(nqn string) string { return "namespace/" + esc(nqn) + "/" }
func keyNamespace(nqn string, id NSID) string {
	return fmt.Sprintf("namespace/%s/%08x", esc(nqn), uint32(id))
}
func keyPaths(nqn string, h HostID) string { return "path/" + esc(nqn) + "/" + h.key() + "/" }
func keyPath(k PathKey) string {
	return fmt.Sprintf("%s%08x", keyPaths(k.Subsystem, k.Host), uint32(k.NSID))
}
func keyAssociations(nqn string) string          { return "association/" + esc(nqn) + "/" }
func keyAssociation(nqn string, h HostID) string { return keyAssociations(nqn) + h.key() }
func keyEvents(node uuid.UUID) string            { return "event/" + node.String() + "/" }
func keyEvent(node uuid.UUID, seq uint64) string {
	return fmt.Sprintf("%s%016x", keyEvents(node), seq)
}

// Topic is a part of the truth that can be watched.
type Topic string

// The topics.
const (
	TopicNodes        Topic = "node/"
	TopicSessions     Topic = "session/"
	TopicStores       Topic = "store/"
	TopicTenants      Topic = "tenant/"
	TopicVolumes      Topic = "volume/"
	TopicHosts        Topic = "host/"
	TopicSubsystems   Topic = "subsystem/"
	TopicNamespaces   Topic = "namespace/"
	TopicExtents      Topic = "extent/"
	TopicOwners       Topic = "owner/"
	TopicAccessPoints Topic = "accesspoint/"
	TopicPaths        Topic = "path/"
	TopicAssociations Topic = "association/"
	TopicReservations Topic = "reservation/"
	TopicEvents       Topic = "event/"
)

// Watch returns a channel that yields topics under which something may have
// changed: all of them at once, then as it happens, merged while nobody receives.
// A topic is a hint to read again. The channel is closed when ctx or the store ends.
func (m *Meta) Watch(ctx context.Context, topics ...Topic) <-chan []Topic {
	out := make(chan []Topic)
	// One watch of everything: the topics share their order, and an engine pays once.
	hints := m.st.Watch(ctx, "")
	go func() {
		defer close(out)
		var pending []Topic
		for {
			send := out
			if len(pending) == 0 {
				send = nil
			}
			select {
			case send <- pending:
				pending = nil
			case h, ok := <-hints:
				if !ok {
					return
				}
				for _, t := range topics {
					if slices.Contains(pending, t) {
						continue
					}
					if len(h.Keys) == 0 || slices.ContainsFunc(h.Keys, func(k string) bool { return strings.HasPrefix(k, string(t)) }) {
						pending = append(pending, t)
					}
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
