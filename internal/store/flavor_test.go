package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// opaqueLayer makes a layer with an opaque directory.
func opaqueLayer(t *testing.T, s *Store) layer.ID {
	t.Helper()
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	w, err := s.DirWriter(d.FS)
	must(t, err)
	must(t, errors.Join(w.Add(&layer.Entry{Path: "d", Mode: unix.S_IFDIR | 0o755, Opaque: true, ModTime: time.Unix(1e9, 0)}), w.Close()))
	id, err := d.Commit(t.Context())
	must(t, err)
	return id
}

// A store marks opaque directories in its flavor, and is refused by who needs the other one.
func TestFlavor(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		own, other      layer.Flavor
		attr, otherAttr string
	}{
		{layer.Trusted, layer.User, "trusted.overlay.opaque", "user.overlay.opaque"},
		{layer.User, layer.Trusted, "user.overlay.opaque", "trusted.overlay.opaque"},
	} {
		t.Run(tc.own.String(), func(t *testing.T) {
			root := filepath.Join(shm(t), "store")
			s, err := Open(root, WithFlavor(tc.own))
			must(t, err)
			dir := filepath.Join(s.layerFS(opaqueLayer(t, s)), "d")
			var b [8]byte
			if n, err := unix.Lgetxattr(dir, tc.attr, b[:]); err != nil || string(b[:n]) != "y" {
				t.Errorf("%s is %q, %v", tc.attr, b[:n], err)
			}
			if _, err := unix.Lgetxattr(dir, tc.otherAttr, nil); err != unix.ENODATA {
				t.Errorf("%s: %v, want none", tc.otherAttr, err)
			}
			e, err := s.dirTree(filepath.Dir(dir)).Lstat("d")
			if err != nil || !e.Opaque || len(e.Xattrs) > 0 {
				t.Errorf("read back: opaque %v, attributes %v, %v", e.Opaque, e.Xattrs, err)
			}
			must(t, s.Close())
			for range 2 { // refusing changes nothing
				if _, err := Open(root, WithFlavor(tc.other)); !errors.Is(err, ErrFlavor) || !strings.Contains(err.Error(), "system reset") {
					t.Fatalf("opening it as %v: %v", tc.other, err)
				}
			}
			again, err := Open(root, WithFlavor(tc.own))
			must(t, err)
			must(t, again.Close())
		})
	}
}

// TestFlavorOfClosed: the flavor of a store stands in its file, without opening it.
func TestFlavorOfClosed(t *testing.T) {
	root := t.TempDir()
	if f, known := FlavorOf(root); known {
		t.Errorf("of none: %v", f)
	}
	for _, want := range []layer.Flavor{layer.User, layer.Trusted} {
		s, err := Open(root, WithFlavor(want))
		must(t, err)
		must(t, s.Close())
		if f, known := FlavorOf(root); !known || f != want {
			t.Errorf("of %v: %v, known %t", want, f, known)
		}
	}
	must(t, os.WriteFile(filepath.Join(root, "meta.db"), []byte("SQLite format 3"), 0o600))
	if f, known := FlavorOf(root); known {
		t.Errorf("of a short file: %v", f)
	}
}

// A store of blobs alone takes the flavor of who opens it, unless somebody else uses it.
func TestFlavorOfBlobs(t *testing.T) {
	needRoot(t)
	root := filepath.Join(shm(t), "store")
	s, err := Open(root, WithFlavor(layer.User))
	must(t, err)
	blob, err := s.PutBlob(t.Context(), "", []byte("a blob"))
	must(t, err)
	if _, err := Open(root, WithFlavor(layer.Trusted)); !errors.Is(err, ErrFlavor) {
		t.Fatalf("while another process uses it: %v", err)
	}
	must(t, s.Close())
	for _, f := range []layer.Flavor{layer.Trusted, layer.User, layer.Trusted} {
		s, err := Open(root, WithFlavor(f))
		must(t, err)
		r, err := s.OpenBlob(t.Context(), blob.Digest)
		must(t, err)
		v, is, err := s.version(s.db)
		if err != nil || v != len(steps) || is != s.kind() || s.flavor != f {
			t.Errorf("version %d of flavor %v (%v), want %d of %v", v, is, err, len(steps), f)
		}
		must(t, errors.Join(r.Close(), s.Close()))
	}
	s, err = Open(root, WithFlavor(layer.Trusted))
	must(t, err)
	c, err := s.Cache(t.Context(), "cache", SharingShared, noFill)
	must(t, err)
	c.Release()
	must(t, s.Close())
	if _, err := Open(root, WithFlavor(layer.User)); !errors.Is(err, ErrFlavor) {
		t.Errorf("with a cache mount: %v", err)
	}
}

// childResets resets a store, as an ordinary user.
func childResets(root string) error {
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(1000), syscall.Setuid(1000), Reset(root))
}

