package supervisor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/proto"
)

// ErrChecksum is the refusal to run a file that is not the one in the catalog.
var ErrChecksum = errors.New("the file is not the one that was registered")

// ErrUnknown says that no plugin has that name.
var ErrUnknown = errors.New("no such plugin")

// FileError is an sdk.ErrInvalid: a file that cannot be a plugin.
type FileError struct{ err error }

func (e *FileError) Error() string { return e.err.Error() }
func (e *FileError) Unwrap() error { return e.err }

// Is makes it an sdk.ErrInvalid.
func (e *FileError) Is(target error) bool { return target == sdk.ErrInvalid }

// CatalogFile is the catalog, in the data directory.
const CatalogFile = "plugins.json"

// Entry is a plugin in the catalog: a name, the file it is, and the file's checksum.
type Entry struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"` // hexadecimal
	// BuiltIn plugins were found in the plugin directory; others were registered.
	BuiltIn bool `json:"built_in,omitempty"`
	// Core is the checksum of the core that took a built-in plugin in. When core and
	// plugin have both changed, that is an upgrade; the plugin alone may not.
	Core string `json:"core,omitempty"`
	// Removed built-in plugins stay out until they are registered again.
	Removed bool `json:"removed,omitempty"`
	// Slot numbers the plugin's own user; see Options.BaseUID.
	Slot int `json:"slot"`
	// Description is what the file with this checksum says about itself; null until
	// it was first run.
	Description json.RawMessage `json:"description,omitempty"`
}

// describe returns the remembered Description, or nil.
func (e Entry) describe() *proto.Description {
	d := &proto.Description{}
	if len(e.Description) == 0 || protojson.Unmarshal(e.Description, d) != nil {
		return nil
	}
	return d
}

// catalog is the file of all plugins that may run.
type catalog struct {
	path string
	core string // checksum of this core

	mu      sync.Mutex
	entries map[string]Entry // guarded by mu

	trust bool // take changed built-in plugins in; immutable after New
}

type catalogContent struct {
	Version int     `json:"version"`
	Plugins []Entry `json:"plugins"`
}

const catalogVersion = 1

func openCatalog(dataDir string) (*catalog, error) {
	c := &catalog{path: filepath.Join(dataDir, CatalogFile), entries: map[string]Entry{}}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open the core's own file: %w", err)
	}
	defer self.Close()
	if c.core, err = checksum(self); err != nil {
		return nil, fmt.Errorf("read the core's own file: %w", err)
	}
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read plugin catalog: %w", err)
	}
	var content catalogContent
	if err := json.Unmarshal(b, &content); err != nil {
		return nil, fmt.Errorf("plugin catalog %s is damaged (%w): restore it, or delete it to take in the plugins that are installed now", c.path, err)
	}
	if content.Version != catalogVersion {
		return nil, fmt.Errorf("plugin catalog %s has version %d, this mooring knows %d", c.path, content.Version, catalogVersion)
	}
	for _, e := range content.Plugins {
		c.entries[e.Name] = e
	}
	return c, nil
}

// save is called with mu held. The file is replaced as a whole.
func (c *catalog) save() error {
	content := catalogContent{Version: catalogVersion, Plugins: c.sorted()}
	b, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("encode plugin catalog: %w", err)
	}
	if err := replaceFile(c.path, append(b, '\n')); err != nil {
		return fmt.Errorf("write plugin catalog: %w", err)
	}
	return nil
}

func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // no effect after the rename
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// sorted is called with mu held.
func (c *catalog) sorted() []Entry {
	var out []Entry
	for _, name := range slices.Sorted(maps.Keys(c.entries)) {
		out = append(out, c.entries[name])
	}
	return out
}

func (c *catalog) list() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(c.sorted(), func(e Entry) bool { return e.Removed })
}

func (c *catalog) get(name string) (Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[name]
	if !ok || e.Removed {
		return Entry{}, fmt.Errorf("plugin %q: %w; `mooring plugin list` shows those there are", name, ErrUnknown)
	}
	return e, nil
}

