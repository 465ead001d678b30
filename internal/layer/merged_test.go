package layer

import (
	"bytes"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Merged shows what a real overlay mount of the same directories shows.
func TestMergedIsOverlay(t *testing.T) {
	needRoot(t)
	for seed := range int64(60) {
		r := rand.New(rand.NewSource(seed))
		var dirs []string
		var trees []Tree
		for i := range r.Intn(4) + 2 {
			var entries []*Entry
			for _, e := range randomLayer(r, i > 0) {
				if len(e.Path) < 150 { // names that are in several layers, not long ones
					entries = append(entries, e)
				}
			}
			dir := writeDir(t, dropOrphans(entries))
			dirs = append([]string{dir}, dirs...)
			trees = append(trees, OpenDir(dir, DirOptions{Overlay: true}))
		}
		mnt := shmDir(t)
		opts := "redirect_dir=off,lowerdir=" + strings.Join(dirs, ":")
		if err := unix.Mount("overlay", mnt, "overlay", unix.MS_RDONLY, opts); err != nil {
			t.Skipf("mounting overlay: %v", err)
		}
		// Should the test end before it unmounts.
		t.Cleanup(func() { unix.Unmount(mnt, unix.MNT_DETACH) })
		mounted := OpenDir(mnt, DirOptions{})
		got, want := view(t, Merged(trees)), view(t, mounted)
		mounted.(io.Closer).Close()
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("seed %d: merged view\n%s\noverlay mount\n%s", seed, got, want)
		}
	}
}

// dropOrphans removes entries whose parents or link targets are gone.
func dropOrphans(entries []*Entry) []*Entry {
	ok := map[string]bool{".": true}
	var out []*Entry
	for _, e := range entries {
		if dir, _ := split(e.Path); ok[dir] && (!e.Hardlink || ok[e.Link]) {
			ok[e.Path] = true
			out = append(out, e)
		}
	}
	return out
}

// view is everything below a tree's root, asked for in both ways that a Tree has.
func view(t *testing.T, tree Tree) string {
	t.Helper()
	var b strings.Builder
	err := Walk(tree, ".", func(e *Entry) error {
		if e.Path == "." {
			return nil // its times differ between the mount and the layers' own roots
		}
		l, err := tree.Lstat(e.Path)
		if err != nil {
			t.Fatal(err)
		}
		content := ""
		if e.IsRegular() {
			data, err := ReadFile(tree, e.Path)
			if err != nil {
				t.Fatal(err)
			}
			content = string(data)
		}
		if x, y := describe(e, content), describe(l, content); x != y {
			t.Errorf("ReadDir says %s, Lstat says %s", x, y)
		}
		b.WriteString(describe(e, content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMergedEmpty(t *testing.T) {
	m := Merged(nil)
	if e, err := m.Lstat("."); err != nil || e.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("root: %+v, %v", e, err)
	}
	if l, err := m.ReadDir("."); err != nil || len(l) != 0 {
		t.Errorf("entries: %v, %v", l, err)
	}
	if _, err := m.Lstat("a/b"); !os.IsNotExist(err) {
		t.Errorf("missing path: %v", err)
	}
}

func TestDirTreeStaysInside(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, stepwise := range []bool{false, true} {
		noOpenat2.Store(stepwise)
		tree := OpenDir(dir, DirOptions{})
		for _, p := range []string{"link/secret", "../" + filepath.Base(outside), "link/.."} {
			if e, err := tree.Lstat(p); err == nil {
				t.Errorf("Lstat(%q) gave %+v", p, e)
			}
		}
		if _, err := tree.ReadDir("link"); err == nil {
			t.Error("ReadDir followed a link")
		}
		if _, err := (&hostFile{tree: tree.(*dirTree), path: "link/secret"}).Open(); err == nil {
			t.Error("Open followed a link")
		}
		if p, err := Resolve(tree, "link/secret", true); err != nil || p != Clean(outside+"/secret") {
			t.Errorf("Resolve gave %q, %v", p, err)
		}
	}
	noOpenat2.Store(false)
}

// A directory on the way to something hides what is no directory below it, as it does on disk.
func TestMergedImpliedOverFile(t *testing.T) {
	base, upper := NewIndex(), NewIndex()
	base.Add(&Entry{Path: "lib", Mode: unix.S_IFLNK | 0o777, Link: "usr/lib"})
	if _, err := ReadTar(bytes.NewReader(makeTar(t, dirHeader("lib/d"))), TarOptions{}, upper); err != nil {
		t.Fatal(err)
	}
	m := Merged([]Tree{base.Tree(nil), upper.Tree(nil)})
	if e, err := m.Lstat("lib"); err != nil || !e.IsDir() || e.Implied {
		t.Errorf("lib is %+v, %v", e, err)
	}
	if l, err := m.ReadDir("."); err != nil || len(l) != 1 || !l[0].IsDir() {
		t.Errorf("the root has %+v, %v", l, err)
	}
	if _, err := m.Lstat("lib/d"); err != nil {
		t.Error(err)
	}
}
