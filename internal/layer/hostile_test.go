package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// makeTar writes headers as they are; regular files get Size bytes.
func makeTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(h.Name, err)
		}
		if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dirHeader(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
func fileHeader(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1}
}
func linkHeader(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}
func symHeader(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// What a hostile archive gets: an error, and nothing outside of its directory in any case.
func TestReadTarHostile(t *testing.T) {
	tests := []struct {
		name    string
		headers []tar.Header
	}{
		{"whiteout of dot dot", []tar.Header{fileHeader("a/.wh...")}},
		{"whiteout of dot", []tar.Header{fileHeader("a/.wh..")}},
		{"whiteout of nothing", []tar.Header{fileHeader("a/.wh.")}},
		{"below whiteout", []tar.Header{fileHeader("a/.wh.b/c")}},
		{"below file", []tar.Header{fileHeader("a"), fileHeader("a/x")}},
		{"link to directory", []tar.Header{dirHeader("d"), linkHeader("a", "d")}},
		{"link to replaced", []tar.Header{fileHeader("d/f"), fileHeader("d"), linkHeader("a", "d/f")}},
		{"link replaces its directory", []tar.Header{fileHeader("d/f"), linkHeader("d", "d/f")}},
		{"link to whiteout", []tar.Header{fileHeader(".wh.f"), linkHeader("a", "f")}},
		{"link without target", []tar.Header{linkHeader("a", "")}},
		{"symlink without target", []tar.Header{symHeader("a", "")}},
		{"whiteout device", []tar.Header{{Typeflag: tar.TypeChar, Name: "a"}}},
		{"device number", []tar.Header{{Typeflag: tar.TypeBlock, Name: "a", Devmajor: 1 << 20}}},
		{"owner", []tar.Header{{Typeflag: tar.TypeDir, Name: "a", Uid: 1<<32 - 1, Format: tar.FormatPAX}}},
		{"long component", []tar.Header{fileHeader(strings.Repeat("n", 256))}},
		{"long path", []tar.Header{fileHeader(strings.Repeat("n/", 3000) + "x")}},
		{"below a loop", []tar.Header{symHeader("a", "b"), symHeader("b", "a"), fileHeader("a/x")}},
		{"below a link to itself", []tar.Header{symHeader("a", "a/b"), fileHeader("a/x")}},
		{"below a link to a file", []tar.Header{fileHeader("f"), symHeader("a", "f"), fileHeader("a/x")}},
		{"below a link to a whiteout's name", []tar.Header{symHeader("a", ".wh.f"), fileHeader("a/x")}},
		{"below a link to below a whiteout's name", []tar.Header{symHeader("a", ".wh.f/g"), fileHeader("a/x")}},
		{"long path behind links", []tar.Header{dirHeader(strings.Repeat("n/", 1500)), symHeader("a", strings.Repeat("n/", 1500)), symHeader("a/b", strings.Repeat("n/", 1500)), fileHeader("a/b/x")}},
		{"link below a link to a file", []tar.Header{fileHeader("f"), symHeader("a", "f"), linkHeader("x", "a/f")}},
		{"too many", make100("f")},
		{"one name, many directories", []tar.Header{fileHeader(strings.Repeat("n/", 2000) + "x")}},
		{"many behind a link", []tar.Header{symHeader("a", strings.Repeat("n/", 1900)), fileHeader("a/x")}},
		{"long names", []tar.Header{fileHeader(strings.Repeat(strings.Repeat("n", 200)+"/", 20) + "x"), fileHeader(strings.Repeat(strings.Repeat("n", 200)+"/", 20) + "y")}},
		{"long links", []tar.Header{symHeader("a", strings.Repeat("n", 4000)), symHeader("b", strings.Repeat("n", 4000)), symHeader("c", strings.Repeat("n", 4000)), symHeader("d", strings.Repeat("n", 4000))}},
		{"xattrs of several", withXattrs(200, 90)},
		{"too large", []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Size: 600}, {Typeflag: tar.TypeReg, Name: "b", Size: 600}}},
		{"xattrs", []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 200)}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			outer := t.TempDir()
			dir := filepath.Join(outer, "root")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			w, err := NewDirWriter(dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ReadTar(bytes.NewReader(makeTar(t, tt.headers...)), TarOptions{MaxSize: 1000, MaxXattrs: 100, MaxMemory: 16 << 10}, w)
			if !errors.Is(err, ErrHostile) {
				t.Errorf("error %v, want ErrHostile", err)
			}
			w.Close()
			if left, _ := os.ReadDir(outer); len(left) != 1 {
				t.Errorf("%v lies beside the root", left)
			}
		})
	}
}

