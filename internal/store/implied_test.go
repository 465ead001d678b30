package store

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/overlay"
)

// mounted runs fn with the directory at which layers are mounted, in a mount namespace of its own.
func mounted(t *testing.T, dirs []string, fn func(root string)) {
	t.Helper()
	target := shm(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return os.NewSyscallError("mount", err)
			}
			if err := overlay.Mount(target, dirs, "", "", overlay.Options{}); err != nil {
				return err
			}
			defer unix.Unmount(target, unix.MNT_DETACH)
			fn(target)
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// look describes the attributes of a directory of the host.
func look(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	buf := make([]byte, 64)
	n, _ := unix.Lgetxattr(path, "trusted.base", buf)
	return fmt.Sprintf("%o %d:%d %d %s", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, buf[:max(n, 0)])
}

func lookInTree(t *testing.T, tree layer.Tree, path string) string {
	t.Helper()
	e, err := tree.Lstat(path)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%o %d:%d %d %s", e.Mode, e.UID, e.GID, e.ModTime.Unix(), e.Xattrs["trusted.base"])
}

func baseWith(mode, uid uint32) []*layer.Entry {
	at := time.Unix(1_111_111_111, 0)
	return []*layer.Entry{
		{Path: "opt", Mode: unix.S_IFDIR | 0o711, GID: 5, ModTime: at},
		{Path: "opt/sub", Mode: unix.S_IFDIR | 0o700, UID: 6, ModTime: at},
		{Path: "tmp", Mode: unix.S_IFDIR | mode, UID: uid, GID: 9, ModTime: at, Xattrs: map[string]string{"trusted.base": fmt.Sprint(uid)}},
		regular("tmp/old", "old"),
	}
}

// withoutParents is a layer that puts files into directories which it does not mention.
var withoutParents = []*layer.Entry{
	{Path: "opt/sub/gone", Whiteout: true},
	regular("tmp/x", "content of x"),
	{Path: "tmp/y", Mode: unix.S_IFREG | 0o640, Hardlink: true, Link: "tmp/x", UID: 7, GID: 8, ModTime: time.Unix(1e9, 0)},
	{Path: "zz", Mode: unix.S_IFDIR | 0o750, ModTime: time.Unix(1e9, 0)},
	regular("zz/own", "own"),
}

// A directory that a layer does not mention keeps the attributes that the layers below give it,
// mounted as well as looked at.
func TestImpliedDirectories(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	for _, form := range []layer.Compression{layer.Gzip, layer.Uncompressed} {
		s := newStore(t)
		top := asPulled(form)(t, s, withoutParents)
		plain := tarOfEntries(t, withoutParents)
		seen := map[string]bool{}
		for _, base := range [][]*layer.Entry{baseWith(0o1777, 7), baseWith(0o755, 0), baseWith(0o700, 3), baseWith(0o1777, 7)} {
			lower := asDir(t, s, base)
			snap := layer.Snapshot{lower, top}
			want := map[string]string{}
			for _, p := range []string{"tmp", "opt", "opt/sub"} {
				want[p] = look(t, filepath.Join(s.layerFS(lower), p))
			}
			for _, need := range []Need{NeedMetadata, NeedContent} {
				tree, err := s.Tree(ctx, snap, need)
				must(t, err)
				for p, w := range want {
					if got := lookInTree(t, tree, p); got != w {
						t.Errorf("in the tree /%s is %s, want %s", p, got, w)
					}
				}
				if got, err := layer.ReadFile(tree, "tmp/y"); string(got) != "content of x" {
					t.Errorf("tmp/y is %q, %v", got, err)
				}
			}
			dirs, err := s.Dirs(ctx, snap)
			must(t, err)
			seen[dirs[2]] = true
			mounted(t, dirs, func(root string) {
				for p, w := range want {
					if got := look(t, filepath.Join(root, p)); got != w {
						t.Errorf("mounted /%s is %s, want %s", p, got, w)
					}
				}
				x, err := os.Lstat(root + "/tmp/x")
				y, yerr := os.Lstat(root + "/tmp/y")
				if err != nil || yerr != nil || !os.SameFile(x, y) {
					t.Errorf("hard links are gone: %v, %v", err, yerr)
				}
				if n := x.Sys().(*syscall.Stat_t).Nlink; n != 2 {
					t.Errorf("a file with two names has %d", n)
				}
				if _, err := os.Lstat(root + "/tmp/old"); err != nil {
					t.Error(err)
				}
				if got, want := look(t, root+"/zz"), "40750 0:0 1000000000 "; got != want {
					t.Errorf("a directory of the layer is %s, want %s", got, want)
				}
			})
			// The whole layer, but for the attributes of those directories, is what it was.
			if got, want := listed(t, s.stacked(dirs), true), listedTree(t, s, snap); got != want {
				t.Errorf("stacked the layers give\n%s\nand as a tree\n%s", got, want)
			}
		}
		if len(seen) != 3 {
			t.Errorf("on three kinds of bases the layer was stacked as %v", seen)
		}
		// On nothing the layer stands as it is.
		dirs, err := s.Dirs(ctx, layer.Snapshot{top})
		must(t, err)
		if dirs[0] != s.layerFS(top) {
			t.Errorf("alone the layer is %s", dirs[0])
		}
		// What is exported is what was pulled.
		desc, diff, err := s.Blob(ctx, top, layer.Encoding{})
		must(t, err)
		r, err := s.OpenBlob(ctx, desc.Digest)
		must(t, err)
		defer r.Close()
		p, err := layer.Decompress(r)
		must(t, err)
		var data bytes.Buffer
		_, err = data.ReadFrom(p)
		must(t, err)
		if !bytes.Equal(data.Bytes(), plain) {
			t.Errorf("the blob of %s has changed", diff)
		}
		wantClean(t, s)
	}
}

func listedTree(t *testing.T, s *Store, snap layer.Snapshot) string {
	t.Helper()
	tree, err := s.Tree(context.Background(), snap, NeedContent)
	must(t, err)
	return listed(t, tree, true)
}

// The layer's directory may lie on others that do not mention the directory either.
func TestImpliedInSeveralLayers(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	second := asPulled(layer.Gzip)(t, s, []*layer.Entry{regular("tmp/second", "2")})
	snap := layer.Snapshot{asDir(t, s, baseWith(0o1777, 7)), asPulled(layer.Gzip)(t, s, withoutParents), second, asDir(t, s, []*layer.Entry{regular("last", "x")})}
	dirs, err := s.Dirs(context.Background(), snap)
	must(t, err)
	mounted(t, dirs, func(root string) {
		if got := look(t, root+"/tmp"); !strings.HasPrefix(got, "41777 7:9 1111111111 7") {
			t.Errorf("/tmp is %s", got)
		}
	})
	if got, want := listed(t, s.stacked(dirs), true), listedTree(t, s, snap); got != want {
		t.Errorf("stacked the layers give\n%s\nand as a tree\n%s", got, want)
	}
	// Where a layer in between removes it, there is nothing to take attributes from.
	snap = layer.Snapshot{snap[0], asDir(t, s, []*layer.Entry{{Path: "tmp", Whiteout: true}}), second}
	dirs, err = s.Dirs(context.Background(), snap)
	must(t, err)
	mounted(t, dirs, func(root string) {
		if got := look(t, root+"/tmp"); !strings.HasPrefix(got, "40755 0:0") {
			t.Errorf("/tmp that was removed and implied is %s", got)
		}
	})
	if got, want := listed(t, s.stacked(dirs), true), listedTree(t, s, snap); got != want {
		t.Errorf("stacked the layers give\n%s\nand as a tree\n%s", got, want)
	}
}

// What is stacked on a layer for a link to a file below has directories of the layers below: another base with other
// ones gets its own.
func TestOverIsOfItsBase(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	base := func(mode, uid uint32) layer.ID {
		return asDir(t, s, []*layer.Entry{{Path: "usr", Mode: unix.S_IFDIR | mode, UID: uid, ModTime: time.Unix(1e9, 0)}, regular("usr/x", "x")})
	}
	top := asPulled(layer.Gzip)(t, s, []*layer.Entry{{Path: "link", Mode: unix.S_IFREG | 0o644, Hardlink: true, Link: "usr/x", ModTime: time.Unix(1e9, 0)}})
	for _, b := range []layer.ID{base(0o777, 1000), base(0o755, 0)} {
		dirs, err := s.Dirs(context.Background(), layer.Snapshot{b, top})
		must(t, err)
		want := look(t, filepath.Join(s.layerFS(b), "usr"))
		mounted(t, dirs, func(root string) {
			if got := look(t, root+"/usr"); got != want {
				t.Errorf("/usr is %s, want %s", got, want)
			}
			if _, err := os.Lstat(root + "/link"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Several that stack the same layer on the same base at once, from several processes too.
func TestImpliedAtOnce(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	stores := []*Store{s, open(t, s.root)}
	snap := layer.Snapshot{asDir(t, s, baseWith(0o1777, 7)), asPulled(layer.Gzip)(t, s, withoutParents)}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			dirs, err := stores[i%2].Dirs(context.Background(), snap)
			if err != nil {
				t.Error(err)
				return
			}
			if got := look(t, dirs[2]+"/tmp"); !strings.HasPrefix(got, "41777 7:9") {
				t.Errorf("/tmp is %s", got)
			}
			if _, err := os.Lstat(dirs[1] + "/zz/own"); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	wantClean(t, s)
}

// linkLayer is an archive with a file, and with hard links to files of layers below.
func linkLayer(t *testing.T, s *Store, c layer.Compression, links ...[2]string) layer.ID {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, l := range links {
		h := tar.Header{Typeflag: tar.TypeLink, Name: l[0], Linkname: l[1], Mode: 0o644}
		if l[1] == "" {
			h.Typeflag = tar.TypeReg
		}
		must(t, w.WriteHeader(&h))
	}
	must(t, w.Close())
	desc, err := s.PutBlob(context.Background(), layerMediaType(c), packed(t, b.Bytes(), c))
	must(t, err)
	id, err := s.BlobLayer(context.Background(), digest.FromBytes(b.Bytes()), desc)
	must(t, err)
	return id
}

// A hard link to a file of a layer below is made: mounted and as a tree both are names of one file, which
// is the one of the layers that lie below there.
func TestHardLinkBelow(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	base := func(content string) []*layer.Entry {
		at := time.Unix(1_111_111_111, 0)
		return []*layer.Entry{
			{Path: "d", Mode: unix.S_IFDIR | 0o711, GID: 5, ModTime: at},
			{Path: "d/e", Mode: unix.S_IFDIR | 0o700, UID: 6, ModTime: at},
			regular("d/e/low", content),
			regular("gone", "gone"),
			{Path: "l", Mode: unix.S_IFLNK | 0o777, Link: "/d/e", ModTime: at},
			regular("new", "old content of new"),
			{Path: "s", Mode: unix.S_IFLNK | 0o777, Link: "nowhere", ModTime: at},
		}
	}
	links := [][2]string{{"up", "d/e/low"}, {"up2", "l/low"}, {"up3", "up"}, {"x/y/s", "s"}, {"was", "gone"}, {".wh.gone", ""}, {"old", "new"}, {"new", ""}}
	for _, form := range []layer.Compression{layer.Gzip, layer.Uncompressed} {
		s := newStore(t)
		for _, content := range []string{"one", "two"} { // which differ in nothing else
			top := linkLayer(t, s, form, links...)
			snap := layer.Snapshot{asDir(t, s, base(content)), asDir(t, s, []*layer.Entry{regular("between", "x")}), top, asDir(t, s, []*layer.Entry{regular("above", "x")})}
			var first string
			for _, need := range []Need{NeedMetadata, NeedContent} {
				tree, err := s.Tree(ctx, snap, need)
				must(t, err)
				got := listed(t, tree, true)
				if first == "" {
					first = got
				}
				if got != first {
					t.Errorf("the trees differ:\n%s\n%s", got, first)
				}
			}
			dirs, err := s.Dirs(ctx, snap)
			must(t, err)
			if got := listed(t, s.stacked(dirs), true); got != first {
				t.Errorf("stacked the layers give\n%s\nand as a tree\n%s", got, first)
			}
			mounted(t, dirs, func(root string) {
				for name, want := range map[string]string{"up": content, "up2": content, "up3": content, "d/e/low": content, "was": "gone", "old": "old content of new", "new": ""} {
					if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
						t.Errorf("%s is %q, %v, want %q", name, got, err, want)
					}
				}
				if _, err := os.Lstat(root + "/gone"); !os.IsNotExist(err) {
					t.Errorf("what was removed is there again: %v", err)
				}
				if to, err := os.Readlink(root + "/x/y/s"); to != "nowhere" {
					t.Errorf("the link leads to %q, %v", to, err)
				}
				for _, pair := range [][2]string{{"up", "d/e/low"}, {"up2", "up"}, {"up3", "up"}, {"x/y/s", "s"}} {
					a, err := os.Lstat(filepath.Join(root, pair[0]))
					b, berr := os.Lstat(filepath.Join(root, pair[1]))
					if err != nil || berr != nil || !os.SameFile(a, b) {
						t.Errorf("%s and %s are not the same file: %v, %v", pair[0], pair[1], err, berr)
					}
				}
				if got, want := look(t, root+"/d/e"), "40700 6:0 1111111111 "; got != want {
					t.Errorf("a directory of the layer below is %s, want %s", got, want)
				}
			})
			wantClean(t, s)
		}
	}
}

// One to nothing, or to a directory, is an error that names both.
func TestHardLinkToNothingBelow(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	base := asDir(t, s, baseWith(0o755, 0))
	for _, target := range []string{"nowhere", "../../etc/shadow", "tmp", "tmp/old/x"} {
		snap := layer.Snapshot{base, linkLayer(t, s, layer.Gzip, [2]string{"h", target})}
		_, err := s.Dirs(ctx, snap)
		_, terr := s.Tree(ctx, snap, NeedMetadata)
		for _, err := range []error{err, terr} {
			if err == nil || !strings.Contains(err.Error(), `hard link "/h" to "`) {
				t.Errorf("a link to %s: %v", target, err)
			}
		}
	}
	wantClean(t, s)
}
