package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-cache-test-")
	if err != nil {
		dir = t.TempDir()
	}
	s, err := store.Open(filepath.Join(dir, "store"))
	must(t, err)
	t.Cleanup(func() { s.Close(); os.RemoveAll(dir) })
	return s
}

// mountsIn are both ends of a cache in a directory.
func mountsIn(t *testing.T, dir string) (to, from *Mounts) {
	t.Helper()
	out, err := ParseTo(Entry{Type: TypeLocal, Attrs: map[string]string{"dest": dir, "mode": modeKeys, "mounts": "*"}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := ParseFrom(Entry{Type: TypeLocal, Attrs: map[string]string{"src": dir, "mode": modeKeys, "mounts": "*"}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Mounts(), in.Mounts()
}

var deps = Mount{ID: "deps", Name: "deps", Everywhere: "deps"}

// inMount works in a cache mount of a store.
func inMount(t *testing.T, s *store.Store, work func(dir string)) {
	t.Helper()
	c, err := s.Cache(t.Context(), deps.ID, store.SharingShared, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	work(c.Dir)
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func quiet(string, bool) {}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// blobsOf is how many bytes a directory's blobs have.
func blobsOf(t *testing.T, dir string) (n int, size int64) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
	}
	return len(all), size
}

// What is exported after a change is what is new, and packs of which most is needed no more are written anew.
func TestMountIsIncremental(t *testing.T) {
	dir, s := t.TempDir(), openStore(t)
	to, from := mountsIn(t, dir)
	noise := make([]byte, 8<<20)
	rnd := rand.NewChaCha8([32]byte{})
	content := func() string { rnd.Read(noise); return string(noise) } //nolint:errcheck // it has no end
	inMount(t, s, func(dir string) {
		for i := range 5 {
			write(t, dir, fmt.Sprintf("d%d/large", i), content())
		}
		write(t, dir, "empty", "")
	})
	export := func() { must(t, to.Export(t.Context(), s, nil, deps, quiet)) }
	export()
	n, size := blobsOf(t, dir)
	if n != 4 || size < 40<<20 {
		t.Fatalf("the first export has %d blobs of %d bytes", n, size)
	}
	export()
	inMount(t, s, func(dir string) { write(t, dir, "small", "one"); write(t, dir, "copy", "one") })
	export()
	if n2, size2 := blobsOf(t, dir); n2 != n+2 || size2 > size+2000 {
		t.Errorf("after a small change there are %d more blobs of %d bytes", n2-n, size2-size)
	}
	inMount(t, s, func(dir string) {
		for i := range 5 {
			if i != 3 {
				must(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("d%d", i))))
			}
		}
	})
	export()
	c, _ := find(t, to)
	if len(c.packs) != 2 {
		t.Errorf("a mount of one large file and a small one has %d packs", len(c.packs))
	}
	other := openStore(t)
	changed, err := from.Import(t.Context(), other, nil, deps, quiet)
	must(t, err)
	if !changed {
		t.Fatal("it was not imported")
	}
	inMount(t, other, func(theirs string) {
		inMount(t, s, func(ours string) {
			must(t, layer.Diff(s.MountTree(ours), other.MountTree(theirs), func(d layer.Difference) error { t.Error(d); return nil }))
		})
	})
}

// What was not written to since the export before is not read again.
func TestMountIsReadOnce(t *testing.T) {
	s := openStore(t)
	to, from := mountsIn(t, t.TempDir())
	var file string
	inMount(t, s, func(dir string) {
		file = filepath.Join(dir, "d", "f")
		write(t, dir, "d/f", "one")
	})
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, file, unix.IN_ACCESS)
	must(t, err)
	read := func() bool { // whether the file was, by an export
		must(t, to.Export(t.Context(), s, nil, deps, quiet))
		n, err := unix.Read(watch, make([]byte, 4096))
		return err == nil && n > 0
	}
	if !read() {
		t.Fatal("the first export has not read the file")
	}
	for tries := 0; read(); tries++ { // its change is too recent for a clock
		if tries == 1000 {
			t.Fatal("each export reads the file")
		}
	}
	inMount(t, s, func(dir string) { write(t, dir, "d/f", "two") })
	if !read() {
		t.Error("a file that was changed is not read")
	}
	other := openStore(t)
	if _, err := from.Import(t.Context(), other, nil, deps, quiet); err != nil {
		t.Fatal(err)
	}
	inMount(t, other, func(dir string) {
		if got, err := os.ReadFile(filepath.Join(dir, "d", "f")); err != nil || string(got) != "two" {
			t.Errorf("carried: %q, %v", got, err)
		}
	})
}

// A mount that was used here since it was written elsewhere stays; an older one becomes what is there, and what is here is not fetched.
func TestMountThatIsNewerStays(t *testing.T) {
	dir, a, b := t.TempDir(), openStore(t), openStore(t)
	to, from := mountsIn(t, dir)
	read := func(s *store.Store, name string) (text string) {
		inMount(t, s, func(dir string) {
			data, _ := os.ReadFile(filepath.Join(dir, name))
			text = string(data)
		})
		return text
	}
	imports := func(s *store.Store, want bool) {
		t.Helper()
		changed, err := from.Import(t.Context(), s, nil, deps, quiet)
		if err != nil || changed != want {
			t.Errorf("imported: %v, %v", changed, err)
		}
	}
	imports(a, false)
	inMount(t, a, func(dir string) { write(t, dir, "x", "a") })
	must(t, to.Export(t.Context(), a, nil, deps, quiet))
	imports(a, false)
	inMount(t, b, func(dir string) { write(t, dir, "x", "b") })
	imports(b, false)
	if got := read(b, "x"); got != "b" {
		t.Errorf("a newer mount has %q", got)
	}
	must(t, to.Export(t.Context(), b, nil, deps, quiet))
	held, err := a.Cache(t.Context(), deps.ID, store.SharingShared, nil)
	must(t, err)
	held.Release()
	must(t, os.Chtimes(held.Dir+".lock", time.Time{}, time.Now().Add(-time.Hour))) // it was used long ago
	held, err = a.LookIntoCache(deps.ID)
	must(t, err)
	imports(a, false) // somebody has it
	held.Release()
	imports(a, true)
	if got := read(a, "x"); got != "b" {
		t.Errorf("an older mount has %q", got)
	}
	imports(a, false)
}

func find(t *testing.T, m *Mounts) (*carried, string) {
	t.Helper()
	at, err := openNames(m.location, nil, nil)
	must(t, err)
	c, version, err := findMount(t.Context(), at, m.nameAt(m.location, deps), "")
	must(t, err)
	return c, version
}

// hostile writes a mount of some lines into a directory, with packs of some contents.
func hostile(t *testing.T, s *store.Store, dir string, lines string, packs ...string) {
	t.Helper()
	to, _ := mountsIn(t, dir)
	at, err := openNames(to.location, s, nil)
	must(t, err)
	put := func(mediaType, text string) ocispec.Descriptor {
		var b bytes.Buffer
		z, err := layer.Compress(&b, layer.Encoding{Compression: layer.Zstd})
		must(t, err)
		_, err = io.WriteString(z, text)
		must(t, err)
		must(t, z.Close())
		desc := describe(mediaType, b.Bytes())
		must(t, at.put(t.Context(), desc, bytesOpener(b.Bytes())))
		return desc
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: put(mediaMountList, lines)}
	for _, p := range packs {
		m.Layers = append(m.Layers, put(mediaMountPack, p))
	}
	raw, err := json.Marshal(m)
	must(t, err)
	must(t, at.enter(t.Context(), to.nameAt(to.location, deps), ocispec.Descriptor{}, raw))
}

// Whatever a cache says of a mount, nothing is written but files of the mount, and one that is damaged changes nothing.
func TestHostileMounts(t *testing.T) {
	const head, root = `{"slipway.mount":1,"created":"2100-01-01T00:00:00Z","packs":[7]}`, `{"path":".","mode":16877}`
	file := func(path string, more string) string {
		return fmt.Sprintf(`{"path":%q,"mode":33188,"size":7,"digest":%q%s}`, path, digest.FromString("content"), more)
	}
	dir := func(path string) string { return fmt.Sprintf(`{"path":%q,"mode":16877}`, path) }
	many := strings.Repeat(dir("x")+"\n", 3)
	s := openStore(t)
	inMount(t, s, func(dir string) { write(t, dir, "kept", "kept") })
	for name, c := range map[string]struct{ lines, want string }{
		"nothing":                  {"", "has none"},
		"another version":          {`{"slipway.mount":2,"packs":[7]}`, "of version 2"},
		"other packs":              {`{"slipway.mount":1,"packs":[]}`, "its list has 0 packs, its manifest 1"},
		"a pack without an end":    {`{"slipway.mount":1,"packs":[9000000000000000000]}`, "cannot be"},
		"no directory":             {head + "\n" + file("a", ""), "is not the directory itself"},
		"a file in its place":      {head + "\n" + file(".", ""), "is not the directory itself"},
		"dots":                     {head + "\n" + root + "\n" + file("../../x", ""), "does not lie in a directory"},
		"dots in between":          {head + "\n" + root + "\n" + dir("a") + "\n" + file("a/../../x", ""), "does not lie in a directory"},
		"above":                    {head + "\n" + root + "\n" + dir(".."), "has no name"},
		"absolute":                 {head + "\n" + root + "\n" + file("/etc/x", ""), "does not lie in a directory"},
		"of no directory":          {head + "\n" + root + "\n" + file("a/x", ""), "does not lie in a directory"},
		"through a link":           {head + "\n" + root + "\n" + `{"path":"a","mode":41471,"link":"/etc"}` + "\n" + file("a/x", ""), "does not lie in a directory"},
		"through a link's second":  {head + "\n" + root + "\n" + `{"path":"a","mode":41471,"link":"/etc"}` + "\n" + dir("a") + "\n" + file("a/x", ""), "there twice"},
		"no name":                  {head + "\n" + root + "\n" + file("", ""), "does not lie in a directory"},
		"a zero byte":              {head + "\n" + root + "\n" + `{"path":"a\u0000b","mode":33188}`, "has no name"},
		"a long name":              {head + "\n" + root + "\n" + file(strings.Repeat("a", 256), ""), "has no name"},
		"a long path":              {head + "\n" + root + "\n" + file(strings.Repeat("a/", 3000)+"a", ""), "does not lie in a directory"},
		"twice":                    {head + "\n" + root + "\n" + many, "there twice"},
		"a device":                 {head + "\n" + root + "\n" + `{"path":"a","mode":8630}`, "neither a directory, a file nor a link"},
		"a pipe":                   {head + "\n" + root + "\n" + `{"path":"a","mode":4516}`, "neither a directory, a file nor a link"},
		"set user ID":              {head + "\n" + root + "\n" + `{"path":"a","mode":35309}`, "more than permissions"},
		"more than a mode":         {head + "\n" + root + "\n" + `{"path":"a","mode":4294967295}`, "more than permissions"},
		"no mode":                  {head + "\n" + root + "\n" + `{"path":"a"}`, "neither a directory"},
		"a link to nothing":        {head + "\n" + root + "\n" + `{"path":"a","mode":41471}`, "a link to nothing"},
		"a link with a content":    {head + "\n" + root + "\n" + `{"path":"a","mode":41471,"link":"b","size":7}`, "and is no file"},
		"a size below nothing":     {head + "\n" + root + "\n" + `{"path":"a","mode":33188,"size":-1}`, "cannot be"},
		"sizes without an end":     {head + "\n" + root + "\n" + strings.Replace(file("a", ""), ":7,", ":1099511627777,", 1), "cannot be"},
		"a content of no pack":     {head + "\n" + root + "\n" + file("a", `,"pack":1`), "in no pack"},
		"a pack below":             {head + "\n" + root + "\n" + file("a", `,"pack":-1`), "in no pack"},
		"beyond its end":           {head + "\n" + root + "\n" + file("a", `,"offset":1`), "in no pack"},
		"before its beginning":     {head + "\n" + root + "\n" + file("a", `,"offset":-1`), "in no pack"},
		"a content twice":          {head + "\n" + root + "\n" + file("a", "") + "\n" + strings.Replace(file("b", ""), ":7,", ":6,", 1), "two places"},
		"another digest":           {head + "\n" + root + "\n" + strings.Replace(file("a", ""), digest.FromString("content").Encoded()[:4], "0000", 1), "does not have its digest"},
		"no digest":                {head + "\n" + root + "\n" + `{"path":"a","mode":33188,"size":7}`, "its digest is"},
		"another kind of digest":   {head + "\n" + root + "\n" + strings.Replace(file("a", ""), string(digest.FromString("content")), string(digest.SHA512.FromString("content")), 1), "its digest is"},
		"a pack that is too short": {strings.Replace(head, "[7]", "[8]", 1) + "\n" + root + "\n" + file("a", ""), "not the 8 bytes"},
		"a pack that is too long":  {strings.Replace(head, "[7]", "[6]", 1) + "\n" + root + "\n" + strings.Replace(file("a", ""), ":7,", ":6,", 1), "not the 6 bytes"},
		"a line without an end":    {head + "\n" + root + "\n" + file(strings.Repeat("a", maxListLine), ""), "too long"},
		"no list":                  {"hello", "decoding"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			hostile(t, s, dir, c.lines, "content")
			_, from := mountsIn(t, dir)
			changed, err := from.Import(t.Context(), s, nil, deps, quiet)
			if changed || err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), ErrMount.Error()) {
				t.Errorf("changed %v, error is %v, want %q", changed, err, c.want)
			}
			inMount(t, s, func(dir string) {
				if all, err := os.ReadDir(dir); err != nil || len(all) != 1 || all[0].Name() != "kept" {
					t.Errorf("the mount has %v, %v", all, err)
				}
			})
		})
	}
	dir2 := t.TempDir()
	hostile(t, s, dir2, head+"\n"+root+"\n"+file("a", "")+"\n"+`{"path":"out","mode":41471,"link":"../../../etc/passwd"}`, "content")
	_, from := mountsIn(t, dir2)
	if changed, err := from.Import(t.Context(), s, nil, deps, quiet); err != nil || !changed {
		t.Errorf("what is as it should be: %v, %v", changed, err)
	}
	inMount(t, s, func(dir string) {
		if to, err := os.Readlink(filepath.Join(dir, "out")); err != nil || to != "../../../etc/passwd" {
			t.Errorf("a link leads to %q, %v", to, err)
		}
	})
}

