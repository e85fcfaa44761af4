package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// The backup stream is described in docs/format/meta-store.md.
const (
	backupMagic   = "MOORMETA"
	backupVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// WriteBackup writes the keys that scan yields. It is what engines build Backup on.
func WriteBackup(w io.Writer, scan func(fn func(KV) error) error) error {
	crc := crc32.New(castagnoli)
	b := bufio.NewWriter(w)
	out := io.MultiWriter(b, crc)
	head := binary.LittleEndian.AppendUint32([]byte(backupMagic), backupVersion)
	if _, err := out.Write(head); err != nil {
		return err
	}
	var count uint64
	var buf []byte
	err := scan(func(kv KV) error {
		if kv.Session != 0 {
			return nil
		}
		count++
		buf = append(buf[:0], 1)
		buf = binary.AppendUvarint(buf, uint64(len(kv.Key)))
		buf = binary.AppendUvarint(buf, uint64(len(kv.Value)))
		buf = append(append(buf, kv.Key...), kv.Value...)
		_, err := out.Write(buf)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := out.Write(binary.LittleEndian.AppendUint64([]byte{0}, count)); err != nil {
		return err
	}
	if _, err := b.Write(binary.LittleEndian.AppendUint32(nil, crc.Sum32())); err != nil {
		return err
	}
	return b.Flush()
}

// ReadBackup calls fn with every key of a stream and checks the stream to its end.
// An error about the stream is ErrBadBackup; fn may have been called before it.
func ReadBackup(r io.Reader, fn func(KV) error) error {
	in := &summed{r: bufio.NewReader(r), crc: crc32.New(castagnoli)}
	head := make([]byte, len(backupMagic)+4)
	if err := in.full(head); err != nil {
		return err
	}
	if string(head[:len(backupMagic)]) != backupMagic {
		return fmt.Errorf("%w: it is not a backup of a Meta store", ErrBadBackup)
	}
	if v := binary.LittleEndian.Uint32(head[len(backupMagic):]); v != backupVersion {
		return fmt.Errorf("%w: version %d, this program reads %d", ErrBadBackup, v, backupVersion)
	}
	var count uint64
	for {
		kind, err := in.ReadByte()
		if err != nil {
			return cut(err)
		}
		switch kind {
		case 0:
			return in.end(count)
		case 1:
			kv, err := in.record()
			if err != nil {
				return err
			}
			count++
			if err := fn(kv); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: unknown record %d", ErrBadBackup, kind)
		}
	}
}

// summed reads and keeps a checksum of what was read.
type summed struct {
	r   *bufio.Reader
	crc hash.Hash32
}

func (s *summed) ReadByte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil {
		s.crc.Write([]byte{c})
	}
	return c, err
}

func (s *summed) full(b []byte) error {
	if _, err := io.ReadFull(s.r, b); err != nil {
		return cut(err)
	}
	s.crc.Write(b)
	return nil
}

func (s *summed) record() (KV, error) {
	nk, err := binary.ReadUvarint(s)
	if err != nil {
		return KV{}, cut(err)
	}
	nv, err := binary.ReadUvarint(s)
	if err != nil {
		return KV{}, cut(err)
	}
	if nk == 0 || nk > MaxKey || nv > MaxBytes {
		return KV{}, fmt.Errorf("%w: a key of %d and a value of %d bytes", ErrBadBackup, nk, nv)
	}
	b := make([]byte, nk+nv)
	if err := s.full(b); err != nil {
		return KV{}, err
	}
	return KV{Key: string(b[:nk]), Value: b[nk:]}, nil
}

func (s *summed) end(count uint64) error {
	var b [8]byte
	if err := s.full(b[:]); err != nil {
		return err
	}
	if n := binary.LittleEndian.Uint64(b[:]); n != count {
		return fmt.Errorf("%w: %d keys announced, %d found", ErrBadBackup, n, count)
	}
	want := s.crc.Sum32()
	if err := s.full(b[:4]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b[:4]) != want {
		return fmt.Errorf("%w: checksum does not match", ErrBadBackup)
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its end", ErrBadBackup)
	}
	return nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut short", ErrBadBackup)
	}
	return fmt.Errorf("read backup: %w", err)
}

// VerifyBackup reads a stream to its end and returns how many keys it has.
func VerifyBackup(_ context.Context, r io.Reader) (int, error) {
	n := 0
	err := ReadBackup(r, func(KV) error { n++; return nil })
	return n, err
}
