package export

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
	"github.com/slipway-build/slipway/internal/store"
)

// linked is a root filesystem of two layers: hard links in the lower one, of which the upper one
// replaces a name.
func linked(t *testing.T, s *store.Store) layer.Tree {
	t.Helper()
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	must(t, os.WriteFile(d.FS+"/a", []byte("linked"), 0o600))
	must(t, os.Link(d.FS+"/a", d.FS+"/b"))
	must(t, os.Link(d.FS+"/a", d.FS+"/c"))
	lower, err := d.Commit(context.Background())
	must(t, err)
	return treeOf(t, s, lower, made(t, s, map[string]string{"a": "another"}))
}

// treeOf is the root filesystem of layers.
func treeOf(t *testing.T, s *store.Store, snap ...layer.ID) layer.Tree {
	t.Helper()
	dirs, err := s.Dirs(context.Background(), snap)
	must(t, err)
	var trees []layer.Tree
	for _, dir := range dirs {
		trees = append(trees, layer.OpenDir(dir, layer.DirOptions{Overlay: true, Immutable: true}))
	}
	return layer.Merged(trees)
}

func TestTarKeepsLinks(t *testing.T) {
	var b bytes.Buffer
	must(t, Tar(one(linked(t, newStore(t))), false, &b))
	got := map[string]string{}
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		got[h.Name] = string(h.Typeflag) + h.Linkname + string(data)
	}
	want := map[string]string{"a": "0another", "b": "0linked", "c": "1b"}
	if len(got) != len(want) || got["a"] != want["a"] || got["b"] != want["b"] || got["c"] != want["c"] {
		t.Errorf("the archive has %q, want %q", got, want)
	}
}

func TestLocal(t *testing.T) {
	s := newStore(t)
	tree := linked(t, s)
	dir := filepath.Join(shm(t), "deeper", "out")
	must(t, os.MkdirAll(filepath.Join(dir, "mine"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("what was there, and longer"), 0o600))
	for range 2 {
		must(t, Local(one(tree), false, dir))
	}
	for name, want := range map[string]string{"a": "another", "b": "linked", "c": "linked"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
	var b, c unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "b"), &b))
	must(t, unix.Stat(filepath.Join(dir, "c"), &c))
	if b.Ino != c.Ino || b.Nlink != 2 {
		t.Errorf("b and c are no links of one another: %d links", b.Nlink)
	}
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil {
		t.Error("what was there and has another name is gone")
	}
	// What was written is a copy: changing it changes nothing in the store.
	must(t, os.WriteFile(filepath.Join(dir, "b"), []byte("changed"), 0o600))
	if got, err := layer.ReadFile(tree, "b"); err != nil || string(got) != "linked" {
		t.Errorf("the store's file is %q, %v", got, err)
	}
	file := filepath.Join(dir, "a")
	if err := Local(one(tree), false, file); err == nil {
		t.Error("files were written into a file")
	}
}

// What a frontend calls a platform is a name in the directory, or an error: what that is in stays as it is.
func TestHostilePlatform(t *testing.T) {
	tree := linked(t, newStore(t))
	parent := shm(t)
	must(t, os.Chmod(parent, 0o700))
	must(t, os.Chtimes(parent, time.Unix(5, 0), time.Unix(5, 0)))
	dir := filepath.Join(parent, "out")
	must(t, os.Mkdir(dir, 0o755))
	before, err := os.Stat(parent)
	must(t, err)
	for _, platform := range []string{"..", ".", "", "a\x00b"} {
		all := []Files{{Tree: tree, Platform: platform}}
		if err := Local(all, true, dir); err == nil {
			t.Errorf("files of platform %q have a directory", platform)
		}
		if err := Tar(all, true, io.Discard); err == nil {
			t.Errorf("files of platform %q have a directory in an archive", platform)
		}
		if _, err := Tree(all, true, t.TempDir()); err == nil {
			t.Errorf("files of platform %q have a directory in a tree", platform)
		}
	}
	after, err := os.Stat(parent)
	must(t, err)
	if after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("what the directory is in was %v of %v, and is %v of %v", before.Mode(), before.ModTime(), after.Mode(), after.ModTime())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("there are %v, %v", left, err)
	}
}

// one is the files of a single platform.
func one(t layer.Tree) []Files { return []Files{{Tree: t, Platform: "linux/amd64"}} }

// As one tree, files are what they are in a directory: those of several platforms, and attestations, which come last, in
// their order.
func TestTree(t *testing.T) {
	s := newStore(t)
	all := []Files{{Tree: linked(t, s), Platform: "linux/s390x"}, {Tree: treeOf(t, s, made(t, s, map[string]string{"x": "1", "zz": "2"})), Platform: "linux/amd64"}}
	for i := range all {
		all[i].Attestations = []Attestation{{File: "about.json", Predicate: []byte("{}")}}
	}
	for _, tc := range []struct {
		all   []Files
		split bool
	}{{all, true}, {all, false}, {all[:1], false}} {
		dir := filepath.Join(shm(t), "out")
		must(t, os.RemoveAll(dir))
		must(t, Local(tc.all, tc.split, dir))
		tree, err := Tree(tc.all, tc.split, "")
		must(t, err)
		layertest.Tree(t, tree)
		list := func(tree layer.Tree) (lines []string) {
			must(t, layer.Walk(tree, ".", func(e *layer.Entry) error {
				text := ""
				if e.IsRegular() {
					data, err := layer.ReadFile(tree, e.Path)
					must(t, err)
					text = string(data)
				}
				lines = append(lines, fmt.Sprintf("%s %o %d %t %s", e.Path, e.Mode, e.Size, e.Nlink > 1, text))
				return nil
			}))
			return lines[1:]
		}
		got, want := list(tree), list(layer.OpenDir(dir, layer.DirOptions{}))
		if !slices.Equal(got, want) {
			t.Errorf("split %t: got\n%s\nwant\n%s", tc.split, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		must(t, os.RemoveAll(dir))
	}
}
