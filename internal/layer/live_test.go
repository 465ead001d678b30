package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deep makes a tree of many levels with a file in each, and a link out of it at its end.
func deep(t *testing.T, root string, levels int, outside string) {
	t.Helper()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range levels {
		f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err == nil {
			unix.Close(f)
			err = unix.Mkdirat(fd, "d", 0o755)
		}
		next := -1
		if err == nil {
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		}
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	defer unix.Close(fd)
	if err := unix.Symlinkat(outside, fd, "out"); err != nil {
		t.Fatal(err)
	}
}

func TestRemoveAll(t *testing.T) {
	base := shmDir(t)
	root, outside := filepath.Join(base, "tree"), filepath.Join(base, "outside")
	for _, dir := range []string{root + "/a/b", root + "/c", outside} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	kept := filepath.Join(outside, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 300 { // more than one read of the directory gives
		if err := os.WriteFile(fmt.Sprintf("%s/a/%s-%d", root, strings.Repeat("n", 200), i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	deep(t, root+"/a/b", 20_000, outside)
	deep(t, root+"/c", 3, outside)
	if err := RemoveAll(root + "/c/f"); err != nil {
		t.Error(err)
	}
	for range 2 { // the second time there is nothing
		if err := RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(root); !os.IsNotExist(err) {
			t.Fatalf("the tree is still there: %v", err)
		}
	}
	if err := RemoveAll(filepath.Join(root, "neither")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Errorf("what a link in the tree pointed to: %v", err)
	}
	for _, name := range []string{"/", ".", "..", "a/.."} {
		if err := RemoveAll(name); err == nil {
			t.Errorf("removing %q succeeded", name)
		}
	}
}

// exchanger is a process of a container that puts links out of its root in the place of whatever gets a name,
// as fast as it can.
func exchanger(t *testing.T, root, name, outside string) (stop func()) {
	t.Helper()
	var ended atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		link, target := filepath.Join(root, "link"), filepath.Join(root, name)
		for !ended.Load() {
			_ = os.Symlink(outside, link)
			if unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, target, unix.RENAME_EXCHANGE) == nil {
				_ = os.RemoveAll(link)
			}
		}
	})
	return func() { ended.Store(true); wg.Wait() }
}

// What is written into a tree that somebody else changes meanwhile does not reach what is outside of it.
func TestDirWriterInLiveTree(t *testing.T) {
	needRoot(t)
	base := shmDir(t)
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, dir := range []string{root, outside} {
		if err := os.Mkdir(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	state := func() string {
		var st unix.Stat_t
		if err := unix.Lstat(outside, &st); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(outside)
		buf := make([]byte, 256)
		n, _ := unix.Llistxattr(outside, buf)
		return fmt.Sprint(st.Mode, st.Uid, st.Gid, st.Mtim, st.Ctim, entries, err, string(buf[:max(n, 0)]))
	}
	before := state()
	stop := exchanger(t, root, "x", outside)
	defer stop()
	reached, at := 0, time.Unix(1e9, 0)
	for i := range 5_000 {
		w, err := NewDirWriter(root)
		if err != nil {
			t.Fatal(err)
		}
		e := &Entry{Path: "x", UID: 1, GID: 2, ModTime: at, Mode: []uint32{unix.S_IFDIR, unix.S_IFIFO, unix.S_IFCHR, unix.S_IFSOCK, unix.S_IFREG}[i%5] | 0o777,
			Major: 1, Minor: 3, Xattrs: map[string]string{"trusted.x": "y"}}
		if err := w.Add(e); err == nil {
			reached++
		}
		_ = w.Add(&Entry{Path: "x/below", Mode: unix.S_IFDIR | 0o777, ModTime: at})
		_ = w.Close() // may fail: somebody else is at it
		if after := state(); after != before {
			t.Fatalf("after %d entries what is outside of the tree is\n%s, was\n%s", i+1, after, before)
		}
	}
	if reached == 0 {
		t.Error("nothing was ever written")
	}
}

// To open a device is to do something. One that was put in the place of a file is looked at, not opened.
func TestLiveTreeOpensNoDevice(t *testing.T) {
	needRoot(t)
	root := shmDir(t)
	name := filepath.Join(root, "f")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := OpenDir(root, DirOptions{Live: true})
	e, err := tree.Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(tree, "f"); err != nil || string(data) != "content" {
		t.Errorf("the file has %q, %v", data, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(name, unix.S_IFIFO|0o600, 0); err != nil {
		t.Fatal(err)
	}
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, root, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	if r, err := e.Content.Open(); !errors.Is(err, ErrChanged) {
		t.Errorf("opening it gave %v, %v", r, err)
	}
	if n, err := unix.Read(watch, make([]byte, 4096)); err != unix.EAGAIN {
		t.Errorf("something was opened: %d bytes of events, %v", n, err)
	}
}
