package layer

import (
	"bytes"
	"io"
	"math/rand"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// indexOf packs a directory with an index and reads the index back from its bytes.
func indexOf(t testing.TB, dir string) (Tree, []byte) {
	t.Helper()
	var plain bytes.Buffer
	tw, x := NewIndexedTarWriter(&plain, "")
	if err := WalkLayer(dir, tw); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return reread(t, x).Tree(func(e *IndexEntry) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(plain.Bytes()[e.Offset : e.Offset+e.Size])), nil
	}), plain.Bytes()
}

// reread writes an index and reads it back from its bytes.
func reread(t testing.TB, x io.WriterTo) *IndexFile {
	t.Helper()
	var out bytes.Buffer
	if _, err := x.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	back, err := ReadIndex(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// The merged view over indexes is the merged view over the directories, contents included, and
// the tar is the same with an index and without.
func TestIndexTree(t *testing.T) {
	needRoot(t)
	for seed := range int64(60) {
		r := rand.New(rand.NewSource(seed))
		var dirs, indexes []Tree
		for n := range 1 + r.Intn(4) {
			dir := writeDir(t, dropOrphans(randomLayer(r, n > 0)))
			dirs = append(dirs, OpenDir(dir, DirOptions{Overlay: true}))
			x, plain := indexOf(t, dir)
			indexes = append(indexes, x)
			if !bytes.Equal(plain, tarOf(t, dir)) {
				t.Fatalf("seed %d: the tar differs when an index is made", seed)
			}
		}
		if got, want := view(t, seconds{Merged(indexes)}), view(t, seconds{Merged(dirs)}); got != want {
			t.Fatalf("seed %d: over indexes the view is\n%s\nwant\n%s", seed, got, want)
		}
	}
}

// seconds rounds times down as tar does, and leaves out sockets, which it cannot hold.
type seconds struct{ Tree }

func (s seconds) round(e *Entry) *Entry {
	c := *e
	c.ModTime = time.Unix(e.ModTime.Unix(), 0)
	if c.Path == "." {
		c.ModTime = time.Time{}
	}
	return &c
}

func (s seconds) Lstat(name string) (*Entry, error) {
	e, err := s.Tree.Lstat(name)
	if err != nil {
		return nil, err
	}
	return s.round(e), nil
}

func (s seconds) ReadDir(name string) ([]*Entry, error) {
	list, err := s.Tree.ReadDir(name)
	out := list[:0]
	for _, e := range list {
		if e.Type() != unix.S_IFSOCK {
			out = append(out, s.round(e))
		}
	}
	return out, err
}

// Every byte of an encoded index counts.
func TestIndexDamage(t *testing.T) {
	x := NewIndex()
	for _, name := range []string{"a", "a/b", "c"} {
		if err := x.Add(&Entry{Path: name, Mode: unix.S_IFDIR | 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := x.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	data := out.Bytes()
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if _, err := ReadIndex(bytes.NewReader(bad), int64(len(bad))); err == nil {
			t.Errorf("a change of byte %d was not found", i)
		}
		if _, err := ReadIndex(bytes.NewReader(data[:i]), int64(i)); err == nil {
			t.Errorf("an end at byte %d was not found", i)
		}
	}
}

// A directory that a layer only passes through keeps the attributes of the layer below.
func TestImpliedDirectories(t *testing.T) {
	base := NewIndex()
	base.Add(&Entry{Path: "tmp", Mode: unix.S_IFDIR | 0o1777, UID: 7})
	upper := NewIndex()
	if _, err := ReadTar(bytes.NewReader(makeTar(t, fileHeader("tmp/file"), fileHeader("new/file"))), TarOptions{}, upper); err != nil {
		t.Fatal(err)
	}
	none := func(*IndexEntry) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }
	m := Merged([]Tree{base.Tree(none), upper.Tree(none)})
	e, err := m.Lstat("tmp")
	if err != nil || e.Perm() != 0o1777 || e.UID != 7 {
		t.Errorf("tmp is %+v, %v", e, err)
	}
	list, err := m.ReadDir(".")
	if err != nil || len(list) != 2 || list[1].Perm() != 0o1777 || list[1].UID != 7 || list[0].Perm() != 0o755 {
		t.Errorf("the root has %+v, %v", list, err)
	}
}

func TestIndexedTarFindsChanges(t *testing.T) {
	tw, _ := NewIndexedTarWriter(io.Discard, "")
	e := &Entry{Path: "f", Mode: unix.S_IFREG | 0o644, Size: 5, Content: Bytes("hello"), Digest: "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
	if err := tw.Add(e); err != nil {
		t.Errorf("adding the file: %v", err)
	}
	e = &Entry{Path: "g", Mode: unix.S_IFREG | 0o644, Size: 5, Content: Bytes("jello"), Digest: e.Digest}
	if err := tw.Add(e); err == nil {
		t.Error("another content than its digest says was taken")
	}
}
