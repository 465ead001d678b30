package container

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/store"
)

// hostileLab is a store with one container of an empty image, beside a directory that no archive may
// touch. The container has directories and links to places inside and outside of its root.
type hostileLab struct {
	m       *Manager
	c       store.Container
	upper   string
	outside string
	before  string
}

func newHostileLab(t testing.TB) *hostileLab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("writing owners needs root")
	}
	base := t.TempDir()
	l := &hostileLab{outside: filepath.Join(base, "outside")}
	s, err := store.Open(filepath.Join(base, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l.m = &Manager{Store: s}
	if l.c.ID, err = store.NewContainerID(); err != nil {
		t.Fatal(err)
	}
	l.c.Name, l.c.Created, l.c.Config = "box", time.Now(), []byte("{}")
	if err := s.AddContainer(context.Background(), l.c); err != nil {
		t.Fatal(err)
	}
	l.upper = l.m.upper(l.c.ID)
	l.fill(t)
	return l
}

// fill makes what there is before an archive comes.
func (l *hostileLab) fill(t testing.TB) {
	t.Helper()
	for _, dir := range []string{l.outside, l.upper + "/dst/sub", l.upper + "/real", l.upper + "/etc"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(l.outside+"/secret", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"dst/abs": l.outside, "dst/up": strings.Repeat("../", 30) + strings.TrimPrefix(l.outside, "/"), "dst/in": "/real", "dst/etc": "/etc",
		"dst/self": "self",
	} {
		if err := os.Symlink(target, filepath.Join(l.upper, name)); err != nil {
			t.Fatal(err)
		}
	}
	l.before = listing(t, l.outside)
}

func (l *hostileLab) importTar(data []byte) error {
	return l.m.Import(context.Background(), l.c, bytes.NewReader(data), "/dst", CopyOptions{Archive: true})
}

// check fails if anything outside of the container's root changed, or is linked into it.
func (l *hostileLab) check(t testing.TB) {
	t.Helper()
	if after := listing(t, l.outside); after != l.before {
		t.Fatalf("outside of the container is now:\n%swas:\n%s", after, l.before)
	}
	entries, err := os.ReadDir(filepath.Dir(l.upper))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "fs", "work", "lock", "copying", "state.json":
		default:
			t.Fatalf("beside the container's root there is %s", e.Name())
		}
	}
}

// listing describes all files below a directory, with their contents and numbers of links.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.Walk(dir, func(name string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		out.WriteString(name + " " + fi.Mode().String() + " " + fi.ModTime().String())
		if fi.Mode().IsRegular() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			out.Write(data)
		}
		out.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "evil"
			h.Size = int64(len(body))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
func dir(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}
func symlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
}
func hardlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}
}

