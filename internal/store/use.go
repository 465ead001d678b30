package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// usage is the shared lock that a process holds on the store while it knows its format: who upgrades a store
// is alone. It is a flock on the directory of layers: the kernel drops it when the process ends.
type usage struct{ dir *os.File }

// useStore takes the lock. It waits while somebody upgrades the store.
func useStore(root string) (*usage, error) {
	dir, err := os.Open(filepath.Join(root, "layers"))
	if err != nil {
		return nil, err
	}
	u := &usage{dir}
	if err := u.lock(unix.LOCK_SH); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the store: %w", err), dir.Close())
	}
	return u, nil
}

func (u *usage) lock(how int) error { return flock(u.dir, how) }

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// Yield gives up what this process holds of the store until resume is called: a newer program may upgrade it,
// and others may collect what no record keeps. Between the two the caller may only use what is recorded: a
// container, and the layers of its snapshot.
func (s *Store) Yield() (resume func() error, err error) {
	if err := errors.Join(s.letAllGo(), s.use.lock(unix.LOCK_UN)); err != nil {
		return nil, fmt.Errorf("unlocking the store: %w", err)
	}
	return func() error { return s.use.lock(unix.LOCK_SH) }, nil
}
