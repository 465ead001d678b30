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
func sharedFiles(dir string) (shared []*sharedFile, err error) {
	linked := map[uint64]*sharedFile{}
	err = layer.Walk(dirTree(dir), ".", func(e *layer.Entry) error {
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
// All copies are on the disk, in a directory beside the layer's, before the first one is moved to its place, which
// takes no space. So when there is none for them the layer is as it was, and a process or a machine that ends
// halfway leaves what is to be moved yet.
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
	err = filepath.WalkDir(copies, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return replaceFile(path, filepath.Join(dir, strings.TrimPrefix(path, copies)))
	})
	return errors.Join(err, os.RemoveAll(copies))
}

// makeCopies makes copies of the files of a layer's directory that have names elsewhere.
func (s *Store) makeCopies(dir, copies string) (none bool, err error) {
	shared, err := sharedFiles(dir)
	if err != nil || len(shared) == 0 {
		return true, err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	if err := copyShared(shared, tmp); err != nil {
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

// replaceFile puts a file in the place of another one. The directory keeps its time.
func replaceFile(by, target string) error {
	fi, err := os.Stat(filepath.Dir(target))
	if err != nil {
		return err
	}
	if err := os.Rename(by, target); err != nil {
		return err
	}
	return os.Chtimes(filepath.Dir(target), fi.ModTime(), fi.ModTime())
}
