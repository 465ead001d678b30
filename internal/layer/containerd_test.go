package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
)

// randomArchive has few names, so that entries come again, as something else, and below links.
// Targets have ".." only in front: elsewhere containerd takes it back by name, and not what it leads through.
func randomArchive(r *rand.Rand) []tar.Header {
	names := []string{"a", "b", "c", "a/b", "a/c", "b/a", "b/c/a", "c/b", "./a", "/b", "../c", "a/../b", "a/b/c", "", "."}
	targets := []string{"a", "b", "c", "/", "/a", "/a/b", "../b", "..", "../../c", "/x/y", "a/b", "."}
	var out []tar.Header
	for range 2 + r.Intn(8) {
		h := tar.Header{Name: names[r.Intn(len(names))], Mode: 0o755, ModTime: time.Unix(1000, 0), Format: tar.FormatPAX}
		switch k := r.Intn(8); {
		case k < 3:
			h.Typeflag, h.Size = tar.TypeReg, int64(1+r.Intn(3))
		case k < 5:
			h.Typeflag = tar.TypeDir
		case k < 7:
			h.Typeflag, h.Linkname = tar.TypeSymlink, targets[r.Intn(len(targets))]
		default:
			h.Typeflag, h.Linkname = tar.TypeLink, names[r.Intn(len(names)-2)]
		}
		out = append(out, h)
	}
	return out
}

var dirTime = regexp.MustCompile(`(mode=4[0-7]* .*) time=[0-9.]*`)

// What containerd makes of a layer's archive, and with it Docker and BuildKit, is what is made of it here.
func TestReadTarAsContainerd(t *testing.T) {
	needRoot(t)
	compared, linked, seeds := 0, 0, 3000
	if testing.Short() {
		seeds = 500
	}
	for seed := range int64(seeds) {
		headers := randomArchive(rand.New(rand.NewSource(seed)))
		data := makeTar(t, headers...)
		theirs, ours := shmDir(t), shmDir(t)
		if _, err := archive.Apply(context.Background(), theirs, bytes.NewReader(data)); err != nil {
			continue // a file in the way, or a hard link to what is not there
		}
		w, err := NewDirWriter(ours)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ReadTar(bytes.NewReader(data), TarOptions{}, w)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, list(headers))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, want := dirTime.ReplaceAllString(walked(t, ours), "$1"), dirTime.ReplaceAllString(walked(t, theirs), "$1")
		if got != want {
			t.Fatalf("seed %d: got\n%s\nand containerd makes\n%s\nof %s", seed, got, want, list(headers))
		}
		compared++
		if strings.Contains(want, "link=\"") {
			linked++
		}
		os.RemoveAll(theirs)
		os.RemoveAll(ours)
	}
	if compared < seeds/3 || linked < seeds/6 {
		t.Errorf("only %d archives were compared, %d of them with links", compared, linked)
	}
}

func list(headers []tar.Header) string {
	var b strings.Builder
	for _, h := range headers {
		fmt.Fprintf(&b, "\n%c %q %q", h.Typeflag, h.Name, h.Linkname)
	}
	return b.String()
}
