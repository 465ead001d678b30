package layer

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDiff(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("whiteouts need root")
	}
	mk := func(change func(dir string)) Tree {
		dir := t.TempDir()
		for _, name := range []string{"same", "content", "mode", "owner", "size", "type", "gone", "time", "xattr", "link1", "whiteout"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("1"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range []error{os.MkdirAll(filepath.Join(dir, "d/e"), 0o755), os.Symlink("a", filepath.Join(dir, "symlink")),
			os.Link(filepath.Join(dir, "link1"), filepath.Join(dir, "link2")), os.MkdirAll(filepath.Join(dir, "opaque"), 0o755)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		change(dir)
		entries, _ := os.ReadDir(dir)
		at := time.Unix(1000, 0)
		for _, e := range append([]string{"d/e"}, names(entries)...) {
			if fi, err := os.Lstat(filepath.Join(dir, e)); err == nil && (fi.Mode().IsRegular() || fi.IsDir()) && fi.ModTime().Unix() != 7 {
				if err := os.Chtimes(filepath.Join(dir, e), at, at); err != nil {
					t.Fatal(err)
				}
			}
			ts := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
			if fi, err := os.Lstat(filepath.Join(dir, e)); err == nil && fi.Mode()&os.ModeSymlink != 0 {
				if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, e), ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
					t.Fatal(err)
				}
			}
		}
		return OpenDir(dir, DirOptions{Overlay: true, Immutable: true})
	}
	a := mk(func(string) {})
	b := mk(func(dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		for _, err := range []error{
			os.WriteFile(at("content"), []byte("2"), 0o644), os.Chmod(at("mode"), 0o4755), os.Lchown(at("owner"), 3, 4),
			os.WriteFile(at("size"), []byte("22"), 0o644), os.Remove(at("type")), os.Mkdir(at("type"), 0o755), os.WriteFile(at("type/in"), nil, 0o600),
			os.Remove(at("gone")), os.WriteFile(at("new\n"), nil, 0o644), os.Chtimes(at("time"), time.Unix(7, 0), time.Unix(7, 0)),
			unix.Setxattr(at("xattr"), "trusted.x", []byte("y"), 0), os.Remove(at("link2")), os.WriteFile(at("link2"), []byte("1"), 0o644),
			os.Remove(at("symlink")), os.Symlink("b", at("symlink")), os.Remove(at("whiteout")), unix.Mknod(at("whiteout"), unix.S_IFCHR, 0),
			unix.Setxattr(at("opaque"), "trusted.overlay.opaque", []byte("y"), 0), os.WriteFile(at("d/e/deep"), nil, 0o644),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	var got []string
	add := func(d Difference) error {
		got = append(got, d.String())
		return nil
	}
	if err := Diff(a, b, add); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"changed /content: content", "added /d/e/deep", "removed /gone", "changed /link2: hard link", "changed /mode: mode",
		`added "/new\n"`, "changed /opaque: opaque", "changed /owner: owner", "changed /size: size", "changed /symlink: link",
		"changed /time: mtime", "changed /type: type, mode, size", "added /type/in", "changed /whiteout: whiteout", "changed /xattr: xattrs",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	got = nil
	if err := Diff(b, b, add); err != nil || len(got) > 0 {
		t.Errorf("of itself: %q, %v", got, err)
	}
}

func names(entries []os.DirEntry) (all []string) {
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// openCounter is a tree that counts how often contents are opened.
type openCounter struct {
	Tree
	opened *int
}

func (t openCounter) ReadDir(name string) ([]*Entry, error) {
	all, err := t.Tree.ReadDir(name)
	for _, e := range all {
		if e.Content != nil {
			e.Content = countedOpen{e.Content, t.opened}
		}
	}
	return all, err
}

type countedOpen struct {
	Content
	opened *int
}

func (c countedOpen) Open() (io.ReadCloser, error) {
	*c.opened++
	return c.Content.Open()
}

// TestDiffReadsLinksOnce: a content that is the same is read once, however many names it has; another one is told of each name.
func TestDiffReadsLinksOnce(t *testing.T) {
	mk := func(content string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"b", "c"} {
			if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(filepath.Join(dir, "a"), time.Unix(1000, 0), time.Unix(1000, 0)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	open := func(dir string) Tree { return OpenDir(dir, DirOptions{}) }
	for _, tc := range []struct {
		other  string
		opened int
		want   []string
	}{{"one", 1, nil}, {"two", 3, []string{"changed /a: content", "changed /b: content", "changed /c: content"}}} {
		opened := 0
		var got []string
		err := Diff(open(mk("one")), openCounter{open(mk(tc.other)), &opened}, func(d Difference) error {
			got = append(got, d.String())
			return nil
		})
		if err != nil || !slices.Equal(got, tc.want) || opened != tc.opened {
			t.Errorf("%s: %q, opened %d times, want %q, %d; %v", tc.other, got, opened, tc.want, tc.opened, err)
		}
	}
}
