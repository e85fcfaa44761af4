package rig

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Programs of this machine that the rig itself runs, and the Debian package each comes from.
var rigPrograms = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86",
	"busybox":            "busybox-static",
	"modprobe":           "kmod",
	"ldd":                "libc-bin",
	"nbdkit":             "nbdkit",
}

// Missing names what this machine lacks to build and boot img, one line each, empty when all is there.
func Missing(img Image) []string {
	var missing []string
	for program, pkg := range rigPrograms {
		if _, err := lookPath(program); err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s)", program, pkg))
		}
	}
	for _, program := range img.Programs {
		if _, err := lookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if _, err := findKernel(); err != nil {
		missing = append(missing, err.Error())
	}
	slices.Sort(missing)
	return missing
}

// lookPath finds a program in PATH or where Debian keeps system programs, which a user's PATH lacks.
func lookPath(program string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/bin", "/bin") {
		p := filepath.Join(dir, program)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", program)
}

// output runs a program found by lookPath and returns what it prints.
func output(program string, args ...string) (string, error) {
	p, err := lookPath(program)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(p, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// kernel is an installed kernel image and the version that names its module folder.
type kernel struct {
	image   string
	version string
}

// findKernel picks the newest readable kernel that has the modules of an NVMe/TCP host.
func findKernel() (kernel, error) {
	images, _ := filepath.Glob("/boot/vmlinuz-*") // the pattern is well-formed
	var best kernel
	var newest int64
	for _, image := range images {
		version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		modules, _ := filepath.Glob(filepath.Join("/lib/modules", version, "kernel/drivers/nvme/host/nvme-tcp.ko*"))
		info, err := os.Stat(image)
		if err != nil || len(modules) == 0 {
			continue
		}
		if t := info.ModTime().UnixNano(); best.image == "" || t > newest {
			best, newest = kernel{image, version}, t
		}
	}
	if best.image == "" {
		return kernel{}, fmt.Errorf("a Debian kernel in /boot with its modules (package linux-image-amd64)")
	}
	return best, nil
}

// moduleFile is one kernel module to insert, after everything it depends on.
type moduleFile struct {
	path   string
	params string
}

// resolveModules returns the files to insert for the wanted modules, in an order that satisfies dependencies.
func (k kernel) resolveModules(wanted []string) ([]moduleFile, error) {
	var files []moduleFile
	index := make(map[string]int)
	for _, want := range wanted {
		name, params, _ := strings.Cut(want, " ")
		out, err := output("modprobe", "-S", k.version, "--show-depends", name)
		if err != nil {
			return nil, fmt.Errorf("resolve module %s: %w", name, err)
		}
		last := -1
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			if len(fields) < 2 || fields[0] != "insmod" { // "builtin NAME" needs nothing
				continue
			}
			i, known := index[fields[1]]
			if !known {
				i = len(files)
				index[fields[1]] = i
				files = append(files, moduleFile{path: fields[1]})
			}
			last = i
		}
		if last >= 0 && params != "" {
			files[last].params = params
		}
	}
	return files, nil
}

// libraries returns the shared libraries and the loader that a program needs; none for a static one.
func libraries(program string) ([]string, error) {
	out, err := output("ldd", program)
	if err != nil {
		if strings.Contains(out+err.Error(), "not a dynamic executable") {
			return nil, nil
		}
		return nil, err
	}
	var libs []string
	for line := range strings.Lines(out) {
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				libs = append(libs, field)
				break
			}
		}
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("libraries of %s: %s", program, strings.TrimSpace(line))
		}
	}
	return libs, nil
}