// What cannot be carried is left out: the rest is.
func TestWhatIsNotCarried(t *testing.T) {
	dir, s := t.TempDir(), openStore(t)
	to, _ := mountsIn(t, dir)
	inMount(t, s, func(dir string) {
		write(t, dir, "set", "x")
		must(t, os.Chmod(filepath.Join(dir, "set"), 0o755|os.ModeSetuid))
		write(t, dir, "no\xffname/x", "x")
		must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	})
	must(t, to.Export(t.Context(), s, nil, deps, quiet))
	c, _ := find(t, to)
	if len(c.files) != 2 || c.files[1].Path != "set" || c.files[1].Mode != 0o100755 {
		t.Errorf("it has %+v", c.files)
	}
}

// Contents that are gone from a cache are written again by who has them, also where no file changed.
func TestLostPacks(t *testing.T) {
	dir, s := t.TempDir(), openStore(t)
	to, from := mountsIn(t, dir)
	inMount(t, s, func(dir string) { write(t, dir, "x", "x") })
	must(t, to.Export(t.Context(), s, nil, deps, quiet))
	c, _ := find(t, to)
	must(t, os.Remove(filepath.Join(dir, "blobs", "sha256", c.packs[0].blob.Digest.Encoded())))
	if _, err := from.Import(t.Context(), openStore(t), nil, deps, quiet); err == nil {
		t.Error("contents that are gone were imported")
	}
	must(t, to.Export(t.Context(), s, nil, deps, quiet))
	if changed, err := from.Import(t.Context(), openStore(t), nil, deps, quiet); err != nil || !changed {
		t.Errorf("after another export: %v, %v", changed, err)
	}
}
