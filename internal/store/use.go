package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// usage is the shared lock that a process holds on the store while it may use layers and blobs that no
// record keeps. [Store.Collect] takes away nothing while anybody else holds it.
//
// It is a flock on the directory of layers: the kernel drops it when the process ends.
type usage struct{ dir *os.File }

// useStore takes the lock. It waits while somebody collects, which takes no longer than to
// find out what is needed.
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

func (u *usage) lock(how int) error {
	for {
		err := unix.Flock(int(u.dir.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// collectPatience is how long commands that are about to end are waited for.
const collectPatience = 200 * time.Millisecond

// exclusive makes the lock exclusive, and reports false when others keep using the store. The lock is a
// shared one again after release, and in any case when it was not had.
func (u *usage) exclusive() (release func() error, ok bool, err error) {
	shared := func() error { return u.lock(unix.LOCK_SH) }
	for end := time.Now().Add(collectPatience); ; time.Sleep(20 * time.Millisecond) {
		err := u.lock(unix.LOCK_EX | unix.LOCK_NB)
		if err == nil {
			return shared, true, nil
		}
		// A lock that could not be changed is lost.
		if serr := shared(); serr != nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, false, errors.Join(err, serr)
		}
		if time.Now().After(end) {
			return nil, false, nil
		}
	}
}

// Yield lets other processes collect what no record keeps until resume is called. Between the two the
// caller may only use what is recorded: a container, and the layers of its snapshot.
func (s *Store) Yield() (resume func() error, err error) {
	if err := s.use.lock(unix.LOCK_UN); err != nil {
		return nil, fmt.Errorf("unlocking the store: %w", err)
	}
	return func() error { return s.use.lock(unix.LOCK_SH) }, nil
}