// Everything of a store goes, whatever its modes and whether it can be opened; what somebody uses stays, and so does what is no
// store.
func TestReset(t *testing.T) {
	needRoot(t)
	for name, prepare := range map[string]func(root string) error{
		"as it is": func(string) error { return nil },
		"damaged":  func(root string) error { return os.WriteFile(root+"/meta.db", []byte("no database"), 0o600) },
		"mount point": func(root string) error {
			return unix.Mount("none", root+"/tmp/x/w/w/below", "tmpfs", 0, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(shm(t), "store")
			s, err := Open(root, WithFlavor(layer.User))
			must(t, err)
			opaqueLayer(t, s)
			if err := Reset(root); err == nil || !strings.Contains(err.Error(), "another process uses it") {
				t.Fatalf("while it is used: %v", err)
			}
			must(t, s.Close())
			must(t, errors.Join(os.MkdirAll(root+"/tmp/x/w/w/below", 0o700), os.WriteFile(root+"/tmp/x/w/file", nil, 0o600)))
			if name == "mount point" {
				must(t, prepare(root))
				defer unix.Unmount(root+"/tmp/x/w/w/below", unix.MNT_DETACH)
				if err := Reset(root); !errors.Is(err, unix.EBUSY) {
					t.Errorf("with a mount in it: %v", err)
				}
				return
			}
			must(t, errors.Join(prepare(root), os.Chmod(root+"/tmp/x/w", 0o500), os.Chmod(root+"/tmp/x/w/w", 0)))
			must(t, filepath.Walk(filepath.Dir(root), func(path string, _ os.FileInfo, err error) error {
				return errors.Join(err, os.Lchown(path, 1000, 1000))
			}))
			if out, err := command(t, "reset", root).CombinedOutput(); err != nil {
				t.Errorf("as an ordinary user: %v\n%s", err, out)
			}
			if _, err := os.Lstat(root); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the store is there: %v", err)
			}
		})
	}
	other := shm(t)
	must(t, os.WriteFile(other+"/file", nil, 0o600))
	if err := Reset(other); !errors.Is(err, ErrNotFound) {
		t.Errorf("of a directory that is no store: %v", err)
	}
	must(t, os.WriteFile(other+"/meta.db", nil, 0o600))
	if err := Reset(other); err == nil || !strings.Contains(err.Error(), "something else in it (file)") {
		t.Errorf("of a directory with something else in it: %v", err)
	}
	if _, err := os.Lstat(other + "/file"); err != nil {
		t.Errorf("what is no store's is gone: %v", err)
	}
}

// childOpensWithOneID opens a store, and says how that went.
func childOpensWithOneID(root string) error { return opens(root) }

// childLooksWithOneID does so to look into its records.
func childLooksWithOneID(root string) error { return opens(root, WithoutIDs()) }

func opens(root string, opts ...Option) error {
	s, err := Open(root, opts...)
	if err == nil {
		err = s.Close()
	}
	return err
}

// A store in which records count as they are is not used where they do not, nor the other way round. Who only looks into its records sees them,
// and changes nothing of that.
func TestFlavorOfOneID(t *testing.T) {
	needRoot(t)
	root := filepath.Join(shm(t), "store")
	s, err := Open(root, WithFlavor(layer.User))
	must(t, err)
	opaqueLayer(t, s)
	must(t, s.Close())
	one := func(what string) (string, error) {
		cmd := command(t, what, root)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := one("looks-with-one-id"); err != nil {
		t.Errorf("looking into it with one ID: %v\n%s", err, out)
	}
	if out, err := one("one-id"); err == nil || !strings.Contains(out, "made by a user with many IDs") {
		t.Errorf("with one ID: %v\n%s", err, out)
	}
	must(t, os.RemoveAll(root))
	if out, err := one("one-id"); err != nil {
		t.Fatalf("a new one: %v\n%s", err, out)
	}
	s, err = Open(root, WithFlavor(layer.User)) // there is nothing in it
	must(t, err)
	_, err = s.db.Exec(fmt.Sprintf("PRAGMA user_version=%d", len(steps)|int(oneID)<<flavorShift))
	must(t, err)
	opaqueLayer(t, s)
	must(t, s.Close())
	if _, err := Open(root, WithFlavor(layer.User)); !errors.Is(err, ErrFlavor) || !strings.Contains(err.Error(), "made by a user with one ID") {
		t.Errorf("with many IDs: %v", err)
	}
	s, err = Open(root, WithFlavor(layer.User), WithoutIDs())
	must(t, err)
	if _, is, err := s.version(s.db); err != nil || is != oneID {
		t.Errorf("looking into it with many IDs: it is of kind %d now, %v", is, err)
	}
	must(t, s.Close())
	if _, err := Open(root, WithFlavor(layer.Trusted), WithoutIDs()); !errors.Is(err, ErrFlavor) {
		t.Errorf("looking into it as root of the machine: %v", err)
	}
}