// withXattrs are n files with an attribute of a size each.
func withXattrs(n, size int) []tar.Header {
	var out []tar.Header
	for i := range n {
		h := fileHeader("f" + strconv.Itoa(i))
		h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", size)}
		out = append(out, h)
	}
	return out
}

func make100(prefix string) []tar.Header {
	var out []tar.Header
	for i := range 100 {
		out = append(out, fileHeader(prefix+string(rune('a'+i%26))+string(rune('a'+i/26))))
	}
	return out
}

// A small archive must not become a large file by holes.
func TestReadTarSparse(t *testing.T) {
	// archive/tar does not write sparse files: this is one of PAX format 0.1 by hand.
	var b bytes.Buffer
	records := ""
	for _, r := range []string{"GNU.sparse.map=0,1", "GNU.sparse.size=1099511627776", "GNU.sparse.numblocks=1", "GNU.sparse.name=huge"} {
		n := len(r) + 4 // a blank, a newline and two digits
		records += strconv.Itoa(n) + " " + r + "\n"
	}
	b.Write(rawHeader('x', "pax", len(records)))
	b.WriteString(records + strings.Repeat("\x00", 512-len(records)))
	b.Write(rawHeader('0', "huge", 1))
	b.WriteString("x" + strings.Repeat("\x00", 511+1024))
	var c collect
	if _, err := ReadTar(&b, TarOptions{}, &c); !errors.Is(err, ErrHostile) {
		t.Errorf("error %v, want ErrHostile", err)
	}
}

// rawHeader is a ustar header of any type.
func rawHeader(typ byte, name string, size int) []byte {
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
		panic(err)
	}
	h := b.Bytes()[:512]
	h[156] = typ
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	for i := 5; i >= 0; i-- {
		h[148+i] = byte('0' + sum&7)
		sum >>= 3
	}
	h[154], h[155] = 0, ' '
	return h
}

