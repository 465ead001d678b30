package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// age makes the file's change time older than the clock's resolution by waiting.
func age() { time.Sleep(layer.ClockStep + 10*time.Millisecond) }

func entry(t *testing.T, d *Dir, name string) *layer.Entry {
	t.Helper()
	clear(d.trees) // as another build
	tree, err := d.Tree(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := tree.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDigestsOutliveTheProcess(t *testing.T) {
	root, cache := t.TempDir(), filepath.Join(t.TempDir(), "sub", "cache")
	file := filepath.Join(root, "f")
	write(t, file, "one")
	age()
	d := NewDir(root, cache)
	e := entry(t, d, "f")
	if e.Digest != "" {
		t.Errorf("a file that was never read has digest %s", e.Digest)
	}
	if sum, err := d.Hash(t.Context(), e); err != nil || sum != digest.FromString("one") {
		t.Fatalf("digest is %s, %v", sum, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	d = NewDir(root, cache)
	if got := entry(t, d, "f").Digest; got != digest.FromString("one") {
		t.Errorf("another process finds %q", got)
	}
	// Another content of the same size, with the modification time put back: the change time tells.
	fi, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, "two")
	if err := os.Chtimes(file, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got := entry(t, d, "f").Digest; got != "" {
		t.Errorf("a changed file has digest %s", got)
	}
}

// A file that changed in the tick of the clock in which it was read may have changed afterwards.
func TestRacyFilesAreNotRemembered(t *testing.T) {
	root, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	write(t, filepath.Join(root, "f"), "one")
	d := NewDir(root, cache)
	if _, err := d.Hash(t.Context(), entry(t, d, "f")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if got := entry(t, NewDir(root, cache), "f").Digest; got != "" {
		t.Errorf("a racy file has digest %s", got)
	}
}

func TestStrict(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "f"), "one")
	d := NewDir(root, "")
	if _, err := d.Hash(t.Context(), entry(t, d, "f")); err != nil {
		t.Fatal(err)
	}
	tree, err := d.Tree(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	read := func() (string, error) {
		r, err := layer.Open(Strict(tree), "f")
		if err != nil {
			return "", err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return string(data), err
	}
	if got, err := read(); err != nil || got != "one" {
		t.Errorf("read %q, %v", got, err)
	}
	age()
	write(t, filepath.Join(root, "f"), "another")
	if got, err := read(); !errors.Is(err, layer.ErrChanged) {
		t.Errorf("after a change: read %q, %v", got, err)
	}
}

// An entry stands for one version of the file.
func TestChangedBetweenListingAndOpening(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "f"), "one")
	e := entry(t, NewDir(root, ""), "f")
	age()
	write(t, filepath.Join(root, "f"), "two")
	if r, err := e.Content.Open(); !errors.Is(err, layer.ErrChanged) {
		t.Errorf("opening gave %v, %v", r, err)
	}
}

// Files of a context have no extended attributes, as in images that BuildKit makes of them: what a
// browser or a desktop notes of a file on the host does not change an image.
func TestNoExtendedAttributes(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "f"), "one")
	if err := unix.Setxattr(filepath.Join(root, "f"), "user.a", []byte("1"), 0); errors.Is(err, unix.ENOTSUP) {
		t.Skip("no extended attributes here")
	} else if err != nil {
		t.Fatal(err)
	}
	if got := entry(t, NewDir(root, ""), "f").Xattrs; len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

// A build sees its context as it was at first, apart from contents that changed.
func TestSnapshot(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a/f", "a/g", "b/f", "b/g"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, name), name)
	}
	d := NewDir(root, "")
	tree, err := d.Tree(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := func() string {
		var names []string
		for _, dir := range []string{"a", "b"} {
			tree, err := d.Tree(t.Context(), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			list, err := tree.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				names = append(names, fmt.Sprintf("%s@%o", e.Path, e.Perm()))
			}
			clear(list) // it is the caller's
		}
		return strings.Join(names, " ")
	}
	if _, err := tree.Lstat("b/f"); err != nil { // before its directory is read
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "b/f"), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = "a/f@644 a/g@644 b/f@644 b/g@644"
	if got := list(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	e, err := tree.Lstat("a/f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Hash(t.Context(), e); err != nil || e.Digest != "" {
		t.Fatal(e.Digest, err)
	}
	write(t, filepath.Join(root, "a/new"), "")
	write(t, filepath.Join(root, "b/g"), "changed")
	for _, err := range []error{os.Remove(filepath.Join(root, "a/g")), os.Chmod(filepath.Join(root, "a/f"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := list(); got != want {
		t.Errorf("afterwards got %s, want %s", got, want)
	}
	if e, err := tree.Lstat("a/f"); err != nil || e.Digest != digest.FromString("a/f") {
		t.Errorf("a content digested meanwhile: %v, %v", e, err)
	}
	if e, err := tree.ReadDir("a"); err != nil || e[0].Digest != digest.FromString("a/f") {
		t.Errorf("a content digested meanwhile: %v, %v", e, err)
	}
	if e, err := tree.Lstat("a/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a new file: %v, %v", e, err)
	}
	if _, err := layer.ReadFile(tree, "b/g"); !errors.Is(err, layer.ErrChanged) {
		t.Errorf("a changed file: %v", err)
	}
	if _, err := layer.ReadFile(tree, "a/g"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed file: %v", err)
	}
	other, err := d.Tree(t.Context(), nil, []string{"b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.ReadDir("b"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with other patterns: %v", err)
	}
}

func TestSnapshotIsTree(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/b/f", "a/f", "a-b", "a/empty", "z"} {
		write(t, filepath.Join(root, name), strings.TrimPrefix(name, "a/empty"))
	}
	for name, target := range map[string]string{"link": "a", "a/up": ".."} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		d := NewDir(root, "")
		tree, err := d.Tree(t.Context(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		layertest.Tree(t, tree)
		layertest.Tree(t, tree)
		if err := layer.Walk(tree, ".", func(e *layer.Entry) error {
			if e.Content == nil {
				return nil
			}
			_, err := d.Hash(t.Context(), e)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		layertest.Tree(t, Strict(tree))
	}
}

// A malformed wildcard is an error, as where a context is transferred.
func TestPatternsOfMalformedPath(t *testing.T) {
	source := func(path string) *pb.SourceOp {
		return &pb.SourceOp{Identifier: "local://context", Attrs: map[string]string{pb.AttrFollowPaths: `["` + path + `"]`}}
	}
	if _, _, err := Patterns(source("a[b]*")); err != nil {
		t.Error(err)
	}
	if _, _, err := Patterns(source("a[")); err == nil || err.Error() != "invalid includepatterns: [a[]: syntax error in pattern" {
		t.Errorf("got %v", err)
	}
}
