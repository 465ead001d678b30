package reasons

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// listOf makes a list of files with contents; those that end with "/" are directories.
func listOf(files map[string]string) *List {
	var m ListMaker
	for _, name := range slices.Sorted(maps.Keys(files)) {
		dir, isDir := strings.CutSuffix(name, "/")
		var content []byte
		if !isDir {
			content = []byte(digest.FromString(files[name]).Encoded())
		}
		m.Add(dir, isDir, content, []byte("mode 0644"))
	}
	return m.List()
}

func numbered(n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		all[fmt.Sprintf("dir%03d/sub/file%06d.go", i%300, i)] = "1"
	}
	return all
}

// counted counts the bytes that are read of a list.
func counted(l *List) (*List, *int) {
	n := 0
	read := l.Read
	c := *l
	c.Read = func(piece string) ([]byte, error) {
		data, err := read(piece)
		n += len(data)
		return data, err
	}
	return &c, &n
}

func size(t *testing.T, l *List) (n int) {
	t.Helper()
	for _, p := range l.Pieces {
		data, err := l.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		n += len(data)
	}
	return n + len(l.Data)
}

// Of large lists only what differs is read, wherever it is, and the rest is the same piece for piece.
func TestLargeLists(t *testing.T) {
	files := numbered(100_000)
	before := listOf(files)
	if n := size(t, before); n > 3<<20 {
		t.Errorf("a list of %d files takes %d bytes", before.Files, n)
	}
	for name, change := range map[string]func() (*FileDiff, func()){
		"changed": func() (*FileDiff, func()) {
			files["dir007/sub/file000007.go"] = "2"
			return &FileDiff{Total: 100_000, Changed: 1, Names: []FileChange{{"dir007/sub/file000007.go", "changed"}}}, func() { files["dir007/sub/file000007.go"] = "1" }
		},
		"added": func() (*FileDiff, func()) {
			files["dir1000"] = "2"
			return &FileDiff{Total: 100_001, Added: 1, Names: []FileChange{{"dir1000", "added"}}}, func() { delete(files, "dir1000") }
		},
		"removed": func() (*FileDiff, func()) {
			delete(files, "dir299/sub/file000299.go")
			return &FileDiff{Total: 99_999, Removed: 1, Names: []FileChange{{"dir299/sub/file000299.go", "removed"}}}, func() { files["dir299/sub/file000299.go"] = "1" }
		},
	} {
		want, undo := change()
		after, read := counted(listOf(files))
		undo()
		before, readBefore := counted(before)
		got, err := DiffFiles(before, after)
		if err != nil || got.Total != want.Total || got.Changed != want.Changed || got.Added != want.Added || got.Removed != want.Removed || !slices.Equal(got.Names, want.Names) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
		if n := *read + *readBefore; n > 1<<20 {
			t.Errorf("%s: %d bytes were read", name, n)
		}
	}
}

func TestShortLists(t *testing.T) {
	a, b := listOf(map[string]string{"d/": "", "d/f": "1", "g": "1"}), listOf(map[string]string{"d/": "", "d/f": "2", "e/": "", "e/h": "1"})
	d, err := DiffFiles(a, b)
	if err != nil || fmt.Sprint(*d) != "{2 1 1 1 [{d/f changed} {e/h added} {g removed}]}" {
		t.Errorf("they differ in %+v, %v", d, err)
	}
	if d, err = DiffFiles(listOf(nil), b); err != nil || d.Added != 2 {
		t.Errorf("from none they differ in %+v, %v", d, err)
	}
}

// What is damaged, or made up, is an error, and takes no more memory than it has bytes.
func TestDamagedLists(t *testing.T) {
	good := listOf(map[string]string{"a": "1", "b": "2"}).Data
	for i := range good {
		_ = decode(good[:i], map[string]fileCode{})
		for bit := range 8 {
			bad := slices.Clone(good)
			bad[i] ^= 1 << bit
			_ = decode(bad, map[string]fileCode{})
		}
	}
	for _, bad := range []string{"\x01", "\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x00\x01a", "\x05\x00" + strings.Repeat("x", 10)} {
		if err := decode([]byte(bad), map[string]fileCode{}); err == nil {
			t.Errorf("%q is a list", bad)
		}
	}
	l := &List{Files: 1, Pieces: []string{"../../etc/passwd"}}
	Lists{"d": l}.ReadFrom(func(string) ([]byte, error) { t.Error("a name that is none was read"); return nil, nil })
	if _, err := DiffFiles(l, listOf(nil)); err == nil {
		t.Error("a piece with a name that is none was compared")
	}
	l.Pieces = []string{strings.Repeat("00", 12)}
	l.Read = func(string) ([]byte, error) { return good, nil }
	if _, err := DiffFiles(l, listOf(nil)); err == nil {
		t.Error("a piece with the name of another one was compared")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(listOf(map[string]string{"a": "1", "b/": "", "b/c": "2"}).Data)
	f.Fuzz(func(_ *testing.T, data []byte) { _ = decode(data, map[string]fileCode{}) })
}
