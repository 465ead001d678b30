package local

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// age makes the file's change time older than the clock's resolution by waiting.
func age() { time.Sleep(clockStep + 10*time.Millisecond) }

func entry(t *testing.T, d *Dir, name string) *layer.Entry {
	t.Helper()
	tree, err := d.Tree(nil, nil)
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
	if sum, err := d.Hash(e); err != nil || sum != digest.FromString("one") {
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

	data, err := os.ReadFile(cache)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		bad := append([]byte(nil), data...)
		bad[i] ^= 1
		if err := os.WriteFile(cache, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := len(openDigests(cache).known); n != 0 {
			t.Fatalf("damage of byte %d was not found", i)
		}
	}
}

// A file that changed in the tick of the clock in which it was read may have changed afterwards.
func TestRacyFilesAreNotRemembered(t *testing.T) {
	root, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	write(t, filepath.Join(root, "f"), "one")
	d := NewDir(root, cache)
	if _, err := d.Hash(entry(t, d, "f")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if got := entry(t, NewDir(root, cache), "f").Digest; got != "" {
		t.Errorf("a racy file has digest %s", got)
	}
}

func TestUnusedDigestsAreDropped(t *testing.T) {
	root, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	write(t, filepath.Join(root, "old"), "old")
	age()
	d := NewDir(root, cache)
	if _, err := d.Hash(entry(t, d, "old")); err != nil {
		t.Fatal(err)
	}
	for range maxAge + 1 {
		d.digests.dirty = true
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d = NewDir(root, cache)
	}
	if n := len(d.digests.known); n != 0 {
		t.Errorf("%d digests are kept", n)
	}
}

func TestStrict(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "f"), "one")
	d := NewDir(root, "")
	if _, err := d.Hash(entry(t, d, "f")); err != nil {
		t.Fatal(err)
	}
	tree, err := d.Tree(nil, nil)
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
