//go:build cgo

package libdeflate

import (
	"bytes"
	"compress/flate"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// inflate is what Go's decoder makes of a stream, all of which it must read.
func inflate(t *testing.T, stream []byte) []byte {
	t.Helper()
	r := bytes.NewReader(stream)
	data, err := io.ReadAll(flate.NewReader(r))
	if err != nil {
		t.Fatalf("inflating %d bytes: %v", len(stream), err)
	}
	if r.Len() > 0 {
		t.Fatalf("%d of %d bytes come after the end of the stream", r.Len(), len(stream))
	}
	return data
}

// deflate compresses data in blocks that end at cuts, each of which may refer to what is before it.
func deflate(t *testing.T, c *Compressor, data []byte, cuts ...int) (stream []byte) {
	t.Helper()
	from := 0
	for _, to := range append(cuts, len(data)) {
		block, err := c.Block(nil, data[:to], from, to == len(data))
		if err != nil {
			t.Fatal(err)
		}
		stream = append(stream, block...)
		if from = to; to == len(data) {
			break
		}
	}
	return stream
}

func compressor(t testing.TB, level int) *Compressor {
	t.Helper()
	c, err := New(level)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Free)
	return c
}

// samples are of kinds that are compressed in different ways, and longer than the window.
func samples(t *testing.T) map[string][]byte {
	t.Helper()
	r := rand.New(rand.NewSource(1))
	random, few, mixed := make([]byte, 120_000), make([]byte, 120_000), make([]byte, 0, 120_000)
	r.Read(random)
	for i := range few {
		few[i] = "ACGT"[r.Intn(4)]
	}
	text, err := os.ReadFile("deflate_compress.c")
	if err != nil {
		t.Fatal(err)
	}
	for len(mixed) < 120_000 {
		a, b := r.Intn(len(text)-3000), r.Intn(len(random)-3000)
		mixed = append(append(append(mixed, text[a:a+r.Intn(3000)]...), random[b:b+r.Intn(3000)]...), make([]byte, r.Intn(3000))...)
	}
	return map[string][]byte{"random": random, "four letters": few, "text": text, "mixed": mixed, "zeros": make([]byte, 120_000), "a letter": {'a'}, "nothing": {}}
}

// Blocks one after the other are one stream, whatever their sizes, and a compressor remembers nothing of earlier streams.
func TestBlocks(t *testing.T) {
	all := samples(t)
	for level := 1; level <= 9; level++ {
		c := compressor(t, level)
		for name, data := range all {
			cuts := map[string][]int{"one": nil}
			for what, size := range map[string]int{"small": 1, "less than the window": 5000, "the window": Window, "one more": Window + 1, "large": 100_000} {
				for at := size; at < len(data) && len(cuts[what]) < 3; at += size {
					cuts[what] = append(cuts[what], at)
				}
			}
			for what, at := range cuts {
				stream := deflate(t, c, data, at...)
				if !bytes.Equal(inflate(t, stream), data) {
					t.Errorf("level %d, %s in blocks (%s): what comes back is not what there was", level, name, what)
				}
				if !bytes.Equal(deflate(t, compressor(t, level), data, at...), stream) {
					t.Errorf("level %d, %s in blocks (%s): a compressor that was used before gives other bytes", level, name, what)
				}
			}
		}
	}
}

// A block finds what comes again of the window before it.
func TestBlocksKnowWhatCameBefore(t *testing.T) {
	once := make([]byte, Window-300)
	rand.New(rand.NewSource(1)).Read(once)
	for level := 1; level <= 9; level++ {
		c := compressor(t, level)
		if n := len(deflate(t, c, append(once[:len(once):len(once)], once...), len(once))); n > len(once)+2000 {
			t.Errorf("level %d: %d bytes for %d and the same again", level, n, len(once))
		}
	}
}

// Nothing is written beyond the memory that there is for it, and whatever is compressed fits into what Bound says.
func TestBound(t *testing.T) {
	random := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(random)
	for level := 1; level <= 9; level++ {
		c := compressor(t, level)
		for _, size := range []int{0, 1, 15, 19, 20, 39, 55, 56, 100, 4999, 5000, 9999, 10_000, 10_001, 65_535, 65_536, 120_000, 1 << 20} {
			for _, last := range []bool{false, true} {
				memory := bytes.Repeat([]byte{0xa5}, Bound(size)+64)
				out, err := c.Block(memory[:0:Bound(size)], random[:size], 0, last)
				if err != nil {
					t.Fatalf("level %d: %v", level, err)
				}
				if &out[0] != &memory[0] {
					t.Errorf("level %d: the block of %d bytes is not where there was room for it", level, size)
				}
				if !bytes.Equal(memory[Bound(size):], bytes.Repeat([]byte{0xa5}, 64)) {
					t.Fatalf("level %d: the block of %d bytes goes beyond its memory", level, size)
				}
			}
		}
		for room := 0; room < 2000; room += 1 + room/100 {
			memory := bytes.Repeat([]byte{0xa5}, room+64)
			if n := c.block(memory[:room], random[:1900], 0, room%2 == 0); n > room || n > 0 && n < 1900 {
				t.Fatalf("level %d: %d bytes are said to be in %d", level, n, room)
			}
			if !bytes.Equal(memory[room:], bytes.Repeat([]byte{0xa5}, 64)) {
				t.Fatalf("level %d: a block goes beyond its memory of %d bytes", level, room)
			}
		}
	}
}

func TestLevels(t *testing.T) {
	for _, level := range []int{-1, 0, 10, 13} {
		if c, err := New(level); err == nil {
			c.Free()
			t.Errorf("there is a level %d", level)
		}
	}
}

// The README tells which sources these are: of each file that is here.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, ".go") || name == "README.md" || name == "testdata" {
			continue
		}
		if !strings.Contains(string(readme), name) {
			t.Errorf("README.md does not tell of %s", name)
		}
		if regexp.MustCompile(`decompress|zlib|gzip`).MatchString(name) {
			t.Errorf("%s: want what compresses blocks, and no more of libdeflate", name)
		}
	}
}

// FuzzBlocks compares with Go's decoder.
func FuzzBlocks(f *testing.F) {
	f.Add([]byte("slipway slipway slipway"), uint8(5), uint16(3), uint16(9))
	f.Add(bytes.Repeat([]byte("ab"), 40_000), uint8(1), uint16(32768), uint16(32769))
	f.Add([]byte{}, uint8(9), uint16(0), uint16(0))
	var cs [10]*Compressor
	for level := 1; level <= 9; level++ {
		cs[level] = compressor(f, level)
	}
	f.Fuzz(func(t *testing.T, data []byte, level uint8, a, b uint16) {
		// What comes again is worth a lot of input.
		data = append(append(data[:len(data):len(data)], bytes.Repeat(data[:min(len(data), 300)], int(a%200))...), data...)
		one, two := min(int(a), int(b), len(data)), min(max(int(a), int(b)), len(data))
		if !bytes.Equal(inflate(t, deflate(t, cs[1+level%9], data, one, two)), data) {
			t.Error("what comes back is not what there was")
		}
	})
}
