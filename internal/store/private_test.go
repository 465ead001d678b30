package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/isolation"
)

// openToOthers is what of a tree lets anybody but the owner in.
func openToOthers(t *testing.T, root string) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir(root+"/.", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			all = append(all, path)
		}
		return err
	}))
	return all
}

func TestNewStoreIsTheOwnersAlone(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	root := filepath.Join(shm(t), "store")
	s := open(t, root)
	must(t, s.PutMemo(t.Context(), "k", "v"))
	for _, path := range openToOthers(t, root) {
		t.Errorf("others can read %s", path)
	}
	for _, file := range []string{"meta.db", "meta.db-wal", "meta.db-shm"} {
		fi, err := os.Lstat(filepath.Join(root, file))
		must(t, err)
		if fi.Mode() != 0o600 {
			t.Errorf("%s has mode %o", file, fi.Mode())
		}
	}
}

// Stores were open once. Who has one of their directories open must not get on from there.
func TestOpenStoreIsClosed(t *testing.T) {
	root := oldStore(t)
	must(t, os.Chmod(root, 0o711))
	must(t, os.WriteFile(filepath.Join(root, "index.json"), nil, 0o644))
	must(t, os.Mkdir(filepath.Join(root, "contexts"), 0o755))
	target := filepath.Join(filepath.Dir(root), "other")
	must(t, os.WriteFile(target, nil, 0o644))
	must(t, os.Symlink(target, filepath.Join(root, "link")))
	s := open(t, root)
	must(t, s.PutMemo(t.Context(), "k", "v"))
	for _, e := range []string{"", "blobs", "layers", "tmp", "builds", "caches", "containers", "contexts", "meta.db", "meta.db-wal", "index.json"} {
		fi, err := os.Lstat(filepath.Join(root, e))
		must(t, err)
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q still has mode %o", e, fi.Mode().Perm())
		}
	}
	if fi, err := os.Stat(target); err != nil || fi.Mode() != 0o644 {
		t.Errorf("a file outside of the store has mode %v, %v", fi.Mode(), err)
	}
}

// TestStoreInVolumeOfPod opens a store below what Kubernetes mounts for everybody in a pod.
func TestStoreInVolumeOfPod(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	t.Setenv("container", "") // this test may be in a container
	for _, mode := range []uint32{0o777, 0o2775} {
		volume := filepath.Join(shm(t), "volume")
		must(t, os.Mkdir(volume, 0o755))
		must(t, unix.Mount("volume", volume, "tmpfs", 0, "size=64m"))
		t.Cleanup(func() { must(t, unix.Unmount(volume, unix.MNT_DETACH)) })
		must(t, os.Chown(volume, 0, 10001))
		must(t, unix.Chmod(volume, mode))
		root := filepath.Join(volume, "store")
		if isolation.Container() == "" {
			_, err := Open(root)
			wantErr(t, err, "other users may write to ")
		}
		t.Setenv("container", "oci")
		s, err := Open(root)
		must(t, err)
		must(t, s.Close())
		t.Setenv("container", "")
	}
}

func TestWhereAStoreMayBe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make what belongs to others")
	}
	const other = 10001
	dir := func(path string, uid int, mode uint32) {
		must(t, os.MkdirAll(path, 0o755))
		must(t, os.Chown(path, uid, uid))
		must(t, unix.Chmod(path, mode))
	}
	for name, c := range map[string]struct {
		make func(base string) (root string)
		sudo string
		want string
	}{
		"another's directory": {func(b string) string { dir(b+"/s", other, 0o755); return b + "/s" }, "", "it belongs to user 10001, not to user 0"},
		"in another's directory": {func(b string) string { dir(b+"/u", other, 0o755); return b + "/u/s" }, "",
			"/u belongs to user 10001, who could put something else in the store's place"},
		"in the directory of who called sudo": {func(b string) string { dir(b+"/u", other, 0o775); return b + "/u/s" }, "10001", ""},
		"in a directory for all":              {func(b string) string { dir(b+"/u", 0, 0o777); return b + "/u/s" }, "", "other users may write to "},
		"in a directory for a group": {func(b string) string { dir(b+"/u", 0, 0o775); must(t, os.Chown(b+"/u", 0, other)); return b + "/u/s" }, "",
			"other users may write to "},
		"in a sticky directory": {func(b string) string { dir(b+"/u", 0, 0o1777); return b + "/u/s" }, "", ""},
		"for all, empty":        {func(b string) string { dir(b+"/s", 0, 0o777); return b + "/s" }, "", ""},
		"for all, used": {func(b string) string { dir(b+"/s", 0, 0o777); dir(b+"/s/layers", other, 0o755); return b + "/s" }, "",
			"layers: it belongs to user 10001"},
		"with something else in it": {func(b string) string { dir(b+"/s", 0, 0o755); dir(b+"/s/home", 0, 0o755); return b + "/s" }, "",
			"it is no store, and there is something else in it (home)"},
		"by a link": {func(b string) string {
			dir(b+"/s", 0, 0o755)
			must(t, os.Symlink("s", b+"/link"))
			return b + "/link"
		}, "", ""},
		"by another's link": {func(b string) string {
			dir(b+"/s", 0, 0o755)
			must(t, os.Symlink("s", b+"/link"))
			must(t, os.Lchown(b+"/link", other, other))
			return b + "/link"
		}, "", "/link belongs to user 10001"},
		"by a link through another's directory": {func(b string) string {
			dir(b+"/s", 0, 0o755)
			dir(b+"/u", other, 0o755)
			must(t, os.Symlink("u/../s", b+"/link"))
			return b + "/link"
		}, "", "/u belongs to user 10001"},
		"by a circle": {func(b string) string { must(t, os.Symlink("link", b+"/link")); return b + "/link/s" }, "", "too many levels"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SUDO_UID", c.sudo)
			t.Setenv("SUDO_GID", c.sudo)
			root := c.make(shm(t))
			s, err := Open(root)
			if err == nil {
				must(t, s.Close())
			}
			if c.want != "" {
				wantErr(t, err, "opening store "+root+": ")
				wantErr(t, err, c.want)
				return
			}
			must(t, err)
			if left := openToOthers(t, root); len(left) > 0 {
				t.Errorf("others can read %v", left)
			}
		})
	}
}

// Where permissions cannot be taken away there is no store.
func TestPermissionsThatStay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := shm(t)
	image, root := filepath.Join(base, "image"), filepath.Join(base, "store")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 8<<20))
	must(t, os.Mkdir(root, 0o755))
	run(t, "mkfs.ext4", "-q", image)
	run(t, "mount", "-o", "loop", image, root)
	t.Cleanup(func() { run(t, "umount", root) })
	run(t, "chattr", "+i", root)
	t.Cleanup(func() { run(t, "chattr", "-i", root) })
	_, err := Open(root)
	wantErr(t, err, "opening store "+root+": taking it from other users: fchmod: operation not permitted: use another --root")
}
