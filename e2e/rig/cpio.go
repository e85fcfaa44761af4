package rig

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// File modes of the "newc" archive format that the kernel unpacks (Documentation/driver-api/early-userspace).
const (
	cpioRegular = 0o100000
	cpioDir     = 0o040000
	cpioSymlink = 0o120000

	cpioTrailer = "TRAILER!!!"
	cpioAlign   = 4   // bytes; headers with their names, and contents, are padded to this
	cpioBlock   = 512 // bytes; an archive is padded to this, so that archives can follow each other
)

// cpioWriter appends entries to one newc archive. Parent folders are added when first needed.
// It keeps the first error and returns it from close.
type cpioWriter struct {
	w      *bufio.Writer
	offset int64 // bytes written
	inode  uint32
	seen   map[string]bool // guest paths without the leading slash
	err    error
}

func newCpioWriter(w io.Writer) *cpioWriter {
	return &cpioWriter{w: bufio.NewWriterSize(w, 1<<20), seen: make(map[string]bool)}
}

// file adds size bytes of r under name.
func (c *cpioWriter) file(name string, perm fs.FileMode, size int64, r io.Reader) {
	c.entry(name, cpioRegular|uint32(perm.Perm()), size, r)
}

func (c *cpioWriter) text(name string, perm fs.FileMode, text string) {
	c.file(name, perm, int64(len(text)), strings.NewReader(text))
}

func (c *cpioWriter) symlink(name, target string) {
	c.entry(name, cpioSymlink|0o777, int64(len(target)), strings.NewReader(target))
}

func (c *cpioWriter) dir(name string) {
	c.entry(name, cpioDir|0o755, 0, nil)
}

// hostFile copies the file at source, following symbolic links.
func (c *cpioWriter) hostFile(name, source string) {
	if c.err != nil {
		return
	}
	f, err := os.Open(source)
	if err != nil {
		c.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		c.err = err
		return
	}
	c.file(name, info.Mode(), info.Size(), f)
}

func (c *cpioWriter) entry(name string, mode uint32, size int64, body io.Reader) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if c.err != nil || name == "" || c.seen[name] {
		return
	}
	if parent := path.Dir(name); parent != "." && !c.seen[parent] {
		c.dir(parent)
	}
	c.seen[name] = true
	c.header(name, mode, size)
	if body != nil && c.err == nil {
		n, err := io.Copy(c.w, io.LimitReader(body, size))
		c.offset += n
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			c.err = fmt.Errorf("archive %s: %w", name, err)
		}
	}
	c.pad(cpioAlign)
}

func (c *cpioWriter) header(name string, mode uint32, size int64) {
	c.inode++
	c.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0 /*uid*/, 0 /*gid*/, 1 /*nlink*/, 0, /*mtime*/
		uint32(size), 0, 0, 0, 0 /*devices*/, len(name)+1, 0 /*check*/, name)
	c.pad(cpioAlign)
}

func (c *cpioWriter) printf(format string, args ...any) {
	if c.err != nil {
		return
	}
	n, err := fmt.Fprintf(c.w, format, args...)
	c.offset += int64(n)
	c.err = err
}

func (c *cpioWriter) pad(align int64) {
	for c.err == nil && c.offset%align != 0 {
		c.err = c.w.WriteByte(0)
		c.offset++
	}
}

func (c *cpioWriter) close() error {
	c.header(cpioTrailer, 0, 0)
	c.pad(cpioBlock)
	if c.err != nil {
		return c.err
	}
	return c.w.Flush()
}
