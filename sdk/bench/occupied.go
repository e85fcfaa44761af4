package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// OccupiedError is a unit that seems to hold what somebody wants to keep.
type OccupiedError struct{ What string }

func (e *OccupiedError) Error() string {
	return "it holds " + e.What + ", and writing destroys it"
}

// signatures are where and how things that one puts on a disk begin.
var signatures = []struct {
	at    int
	magic string
	what  string
}{
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
	{0, "XFSB", "an XFS file system"},
	{0x10040, "_BHRfS_M", "a Btrfs file system"},
	{3, "NTFS    ", "an NTFS file system"},
	{0, "LUKS\xba\xbe", "a LUKS volume"},
	{0x218, "LVM2 001", "an LVM physical volume"},
	{4096, "\xfc\x4e\x2b\xa9", "a member of an MD array"},
	{4086, "SWAPSPACE2", "swap space"},
	{512, "EFI PART", "a GPT partition table"},
	{4096, "EFI PART", "a GPT partition table"},
	{510, "\x55\xaa", "a boot sector or an MBR partition table"},
}

// lookBytes is enough for every signature.
const lookBytes = 68 << 10

// occupied looks for signs of what somebody wants to keep on a unit of so many bytes.
func occupied(size int64, read func(at int64, b []byte) error) error {
	head := make([]byte, min(lookBytes, size))
	const step = 4096
	for at := 0; at < len(head); at += step {
		if err := read(int64(at), head[at:min(at+step, len(head))]); err != nil {
			return fmt.Errorf("look at what it holds: %w", err)
		}
	}
	for _, s := range signatures {
		if len(head) > s.at && bytes.HasPrefix(head[s.at:], []byte(s.magic)) {
			return &OccupiedError{s.what}
		}
	}
	return nil
}

// occupied looks by the run's first queue: a second association of the same host would end the run's.
func (r *run) occupied(ctx context.Context) error {
	q := r.queues[0]
	return occupied(r.bytes, func(at int64, b []byte) error {
		over, result := false, error(nil)
		q.prepare(func(err error) { over, result = true, err }).start(false, uint64(at)/uint64(r.block), len(b)/r.block, b)
		for !over {
			if err := errors.Join(ctx.Err(), r.loop.Turn(pollInterval)); err != nil {
				return err
			}
		}
		return result
	})
}
