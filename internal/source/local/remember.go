package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// replaceFile writes a file so that readers see the old or the new one: the old one, where somebody pruned the new one
// while it was written.
func replaceFile(name string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		f, err = os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	}
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	err = os.Rename(f.Name(), name)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.EISDIR) { // a directory, which none of slipway's makes
		if err = os.RemoveAll(name); err == nil {
			err = os.Rename(f.Name(), name)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
