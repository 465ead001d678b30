package layer

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A link inside of the directory that is written never leads out of it.
func TestDirWriterFollowsNoLink(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, stepwise := range []bool{false, true} {
		noOpenat2.Store(stepwise)
		dir := t.TempDir()
		if err := os.Symlink(outside, filepath.Join(dir, "d")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(outside, "f"), filepath.Join(dir, "l")); err != nil {
			t.Fatal(err)
		}
		w, err := NewDirWriter(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []*Entry{
			{Path: "d/x", Mode: unix.S_IFREG | 0o644},
			{Path: "d/x", Mode: unix.S_IFDIR | 0o755},
			{Path: "d/f", Whiteout: true},
			{Path: "h", Mode: unix.S_IFREG, Hardlink: true, Link: "d/f"},
		} {
			if err := w.Add(e); err == nil {
				t.Errorf("%s was written", e.Path)
			}
		}
		// In the place of a link the new file stands, not behind it.
		if err := w.Add(&Entry{Path: "l", Mode: unix.S_IFREG | 0o644, Size: 3, Content: Bytes("new")}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(filepath.Join(outside, "f")); string(b) != "old" {
			t.Errorf("the file outside is %q now", b)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "l")); string(b) != "new" {
			t.Errorf("the file is %q", b)
		}
		if left, _ := os.ReadDir(outside); len(left) != 1 {
			t.Errorf("outside is %v now", left)
		}
	}
	noOpenat2.Store(false)
}

// Directories get their times although entries come later, and set-ID bits survive the chown.
func TestDirWriterAttributes(t *testing.T) {
	needRoot(t)
	at := time.Unix(1500000000, 123456789)
	dir := writeDir(t, []*Entry{
		{Path: "d", Mode: unix.S_IFDIR | 0o2751, UID: 5, GID: 6, ModTime: at},
		{Path: "d/f", Mode: unix.S_IFREG | 0o6711, UID: 7, GID: 8, ModTime: at, Content: Bytes("x"), Size: 1},
		{Path: "d/l", Mode: unix.S_IFLNK | 0o777, Link: "f", UID: 9, GID: 10, ModTime: at},
	})
	for name, want := range map[string]uint32{"d": unix.S_IFDIR | 0o2751, "d/f": unix.S_IFREG | 0o6711, "d/l": unix.S_IFLNK | 0o777} {
		e, err := OpenDir(dir, DirOptions{}).Lstat(name)
		if err != nil || e.Mode != want || !e.ModTime.Equal(at) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	e, err := OpenDir(dir, DirOptions{Owner: &Owner{UID: 1, GID: 2}}).Lstat("d/f")
	if err != nil || e.UID != 1 || e.GID != 2 {
		t.Errorf("with an owner: %+v, %v", e, err)
	}
}

// Two copies of one file are no hard links of one another, wherever they come from.
func TestCopiesAreNoLinks(t *testing.T) {
	needRoot(t)
	src := writeDir(t, []*Entry{{Path: "f", Mode: unix.S_IFREG | 0o644, Content: Bytes("same"), Size: 4}})
	e, err := OpenDir(src, DirOptions{Immutable: true}).Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	a, b := *e, *e
	a.Path, b.Path = "a", "b"
	if got := walked(t, writeDir(t, []*Entry{&a, &b})); strings.Contains(got, "link \"a\"") || strings.Count(got, `content="same"`) != 2 {
		t.Errorf("got %s", got)
	}
	if h := e.Content.(HostFile); !h.Immutable() || h.HostPath() != filepath.Join(src, "f") {
		t.Errorf("host file %q, immutable %v", h.HostPath(), h.Immutable())
	}
}

// A source that changes while it is read is an error, for either sink, shorter or longer.
func TestChangedWhileRead(t *testing.T) {
	dir := makeFiles(t, "f")
	path := filepath.Join(dir, "f")
	for _, size := range []string{"", "1", "12345678901"} {
		if err := os.WriteFile(path, []byte("1234567890"), 0o644); err != nil {
			t.Fatal(err)
		}
		e, err := OpenDir(dir, DirOptions{}).Lstat("f")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(size), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := NewTarWriter(io.Discard).Add(e); err == nil {
			t.Errorf("tar: %d bytes instead of %d were accepted", len(size), e.Size)
		}
		w, err := NewDirWriter(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(e); err == nil {
			t.Errorf("directory: %d bytes instead of %d were accepted", len(size), e.Size)
		}
		w.Close()
		m := *e
		m.Content = Bytes(size)
		if err := NewTarWriter(io.Discard).Add(&m); err == nil {
			t.Errorf("tar from memory: %d bytes instead of %d were accepted", len(size), e.Size)
		}
	}
}

// The tar form in detail: what other tools rely on.
func TestTarForm(t *testing.T) {
	at := time.Unix(1500000000, 999999999)
	var b bytes.Buffer
	w := NewTarWriter(&b)
	for _, e := range []*Entry{
		{Path: "d", Mode: unix.S_IFDIR | 0o1777, ModTime: at, Opaque: true},
		{Path: "d/f", Mode: unix.S_IFREG | 0o4755, UID: 1, GID: 2, ModTime: at, Size: 1, Content: Bytes("x"), Xattrs: map[string]string{"user.b": "2", "user.a": "1"}},
		{Path: "d/gone", Whiteout: true},
		{Path: "d/l", Mode: unix.S_IFREG | 0o4755, Hardlink: true, Link: "d/f", ModTime: at},
		{Path: "s", Mode: unix.S_IFSOCK | 0o755},
	} {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Add(&Entry{Path: "d/.wh.x", Mode: unix.S_IFREG}); err == nil {
		t.Error("a file that looks like a whiteout was archived")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uname != "" || h.Gname != "" || h.ModTime.Nanosecond() != 0 || h.Format&tar.FormatGNU != 0 && h.Format != tar.FormatUSTAR|tar.FormatPAX|tar.FormatGNU && h.Format != tar.FormatUSTAR {
			t.Errorf("%s: %+v", h.Name, h)
		}
		got = append(got, h.Name+"="+h.Linkname+string(h.Typeflag))
	}
	if s := strings.Join(got, " "); s != "d/=5 d/.wh..wh..opq=0 d/f=0 d/.wh.gone=0 d/l=d/f1" {
		t.Errorf("got %s", s)
	}
}

// Equal files of other layers are files of their own, small ones as large ones.
func TestDirWriterInodes(t *testing.T) {
	needRoot(t)
	from, to := shmDir(t), shmDir(t)
	large := strings.Repeat("large content\n", 100_000)
	content := map[string]string{"small": "content", "large": large, "empty": ""}
	for name, data := range content {
		if err := os.WriteFile(filepath.Join(from, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree := OpenDir(from, DirOptions{Overlay: true, Immutable: true})
	w, err := NewDirWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	for name := range content {
		for _, path := range []string{name, name + "2"} {
			e, err := tree.Lstat(name)
			if err != nil {
				t.Fatal(err)
			}
			e.Path = path
			if err := w.Add(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if want := int64(2 * (len(large) + len("content"))); w.Size() != want {
		t.Errorf("size %d, want %d", w.Size(), want)
	}
	for name, data := range content {
		for _, path := range []string{filepath.Join(from, name), filepath.Join(to, name), filepath.Join(to, name+"2")} {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil || st.Nlink != 1 {
				t.Errorf("%s has %d links, %v, want 1", path, st.Nlink, err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != data {
				t.Errorf("%s has %d bytes, %v, want %d", path, len(got), err, len(data))
			}
		}
	}
}

// Files in a set-group-ID directory belong to whom their entries say.
func TestDirWriterGroups(t *testing.T) {
	needRoot(t)
	dir := shmDir(t)
	w, err := NewDirWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, uid, gid uint32) *Entry {
		return &Entry{Path: name, Mode: unix.S_IFREG | 0o644, UID: uid, GID: gid, ModTime: time.Unix(5, 0)}
	}
	entries := []*Entry{
		{Path: "d", Mode: unix.S_IFDIR | unix.S_ISGID | 0o755, GID: 9},
		file("d/root", 0, 0), file("d/nine", 0, 9), file("d/user", 7, 8),
		{Path: "e", Mode: unix.S_IFDIR | 0o755, GID: 9}, file("e/a", 0, 0),
		{Path: "e", Mode: unix.S_IFDIR | unix.S_ISGID | 0o755, GID: 9}, file("e/b", 0, 0), file("top", 0, 0),
	}
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, e.Path), &st); err != nil || st.Uid != e.UID || st.Gid != e.GID {
			t.Errorf("%s belongs to %d:%d, %v, want %d:%d", e.Path, st.Uid, st.Gid, err, e.UID, e.GID)
		}
		if e.IsRegular() && st.Mtim.Sec != 5 {
			t.Errorf("%s has time %d", e.Path, st.Mtim.Sec)
		}
	}
}
