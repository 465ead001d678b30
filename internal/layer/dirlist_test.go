package layer

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// memory knows the same of every file.
type memory digest.Digest

func (m memory) Recall(Stamp) digest.Digest           { return digest.Digest(m) }
func (m memory) Note(Stamp, time.Time, digest.Digest) {}

// Extended attributes are the same whatever system call lists them, many and large ones too.
func TestXattrs(t *testing.T) {
	dir := makeFiles(t, "none", "few", "many", "other", "sub/")
	set := func(name, key, value string) {
		t.Helper()
		if err := unix.Setxattr(filepath.Join(dir, name), key, []byte(value), 0); errors.Is(err, unix.ENOTSUP) {
			t.Skip("no extended attributes here")
		} else if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]map[string]string{"few": {"user.a": "1"}, "many": {}, "sub": {"user.d": "dir"}}
	set("few", "user.a", "1")
	set("sub", "user.d", "dir")
	set("other", "trusted.overlay.origin", "not ours")
	for i := range 40 {
		key := fmt.Sprintf("user.%s%d", strings.Repeat("k", 30), i)
		want["many"][key] = fmt.Sprint(i)
		set("many", key, fmt.Sprint(i))
	}
	for _, fallback := range []bool{false, true} {
		old := noListxattrat.Load()
		noListxattrat.Store(fallback || old)
		list, err := OpenDir(dir, DirOptions{}).ReadDir(".")
		noListxattrat.Store(old)
		if err != nil || len(list) != 5 {
			t.Fatalf("got %d entries, %v", len(list), err)
		}
		for _, e := range list {
			if !maps.Equal(e.Xattrs, want[e.Path]) {
				t.Errorf("fallback %v: %s has %v, want %v", fallback, e.Path, e.Xattrs, want[e.Path])
			}
		}
	}
}

// A directory asks its memory for the digests of contents.
func TestDirMemory(t *testing.T) {
	dir := makeFiles(t, "a", "sub/x")
	if err := os.WriteFile(filepath.Join(dir, "content"), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	known := digest.FromString("known")
	list, err := OpenDir(dir, DirOptions{Memory: memory(known)}).ReadDir(".")
	if err != nil || len(list) != 3 {
		t.Fatalf("got %d entries, %v", len(list), err)
	}
	for _, e := range list {
		if (e.Digest == known) != (e.Path == "content") {
			t.Errorf("%s has digest %q", e.Path, e.Digest)
		}
	}
}

func TestReadDirOfManyNames(t *testing.T) {
	var names []string
	for i := range 3000 {
		names = append(names, fmt.Sprintf("dir/%s-%d", strings.Repeat("n", i%200), i))
	}
	dir := makeFiles(t, names...)
	list, err := OpenDir(dir, DirOptions{}).ReadDir("dir")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for i, e := range list {
		if i >= len(names) || e.Path != names[i] {
			t.Fatalf("entry %d is %q", i, e.Path)
		}
	}
	if len(list) != len(names) {
		t.Errorf("%d of %d names", len(list), len(names))
	}
}
