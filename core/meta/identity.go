package meta

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/vfs"
)

// Identity is what a data directory says of itself.
type Identity struct {
	Version int       `json:"version"`
	Cluster uuid.UUID `json:"cluster"`
	Node    uuid.UUID `json:"node"`
	// Place says where the metadata lives that the directory's stores belong to. That it
	// is written is what moves a node into a cluster.
	Place Place `json:"meta,omitempty"`
}

// Place is where a node's metadata lives.
type Place string

// The places.
const (
	Alone     Place = ""        // in the data directory itself
	Joining   Place = "joining" // nowhere yet: the node has asked to join a cluster
	InCluster Place = "etcd"    // in the etcd of the node's cluster
)

const (
	identityFile = "identity.json"
	// Version 1 is a node on its own, which older programs know; 2 says a Place.
	identityVersion = 2
)

// LoadIdentity reads the identity of a data directory; fs.ErrNotExist if it has none.
func LoadIdentity(dir string) (Identity, error) {
	var id Identity
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return id, fmt.Errorf("read the identity of the data directory: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if id.Version > identityVersion {
		return id, fmt.Errorf("%s: %w", path, ErrNewer)
	}
	if id.Version < 1 || id.Cluster == uuid.Nil || id.Node == uuid.Nil {
		return id, fmt.Errorf("%s is damaged: it lacks a cluster or node", path)
	}
	return id, nil
}

// EnsureIdentity reads the identity of a data directory, or gives a new one to a
// directory that has none. The caller holds the directory's lock.
func EnsureIdentity(dir string) (Identity, error) {
	id, err := LoadIdentity(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	id = Identity{Version: 1, Cluster: uuid.New(), Node: uuid.New()}
	return id, SaveIdentity(dir, id)
}

// SaveIdentity writes the identity, whole or not at all, and durably.
func SaveIdentity(dir string, id Identity) error {
	id.Version = 1
	if id.Place != Alone {
		id.Version = identityVersion
	}
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		panic(err) // plain fields
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if err := vfs.ReplaceFile(filepath.Join(dir, identityFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the identity of the data directory: %w", err)
	}
	return nil
}
