package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A directory that somebody else wrote may have pipes where files are expected: nobody waits for them.
func TestPipesInDirectory(t *testing.T) {
	dir := t.TempDir()
	d := digest.FromString("manifest")
	blob := filepath.Join(dir, "blobs", "sha256", d.Encoded())
	err := errors.Join(os.MkdirAll(filepath.Dir(blob), 0o755), unix.Mkfifo(filepath.Join(dir, "index.json"), 0o600), unix.Mkfifo(blob, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]Entry{
		"index": {Type: TypeLocal, Attrs: map[string]string{"src": dir}},
		"blob":  {Type: TypeLocal, Attrs: map[string]string{"src": dir, "digest": d.String()}},
	} {
		f, err := ParseFrom(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Open(nil).Load(context.Background(), func(string) {}, nil); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
