package store

import (
	"errors"
	"os"
	"path"
	"path/filepath"

	"github.com/slipway-build/slipway/internal/layer"
)

// unshare replaces those files of a layer's directory that have names elsewhere by copies: the names in the
// directory stay names of one file. A container may have the directory mounted, and sees the same files.
func (s *Store) unshare(dir string) error {
	type file struct {
		entry *layer.Entry // by its first name
		names []string
	}
	tree, linked := dirTree(dir), map[uint64]*file{}
	err := layer.Walk(tree, ".", func(e *layer.Entry) error {
		if !e.IsRegular() || e.Nlink < 2 {
			return nil
		}
		f := linked[e.Inode]
		if f == nil {
			f = &file{entry: e}
			linked[e.Inode] = f
		}
		f.names = append(f.names, e.Path)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range linked {
		if len(f.names) == int(f.entry.Nlink) {
			continue
		}
		if err := s.copyNames(dir, f.entry, f.names); err != nil {
			return err
		}
	}
	return nil
}

// copyNames makes a copy of a file and puts it in place of each of its names. Directories keep their times.
func (s *Store) copyNames(dir string, e *layer.Entry, names []string) error {
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	w, err := layer.NewDirWriter(tmp)
	if err != nil {
		return err
	}
	of := *e
	of.Path = "0"
	if err := errors.Join(w.Add(&of), w.Close()); err != nil {
		return err
	}
	for _, name := range names {
		target, parent := filepath.Join(dir, name), filepath.Join(dir, path.Dir(name))
		fi, err := os.Stat(parent)
		if err != nil {
			return err
		}
		one := filepath.Join(tmp, "name")
		if err := errors.Join(os.Link(filepath.Join(tmp, "0"), one), os.Rename(one, target)); err != nil {
			return err
		}
		if err := os.Chtimes(parent, fi.ModTime(), fi.ModTime()); err != nil {
			return err
		}
	}
	return nil
}
