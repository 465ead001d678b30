package store

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

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
// All copies are on the disk before the first one is put in place, which takes no space: when there is none for
// them, or the machine crashes, the layer has its files all the same, and what is missing is done another time.
func (s *Store) unshare(dir string) error {
	shared, err := sharedFiles(dir)
	if err != nil || len(shared) == 0 {
		return err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := copyShared(shared, tmp); err != nil {
		return err
	}
	if err := syncfs(tmp); err != nil {
		return err
	}
	for i, f := range shared {
		for j, name := range f.names {
			if err := replaceFile(filepath.Join(tmp, copyName(i, j)), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyName is what the copy is called that will be the j-th name of the i-th file.
func copyName(i, j int) string { return fmt.Sprintf("%d-%d", i, j) }

// copyShared copies files to a directory, with as many names as they will have.
func copyShared(shared []*sharedFile, to string) error {
	w, err := layer.NewDirWriter(to)
	if err != nil {
		return err
	}
	for i, f := range shared {
		for j := range f.names {
			of := *f.entry
			of.Path = copyName(i, j)
			if j > 0 {
				of.Hardlink, of.Link, of.Size, of.Content = true, copyName(i, 0), 0, nil
			}
			if err := w.Add(&of); err != nil {
				return errors.Join(err, w.Close())
			}
		}
	}
	return w.Close()
}

// replaceFile puts a file in the place of another one. The directory keeps its time.
func replaceFile(by, target string) error {
	fi, err := os.Stat(path.Dir(target))
	if err != nil {
		return err
	}
	if err := os.Rename(by, target); err != nil {
		return err
	}
	return os.Chtimes(path.Dir(target), fi.ModTime(), fi.ModTime())
}
