package layer

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that makes devices, foreign owners and trusted attributes.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices and files of other owners")
	}
}

// shmDir is a temporary directory on tmpfs where there is one.
func shmDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-layer-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.RemoveAll(User.Records(dir))
	})
	return dir
}

// collect is a sink that keeps what it gets, with the content read.
type collect struct {
	entries []*Entry
	content map[string]string
}

func (c *collect) Add(e *Entry) error {
	k := *e
	c.entries = append(c.entries, &k)
	if e.Content != nil {
		r, err := e.Content.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if c.content == nil {
			c.content = map[string]string{}
		}
		c.content[e.Path] = string(b)
	}
	return nil
}

func (c *collect) Close() error { return nil }

// describe is everything that a layer says of its entries, one line each.
func (c *collect) describe() string {
	var b strings.Builder
	for _, e := range c.entries {
		b.WriteString(describe(e, c.content[e.Path]))
	}
	return b.String()
}

func describe(e *Entry, content string) string {
	if e.Whiteout {
		return fmt.Sprintf("%q whiteout\n", e.Path)
	}
	if e.Hardlink {
		return fmt.Sprintf("%q link %q\n", e.Path, e.Link)
	}
	s := fmt.Sprintf("%q mode=%o owner=%d:%d size=%d time=%d.%09d link=%q dev=%d:%d opaque=%v content=%q",
		e.Path, e.Mode, e.UID, e.GID, e.Size, e.ModTime.Unix(), e.ModTime.Nanosecond(), e.Link, e.Major, e.Minor, e.Opaque, content)
	for _, k := range sortedKeys(e.Xattrs) {
		s += fmt.Sprintf(" %s=%q", k, e.Xattrs[k])
	}
	return s + "\n"
}

var oddNames = []string{"a", "b", "c", "d", "a b", "ä", "-x", "a.b", "new\nline", "\xff\xfe", "back\\slash", "*", "[x", "tab\t", ".hidden", "..a", strings.Repeat("n", 255), strings.Repeat("l", 101)}

// randomLayer makes the entries of a layer, in walk order. Whiteouts and opaque directories only
// appear with changes set.
func randomLayer(r *rand.Rand, changes bool) []*Entry {
	var out []*Entry
	var files []*Entry
	var dir func(path string, depth int)
	dir = func(path string, depth int) {
		names := map[string]bool{}
		for range r.Intn(6) + 1 {
			names[oddNames[r.Intn(min(len(oddNames), 4+depth*8))]] = true
		}
		sorted := make([]string, 0, len(names))
		for n := range names {
			sorted = append(sorted, n)
		}
		sort.Strings(sorted)
		for _, n := range sorted {
			e := randomEntry(r, join(path, n), files, changes)
			out = append(out, e)
			if e.IsDir() && depth < 4 {
				dir(e.Path, depth+1)
			} else if !e.IsDir() && !e.Whiteout && !e.Hardlink {
				files = append(files, e)
			}
		}
	}
	dir(".", 0)
	return out
}

func randomEntry(r *rand.Rand, path string, files []*Entry, changes bool) *Entry {
	e := &Entry{Path: path, Mode: uint32(r.Intn(0o10000)), UID: uint32(r.Intn(3) * 1000), GID: uint32(r.Intn(3) * 3000000), ModTime: time.Unix(r.Int63n(2e9), 0)}
	switch k := r.Intn(12); {
	case k < 4:
		e.Mode |= unix.S_IFDIR
		e.Opaque = changes && r.Intn(3) == 0
	case k < 7:
		e.Mode |= unix.S_IFREG
		if n := r.Intn(3000); n > 500 {
			b := bytes.Repeat([]byte{byte(r.Intn(256)), 'x'}, n)
			e.Content, e.Size = Bytes(b), int64(len(b))
		}
	case k == 7:
		e.Mode = unix.S_IFLNK | 0o777
		e.Link = []string{"a", "/", "../..", "/a/b", strings.Repeat("t", 300), "ü"}[r.Intn(6)]
	case k == 8:
		e.Mode |= []uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK}[r.Intn(3)]
		if e.Type() != unix.S_IFIFO {
			e.Major, e.Minor = uint32(r.Intn(500)+1), uint32(r.Intn(100000))
		}
	case k == 9 && len(files) > 0:
		f := *files[r.Intn(len(files))]
		f.Link, f.Path, f.Hardlink, f.Size, f.Content = f.Path, path, true, 0, nil
		return &f
	case k >= 9 && changes:
		return &Entry{Path: path, Whiteout: true}
	default:
		e.Mode |= unix.S_IFREG
	}
	if r.Intn(3) == 0 && !e.IsSymlink() && (e.IsDir() || e.IsRegular()) {
		e.Xattrs = map[string]string{"user.k": "v\x00\xff=", "trusted.t": "1"}
		if e.IsRegular() {
			e.Xattrs["security.capability"] = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		}
	}
	return e
}

// writeDir writes entries into a new directory.
func writeDir(t testing.TB, entries []*Entry) string {
	t.Helper()
	dir := shmDir(t)
	w, err := NewDirWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tarOf is the tar form of a directory.
func tarOf(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewTarWriter(&b)
	if err := WalkLayer(dir, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func walked(t testing.TB, dir string) string {
	t.Helper()
	var c collect
	if err := WalkLayer(dir, &c); err != nil {
		t.Fatal(err)
	}
	return c.describe()
}
