package layer

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// memory remembers everything that it is told.
type memory struct {
	mu   sync.Mutex
	bare map[Stamp]time.Time
	sum  digest.Digest
}

func (m *memory) Recall(s Stamp) (digest.Digest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.bare[s]
	return m.sum, ok
}

func (m *memory) NoteBare(s Stamp, read time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bare[s] = read
}

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

// A directory asks its memory before it reads extended attributes, and tells it what has none.
func TestDirMemory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs trusted attributes")
	}
	dir := makeFiles(t, "a", "b", "c", "sub/x")
	if err := os.WriteFile(filepath.Join(dir, "content"), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "b"), "trusted.b", []byte("1"), 0); err != nil {
		t.Skip(err)
	}
	m := &memory{bare: map[Stamp]time.Time{}, sum: digest.FromString("known")}
	before := time.Now()
	tree := OpenDir(dir, DirOptions{Memory: m})
	list, err := tree.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if (e.Digest == m.sum) != (e.Path == "content") {
			t.Errorf("%s has digest %q", e.Path, e.Digest)
		}
	}
	if tree.(*dirTree).dev == 0 {
		t.Skip("a filesystem of which too little is known")
	}
	if len(m.bare) != 4 {
		t.Errorf("%d files have no attributes, want 4", len(m.bare))
	}
	for _, at := range m.bare {
		if at.Before(before) || at.After(time.Now()) {
			t.Errorf("read at %v", at)
		}
	}
	// A memory that is wrong shows that it is asked.
	for _, e := range list {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, e.Path), &st); err != nil {
			t.Fatal(err)
		}
		m.NoteBare(stampOf(&st), before)
	}
	if e, err := tree.Lstat("b"); err != nil || e.Xattrs != nil {
		t.Errorf("got %v, %v", e.Xattrs, err)
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
