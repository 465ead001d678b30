package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// layerOf writes a directory form of entries.
func layerOf(t *testing.T, entries ...Entry) string {
	t.Helper()
	dir := t.TempDir()
	w, err := NewDirWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Mode&unix.S_IFMT == 0 && !e.Whiteout {
			e.Mode |= unix.S_IFREG | 0o644
		}
		if c, ok := e.Content.(Bytes); ok {
			e.Size = int64(len(c))
		}
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1e9, 0)
		}
		if err := w.Add(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDropUnchanged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs whiteouts")
	}
	const dir, file = unix.S_IFDIR | 0o755, unix.S_IFREG | 0o644
	later, nanos := time.Unix(1e9+1, 0), time.Unix(1e9, 123456789)
	base := layerOf(t,
		Entry{Path: "changed", Mode: dir}, Entry{Path: "changed/content", Content: Bytes("a")}, Entry{Path: "changed/nanos", Content: Bytes("a"), ModTime: nanos},
		Entry{Path: "changed/mode"}, Entry{Path: "changed/owner"}, Entry{Path: "changed/time"},
		Entry{Path: "dir", Mode: dir}, Entry{Path: "dir/nanos", Content: Bytes("same"), ModTime: nanos}, Entry{Path: "dir/same", Content: Bytes("same")}, Entry{Path: "dir/sub", Mode: dir},
		Entry{Path: "dir/sub/link", Mode: unix.S_IFLNK | 0o777, Link: "to"},
		Entry{Path: "kept", Mode: dir}, Entry{Path: "kept/same"}, Entry{Path: "type"}, Entry{Path: "gone"},
		Entry{Path: "opaque", Mode: dir}, Entry{Path: "opaque/same"},
		Entry{Path: "mode", Mode: dir}, Entry{Path: "linked", Content: Bytes("l")},
	)
	upper := layerOf(t,
		Entry{Path: "changed", Mode: dir}, Entry{Path: "changed/content", Content: Bytes("b")}, Entry{Path: "changed/nanos", Content: Bytes("b"), ModTime: nanos},
		Entry{Path: "changed/mode", Mode: file | 0o111}, Entry{Path: "changed/owner", UID: 1}, Entry{Path: "changed/time", ModTime: later},
		Entry{Path: "dir", Mode: dir, ModTime: later}, Entry{Path: "dir/nanos", Content: Bytes("same"), ModTime: nanos}, Entry{Path: "dir/same", Content: Bytes("same")}, Entry{Path: "dir/sub", Mode: dir},
		Entry{Path: "dir/sub/link", Mode: unix.S_IFLNK | 0o777, Link: "to"},
		Entry{Path: "gone", Whiteout: true},
		Entry{Path: "kept", Mode: dir, ModTime: later}, Entry{Path: "kept/new"}, Entry{Path: "kept/same"},
		Entry{Path: "linked", Content: Bytes("l")}, Entry{Path: "linked2", Mode: file, Hardlink: true, Link: "linked"},
		Entry{Path: "mode", Mode: unix.S_IFDIR | 0o700}, Entry{Path: "newdir", Mode: dir}, Entry{Path: "newdir/same"},
		Entry{Path: "opaque", Mode: dir, Opaque: true}, Entry{Path: "opaque/same"},
		Entry{Path: "type", Mode: dir},
	)
	if err := DropUnchanged(upper, Trusted, OpenDir(base, DirOptions{Overlay: true})); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := Walk(OpenDir(upper, DirOptions{Overlay: true}), ".", func(e *Entry) error {
		left = append(left, e.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`. changed changed/content changed/mode changed/nanos changed/owner changed/time gone kept kept/new
		linked linked2 mode newdir newdir/same opaque opaque/same type`)
	if !slices.Equal(left, want) {
		t.Errorf("left are\n%q, want\n%q", left, want)
	}
	if fi, err := os.Stat(filepath.Join(upper, "kept")); err != nil || !fi.ModTime().Equal(later) {
		t.Errorf("a directory that something was removed from is of %v, %v", fi.ModTime(), err)
	}
}

func TestSame(t *testing.T) {
	second, precise := time.Unix(1e9, 0), time.Unix(1e9, 5)
	file := func(at time.Time, content string) *Entry {
		return &Entry{Mode: unix.S_IFREG | 0o644, ModTime: at, Size: int64(len(content)), Content: Bytes(content)}
	}
	digested := file(second, "a")
	digested.Digest = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
	lazy := file(second, "a")
	lazy.Content = nil
	for _, tt := range []struct {
		name string
		a, b *Entry
		want bool
	}{
		{"content", file(second, "a"), file(second, "a"), true},
		{"other content", file(second, "a"), file(second, "b"), false},
		{"other content of a precise time", file(precise, "a"), file(precise, "b"), false},
		{"times", file(second, "a"), file(precise, "a"), false},
		{"a digest and a content", digested, file(second, "a"), true},
		{"a digest and another content", file(second, "b"), digested, false},
		{"an unknown content", lazy, file(second, "a"), false},
		{"directories of other times", &Entry{Mode: unix.S_IFDIR, ModTime: second}, &Entry{Mode: unix.S_IFDIR, ModTime: precise}, true},
	} {
		if got, err := Same(tt.a, tt.b); err != nil || got != tt.want {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// A directory of many entries is looked at in another way.
func TestDropUnchangedOfMany(t *testing.T) {
	var many []Entry
	for i := range manyEntries {
		many = append(many, Entry{Path: fmt.Sprintf("d/%d", i), Content: Bytes(fmt.Sprint(i))})
	}
	dir := Entry{Path: "d", Mode: unix.S_IFDIR | 0o755}
	base := layerOf(t, append([]Entry{dir}, many...)...)
	many[7].Content = Bytes("?")
	upper := layerOf(t, append([]Entry{dir, {Path: "d/new"}}, many...)...)
	if err := DropUnchanged(upper, Trusted, OpenDir(base, DirOptions{Overlay: true})); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(upper, "d"))
	if err != nil || len(left) != 2 || left[0].Name() != "7" || left[1].Name() != "new" {
		t.Errorf("left are %v, %v", left, err)
	}
}
