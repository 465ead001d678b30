package load

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutOf is a compressed archive of files, by their names.
func layoutOf(t *testing.T, files map[string]string) io.Reader {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	tw := tar.NewWriter(zip)
	for name, data := range files {
		must(t, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(tw, data)
		must(t, err)
	}
	must(t, errors.Join(tw.Close(), zip.Close()))
	return &out
}

// A layout has what it is asked for, or nothing, and is read no further than it may be long.
func TestLayout(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	sum := digest.FromString(`{"a":1}`)
	files := map[string]string{ocispec.ImageIndexFile: `{"manifests":[{"digest":"` + sum.String() + `","size":7}]}`, "blobs/sha256/" + sum.Encoded(): `{"a":1}`}
	l, err := ReadLayout(ctx, s, t.TempDir(), layoutOf(t, files), "somethings", 1<<20)
	must(t, err)
	index, err := l.Index()
	must(t, err)
	var got struct{ A int }
	if err := l.JSON(ctx, index.Manifests[0], &got); err != nil || got.A != 1 {
		t.Errorf("it has %v, %v", got, err)
	}
	wrong := index.Manifests[0]
	wrong.Size++
	if err := l.JSON(ctx, wrong, &got); !errors.Is(err, ErrInvalid) {
		t.Errorf("of another size: %v", err)
	}
	if _, err := l.File(ctx, ocispec.Descriptor{Digest: digest.FromString("none")}); !errors.Is(err, ErrInvalid) {
		t.Errorf("what is not there: %v", err)
	}
	files["zeros"] = strings.Repeat("\x00", 1<<20)
	if _, err := ReadLayout(ctx, s, t.TempDir(), layoutOf(t, files), "somethings", 1<<20); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("a long one: %v", err)
	}
	for name, files := range map[string]map[string]string{"no index": {"x": "y"}, "nothing": {}} {
		if _, err := ReadLayout(ctx, s, t.TempDir(), layoutOf(t, files), "somethings", 1<<20); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