// hostileTars are archives for `cp - CONTAINER:DIR` with the path in the container that has "evil"
// afterwards, or with the error that they are refused with.
func hostileTars(outside string) []struct {
	name    string
	headers []tar.Header
	lands   string
	err     string
} {
	return []struct {
		name    string
		headers []tar.Header
		lands   string
		err     string
	}{
		{"plain", []tar.Header{file("a")}, "dst/a", ""},
		{"directories that are not mentioned", []tar.Header{file("new/deep/a")}, "dst/new/deep/a", ""},
		{"dot dot", []tar.Header{file("../a")}, "dst/a", ""},
		{"dot dot below", []tar.Header{file("sub/../../a")}, "dst/a", ""},
		{"dot dot that stays", []tar.Header{file("sub/../a")}, "dst/a", ""},
		{"absolute", []tar.Header{file("/a")}, "dst/a", ""},
		{"absolute and dot dot", []tar.Header{file("/../../a")}, "dst/a", ""},
		{"absolute to the outside", []tar.Header{file(outside + "/secret")}, "dst" + outside + "/secret", ""},
		{"link of the archive", []tar.Header{symlink("l", outside), file("l/secret")}, strings.TrimPrefix(outside, "/") + "/secret", ""},
		{"relative link of the archive", []tar.Header{symlink("l", "../../../../../outside"), file("l/secret")}, "outside/secret", ""},
		{"link of the archive that changes", []tar.Header{symlink("l", "/one"), file("l/a"), symlink("l", "/two"), file("l/b")}, "two/b", ""},
		{"link over a link", []tar.Header{symlink("abs", outside), file("abs/secret")}, strings.TrimPrefix(outside, "/") + "/secret", ""},
		{"link of the container to the outside", []tar.Header{file("abs/secret")}, strings.TrimPrefix(outside, "/") + "/secret", ""},
		{"link of the container upwards", []tar.Header{file("up/secret")}, strings.TrimPrefix(outside, "/") + "/secret", ""},
		{"link of the container inside", []tar.Header{file("in/a")}, "real/a", ""},
		{"link to a directory of the container", []tar.Header{file("etc/passwd")}, "etc/passwd", ""},
		{"link of the container to itself", []tar.Header{file("self/a")}, "", "too many"},
		{"directory over a link", []tar.Header{dir("abs"), file("abs/secret")}, "", "cannot overwrite non-directory"},
		{"file over a directory", []tar.Header{file("sub")}, "", "cannot overwrite directory"},
		{"file over a link", []tar.Header{file("abs")}, "dst/abs", ""},
		{"link and what is behind it by another name", []tar.Header{symlink("../dst/in", "x"), file("dst/in/a")}, "dst/dst/x/a", ""},
		{"link made below an alias", []tar.Header{symlink("in/l", outside), file("in/l/secret")}, strings.TrimPrefix(outside, "/") + "/secret", ""},
		{"hard link to the outside", []tar.Header{hardlink("h", outside+"/secret")}, "", "no such file"},
		{"hard link upwards", []tar.Header{hardlink("h", "../../../outside/secret")}, "", "no such file"},
		{"hard link through a link of the container", []tar.Header{hardlink("h", "abs/secret")}, "", "no such file"},
		{"hard link to a link", []tar.Header{symlink("s", outside+"/secret"), hardlink("h", "s"), file("h")}, "dst/h", ""},
		{"hard link", []tar.Header{file("in/a"), hardlink("h", "in/a")}, "dst/h", ""},
		{"whiteout device", []tar.Header{{Name: "sub", Typeflag: tar.TypeChar}}, "", "unsafe"},
		{"names of whiteouts are names", []tar.Header{file(".wh.sub")}, "dst/.wh.sub", ""},
	}
}

func TestImportOfHostileArchives(t *testing.T) {
	for i, tc := range hostileTars("/x") {
		l := newHostileLab(t)
		tc = hostileTars(l.outside)[i]
		err := l.importTar(tarOf(t, tc.headers...))
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.err)
		}
		l.check(t)
		if tc.lands == "" {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(l.upper, tc.lands)); err != nil || string(data) != "evil" {
			t.Errorf("%s: %s has %q, %v", tc.name, tc.lands, data, err)
		}
	}
}

// TestCopyOutThroughLinks copies out of a container whose links lead to the host.
func TestCopyOutThroughLinks(t *testing.T) {
	l := newHostileLab(t)
	for _, opts := range []CopyOptions{{}, {FollowLink: true}} {
		for _, src := range []string{"/dst/abs/secret", "/dst/up/secret", "/dst/abs/.", "/dst/up/"} {
			to := t.TempDir()
			if _, err := l.m.CopyFrom(context.Background(), l.c, src, to, opts); err == nil {
				t.Errorf("copying %s (%+v) found something: %s", src, opts, listing(t, to))
			}
		}
	}
	l.check(t)
}

// FuzzImport unpacks archives that nobody thought of.
func FuzzImport(f *testing.F) {
	for _, tc := range hostileTars("/nowhere") {
		f.Add(tarOf(f, tc.headers...))
	}
	l := newHostileLab(f) // one for all: to open a store takes longer than to unpack
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.RemoveAll(l.upper); err != nil {
			t.Fatal(err)
		}
		l.fill(t)
		_ = l.importTar(data) // it may be refused
		l.check(t)
	})
}
