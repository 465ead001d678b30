package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// A compressed layer is at most half a percent larger than what BuildKit makes of the same tar at the same level: its
// encoders are Go's compress/gzip and klauspost's zstd. `make conformance` compares with BuildKit itself.
func TestCompressedSize(t *testing.T) {
	if testing.Short() {
		t.Skip("long: all levels of two encoders")
	}
	layers := sizedLayers(t)
	for _, c := range []struct {
		encoding Encoding
		most     int // bytes of each layer: what takes long gets less
	}{
		{Encoding{Compression: Gzip}, 2 << 20},
		{Encoding{Compression: Gzip, Level: Stored}, 2 << 20},
		{Encoding{Compression: Gzip, Level: HuffmanOnly}, 2 << 20},
		{Encoding{Compression: Gzip, Level: 1}, 1 << 20},
		{Encoding{Compression: Gzip, Level: 2}, 1 << 20},
		{Encoding{Compression: Gzip, Level: 3}, 1 << 20},
		{Encoding{Compression: Gzip, Level: 4}, 1 << 20},
		{Encoding{Compression: Gzip, Level: 5}, 1 << 20},
		{Encoding{Compression: Gzip, Level: 7}, 1 << 20},
		{Encoding{Compression: Gzip, Level: 8}, 1 << 19},
		{Encoding{Compression: Gzip, Level: 9}, 1 << 19},
		{Encoding{Compression: Zstd}, 16 << 20},
		{Encoding{Compression: Zstd, Level: 1}, 8 << 20},
		{Encoding{Compression: Zstd, Level: 6}, 8 << 20},
		{Encoding{Compression: Zstd, Level: 10}, 4 << 20},
		{Encoding{Compression: Zstd, Level: 13}, 1 << 20},
		{Encoding{Compression: Zstd, Level: 19}, 1 << 19},
	} {
		for name, data := range layers {
			data = data[:min(len(data), c.most)]
			var out, theirs counter
			w, err := Compress(&out, c.encoding)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Write(data)
			bk := buildkits(t, &theirs, c.encoding)
			_, berr := bk.Write(data)
			if err = errors.Join(err, w.Close(), berr, bk.Close()); err != nil {
				t.Fatal(err)
			}
			more := 100 * (float64(out) - float64(theirs)) / float64(theirs)
			line := fmt.Sprintf("%s, level %d, %s: %d bytes, of BuildKit's %d: %+.2f %%", c.encoding.Compression, c.encoding.Level, name, out, theirs, more)
			if t.Log(line); more > 0.5 {
				t.Error(line)
			}
		}
	}
}

// What comes again is found as far back as BuildKit's encoder looks, at each of its levels.
func TestZstdLooksBack(t *testing.T) {
	if testing.Short() {
		t.Skip("long: compresses a hundred megabytes")
	}
	for level, far := range map[int]int{3: 7 << 20, 6: 15 << 20, 10: 31 << 20} {
		data := make([]byte, far)
		rand.New(rand.NewSource(1)).Read(data)
		var out counter
		w, err := Compress(&out, Encoding{Compression: Zstd, Level: level})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if int(out) > far+far/100 {
			t.Errorf("level %d: what comes again after %d bytes is not found: %d bytes", level, far, out)
		}
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// buildkits is how BuildKit compresses.
func buildkits(t *testing.T, w io.Writer, e Encoding) io.WriteCloser {
	t.Helper()
	var zw io.WriteCloser
	var err error
	switch {
	case e.Compression == Gzip && e.Level == 0:
		zw = gzip.NewWriter(w)
	case e.Compression == Gzip && e.Level == Stored:
		zw, err = gzip.NewWriterLevel(w, gzip.NoCompression)
	case e.Compression == Gzip && e.Level == HuffmanOnly:
		zw, err = gzip.NewWriterLevel(w, gzip.HuffmanOnly)
	case e.Compression == Gzip:
		zw, err = gzip.NewWriterLevel(w, e.Level)
	case e.Level == 0:
		zw, err = zstd.NewWriter(w)
	default:
		zw, err = zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(e.Level)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return zw
}

// sizedLayers are tars of what is where this test runs.
func sizedLayers(t *testing.T) map[string][]byte {
	t.Helper()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(strings.TrimSpace(string(goroot)), "src")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(random)
	return map[string][]byte{
		"a Go binary":  program[:min(len(program), 16<<20)],
		"source files": tarOfDirs(t, filepath.Join(src, "net"), filepath.Join(src, "crypto"), filepath.Join(src, "runtime")),
		// What comes again lies further back than libzstd's usual window.
		"the same files again":      tarOfDirs(t, filepath.Join(src, "net"), filepath.Join(src, "net")),
		"small files":               tarOfDirs(t, filepath.Join(src, "internal"), filepath.Join(src, "unicode"), filepath.Join(src, "vendor")),
		"what cannot be compressed": random,
	}
}

func tarOfDirs(t *testing.T, dirs ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if err := tw.WriteHeader(&tar.Header{Name: p, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
				return err
			}
			_, err = tw.Write(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}
