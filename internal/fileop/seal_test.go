package fileop

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

// Where nearly everything leaves the memory as soon as it can, plans are the same.
func TestSealed(t *testing.T) {
	defer func(n int) { maxNodes = n }(maxNodes)
	maxNodes = 2
	t.Run("Actions", TestActions)
	t.Run("CopyLikeFsutil", func(t *testing.T) { copyLikeFsutil(t, 250) })
}

// randomArchive has entries in any order, which replace each other.
func randomArchive(t *testing.T, r *rand.Rand) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	dir := func() string {
		return strings.Repeat(string(rune('a'+r.Intn(3)))+"/", 1+r.Intn(2)) + string(rune('a'+r.Intn(3)))
	}
	var files []string
	for i := range 5 + r.Intn(60) {
		h := tar.Header{Typeflag: tar.TypeReg, Name: dir() + "/" + string(rune('x'+r.Intn(3))), Mode: int64(0o600 + r.Intn(8)), Size: int64(r.Intn(5))}
		switch n := r.Intn(12); {
		case n < 3:
			h.Typeflag, h.Name, h.Size = tar.TypeDir, dir(), 0
		case n == 3:
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, "somewhere", 0
		case n == 4 && len(files) > 0:
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, files[r.Intn(len(files))], 0
		case n == 5 && r.Intn(4) == 0: // a file in place of a directory, or the other way round
			h.Name = dir()
		}
		if h.Typeflag == tar.TypeReg {
			files = append(files, h.Name)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, fmt.Sprintf("%05d", i)[5-h.Size:])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// An archive gives the same however much of what it gave before is in memory.
func TestSealedArchives(t *testing.T) {
	defer func(n int) { maxNodes = n }(maxNodes)
	base := []string{"a/a/x=1", "a/b/c/x=2", "a/b/c/y=3", "b/x=4", "b/c->../a", "c/a/y=5", "c/a/z=6"}
	done := 0
	for seed := range int64(400) {
		var got [3]string
		for i, nodes := range []int{1 << 20, 2, 6} {
			maxNodes = nodes
			r := rand.New(rand.NewSource(seed))
			source := memory(t, "a.tar="+randomArchive(t, r), "t/a/x=7", "t/a/b/q=8", "t/c/a/y=5")
			list, err := act(t, memory(t, base...), source, cp("a.tar", "/", add), cp("t", "/", func(c *pb.FileActionCopy) { c.DirCopyContents = true }), cp("a.tar", "/b/n", add))
			if got[i] = strings.Join(list, "\n"); err != nil {
				got[i] = err.Error()
			}
		}
		if strings.Contains(got[0], "\n") {
			done++
		}
		for i, s := range got[1:] {
			if s != got[0] {
				t.Fatalf("seed %d: with little memory (%d) it gives\n%s\nwant\n%s", seed, i, s, got[0])
			}
		}
	}
	if done < 40 {
		t.Errorf("%d archives could be unpacked: the test shows little", done)
	}
}
