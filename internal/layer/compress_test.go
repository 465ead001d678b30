package layer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os/exec"
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
