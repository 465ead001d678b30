package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// copyReadOnly makes a copy of the records in a temporary directory where the store's filesystem is mounted
// read-only, and returns the directory: SQLite cannot read a database without writing beside it, and what
// was not moved from its log into the database would be missing.
func (s *Store) copyReadOnly() (dir string, err error) {
	err = unix.Faccessat(unix.AT_FDCWD, s.root, unix.W_OK, unix.AT_EACCESS)
	if !errors.Is(err, unix.EROFS) {
		return "", nil
	}
	if dir, err = os.MkdirTemp("", "slipway-records-"); err != nil {
		return "", fmt.Errorf("%w: its records are read from a copy: %w", s.readOnlyError(), err)
	}
	for _, name := range []string{"meta.db", "meta.db-wal"} {
		data, err := os.ReadFile(filepath.Join(s.root, name))
		if errors.Is(err, fs.ErrNotExist) && name != "meta.db" {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

func (s *Store) readOnlyError() error {
	return fmt.Errorf("%s is on a filesystem that is mounted read-only: %w", s.root, unix.EROFS)
}
