package rig

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed init.sh
var initScript string

// staleAge is when a cached file is taken for one that no image matches any more.
const staleAge = 24 * time.Hour

// Modules that the guest needs for the rig's own sake: disks, and the shared folder.
var rigModules = []string{"virtio_pci", "virtio_blk", "9pnet_virtio", "9p"}

// Libraries that programs load by name at run time, so that ldd does not see them.
var dlopened = []string{"/usr/lib/x86_64-linux-gnu/libgcc_s.so.1"}

// Image is what the machines of a test run have in common.
type Image struct {
	// Programs are names of programs of this machine; each is carried with its shared libraries and goes before
	// busybox's applet of the same name.
	Programs []string
	// Modules are kernel modules to insert at boot, in this order, each with its dependencies. Parameters may
	// follow a name: "nvme_core multipath=N".
	Modules []string
	// Params are parameters of modules by file name, for modules that come as dependencies.
	Params map[string]string
}

// builtImage is an Image resolved against this machine.
type builtImage struct {
	kernel  string // path of what QEMU boots
	archive string // path in the cache
}

// source says where an entry of the archive comes from.
type source struct {
	guest string
	host  string // file to copy, empty if text is meant
	text  string
	perm  fs.FileMode // of text
	link  string      // target of a symbolic link
}

// build resolves the image and returns the cached archive, made anew when any file that it carries has changed.
func (img Image) build() (builtImage, error) {
	k, err := findKernel()
	if err != nil {
		return builtImage{}, errors.New("missing: " + err.Error())
	}
	sources, err := img.sources(k)
	if err != nil {
		return builtImage{}, err
	}
	key, err := fingerprint(k, sources)
	if err != nil {
		return builtImage{}, err
	}
	dir, err := cacheDir()
	if err != nil {
		return builtImage{}, err
	}
	built := builtImage{kernel: unpackedKernel(k, dir), archive: filepath.Join(dir, "image-"+key+".cpio")}
	if used(built.archive) {
		return built, nil
	}
	if err := writeArchive(built.archive, sources); err != nil {
		return builtImage{}, err
	}
	dropStale(dir)
	return built, nil
}

// used reports whether a cached file is there, and keeps it from going stale.
func used(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// dropStale removes cached files that are older than staleAge; errors cost only space.
func dropStale(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAge {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "mooring-e2e")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("image cache: %w", err)
	}
	return dir, nil
}

func (img Image) sources(k kernel) ([]source, error) {
	list := []source{
		{guest: "init", text: initScript, perm: 0o755},
		{guest: "etc/passwd", text: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", perm: 0o644},
		{guest: "etc/group", text: "root:x:0:\nnogroup:x:65534:\n", perm: 0o644},
		{guest: "etc/hosts", text: "127.0.0.1 localhost\n", perm: 0o644},
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		list = append(list, source{guest: dir, link: "usr/" + dir})
	}
	programs, err := img.programSources()
	if err != nil {
		return nil, err
	}
	modules, err := img.moduleSources(k)
	if err != nil {
		return nil, err
	}
	return slices.Concat(list, programs, modules), nil
}

func (img Image) programSources() ([]source, error) {
	var list []source
	// sh is carried because busybox's prefers its own applets to the programs named here.
	for _, program := range append([]string{"sh"}, img.Programs...) {
		path, err := lookPath(program)
		if err != nil {
			return nil, err
		}
		libs, err := libraries(path)
		if err != nil {
			return nil, err
		}
		list = append(list, source{guest: "usr/bin/" + program, host: path})
		for _, lib := range libs {
			list = append(list, source{guest: guestPath(lib), host: lib})
		}
	}
	for _, lib := range dlopened {
		list = append(list, source{guest: guestPath(lib), host: lib})
	}
	busybox, err := lookPath("busybox")
	if err != nil {
		return nil, err
	}
	applets, err := output("busybox", "--list")
	if err != nil {
		return nil, err
	}
	list = append(list, source{guest: "usr/bin/busybox", host: busybox})
	for _, applet := range strings.Fields(applets) {
		list = append(list, source{guest: "usr/bin/" + applet, link: "busybox"}) // the first of a name wins
	}
	return list, nil
}

func (img Image) moduleSources(k kernel) ([]source, error) {
	files, err := k.resolveModules(slices.Concat(rigModules, img.Modules))
	if err != nil {
		return nil, err
	}
	var list []source
	var order strings.Builder
	for _, f := range files {
		name := filepath.Base(f.path)
		name = name[:strings.Index(name, ".ko")]
		params := f.params
		if p, ok := img.Params[strings.ReplaceAll(name, "-", "_")]; ok {
			params = p
		}
		guest := "rig/modules/" + name + ".ko"
		fmt.Fprintf(&order, "/%s %s\n", guest, params)
		list = append(list, source{guest: guest, host: f.path})
	}
	return append(list, source{guest: "rig/modules/order", text: order.String(), perm: 0o644}), nil
}

// guestPath maps a library's path to the merged /usr of the guest.
func guestPath(path string) string {
	if !strings.HasPrefix(path, "/usr/") {
		path = "/usr" + path
	}
	return strings.TrimPrefix(path, "/")
}

func fingerprint(k kernel, sources []source) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, k.image, k.version)
	for _, s := range sources {
		fmt.Fprintf(h, "%s %s %s %q %o", s.guest, s.host, s.link, s.text, s.perm)
		if s.host != "" {
			info, err := os.Stat(s.host)
			if err != nil {
				return "", err
			}
			fmt.Fprint(h, info.Size(), info.ModTime().UnixNano())
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func writeArchive(path string, sources []source) error {
	return writeWhole(path, func(f *os.File) error {
		c := newCpioWriter(f)
		for _, s := range sources {
			c.add(s)
		}
		return c.close()
	})
}

// writeWhole writes to a temporary name first, so that an interrupted run leaves no half file behind.
func writeWhole(path string, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once renamed
	defer f.Close()
	if err := fill(f); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (c *cpioWriter) add(s source) {
	switch {
	case s.link != "":
		c.symlink(s.guest, s.link)
	case s.host == "":
		c.text(s.guest, s.perm, s.text)
	case strings.HasSuffix(s.host, ".ko.xz"):
		c.unpacked(s.guest, "xz", s.host)
	case strings.HasSuffix(s.host, ".ko.zst"):
		c.unpacked(s.guest, "zstd", s.host)
	default:
		c.hostFile(s.guest, s.host)
	}
}

// unpacked adds a compressed kernel module as the plain file that busybox's insmod takes.
func (c *cpioWriter) unpacked(guest, program, path string) {
	if c.err != nil {
		return
	}
	body, err := exec.Command(program, "-dcq", path).Output()
	if err != nil {
		c.err = fmt.Errorf("unpack %s with %s: %w", path, program, err)
		return
	}
	c.text(guest, 0o644, string(body))
}
