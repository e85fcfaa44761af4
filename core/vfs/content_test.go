package vfs

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestContent compares sparse files and their copies with plain bytes.
func TestContent(t *testing.T) {
	const longest = 3 * contentChunk
	type file struct {
		content content
		want    []byte
	}
	rng := rand.New(rand.NewPCG(1, 1))
	files := []*file{{}}
	for range 600 {
		f := files[rng.IntN(len(files))]
		off := rng.IntN(longest)
		data := bytes.Repeat([]byte{byte(rng.IntN(4))}, rng.IntN(2*contentChunk)) // zeros, too
		if len(data) > 0 {
			data[rng.IntN(len(data))] = byte(rng.Uint32())
		}
		extend := func(n int) { f.want = append(f.want, make([]byte, max(0, n-len(f.want)))...) }
		switch rng.IntN(5) {
		case 0:
			if len(files) < 5 {
				files = append(files, &file{content: f.content.clone(), want: slices.Clone(f.want)})
			}
		case 1:
			f.content.grow(int64(off))
			extend(off)
		case 2:
			n := rng.IntN(512)
			f.content.invert(int64(off), n)
			for i := off; i < min(off+n, len(f.want)); i++ {
				f.want[i] ^= 0xff
			}
		default:
			f.content.write(data, int64(off))
			extend(off + len(data))
			copy(f.want[off:], data)
		}
		for i, f := range files {
			got := make([]byte, len(f.want)+1)
			if n := f.content.read(got, 0); n != len(f.want) || f.content.size != int64(n) || !bytes.Equal(got[:n], f.want) {
				t.Fatalf("file %d differs", i)
			}
		}
		if at := rng.IntN(longest); at < len(f.want) {
			got := bytes.Repeat([]byte{1}, len(data))
			n := f.content.read(got, int64(at))
			if !bytes.Equal(got[:n], f.want[at:at+n]) || n != min(len(data), len(f.want)-at) {
				t.Fatalf("%d bytes at %d differ", n, at)
			}
		}
	}
}
