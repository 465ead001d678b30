package store

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
)

// sharedFile is a file of a layer's directory that has names elsewhere.
type sharedFile struct {
	entry *layer.Entry // by its first name
	names []string     // those in the directory
}

// sharedFiles finds the files of a layer's directory that have names elsewhere.
func (s *Store) sharedFiles(dir string) (shared []*sharedFile, err error) {
	linked := map[uint64]*sharedFile{}
	err = layer.Walk(s.dirTree(dir), ".", func(e *layer.Entry) error {
		if !e.IsRegular() || e.Nlink < 2 {
			return nil
		}
		f := linked[e.Inode]
		if f == nil {
			f = &sharedFile{entry: e}
			linked[e.Inode] = f
		}
		f.names = append(f.names, e.Path)
		return nil
	})
	for _, f := range linked {
		if len(f.names) < int(f.entry.Nlink) {
			shared = append(shared, f)
		}
	}
	return shared, err
}

// unshare replaces those files of a layer's directory that have names elsewhere by copies: the names in the
// directory stay names of one file. A container may have the directory mounted, and sees the same files.
//
// All copies are on the disk, in a directory beside the layer's that has the times of its directories too, before
// the first one gets a name in its place, which takes no space. So when there is none for them the layer is as it
// was, and after a process or a machine that ended halfway all is done again.
func (s *Store) unshare(dir string) error {
	copies := filepath.Join(filepath.Dir(dir), "unshared")
	_, err := os.Lstat(copies)
	if errors.Is(err, fs.ErrNotExist) {
		var none bool
		if none, err = s.makeCopies(dir, copies); none {
			return err
		}
	}
	if err != nil {
		return err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	err = filepath.WalkDir(copies, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return replaceFile(path, filepath.Join(dir, strings.TrimPrefix(path, copies)), filepath.Join(tmp, "next"))
	})
	if err == nil {
		err = copyTimes(copies, dir, copies)
	}
	if err == nil {
		err = syncfs(dir)
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(copies)
}

// copyTimes gives the directories that are in a tree the times that they have in another one.
func copyTimes(from, to, tree string) error {
	return filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, tree)
		fi, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			return err
		}
		return os.Chtimes(filepath.Join(to, name), fi.ModTime(), fi.ModTime())
	})
}

// makeCopies makes copies of the files of a layer's directory that have names elsewhere.
func (s *Store) makeCopies(dir, copies string) (none bool, err error) {
	shared, err := s.sharedFiles(dir)
	if err != nil || len(shared) == 0 {
		return true, err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	if err := errors.Join(copyShared(shared, tmp), copyTimes(dir, tmp, tmp)); err != nil {
		return false, err
	}
	if err := syncfs(tmp); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, copies); err != nil {
		return false, err
	}
	return false, fsync(filepath.Dir(copies))
}

// copyShared copies files to a directory, under all their names.
func copyShared(shared []*sharedFile, to string) error {
	w, err := layer.NewDirWriter(to)
	if err != nil {
		return err
	}
	for _, f := range shared {
		for i, name := range f.names {
			of := *f.entry
			if of.Path = name; i > 0 {
				of.Hardlink, of.Link, of.Size, of.Content = true, f.names[0], 0, nil
			}
			err := os.MkdirAll(filepath.Join(to, path.Dir(name)), 0o700)
			if err == nil {
				err = w.Add(&of)
			}
			if err != nil {
				return errors.Join(err, w.Close())
			}
		}
	}
	return w.Close()
}

// replaceFile puts another name of a file in the place of a file; next is a name that nobody has.
func replaceFile(by, target, next string) error {
	if err := os.Link(by, next); err != nil {
		return err
	}
	// Renaming a name to another one of the same file, as when this is done again, does nothing.
	err := os.Rename(next, target)
	if rerr := os.Remove(next); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}