// put adds e or replaces the entry of that name, whose slot it keeps.
func (c *catalog) put(e Entry) (Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, had := c.entries[e.Name]
	e.Slot = old.Slot
	if !had {
		e.Slot = c.freeSlot()
	}
	c.entries[e.Name] = e
	if err := c.save(); err != nil {
		c.restore(e.Name, old, had)
		return Entry{}, err
	}
	return e, nil
}

// freeSlot is called with mu held.
func (c *catalog) freeSlot() int {
	used := map[int]bool{}
	for _, e := range c.entries {
		used[e.Slot] = true
	}
	slot := 1
	for used[slot] {
		slot++
	}
	return slot
}

func (c *catalog) restore(name string, old Entry, had bool) {
	if had {
		c.entries[name] = old
	} else {
		delete(c.entries, name)
	}
}

func (c *catalog) remove(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.entries[name]
	if !ok || old.Removed {
		return fmt.Errorf("plugin %q: %w", name, ErrUnknown)
	}
	delete(c.entries, name)
	if old.BuiltIn {
		gone := old
		gone.Removed = true
		c.entries[name] = gone
	}
	if err := c.save(); err != nil {
		c.restore(name, old, true)
		return err
	}
	return nil
}

// described remembers what the file with that checksum says about itself.
func (c *catalog) described(name, sum string, d *proto.Description) error {
	b, err := protojson.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode description of %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[name]
	if !ok || e.SHA256 != sum || sameJSON(e.Description, b) {
		return nil
	}
	e.Description = b
	c.entries[name] = e
	return c.save()
}

// sameJSON tells whether a and b differ in white space at most: the file is indented, and what protojson makes varies.
func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

var pluginName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// discover takes in the files of dir that are not in the catalog. A directory that
// does not exist has none.
func (c *catalog) discover(dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read plugin directory: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || !pluginName.MatchString(f.Name()) {
			continue
		}
		c.mu.Lock()
		old, known := c.entries[f.Name()]
		c.mu.Unlock()
		if known && (!old.BuiltIn || old.Path == path) {
			continue
		}
		sum, err := checksumOf(path)
		if err != nil {
			return err
		}
		if known && old.SHA256 != sum && old.Core == c.core {
			continue // another file under a known name; launching it will say so
		}
		if _, err := c.put(Entry{Name: f.Name(), Path: path, SHA256: sum, BuiltIn: true, Core: c.core, Removed: old.Removed}); err != nil {
			return err
		}
	}
	return nil
}

// verify opens the file of e and compares it with the catalog. What it returns is
// the very file that was read, whatever its name means by now. It may update the
// entry of a built-in plugin, which it returns.
func (c *catalog) verify(e Entry) (*os.File, Entry, error) {
	f, err := os.Open(e.Path)
	if err != nil {
		return nil, e, fmt.Errorf("plugin %s: %w", e.Name, err)
	}
	sum, err := checkFile(f)
	if err == nil && sum != e.SHA256 {
		if e.BuiltIn && (c.trust || e.Core != c.core) {
			e, err = c.put(Entry{Name: e.Name, Path: e.Path, SHA256: sum, BuiltIn: true, Core: c.core})
		} else {
			err = fmt.Errorf("%w: %s has SHA-256 %s, registered is %s; if it is what you want to run, `mooring plugin add %s`",
				ErrChecksum, e.Path, sum, e.SHA256, e.Path)
		}
	}
	if err != nil {
		f.Close()
		return nil, e, fmt.Errorf("plugin %s: %w", e.Name, err)
	}
	return f, e, nil
}

// checkFile returns the checksum of a file that can be a plugin.
func checkFile(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is not an executable file", f.Name())
	}
	if info.Mode()&0o002 != 0 {
		return "", fmt.Errorf("%s can be written by everybody: chmod o-w it", f.Name())
	}
	return checksum(f)
}

func checksumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return checkFile(f)
}

func checksum(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
