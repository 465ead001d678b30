package layer

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A path that leads nowhere below the directory is an error, and nothing outside changes.
func TestDirWriterStaysInside(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "beside"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(parent)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewDirWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []uint32{unix.S_IFDIR | 0o777, unix.S_IFREG | 0o777, unix.S_IFLNK | 0o777, unix.S_IFIFO | 0o777} {
		for _, path := range []string{"..", "", "../x", "x/..", "./..", "/"} {
			if err := w.Add(&Entry{Path: path, Mode: mode, Link: "x", ModTime: time.Unix(1, 0)}); err == nil {
				t.Errorf("mode %o at %q is no error", mode, path)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(parent)
	if err != nil {
		t.Fatal(err)
	}
	if after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("what the directory is in was %v of %v, and is %v of %v", before.Mode(), before.ModTime(), after.Mode(), after.ModTime())
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 2 {
		t.Errorf("beside the directory there are %v, %v", left, err)
	}
}
