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
	"runtime/debug"
	"strings"
	"sync"
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
	if testing.Short() {
		t.Skip("long: all encoders with eight sizes; TestCompressAtTheSameTime has the short form")
	}
	r := rand.New(rand.NewSource(1))
	const zstdJob = 4 << 20
	for _, size := range []int{0, 1, gzipBlock - 1, gzipBlock, zstdJob - 1, zstdJob, 2*zstdJob + 17, 5 * gzipBlock} {
		data := make([]byte, size)
		r.Read(data[:size/2]) // half of it cannot be compressed
		for _, e := range []Encoding{{}, {Compression: Gzip}, {Compression: Gzip, Level: Stored}, {Compression: Gzip, Level: HuffmanOnly},
			{Compression: Gzip, Level: 1}, {Compression: Gzip, Level: 9}, {Compression: Zstd}} {
			var outs [][]byte
			for _, cores := range []int{1, 8} {
				before := runtime.GOMAXPROCS(cores)
				var out bytes.Buffer
				compressTo(t, &out, e, data)
				runtime.GOMAXPROCS(before)
				outs = append(outs, out.Bytes())
			}
			if !bytes.Equal(outs[0], outs[1]) {
				t.Errorf("%v of %d bytes depends on the number of cores", e, size)
			}
			back, err := Decompress(bytes.NewReader(outs[0]))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(back); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v of %d bytes: got %d bytes back, %v", e, size, len(got), err)
			}
			back.Close()
			if e.Compression == Gzip {
				oneMember(t, outs[0], data)
			}
		}
	}
}

// compressTo compresses in odd pieces.
func compressTo(t *testing.T, w io.Writer, e Encoding, data []byte) {
	t.Helper()
	cw, err := Compress(w, e)
	if err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 100_003)
		if _, err := cw.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := cw.Close(); err != nil {
		t.Fatal(err)
	}
}

// oneMember reads gzip as those do who know of no second member, with Go's decoder.
func oneMember(t *testing.T, stream, want []byte) {
	t.Helper()
	r := bytes.NewReader(stream)
	gz, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	gz.Multistream(false)
	if got, err := io.ReadAll(gz); err != nil || !bytes.Equal(got, want) {
		t.Errorf("of %d bytes %d are in the first member, %v", len(want), len(got), err)
	}
	if r.Len() > 0 {
		t.Errorf("%d bytes come after the first member", r.Len())
	}
}

// What reads layers elsewhere reads these.
func TestGzipIsReadByOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("long: other programs decompress")
	}
	var data, out bytes.Buffer
	for name, layer := range sizedLayers(t) {
		fmt.Fprintln(&data, name)
		data.Write(layer[:min(len(layer), 3*gzipBlock)])
	}
	compressTo(t, &out, Encoding{Compression: Gzip}, data.Bytes())
	for _, program := range [][]string{{"gzip", "-dc"}, {"pigz", "-dc"}, {"python3", "-c", "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))"},
		{"busybox", "gzip", "-dc"}} {
		if _, err := exec.LookPath(program[0]); err != nil {
			t.Logf("%s is not here", program[0])
			continue
		}
		cmd := exec.Command(program[0], program[1:]...)
		cmd.Stdin = bytes.NewReader(out.Bytes())
		if got, err := cmd.Output(); err != nil || !bytes.Equal(got, data.Bytes()) {
			t.Errorf("%s reads %d bytes of %d, %v", program[0], len(got), data.Len(), err)
		}
	}
}

// Layers are compressed at the same time, each by itself.
func TestCompressAtTheSameTime(t *testing.T) {
	data := sizedLayers(t)["source files"]
	data = data[:min(len(data), 3*gzipBlock+17)]
	for _, c := range []Compression{Gzip, Zstd} {
		var want bytes.Buffer
		compressTo(t, &want, Encoding{Compression: c}, data)
		var outs [6]bytes.Buffer
		var group sync.WaitGroup
		for i := range outs {
			group.Go(func() { compressTo(t, &outs[i], Encoding{Compression: c}, data) })
		}
		group.Wait()
		for i := range outs {
			if !bytes.Equal(outs[i].Bytes(), want.Bytes()) {
				t.Errorf("%s: a stream differs from the one that was compressed alone", c)
			}
		}
	}
}

