package imagediff

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
)

// unzip puts a database of rpm's into a tree.
func unzip(t *testing.T, name, to string) {
	t.Helper()
	in, err := os.Open(filepath.Join("..", "rpmdb", "testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	zip, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, zip); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(zip.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

// Databases of rpm are found wherever distributions have them, through links, with the logs beside them; of one that is damaged nothing
// is told but where it is.
func TestRPM(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/lib/sysimage/rpm", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../usr/lib/sysimage/rpm", filepath.Join(root, "var/lib/rpm")); err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(root, "usr/lib/sysimage/rpm/rpmdb.sqlite")
	unzip(t, "sqlite-wal-main", main)
	unzip(t, "sqlite-wal", main+"-wal")
	list := func() (lines []string, unread []string) {
		all, unread, err := packagesOf(layer.OpenDir(root, layer.DirOptions{}))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range all {
			lines = append(lines, fmt.Sprint(k.manager, " ", k.name, " ", v.version, " ", k.arch))
		}
		slices.Sort(lines)
		return lines, unread
	}
	want := "rpm kernel 6.1-1, 6.2-1 noarch|rpm many 0.1~rc1-1 noarch|rpm one 1.0-1 noarch|rpm two 2:3.4-5 noarch"
	if got, unread := list(); strings.Join(got, "|") != want || len(unread) > 0 {
		t.Errorf("it has %q, unread are %v, want %s", got, unread, want)
	}
	if err := os.Truncate(main, 5000); err != nil {
		t.Fatal(err)
	}
	if _, unread := list(); fmt.Sprint(unread) != "[/var/lib/rpm/rpmdb.sqlite]" {
		t.Errorf("of a damaged one it says %v", unread)
	}
	if err := os.Remove(main); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", main); err != nil {
		t.Fatal(err)
	}
	if got, unread := list(); len(got)+len(unread) != 0 {
		t.Errorf("of a link to nothing it says %v, %v", got, unread)
	}
}
