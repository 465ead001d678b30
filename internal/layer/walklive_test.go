package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// meanwhile is a sink that changes the tree as soon as an entry came: what follows was listed by then.
type meanwhile struct {
	Sink
	after  string
	change func() error
}

func (m *meanwhile) Add(e *Entry) error {
	err := m.Sink.Add(e)
	if e.Path == m.after {
		err = errors.Join(err, m.change())
	}
	return err
}

// What a process takes away, or replaces, while its files are written is not in them, or is as it is now.
func TestWriteLive(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		after  string
		change func(root string) error
		want   string // what there is besides "a" and "z"
	}{
		"nothing": {"a", func(string) error { return nil }, "d d/in/ d/in/x=x f=old l>a n=old n2=n"},
		"file removed": {"a", func(root string) error { return os.Remove(root + "/f") },
			"d d/in/ d/in/x=x l>a n=old n2=n"},
		"file replaced": {"a", func(root string) error {
			return errors.Join(os.WriteFile(root+"/.new", []byte("newer"), 0o600), os.Rename(root+"/.new", root+"/f"))
		}, "d d/in/ d/in/x=x f=newer l>a n=old n2=n"},
		"file written to": {"a", func(root string) error { return os.WriteFile(root+"/f", []byte("newer"), 0o600) },
			"d d/in/ d/in/x=x f=newer l>a n=old n2=n"},
		"link in place of a file": {"a", func(root string) error {
			return errors.Join(os.Remove(root+"/f"), os.Symlink("/etc/passwd", root+"/f"))
		}, "d d/in/ d/in/x=x f>/etc/passwd l>a n=old n2=n"},
		"directory in place of a file": {"a", func(root string) error {
			return errors.Join(os.Remove(root+"/f"), os.MkdirAll(root+"/f/g", 0o755))
		}, "d d/in/ d/in/x=x f f/g/ l>a n=old n2=n"},
		"directory removed":      {"d", func(root string) error { return os.RemoveAll(root + "/d") }, "d f=old l>a n=old n2=n"},
		"directory below listed": {"a", func(root string) error { return os.RemoveAll(root + "/d") }, "d f=old l>a n=old n2=n"},
		"whiteout in place of a directory": {"d", func(root string) error {
			return errors.Join(os.RemoveAll(root+"/d"), unix.Mknod(root+"/d", unix.S_IFCHR, 0))
		}, "d f=old l>a n=old n2=n"},
		"link in place of a directory": {"d/in", func(root string) error {
			return errors.Join(os.RemoveAll(root+"/d/in"), os.Symlink("/etc", root+"/d/in"))
		}, "d d/in/ f=old l>a n=old n2=n"},
		"first name removed": {"a", func(root string) error { return os.Remove(root + "/n") }, "d d/in/ d/in/x=x f=old l>a n2=old"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, stacked := range []bool{false, true} {
				root := liveTree(t)
				var buf bytes.Buffer
				tw := NewTarWriter(&buf)
				tree := OpenDir(root, DirOptions{Overlay: true, Live: true})
				if stacked {
					tree = Merged([]Tree{OpenDir(t.TempDir(), DirOptions{Overlay: true, Immutable: true}), tree})
				}
				err := WriteLive(tree, &meanwhile{tw, tc.after, func() error { return tc.change(root) }})
				if err := errors.Join(err, tw.Close()); err != nil {
					t.Fatal(err)
				}
				if got, want := tarText(t, &buf), "a=old "+tc.want+" z=old"; got != want {
					t.Errorf("the tar has %s, want %s", got, want)
				}
			}
			root, to := liveTree(t), t.TempDir()
			w, err := NewDirWriter(to)
			if err != nil {
				t.Fatal(err)
			}
			err = WriteLive(OpenDir(root, DirOptions{Overlay: true, Live: true}), &meanwhile{w, tc.after, func() error { return tc.change(root) }})
			if err := errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			var buf bytes.Buffer
			tw := NewTarWriter(&buf)
			if err := errors.Join(WalkLayer(to, tw), tw.Close()); err != nil {
				t.Fatal(err)
			}
			if got, want := tarText(t, &buf), "a=old "+tc.want+" z=old"; got != want {
				t.Errorf("the directory has %s, want %s", got, want)
			}
		})
	}
	// What was asked for has to be there.
	root := liveTree(t)
	err := WalkLive(OpenDir(root, DirOptions{Live: true}), "d", true, func(e *Entry) error { return os.RemoveAll(root + "/d") })
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory itself is gone: %v", err)
	}
}

func liveTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	err := os.MkdirAll(root+"/d/in", 0o755)
	for _, file := range []string{"a", "f", "n", "z"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(root, file), []byte("old"), 0o600))
	}
	err = errors.Join(err, os.WriteFile(root+"/d/in/x", []byte("x"), 0o600), os.Symlink("a", root+"/l"), os.Link(root+"/n", root+"/n2"))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// tarText is what a tar has: "dir", "file=content", "link>target", "name=first name" and "dir/" below the first level.
func tarText(t *testing.T, r io.Reader) string {
	t.Helper()
	var all []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return strings.Join(all, " ")
		}
		data, rerr := io.ReadAll(tr)
		if err := errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if name := strings.TrimSuffix(h.Name, "/"); strings.Contains(name, "/") {
				all = append(all, h.Name)
			} else {
				all = append(all, name)
			}
		case tar.TypeSymlink:
			all = append(all, h.Name+">"+h.Linkname)
		case tar.TypeLink:
			all = append(all, h.Name+"="+h.Linkname)
		default:
			all = append(all, h.Name+"="+string(data))
		}
	}
}

// deepen makes directories in one another, and a file of three bytes in the last.
func deepen(t *testing.T, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	for range levels {
		if err == nil {
			err = unix.Mkdirat(fd, strings.Repeat("d", 200), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		at := fd
		fd, err = unix.Openat(at, strings.Repeat("d", 200), unix.O_PATH|unix.O_DIRECTORY, 0)
		unix.Close(at)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err == nil {
		_, err = unix.Write(f, []byte("abc"))
		unix.Close(f)
	}
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
}

// Paths that the kernel takes no more are walked, with what is in their files; of such that take too much memory it is said.
func TestWalkDeep(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	deepen(t, dir, 70)
	for _, stepwise := range []bool{false, true} {
		old := noOpenat2.Load()
		noOpenat2.Store(old || stepwise)
		var got string
		err := WalkLive(OpenDir(dir, DirOptions{Live: true}), ".", true, func(e *Entry) error {
			if !e.IsRegular() {
				return nil
			}
			r, err := e.Content.Open()
			if err != nil {
				return err
			}
			data, err := io.ReadAll(r)
			got += string(data)
			return errors.Join(err, r.Close())
		})
		noOpenat2.Store(old)
		if err != nil || got != "abc" {
			t.Errorf("stepwise %v: %q, %v", stepwise, got, err)
		}
	}
	deeper := filepath.Join(dir, "deeper")
	if err := os.Mkdir(deeper, 0o755); err != nil {
		t.Fatal(err)
	}
	deepen(t, deeper, 100)
	if err := WalkLive(OpenDir(dir, DirOptions{}), ".", false, func(*Entry) error { return nil }); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("what is too deep: %v", err)
	}
}
