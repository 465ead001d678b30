package prove

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// copyDir copies directories, regular files and links of a directory of the user's.
func copyDir(ctx context.Context, dir string, to *os.Root) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil || rel == "." {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case fi.IsDir():
			return errors.Join(to.Mkdir(rel, 0o700), to.Chmod(rel, fi.Mode().Perm()|0o700))
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return to.Symlink(target, rel)
		case fi.Mode().IsRegular():
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			return write(to, rel, f, fi.Mode().Perm())
		}
		return nil
	})
}

func write(to *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	f, err := to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// put writes what a tree has at a path, with follow a link as what it leads to, into a directory, in the place of what is there.
func put(t layer.Tree, name string, follow bool, to *os.Root, at string) error {
	from, err := layer.Resolve(t, name, follow)
	if err != nil {
		return err
	}
	e, err := t.Lstat(from)
	if err != nil {
		return err
	}
	if !e.IsDir() {
		if err := to.RemoveAll(at); err != nil {
			return err
		}
	}
	if err := to.MkdirAll(path.Dir(at), 0o755); err != nil {
		return err
	}
	if !e.IsDir() {
		return putEntry(e, to, at)
	}
	return layer.Walk(t, from, func(e *layer.Entry) error {
		rel, err := filepath.Rel(from, e.Path)
		if err != nil {
			return err
		}
		return putEntry(e, to, filepath.Join(at, rel))
	})
}

func putEntry(e *layer.Entry, to *os.Root, at string) error {
	mode := fs.FileMode(e.Perm() & 0o777)
	for bit, is := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if e.Perm()&bit != 0 {
			mode |= is
		}
	}
	switch {
	case e.IsDir():
		if err := to.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if at == "." {
			return nil
		}
		return to.Chmod(at, mode|0o700)
	case e.IsSymlink():
		_ = to.Remove(at)
		return to.Symlink(e.Link, at)
	case e.IsRegular():
		r, err := layer.OpenContent(e)
		if err != nil {
			return err
		}
		defer r.Close()
		_ = to.Remove(at)
		return write(to, at, r, mode)
	}
	return nil
}