// Odd archives that are fine, and what they mean.
func TestReadTarOdd(t *testing.T) {
	at := time.Unix(1000, 0)
	tests := []struct {
		name    string
		headers []tar.Header
		want    string
	}{
		{"absolute", []tar.Header{fileHeader("/a")}, "a"},
		{"climbs from the root", []tar.Header{fileHeader("/../a")}, "a"},
		{"unclean", []tar.Header{fileHeader("./x//../a")}, "a"},
		{"implied parents", []tar.Header{fileHeader("x/y/a")}, "x/ x/y/ x/y/a"},
		{"twice", []tar.Header{fileHeader("a"), symHeader("a", "b"), fileHeader("a")}, "a"},
		{"file becomes directory", []tar.Header{fileHeader("a"), dirHeader("a"), fileHeader("a/b")}, "a/ a/b"},
		{"directory becomes file", []tar.Header{fileHeader("a/b"), fileHeader("a"), fileHeader("c")}, "a c"},
		{"directory becomes file and directory", []tar.Header{fileHeader("a/b/c"), fileHeader("d"), fileHeader("a"), dirHeader("a"), dirHeader("a/b"), fileHeader("a/b/x")}, "a/ a/b/ a/b/x d"},
		{"whiteout", []tar.Header{fileHeader("a/.wh.b")}, "a/ a/b!"},
		{"whiteout then file", []tar.Header{fileHeader(".wh.b"), fileHeader("b")}, "b"},
		{"replaced while its content comes", []tar.Header{fileHeader("a/x"), fileHeader("a"), dirHeader("a"), fileHeader("a/y")}, "a/ a/y"},
		{"whiteout then explicit directory", []tar.Header{fileHeader(".wh.b"), dirHeader("b")}, "b/*"},
		{"whiteout then directory", []tar.Header{fileHeader(".wh.b"), fileHeader("b/c")}, "b/* b/c"},
		{"file then whiteout", []tar.Header{fileHeader("b"), fileHeader(".wh.b")}, "b"},
		{"directory then whiteout", []tar.Header{fileHeader("b/c"), fileHeader(".wh.b")}, "b/* b/c"},
		{"opaque", []tar.Header{dirHeader("b"), fileHeader("b/c"), fileHeader("b/.wh..wh..opq")}, "b/* b/c"},
		{"opaque first", []tar.Header{fileHeader("b/.wh..wh..opq"), dirHeader("b"), fileHeader("b/c")}, "b/* b/c"},
		{"aufs", []tar.Header{fileHeader(".wh..wh.aufs"), fileHeader(".wh..wh.plnk/1.2"), fileHeader("a")}, "a"},
		{"link to itself", []tar.Header{fileHeader("a"), linkHeader("a", "./a")}, "a"},
		{"link", []tar.Header{fileHeader("x/a"), linkHeader("b", "/x/a")}, "b x/ x/a=b"},
		{"dot dot", []tar.Header{fileHeader("../a")}, "a"},
		{"dot dot in the middle", []tar.Header{fileHeader("a/../../b")}, "b"},
		{"dot dot alone", []tar.Header{dirHeader(".."), fileHeader("a")}, "a"},
		{"whiteout outside", []tar.Header{fileHeader("../.wh.x")}, "x!"},
		{"empty name", []tar.Header{{Typeflag: tar.TypeDir, Format: tar.FormatPAX}, fileHeader("a")}, "a"},
		{"root is a file", []tar.Header{fileHeader("."), fileHeader("a")}, "a"},
		{"root is a symlink", []tar.Header{symHeader("./", "/etc"), fileHeader("a")}, "a"},
		{"below symlink", []tar.Header{dirHeader("d"), symHeader("l", "d"), fileHeader("l/a")}, "d/ d/a l"},
		{"below symlink to the root", []tar.Header{symHeader("l", "/"), fileHeader("l/a")}, "a l"},
		{"below symlink that climbs", []tar.Header{dirHeader("d"), symHeader("d/l", "../../../x"), fileHeader("d/l/a")}, "d/ d/l x/ x/a"},
		{"below symlink to what is not there", []tar.Header{symHeader("d/l", "/x/y"), fileHeader("d/l/z/a")}, "d/ d/l x/ x/y/ x/y/z/ x/y/z/a"},
		{"below symlink in the middle", []tar.Header{symHeader("l", "d/e"), symHeader("d/e", "../f"), dirHeader("l/g")}, "d/ d/e f/ f/g/ l"},
		{"symlink becomes directory", []tar.Header{symHeader("l", "d"), dirHeader("l"), fileHeader("l/a")}, "l/ l/a"},
		{"directory becomes symlink", []tar.Header{fileHeader("l/a"), symHeader("l", "d"), fileHeader("l/b")}, "d/ d/b l"},
		{"below a hard link to a symlink", []tar.Header{symHeader("l", "d"), linkHeader("m", "l"), fileHeader("m/a")}, "d/ d/a l m=l"},
		{"whiteout below symlink", []tar.Header{dirHeader("d"), symHeader("l", "d"), fileHeader("l/.wh.a")}, "d/ d/a! l"},
		{"opaque below symlink", []tar.Header{dirHeader("d"), symHeader("l", "d"), fileHeader("l/.wh..wh..opq")}, "d/* l"},
		{"below symlink to a whiteout", []tar.Header{fileHeader(".wh.d"), symHeader("l", "d"), fileHeader("l/a")}, "d/* d/a l"},
		{"link through symlink", []tar.Header{symHeader("l", "/d"), fileHeader("d/a"), linkHeader("b", "l/a")}, "b d/ d/a=b l"},
		{"link below", []tar.Header{linkHeader("a", "etc/passwd"), linkHeader("b", "../x")}, "a<etc/passwd b<x"},
		{"link below through symlink", []tar.Header{symHeader("l", "x/../../etc"), linkHeader("a", "l/passwd")}, "a<etc/passwd l"},
		{"link to link below", []tar.Header{linkHeader("a", "x"), linkHeader("b", "a")}, "a<x b<x"},
		{"link below replaces", []tar.Header{fileHeader("d/a"), linkHeader("d", "x")}, "d<x"},
		{"link below replaced", []tar.Header{linkHeader("d", "x"), fileHeader("d/../d"), fileHeader("x")}, "d x"},
		{"link to what comes later", []tar.Header{linkHeader("a", "b"), fileHeader("b")}, "a<b b"},
		{"link below to itself", []tar.Header{linkHeader("a", "a"), fileHeader("b")}, "b"},
		{"link to symlink", []tar.Header{symHeader("s", "/etc/passwd"), linkHeader("t", "s")}, "s t=s"},
		{"link over file", []tar.Header{fileHeader("a"), fileHeader("b"), linkHeader("b", "a")}, "a b=a"},
		{"global header", []tar.Header{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, fileHeader("a")}, "a"},
		{"overlay's own attributes", []tar.Header{{Typeflag: tar.TypeDir, Name: "a", ModTime: at, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.security.selinux": "z", "SCHILY.xattr.com.apple.q": "1"}}}, "a/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			needRoot(t)
			dir := shmDir(t)
			w, err := NewDirWriter(dir)
			if err != nil {
				t.Fatal(err)
			}
			for i := range tt.headers {
				if h := &tt.headers[i]; h.ModTime.IsZero() && h.Typeflag != tar.TypeXGlobalHeader {
					tt.headers[i].ModTime = at
				}
			}
			x := NewIndex()
			stacking, err := ReadTar(bytes.NewReader(makeTar(t, tt.headers...)), TarOptions{}, both{w, x})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if dir, index := walked(t, dir), walkedIndex(t, x); dir != index {
				t.Errorf("the directory has\n%s\nand the index\n%s", dir, index)
			}
			var c collect
			if err := WalkLayer(dir, &c); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range c.entries {
				s := e.Path
				switch {
				case e.Whiteout:
					s += "!"
				case e.Hardlink:
					s += "=" + e.Link
				case e.Opaque:
					s += "/*"
				case e.IsDir():
					s += "/"
				}
				if len(e.Xattrs) > 0 {
					t.Errorf("%s has %v", e.Path, e.Xattrs)
				}
				if e.IsDir() && !e.ModTime.Equal(at) && !e.ModTime.Equal(time.Unix(0, 0)) {
					t.Errorf("%s is of %v", e.Path, e.ModTime)
				}
				got = append(got, s)
			}
			for name, target := range stacking.Links {
				got = append(got, name+"<"+target)
			}
			sort.Strings(got)
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

// both hands entries to two sinks, of which one does not read their content.
type both struct {
	Sink
	index *Index
}

func (b both) Add(e *Entry) error {
	if err := b.Sink.Add(e); err != nil {
		return err
	}
	return b.index.Add(e)
}

// walkedIndex is what the index of a layer says of it, but for contents.
func walkedIndex(t *testing.T, x *Index) string {
	t.Helper()
	var c collect
	tree := x.Tree(func(e *IndexEntry) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Repeat("x", int(e.Size)))), nil
	})
	if err := WriteTree(tree, &c); err != nil {
		t.Fatal(err)
	}
	return c.describe()
}

// Implied directories take after what lies below the layer.
func TestReadTarLower(t *testing.T) {
	lower := t.TempDir()
	if err := os.Mkdir(filepath.Join(lower, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(lower, "tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	var c collect
	if _, err := ReadTar(bytes.NewReader(makeTar(t, fileHeader("tmp/a"))), TarOptions{Lower: OpenDir(lower, DirOptions{})}, &c); err != nil {
		t.Fatal(err)
	}
	if len(c.entries) != 2 || c.entries[0].Perm() != 0o1777 {
		t.Errorf("got %+v", c.entries)
	}
}

// A sink that keeps an entry for later does not read another entry's content by mistake.
func TestStreamedContentOnce(t *testing.T) {
	var kept []Content
	sink := sinkFunc(func(e *Entry) error { kept = append(kept, e.Content); return nil })
	if _, err := ReadTar(bytes.NewReader(makeTar(t, fileHeader("a"), fileHeader("b"))), TarOptions{}, sink); err != nil {
		t.Fatal(err)
	}
	if _, err := kept[0].Open(); err == nil {
		t.Error("content of an earlier entry was opened")
	}
}

type sinkFunc func(*Entry) error

func (f sinkFunc) Add(e *Entry) error { return f(e) }
func (f sinkFunc) Close() error       { return nil }

// Whatever the bytes: no panic, and entries that keep what ReadTar promises.
func FuzzReadTar(f *testing.F) {
	f.Add(makeTar(f, fileHeader("a/b"), linkHeader("c", "a/b"), symHeader("d", ".."), fileHeader("a/.wh.x")))
	f.Add(makeTar(f, dirHeader("a"), fileHeader("a/.wh..wh..opq"), fileHeader("../x")))
	f.Add(makeTar(f, symHeader("a", "/"), fileHeader("a/x")))
	f.Add(makeTar(f, dirHeader("d"), symHeader("l", "../d/./e"), fileHeader("l/x/y"), linkHeader("z", "l/x/y"), dirHeader("l")))
	f.Add(makeTar(f, symHeader("a", "b"), symHeader("b", "a"), fileHeader("a/x")))
	f.Add(makeTar(f, linkHeader("a", "../etc/passwd"), linkHeader("b", "a"), fileHeader("a"), fileHeader(".wh.a")))
	f.Add(makeTar(f, symHeader("l", ".wh.x/y"), fileHeader("l/.wh..wh..opq"), dirHeader("l/../l/z")))
	f.Fuzz(func(t *testing.T, data []byte) {
		dirs := map[string]bool{".": true}
		sink := sinkFunc(func(e *Entry) error {
			if e.Path != Clean(e.Path) {
				t.Errorf("path %q is not clean", e.Path)
			}
			if dir, _ := split(e.Path); !dirs[dir] {
				t.Errorf("%q comes before its parent", e.Path)
			}
			if _, base := split(e.Path); strings.HasPrefix(base, whiteoutPrefix) {
				t.Errorf("%q was not understood as a whiteout", e.Path)
			}
			if e.Path != "." {
				if !e.IsDir() {
					for d := range dirs {
						if strings.HasPrefix(d, e.Path+"/") {
							delete(dirs, d)
						}
					}
				}
				dirs[e.Path] = e.IsDir()
			}
			if e.Hardlink && e.Link != Clean(e.Link) {
				t.Errorf("link %q is not clean", e.Link)
			}
			for k := range e.Xattrs {
				if !keepXattr(k) {
					t.Errorf("attribute %q", k)
				}
			}
			return nil
		})
		opt := TarOptions{MaxSize: 1 << 20, MaxSparse: 1 << 20, MaxMemory: 1 << 20}
		stacking, _ := ReadTar(bytes.NewReader(data), opt, sink)
		for _, dir := range stacking.Dirs {
			if !dirs[dir] {
				t.Errorf("%q is no directory that was handed on", dir)
			}
		}
		for name := range stacking.Links {
			if isDir, ok := dirs[name]; !ok || isDir {
				t.Errorf("%q is no link that was handed on", name)
			}
		}
		ReadArchive(bytes.NewReader(data), opt, sinkFunc(func(e *Entry) error {
			if e.Path != Clean(e.Path) || e.Hardlink && e.Link != Clean(e.Link) {
				t.Errorf("%q or %q is not clean", e.Path, e.Link)
			}
			return nil
		}))
	})
}
