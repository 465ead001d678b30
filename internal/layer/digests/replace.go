package digests

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/slipway-build/slipway/internal/atomicfile"
)

// replaceFile writes a file so that readers see the old or the new one: the old one, where somebody pruned the new one
// while it was written.
func replaceFile(name string, write func(*os.File) error) error {
	o := atomicfile.Options{Mode: 0o600}
	f, err := atomicfile.Create(name, o)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		f, err = atomicfile.Create(name, o)
	}
	if err != nil {
		return err
	}
	if err = write(f.File); err == nil {
		err = f.Commit()
	}
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.EISDIR) { // a directory, which none of slipway's makes
		if err = os.RemoveAll(name); err == nil {
			err = f.Commit()
		}
	}
	if err != nil {
		f.Abort()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
