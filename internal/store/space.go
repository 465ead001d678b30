package store

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reserveSize is how much space of the disk the store keeps for itself. SQLite needs some to open the
// database, and to delete records: without it nothing could be removed from a store on a full disk.
const reserveSize = 4 << 20

// openSize is how much of the reserve is given up to open the database.
const openSize = 128 << 10

// IsFull reports whether an error is that there is no space left, or no more for this user.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func (s *Store) reserve() string { return filepath.Join(s.root, "reserve") }

// free is how many bytes the store's filesystem has for this user.
func (s *Store) free() int64 {
	var st unix.Statfs_t
	if unix.Statfs(s.root, &st) != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}

// fullError says that a filesystem is full.
type fullError struct{ root string }

func (e *fullError) Error() string        { return "no space left on " + e.root }
func (e *fullError) Is(target error) bool { return target == unix.ENOSPC }

// noInodesError is the other way in which a filesystem is full.
type noInodesError struct{ root string }

func (e *noInodesError) Error() string        { return "no inodes left on " + e.root }
func (e *noInodesError) Is(target error) bool { return target == unix.ENOSPC }

// Full returns an error when there is next to no space left for the store, or there are next to no inodes.
func (s *Store) Full() error {
	if s.free() <= 1<<20 {
		return &fullError{s.root}
	}
	var st unix.Statfs_t
	if unix.Statfs(s.root, &st) == nil && NoInodes(st) {
		return &noInodesError{s.root}
	}
	return nil
}

// NoInodes reports whether a filesystem has next to no inodes left. Some make them as they are needed, and tell of none.
func NoInodes(st unix.Statfs_t) bool { return st.Files > 0 && st.Ffree < 64 }

// letGo gives up bytes of the reserve, and reports whether there were any.
func (s *Store) letGo(n int64) bool {
	fi, err := os.Lstat(s.reserve())
	if err != nil || fi.Size() == 0 {
		return false
	}
	return os.Truncate(s.reserve(), max(fi.Size()-n, 0)) == nil
}

// despiteFull does something small that a store on a full disk has to do too: again, with a part of the reserve.
func (s *Store) despiteFull(fn func() error) error {
	err := fn()
	if IsFull(err) && s.letGo(openSize) {
		err = fn()
	}
	return err
}

// makeRoom gives up the reserve for an operation that gives space back, where little is left. What it
// returns reserves the space again.
func (s *Store) makeRoom() (done func()) {
	if s.free() < 2*reserveSize {
		s.letGo(reserveSize)
	}
	return s.keepReserve
}

// keepReserve reserves space for when there is none, unless there is little already.
func (s *Store) keepReserve() {
	fi, err := os.Lstat(s.reserve())
	if err == nil && fi.Size() == reserveSize || s.free() < 4*reserveSize {
		return
	}
	f, err := os.OpenFile(s.reserve(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // and what deletes something when the disk is full will tell
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if errors.Is(err, unix.EOPNOTSUPP) {
		data := make([]byte, reserveSize) // random, as some filesystems keep no zeros
		if _, err = rand.Read(data); err == nil {
			_, err = f.WriteAt(data, 0)
		}
	}
	if err != nil {
		_ = f.Truncate(0)
	}
}

// tryWrite returns the kernel's reason for which files of the store cannot be written, or nil.
func (s *Store) tryWrite() error {
	f, err := os.CreateTemp(s.root, "try-*")
	if err == nil {
		_, err = f.Write(make([]byte, openSize))
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
