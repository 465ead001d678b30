package fileop

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/reasons"
)

// A list has what the digest is of, by the names that the files have in their tree.
func TestSourceList(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("src/a", "1", 0o644)
	write("src/odd\nname\"", "1", 0o644)
	write("src/d/long", strings.Repeat("x", 200_000), 0o644)
	write("one", "1", 0o644)
	if err := os.Symlink("a", filepath.Join(dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	copies := []*pb.FileActionCopy{cp("/src", "/x"), cp("/one", "/y")}
	copies[0].DirCopyContents = true
	list := func() *reasons.List {
		t.Helper()
		tree := layer.OpenDir(dir, layer.DirOptions{})
		d, l, err := SourceList(t.Context(), tree, copies, nil, dir)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := SourceDigest(t.Context(), tree, copies, nil); err != nil || d != want {
			t.Errorf("the digest is %s, want %s (%v)", d, want, err)
		}
		return l
	}
	before := list()
	if before.Files != 5 {
		t.Errorf("it has %d files", before.Files)
	}
	write("src/odd\nname\"", "2", 0o644)
	write("src/d/new", "2", 0o644)
	if err := os.Chmod(filepath.Join(dir, "one"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	d, err := reasons.DiffFiles(before, list())
	if err != nil {
		t.Fatal(err)
	}
	want := []reasons.FileChange{{Path: "one", Change: "attributes"}, {Path: "src/odd\nname\"", Change: "changed"}, {Path: "src/d/new", Change: "added"}, {Path: "src/link", Change: "removed"}}
	if len(d.Names) != len(want) || d.Total != 5 {
		t.Fatalf("they differ in %+v", d)
	}
	for i, w := range want {
		if d.Names[i] != w {
			t.Errorf("difference %d is %+v, want %+v", i, d.Names[i], w)
		}
	}
}

// listed is a tree in memory of files whose digests are known, as those of a context that was read before.
type listed map[string][]*layer.Entry

func (t listed) ReadDir(dir string) ([]*layer.Entry, error) { return t[dir], nil }

func (t listed) Lstat(name string) (*layer.Entry, error) {
	for _, e := range t[path.Dir(name)] {
		if e.Path == name {
			return e, nil
		}
	}
	return &layer.Entry{Path: ".", Mode: unix.S_IFDIR | 0o755}, nil
}

// What lists cost beside digests.
func BenchmarkSourceList(b *testing.B) {
	tree := listed{}
	for d := range 1000 {
		dir := fmt.Sprintf("pkg%04d", d)
		tree["."] = append(tree["."], &layer.Entry{Path: dir, Mode: unix.S_IFDIR | 0o755})
		for i := range 100 {
			name := fmt.Sprintf("%s/file%03d_test.go", dir, i)
			tree[dir] = append(tree[dir], &layer.Entry{Path: name, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: 1, Digest: digest.FromString(name)})
		}
	}
	copies := []*pb.FileActionCopy{cp("/", "/app")}
	b.Run("digest", func(b *testing.B) {
		for b.Loop() {
			if _, err := SourceDigest(b.Context(), tree, copies, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := SourceList(b.Context(), tree, copies, nil, b.TempDir()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestAppendQuote(t *testing.T) {
	for c := range 256 {
		for _, s := range []string{"", string([]byte{byte(c)}), "a" + string([]byte{byte(c)}) + "b", string(rune(c * 37))} {
			if got, want := string(appendQuote([]byte("x"), s)), string(strconv.AppendQuote([]byte("x"), s)); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}
