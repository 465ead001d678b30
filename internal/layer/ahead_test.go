package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
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
		copied := t.TempDir()
		other, err := NewDirWriter(copied)
		if err != nil {
			t.Fatal(err)
		}
		a := NewAhead(tw, other)
		if err := errors.Join(WalkLayer(dir, a), a.Close(), other.Close()); err != nil {
			t.Fatal(err)
		}
		if _, again := indexOf(t, copied); !bytes.Equal(out.Bytes(), again) {
			t.Fatalf("seed %d: the directory that was written beside the tar has another one", seed)
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

// What is known of files that nobody changes any more is not digested again, of small ones and of large ones; what is
// not known is noted.
func TestKnownIsNotDigestedAgain(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"small": 10, "large": 2 * aheadSize} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pack := func(m Memory) map[string]digest.Digest {
		t.Helper()
		tw, w := NewIndexedTarWriter(io.Discard, "")
		a := NewAhead(tw)
		err := Walk(OpenDir(dir, DirOptions{Immutable: true, Memory: m}), ".", func(e *Entry) error {
			if e.Path == "." {
				return nil
			}
			return a.Add(e)
		})
		if err := errors.Join(err, a.Close()); err != nil {
			t.Fatal(err)
		}
		got := map[string]digest.Digest{}
		list, err := reread(t, w).Tree(nil).ReadDir(".")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			got[e.Path] = e.Digest
		}
		return got
	}
	noted := &noting{sums: map[Stamp]digest.Digest{}}
	sums := pack(noted)
	if len(noted.sums) != 2 {
		t.Errorf("%d digests were noted", len(noted.sums))
	}
	if again := pack(noted); !maps.Equal(sums, again) || len(again) != 2 {
		t.Errorf("the index has %v, and %v when digests are known", sums, again)
	}
	said := digest.FromString("what the memory says")
	if got := pack(memory(said)); got["small"] != said || got["large"] != said {
		t.Errorf("files whose digest is known were digested: %v", got)
	}
}

// noting is a memory.
type noting struct {
	mu   sync.Mutex
	sums map[Stamp]digest.Digest
}

func (n *noting) Recall(s Stamp) digest.Digest {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sums[s]
}

func (n *noting) Note(s Stamp, _ time.Time, sum digest.Digest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sums[s] = sum
}

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
