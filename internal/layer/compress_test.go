package layer

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestDecompress(t *testing.T) {
	want := bytes.Repeat([]byte("slipway "), 10000)
	var gz, zst bytes.Buffer
	gw := gzip.NewWriter(&gz)
	gw.Write(want)
	gw.Close()
	zw, _ := zstd.NewWriter(&zst)
	zw.Write(want)
	zw.Close()
	streams := map[Compression][]byte{Uncompressed: want, Gzip: gz.Bytes(), Zstd: zst.Bytes()}
	for _, c := range []Compression{Bzip2, Xz} {
		if _, err := exec.LookPath(string(c)); err == nil {
			cmd := exec.Command(string(c), "-c")
			cmd.Stdin = bytes.NewReader(want)
			if streams[c], err = cmd.Output(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for c, data := range streams {
		if got := DetectCompression(data); got != c {
			t.Errorf("%q is taken for %q", c, got)
		}
		r, err := Decompress(bytes.NewReader(data))
		if err != nil {
			t.Fatal(c, err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes, %v", c, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(c, err)
		}
		if c == Uncompressed {
			continue
		}
		if r, err = Decompress(bytes.NewReader(data[:len(data)/2])); err == nil {
			if _, err = io.ReadAll(r); err == nil {
				t.Errorf("%q: half a stream was accepted", c)
			}
			r.Close()
		}
	}
	if r, err := Decompress(bytes.NewReader(nil)); err != nil {
		t.Error("empty stream:", err)
	} else if b, err := io.ReadAll(r); len(b) != 0 || err != nil {
		t.Error("empty stream:", b, err)
	}
	// Closing early ends the process behind the stream.
	if data := streams[Xz]; data != nil {
		r, err := Decompress(io.MultiReader(bytes.NewReader(data), bytes.NewReader(make([]byte, 1<<20))))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Decompress(bytes.NewReader([]byte{0xfd, '7', 'z', 'X', 'Z', 0})); !errors.Is(err, ErrCompression) {
		t.Errorf("xz without the program: %v", err)
	}
}

// What is compressed comes back, and its bytes do not depend on the number of cores.
func TestCompress(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	const zstdJob = 4 << 20
	for _, size := range []int{0, 1, gzipBlock - 1, gzipBlock, zstdJob - 1, zstdJob, 2*zstdJob + 17, 5 * gzipBlock} {
		data := make([]byte, size)
		r.Read(data[:size/2]) // half of it cannot be compressed
		for _, c := range []Compression{Uncompressed, Gzip, Zstd} {
			var outs [][]byte
			for _, cores := range []int{1, 2, 8} {
				before := runtime.GOMAXPROCS(cores)
				var out bytes.Buffer
				w, err := Compress(&out, Encoding{Compression: c})
				if err != nil {
					t.Fatal(err)
				}
				for rest := data; len(rest) > 0; { // in odd pieces
					n := min(len(rest), 100_003)
					if _, err := w.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				runtime.GOMAXPROCS(before)
				outs = append(outs, out.Bytes())
			}
			if !bytes.Equal(outs[0], outs[1]) || !bytes.Equal(outs[0], outs[2]) {
				t.Errorf("%q of %d bytes depends on the number of cores", c, size)
			}
			back, err := Decompress(bytes.NewReader(outs[0]))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(back); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%q of %d bytes: got %d bytes back, %v", c, size, len(got), err)
			}
			back.Close()
		}
	}
}

// A full disk is told.
func TestCompressTellsErrors(t *testing.T) {
	for _, c := range []Compression{Uncompressed, Gzip, Zstd} {
		w, err := Compress(fullDisk{}, Encoding{Compression: c})
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(w, io.LimitReader(rand.New(rand.NewSource(1)), 20<<20))
		if err = errors.Join(err, w.Close()); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%q: %v", c, err)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestEncodingCheck(t *testing.T) {
	for e, ok := range map[Encoding]bool{
		{}: true, {Compression: Gzip, Level: 0}: true, {Compression: Gzip, Level: 1}: true, {Compression: Gzip, Level: 9}: true, {Compression: Zstd, Level: 22}: true,
		{Compression: Gzip, Level: 10}: false, {Compression: Gzip, Level: -1}: false, {Compression: Zstd, Level: 23}: false, {Compression: Uncompressed, Level: 1}: false, {Compression: Xz, Level: 0}: false, {Compression: "lz4", Level: 0}: false,
	} {
		if err := e.Check(); (err == nil) != ok {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

// A level is what its format means by it.
func TestCompressLevels(t *testing.T) {
	var data []byte
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, text...)
	}
	for _, c := range []Compression{Gzip, Zstd} {
		size := map[int]int{}
		for _, level := range []int{0, 1, 3, 9} {
			var out bytes.Buffer
			w, err := Compress(&out, Encoding{Compression: c, Level: level})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			size[level] = out.Len()
		}
		if size[9] >= size[1] {
			t.Errorf("%s: level 9 gives %d bytes, level 1 %d", c, size[9], size[1])
		}
		if usual := 3; c == Zstd && size[0] != size[usual] {
			t.Errorf("%s: no level gives %d bytes, level %d %d", c, size[0], usual, size[usual])
		}
	}
}

// A gzip stream may have several members, with zeros after each.
func TestDecompressMembers(t *testing.T) {
	member := func(s string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		io.WriteString(w, s)
		w.Close()
		return b.Bytes()
	}
	zeros := make([]byte, 300<<10) // more than a buffer
	var many, text bytes.Buffer
	for i := range 3000 {
		many.Write(member(fmt.Sprintln(i)))
		fmt.Fprintln(&text, i)
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
		bad  bool
	}{
		"two":                 {append(member("a"), member("b")...), "ab", false},
		"zeros":               {append(member("a"), zeros[:512]...), "a", false},
		"one zero":            {append(member("a"), 0), "a", false},
		"many zeros":          {append(member("a"), zeros...), "a", false},
		"some zeros between":  {append(append(member("a"), 0, 0, 0), member("b")...), "ab", false},
		"zeros between":       {append(append(member("a"), zeros...), member("b")...), "ab", false},
		"an empty member":     {append(member(""), member("b")...), "b", false},
		"many members":        {many.Bytes(), text.String(), false},
		"garbage":             {append(member("a"), "garbage that is long enough"...), "a", true},
		"garbage after zeros": {append(append(member("a"), zeros...), 7), "a", true},
		"half a member":       {append(member("a"), member("b")[:8]...), "a", true},
	} {
		r, err := Decompress(bytes.NewReader(tt.data))
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := io.ReadAll(r)
		if string(got) != tt.want || (err != nil) != tt.bad {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := r.Close(); err != nil && !tt.bad {
			t.Error(name, err)
		}
	}
}

// TestDecompressWindows are streams that would have the decoder remember more than they are worth.
func TestDecompressWindows(t *testing.T) {
	// zstd's frame header: magic, descriptor (0: a window follows), window (exponent in the upper five bits), then
	// one last block of four bytes, raw.
	frame := func(exponent byte) []byte {
		return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1 | 4<<3, 0, 0}, "text"...)
	}
	// The same as a single segment, whose window is its size, which has eight bytes.
	segment := func(size byte) []byte {
		return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, size, 0, 0, 0, 0, 1 | 4<<3, 0, 0}, "text"...)
	}
	for name, tt := range map[string]struct {
		data []byte
		ok   bool
	}{
		"zstd --ultra -22": {frame(27 - 10), true}, "--long=28": {frame(28 - 10), false}, "--long=31": {frame(31 - 10), false},
		"1 TiB": {frame(40 - 10), false}, "a segment of 512 MiB": {segment(32), false}, "a segment of 2 GiB": {segment(128), false},
	} {
		for _, read := range []func(io.Reader) error{
			func(r io.Reader) error { _, err := io.ReadAll(r); return err },
			func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
		} {
			var err error
			r, err := Decompress(bytes.NewReader(tt.data))
			if err == nil {
				err = read(r)
				r.Close()
			}
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, ErrCompression) {
				t.Errorf("%s: error is %v", name, err)
			}
		}
	}
	// xz with a dictionary of 1 GiB: its stream header, then a block header of LZMA2 with that size.
	xz := exec.Command("xz", "-c", "--lzma2=preset=0,dict=512KiB")
	xz.Stdin = bytes.NewReader([]byte("text"))
	data, err := xz.Output()
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, []byte{0x21, 0x01})
	if i < 12 {
		t.Fatalf("no filter in %x", data)
	}
	data[i+2] = 36 // 1 GiB
	head := data[12 : 12+(int(data[12])+1)*4]
	binary.LittleEndian.PutUint32(head[len(head)-4:], crc32.ChecksumIEEE(head[:len(head)-4]))
	r, err := Decompress(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "Memory usage limit") {
		t.Errorf("error is %v", err)
	}
}
