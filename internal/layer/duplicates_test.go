package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"
)

// Streams that name paths several times mean the same to a directory and to an index: what comes
// later replaces what was there, with all that was below it, and leaves other names alone.
func TestDuplicateNames(t *testing.T) {
	needRoot(t)
	refused, followed := 0, 0
	for seed := range int64(1000) {
		r := rand.New(rand.NewSource(seed))
		var headers []tar.Header
		for i := range r.Intn(12) + 2 {
			name := []string{"a", "b", "a/b", "a/c", "b/a", "a/b/c", "c"}[r.Intn(7)]
			h := tar.Header{Name: name, Mode: int64(0o700 + i), ModTime: time.Unix(int64(1000+i), 0)}
			switch r.Intn(7) {
			case 0, 1:
				h.Typeflag = tar.TypeDir
			case 2:
				h.Typeflag, h.Linkname = tar.TypeSymlink, "target"
			case 3:
				h.Typeflag, h.Linkname = tar.TypeLink, []string{"a", "b", "a/b", "a/c", "c"}[r.Intn(5)]
			case 4:
				h.Typeflag, h.Name = tar.TypeReg, strings.Replace("/"+name, "/", "/.wh.", strings.Count(name, "/")+1)
				if strings.Count(name, "/") > 0 {
					dir, base := split(name)
					h.Name = dir + "/.wh." + base
				}
			default:
				h.Typeflag, h.Size = tar.TypeReg, int64(i)
			}
			headers = append(headers, h)
		}
		stream := makeTar(t, headers...)
		x := NewIndex()
		if _, err := ReadTar(bytes.NewReader(stream), TarOptions{}, x); err != nil {
			refused++
			continue
		}
		dir := shmDir(t)
		w, err := NewDirWriter(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadTar(bytes.NewReader(stream), TarOptions{}, w); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		want, got := listing(t, OpenDir(dir, DirOptions{Overlay: true})), listing(t, x.Tree(nil))
		if got != want {
			var s strings.Builder
			for _, h := range headers {
				fmt.Fprintf(&s, "%c %s %s\n", h.Typeflag, h.Name, h.Linkname)
			}
			t.Fatalf("seed %d: stream\n%sindex\n%sdirectory\n%s", seed, s.String(), got, want)
		}
		if got := listing(t, reread(t, x).Tree(nil)); got != want {
			t.Fatalf("seed %d: the index that was written has\n%swant\n%s", seed, got, want)
		}
		streamed := NewIndexWriter(t.TempDir())
		if _, err := ReadTar(bytes.NewReader(stream), TarOptions{}, streamed); err != nil {
			t.Fatal(err)
		}
		if streamed.replaced {
			continue
		}
		if got := listing(t, reread(t, streamed).Tree(nil)); got != want {
			t.Fatalf("seed %d: the index that was written meanwhile has\n%swant\n%s", seed, got, want)
		}
		followed++
	}
	if followed < 50 {
		t.Errorf("%d streams replace nothing: the test shows little of them", followed)
	}
	if refused > 800 {
		t.Errorf("%d of 1000 streams were refused: the test shows little", refused)
	}
}

// listing is the metadata of a tree, with the names of one file told.
func listing(t *testing.T, tree Tree) string {
	t.Helper()
	var b strings.Builder
	first := map[uint64]string{}
	if err := Walk(tree, ".", func(e *Entry) error {
		if e.Path == "." {
			return nil
		}
		b.WriteString(strings.TrimSuffix(describe(e, ""), "\n"))
		if e.Nlink > 1 {
			if first[e.Inode] == "" {
				first[e.Inode] = e.Path
			} else {
				b.WriteString(" same as " + first[e.Inode])
			}
		}
		b.WriteString("\n")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