// The memory that C has goes with the writer, also when nobody could be written to.
func TestCompressGivesMemoryBack(t *testing.T) {
	data := bytes.Repeat([]byte("slipway "), 1000)
	many := func(n int) {
		for range n {
			for _, e := range []Encoding{{Compression: Gzip, Level: 9}, {Compression: Gzip, Level: 1}} {
				compressTo(t, io.Discard, e, data)
				w, err := Compress(fullDisk{}, e)
				if err != nil {
					t.Fatal(err)
				}
				_, err = w.Write(data)
				if errors.Join(err, w.Close()) == nil {
					t.Error("a full disk was written to")
				}
			}
		}
		debug.FreeOSMemory()
	}
	many(10)
	before := residentBytes(t)
	many(150)
	if grown := residentBytes(t) - before; grown > 60<<20 {
		t.Errorf("600 layers leave %d MB", grown>>20)
	}
}

// residentBytes is how much memory this process has.
func residentBytes(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(status), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// FuzzGzip compares with Go's decoder: streams of up to some blocks, in pieces of any size.
func FuzzGzip(f *testing.F) {
	f.Add([]byte("slipway"), int8(0), uint32(gzipBlock), uint32(100_000))
	f.Add([]byte{}, int8(-1), uint32(0), uint32(1))
	f.Add([]byte("0123456789"), int8(9), uint32(2*gzipBlock+1), uint32(gzipBlock))
	f.Fuzz(func(t *testing.T, some []byte, level int8, size, piece uint32) {
		e, err := Encoding{Compression: Gzip}.WithLevel(int(level)%12 - 2)
		if err != nil {
			return
		}
		data := append([]byte{}, some...)
		for n := int(size % (3 * gzipBlock)); len(data) < n; {
			data = append(append(data, some...), byte(len(data)>>8))
		}
		var out bytes.Buffer
		w, err := Compress(&out, e)
		if err != nil {
			t.Fatal(err)
		}
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+int(piece%(2*gzipBlock)))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		oneMember(t, out.Bytes(), data)
	})
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
		{Compression: Gzip, Level: Stored}: true, {Compression: Gzip, Level: HuffmanOnly}: true,
		{Compression: Gzip, Level: 10}: false, {Compression: Gzip, Level: -3}: false, {Compression: Zstd, Level: 23}: false, {Compression: Zstd, Level: -1}: false,
		{Compression: Uncompressed, Level: 1}: false, {Compression: Xz, Level: 0}: false, {Compression: "lz4", Level: 0}: false,
	} {
		if err := e.Check(); (err == nil) != ok {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

// A user's levels are BuildKit's.
func TestWithLevel(t *testing.T) {
	const none = 1000
	for _, tt := range []struct {
		c     Compression
		asked int
		want  int
	}{
		{Gzip, -3, none}, {Gzip, -2, HuffmanOnly}, {Gzip, -1, 0}, {Gzip, 0, Stored}, {Gzip, 1, 1}, {Gzip, 9, 9}, {Gzip, 10, none},
		{Zstd, -7, 1}, {Zstd, 0, 1}, {Zstd, 1, 1}, {Zstd, 3, 3}, {Zstd, 22, 22}, {Zstd, 100, 22},
		{Uncompressed, 5, 0}, {Uncompressed, -50, 0}, {Xz, 1, none},
	} {
		e, err := Encoding{Compression: tt.c, Force: true}.WithLevel(tt.asked)
		if (err != nil) != (tt.want == none) || err == nil && e != (Encoding{tt.c, tt.want, true}) {
			t.Errorf("level %d of %q: %+v, %v", tt.asked, tt.c, e, err)
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
	if testing.Short() {
		t.Skip("long: thousands of members")
	}
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
