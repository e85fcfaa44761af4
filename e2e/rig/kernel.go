package rig

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// Fields of the x86 boot protocol's header (Documentation/x86/boot.rst) and its constants.
const (
	setupSectorsOffset  = 0x1f1 // one byte: 512 B sectors of set-up code behind the first
	headerMagicOffset   = 0x202
	headerMagic         = "HdrS"
	payloadOffsetOffset = 0x248 // uint32, bytes from the end of the set-up code
	payloadLengthOffset = 0x24c // uint32, bytes
	minKernel           = 0x250 // bytes

	xzMagic  = "\xfd7zXZ\x00"
	xenOwner = "Xen\x00"
	pvhEntry = 18 // XEN_ELFNOTE_PHYS32_ENTRY: QEMU can enter the unpacked kernel
)

var errNoPVH = errors.New("not a kernel that QEMU can enter unpacked")

// unpackedKernel returns a cached copy of the kernel without its compression, which costs an emulated processor several
// seconds of each boot. A kernel that does not allow it is used as it is.
func unpackedKernel(k kernel, dir string) string {
	info, err := os.Stat(k.image)
	if err != nil {
		return k.image
	}
	path := filepath.Join(dir, "vmlinux-"+k.version+"-"+info.ModTime().UTC().Format("20060102150405"))
	if used(path) {
		return path
	}
	image, err := os.ReadFile(k.image)
	if err != nil {
		return k.image
	}
	unpacked, err := unpackKernel(image)
	if err != nil {
		return k.image
	}
	if err := writeWhole(path, func(f *os.File) error {
		_, err := f.Write(unpacked)
		return err
	}); err != nil {
		return k.image
	}
	return path
}

func unpackKernel(image []byte) ([]byte, error) {
	if len(image) < minKernel || string(image[headerMagicOffset:headerMagicOffset+len(headerMagic)]) != headerMagic {
		return nil, errNoPVH
	}
	start := (int64(image[setupSectorsOffset])+1)*512 + int64(binary.LittleEndian.Uint32(image[payloadOffsetOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(image[payloadLengthOffset:]))
	if end > int64(len(image)) || !bytes.HasPrefix(image[start:end], []byte(xzMagic)) {
		return nil, errNoPVH
	}
	// The payload ends with its unpacked size, behind which xz finds nothing to complain of but its end.
	cmd := exec.Command("xz", "-dcq", "--single-stream")
	cmd.Stdin = bytes.NewReader(image[start:end])
	unpacked, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	if !hasPVHEntry(unpacked) {
		return nil, errNoPVH
	}
	return unpacked, nil
}

// hasPVHEntry looks for the entry point among the notes of an ELF kernel.
func hasPVHEntry(kernel []byte) bool {
	f, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return false
	}
	section := f.Section(".notes")
	if section == nil {
		return false
	}
	notes, err := section.Data()
	if err != nil {
		return false
	}
	for len(notes) >= 12 {
		nameSize := int64(binary.LittleEndian.Uint32(notes))
		descSize := int64(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		notes = notes[12:]
		next := (nameSize+3)&^3 + (descSize+3)&^3
		if nameSize > int64(len(notes)) || next > int64(len(notes)) {
			return false
		}
		if kind == pvhEntry && string(notes[:nameSize]) == xenOwner {
			return true
		}
		notes = notes[next:]
	}
	return false
}
