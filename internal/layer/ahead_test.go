package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Reading ahead changes neither the tar nor the index.
func TestAhead(t *testing.T) {
	needRoot(t)
	for seed := range int64(30) {
		dir := writeDir(t, dropOrphans(randomLayer(rand.New(rand.NewSource(seed)), true)))
		big := bytes.Repeat([]byte("big"), aheadSize)
		if err := os.WriteFile(filepath.Join(dir, "big"), big, 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		tw, w := NewIndexedTarWriter(&out, "")
		a := NewAhead(tw)
		if err := errors.Join(WalkLayer(dir, a), a.Close()); err != nil {
			t.Fatal(err)
		}
		want, wantBytes := indexOf(t, dir)
		x := reread(t, w)
		if !bytes.Equal(out.Bytes(), wantBytes) {
			t.Fatalf("seed %d: the tar differs when files are read ahead", seed)
		}
		got := x.Tree(func(e *IndexEntry) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(wantBytes[e.Offset : e.Offset+e.Size])), nil
		})
		if got, want := view(t, Merged([]Tree{got})), view(t, Merged([]Tree{want})); got != want {
			t.Fatalf("seed %d: the index is\n%s\nwant\n%s", seed, got, want)
		}
		if !x.Located() {
			t.Errorf("seed %d: the index does not know all places and digests", seed)
		}
	}
}

// The first error is told, whatever comes after it, and nothing hangs.
func TestAheadTellsErrors(t *testing.T) {
	file := func(n int, c Content, size int64) *Entry {
		return &Entry{Path: fmt.Sprintf("f%04d", n), Mode: unix.S_IFREG | 0o644, Size: size, ModTime: time.Unix(0, 0), Content: c}
	}
	tests := map[string]*Entry{
		"shorter":        file(0, Bytes("abc"), 4),
		"longer":         file(0, Bytes("abcde"), 4),
		"other content":  {Path: "f", Mode: unix.S_IFREG | 0o644, Size: 5, Content: Bytes("jello"), Digest: "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"},
		"cannot be read": file(0, failing{}, 4),
	}
	for name, bad := range tests {
		t.Run(name, func(t *testing.T) {
			tw, _ := NewIndexedTarWriter(io.Discard, "")
			a := NewAhead(tw)
			err := a.Add(bad)
			for n := 1; n < 1000 && err == nil; n++ {
				err = a.Add(file(n, Bytes("fine"), 4))
			}
			if cerr := a.Close(); cerr == nil {
				t.Errorf("adding gave %v and closing no error", err)
			}
		})
	}
}

type failing struct{}

func (failing) Open() (io.ReadCloser, error) { return nil, errors.New("no") }

// A digest that is known of a file counts without reading, unless the file may have changed since.
func TestAheadDigestsFreshFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer func(at time.Time) { processStart = at }(processStart)
	for _, fresh := range []bool{true, false} {
		if !fresh {
			processStart = time.Now().Add(2 * ClockStep)
		}
		e, err := OpenDir(filepath.Dir(name), DirOptions{}).Lstat("f")
		if err != nil {
			t.Fatal(err)
		}
		e.Digest = digest.FromString("another")
		tw, _ := NewIndexedTarWriter(io.Discard, "")
		a := NewAhead(tw)
		if err := errors.Join(a.Add(e), a.Close()); (err != nil) != fresh {
			t.Errorf("fresh %v: %v", fresh, err)
		}
	}
}
