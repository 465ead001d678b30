package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoint is a path inside a root filesystem on which something will be mounted.
type mountPoint struct {
	path  string // absolute, clean; may lead through symbolic links
	file  bool   // a file, not a directory
	owner *Owner // of directories that are made for it; nil: root
}

// stubs makes the mount points that a root filesystem does not have, without a trace in it: they
// form a layer of their own, which is put on top of the lower layers for the time of one run. A
// directory on the way that exists already is repeated there with all its attributes, because
// overlayfs shows those of the topmost layer.
type stubs struct {
	merged *opened // the root filesystem as it is
	dir    string  // the layer that is made
	// known are the directories that the layer has, relative to its root; true for those that
	// merged has too.
	known map[string]bool
}

// makeStubs makes a layer in dir of the mount points that are missing in the filesystem merged, and
// reports whether there were any.
func makeStubs(merged, dir string, points []mountPoint) (bool, error) {
	root, err := openRoot(merged)
	if err != nil {
		return false, err
	}
	defer root.Close()
	s := stubs{merged: root, dir: dir, known: map[string]bool{}}
	for _, p := range points {
		rel, err := missing(root, p)
		if err != nil {
			return false, err
		}
		if rel == "" {
			continue
		}
		if err := s.add(rel, p); err != nil {
			return false, fmt.Errorf("making mount point %s: %w", p.path, err)
		}
	}
	if len(s.known) == 0 {
		return false, nil
	}
	return true, s.copyAttributes()
}

// missing resolves a mount point inside of root. It gives its real path relative to root if
// there is nothing, and "" if there is something.
func missing(root *opened, p mountPoint) (string, error) {
	rel, err := resolveInRoot(root, p.path)
	if err != nil {
		return "", fmt.Errorf("resolving mount point %s: %w", p.path, err)
	}
	if rel == "" {
		return "", nil
	}
	var st unix.Stat_t
	f, err := openResolved(root, rel, unix.O_PATH)
	if err == nil {
		err = errors.Join(unix.Fstat(f.fd, &st), f.Close())
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return rel, nil
	case err != nil:
		return "", fmt.Errorf("resolving mount point %s: %w", p.path, err)
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return rel, nil // a whiteout, seen because one layer alone is not mounted by overlayfs
	}
	return "", nil
}

// add makes rel, a clean relative path, and the directories above it.
func (s *stubs) add(rel string, p mountPoint) error {
	parts := strings.Split(rel, "/")
	for i := range parts {
		dir := filepath.Join(parts[:i]...) // "" is the root
		if _, ok := s.known[dir]; ok {
			continue
		}
		f, err := openResolved(s.merged, dir, unix.O_PATH|unix.O_DIRECTORY)
		if err == nil {
			f.Close()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.known[dir] = err == nil
		if err := s.make(dir, p.owner); err != nil {
			return err
		}
	}
	path := filepath.Join(s.dir, rel)
	if !p.file {
		s.known[rel] = false
		return s.make(rel, p.owner)
	}
	return writeFile(path, "")
}

// make makes a directory of the layer, of an owner if merged has none there that it will look like.
func (s *stubs) make(rel string, owner *Owner) error {
	path := filepath.Join(s.dir, rel)
	if err := makeDir(path); err != nil || owner == nil || s.known[rel] {
		return err
	}
	return notOwned(os.Lchown(path, owner.UID, owner.GID))
}

// makeDir makes a directory; an existing one is fine.
func makeDir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// copyAttributes makes the directories of the layer that exist in merged look like there.
func (s *stubs) copyAttributes() error {
	for dir, exists := range s.known {
		if !exists {
			continue
		}
		from, err := openResolved(s.merged, dir, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			err = errors.Join(copyDirAttributes(from, filepath.Join(s.dir, dir)), from.Close())
		}
		if err != nil {
			return fmt.Errorf("repeating the attributes of directory /%s: %w", dir, err)
		}
	}
	return nil
}

// copyDirAttributes copies owner, mode, extended attributes and times.
func copyDirAttributes(from *opened, to string) error {
	var st unix.Stat_t
	if err := unix.Fstat(from.fd, &st); err != nil {
		return err
	}
	if err := notOwned(unix.Chown(to, int(st.Uid), int(st.Gid))); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(from.fd, to); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func copyXattrs(from int, to string) error {
	names := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Flistxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		// Overlay's own attributes would make the copy something else, such as opaque.
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		n, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		if err := unix.Lsetxattr(to, name, value[:n], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}
