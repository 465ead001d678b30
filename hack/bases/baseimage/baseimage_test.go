package baseimage

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// entries reads a layer; a path that comes twice, or before its directory, fails the test.
func entries(t *testing.T, l v1.Layer) map[string]*tar.Header {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Clean(h.Name)
		if all[name] != nil {
			t.Errorf("%s comes twice", name)
		}
		if dir := filepath.Dir(name); dir != "." && all[dir] == nil {
			t.Errorf("%s comes before its directory", name)
		}
		all[name] = h
	}
}

func busybox(t *testing.T) v1.Image {
	t.Helper()
	img, err := Busybox()
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func layers(t *testing.T, img v1.Image) []v1.Layer {
	t.Helper()
	if err := validate.Image(img); err != nil {
		t.Fatalf("image is not valid: %v", err)
	}
	all, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestBusybox(t *testing.T) {
	all := layers(t, busybox(t))
	if len(all) != 1 {
		t.Fatalf("got %d layers, want 1", len(all))
	}
	got := entries(t, all[0])
	if h := got["bin/sh"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "bin/busybox" {
		t.Errorf("bin/sh is %+v, want a hard link to bin/busybox", h)
	}
	if h := got["tmp"]; h == nil || h.Mode != 0o1777 {
		t.Errorf("tmp is %+v, want mode 1777", h)
	}
}

func TestBusyboxIsReproducible(t *testing.T) {
	first, err := busybox(t).Digest()
	if err != nil {
		t.Fatal(err)
	}
	second, err := busybox(t).Digest()
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Errorf("got digests %s and %s from the same machine", first, second)
	}
}

// write makes files below a new directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, body := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(body), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestGoToolchain(t *testing.T) {
	busybox(t)
	root := write(t, map[string]string{
		"VERSION": "go9.9", "src/fmt/print.go": "package fmt", "src/fmt/print_test.go": "x",
		"src/fmt/testdata/x": "x", "test/a.go": "x", "doc/a.html": "x", "src/cmd/test/keep.go": "package test",
	})
	binary, err := FindBusybox() // any static binary does
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/go"), body, 0o755); err != nil {
		t.Fatal(err)
	}
	img, err := GoToolchain(root, "9.9")
	if err != nil {
		t.Fatal(err)
	}
	all := layers(t, img)
	if len(all) != 3 {
		t.Fatalf("got %d layers, want 3", len(all))
	}
	got := entries(t, all[2])
	for _, name := range []string{"usr/local/go/src/fmt/print.go", "usr/local/go/src/cmd/test/keep.go", "usr/local/go/bin/go"} {
		if got[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range []string{"src/fmt/print_test.go", "src/fmt/testdata", "test", "doc"} {
		if got["usr/local/go/"+name] != nil {
			t.Errorf("%s is there, want it left out", name)
		}
	}
	if mode := got["usr/local/go/VERSION"].Mode; mode != 0o644 {
		t.Errorf("VERSION has mode %o, want 644", mode)
	}
}

func TestHostTree(t *testing.T) {
	root := write(t, map[string]string{"etc/a": "one", "etc/empty": ""})
	err := errors.Join(
		os.Link(filepath.Join(root, "etc/a"), filepath.Join(root, "etc/b")),
		os.Symlink("/etc/a", filepath.Join(root, "etc/c")),
		os.Mkdir(filepath.Join(root, "tmp"), 0o755),
		os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky),
	)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := tarLayer(func(w *tarWriter) error { return hostTree(w, root) })
	if err != nil {
		t.Fatal(err)
	}
	got := entries(t, layer)
	if h := got["etc/b"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "etc/a" {
		t.Errorf("etc/b is %+v, want a hard link to etc/a", h)
	}
	if h := got["etc/c"]; h == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "/etc/a" {
		t.Errorf("etc/c is %+v, want a symbolic link to /etc/a", h)
	}
	if h := got["tmp"]; h == nil || h.Mode != 0o1777 {
		t.Errorf("tmp is %+v, want mode 1777", h)
	}
	if h := got["etc/empty"]; h == nil || h.Size != 0 || h.Typeflag != tar.TypeReg {
		t.Errorf("etc/empty is %+v, want an empty file", h)
	}
}

func TestAddSources(t *testing.T) {
	d := Distribution{Codename: "bookworm"}
	d.addSources(`http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm contrib
http://mirror.example/debian/ bookworm-updates main
http://other.example/pg bookworm-pgdg main
http://mirror.example/security/ bookworm-security main
http://mirror.example/debian/ bookworm main
`)
	if d.Mirror != "http://mirror.example/debian/" {
		t.Errorf("got mirror %q", d.Mirror)
	}
	want := []string{
		"deb http://mirror.example/debian/ bookworm main\n",
		"deb http://mirror.example/debian/ bookworm-updates main\n",
		"deb http://mirror.example/security/ bookworm-security main\n",
	}
	if !reflect.DeepEqual(d.Sources, want) {
		t.Errorf("got sources %q, want %q", d.Sources, want)
	}
}
