package store

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// reserveSize is how much space of the disk the store keeps for itself. SQLite needs some to open the
// database, and to delete records: without it nothing could be removed from a store on a full disk.
const reserveSize = 4 << 20

// spareInodes is how many inodes it keeps: for SQLite's files, a lease, and directories for what is deleted.
const spareInodes = 32

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
	if s.noInodes() {
		return &noInodesError{s.root}
	}
	return nil
}

// NoInodes reports whether a filesystem has next to no inodes left. Some make them as they are needed, and tell of none.
func NoInodes(st unix.Statfs_t) bool { return st.Files > 0 && st.Ffree < 64 }

// noInodes reports whether the store's filesystem has next to no inodes left.
func (s *Store) noInodes() bool {
	var st unix.Statfs_t
	return unix.Statfs(s.root, &st) == nil && NoInodes(st)
}

// letGo gives up bytes of the reserve, and as large a part of its inodes where those are short. It reports whether there
// were any.
func (s *Store) letGo(n int64) bool {
	gave := s.noInodes() && s.letInodesGo(max(spareInodes*n/reserveSize, 4))
	fi, err := os.Lstat(s.reserve())
	if err != nil || fi.Size() == 0 {
		return gave
	}
	return os.Truncate(s.reserve(), max(fi.Size()-n, 0)) == nil || gave
}

// letInodesGo removes n of the empty files.
func (s *Store) letInodesGo(n int64) (gave bool) {
	for i := spareInodes - 1; i >= 0 && n > 0; i-- {
		if os.Remove(s.spare(i)) == nil {
			gave = true
			n--
		}
	}
	return gave
}

func (s *Store) spare(i int) string { return filepath.Join(s.root, "spare", strconv.Itoa(i)) }

// keepInodes reserves inodes by empty files, where a filesystem has a number of them.
func (s *Store) keepInodes() {
	if _, err := os.Lstat(s.spare(spareInodes - 1)); err == nil {
		return
	}
	var st unix.Statfs_t
	if unix.Statfs(s.root, &st) != nil || st.Files == 0 || st.Ffree < 16*spareInodes {
		return
	}
	_ = os.Mkdir(filepath.Join(s.root, "spare"), 0o700)
	for i := range spareInodes {
		if f, err := os.OpenFile(s.spare(i), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			f.Close()
		}
	}
}

// despiteFull does something small that a store on a full disk has to do too: again, with a part of the reserve.
func (s *Store) despiteFull(fn func() error) error {
	err := fn()
	if IsFull(err) && s.letGo(openSize) {
		err = fn()
	}
	return err
}

// again does something that takes space, and once more when there was none left and unused cache gave some.
func (s *Store) again(ctx context.Context, fn func() error) error {
	err := fn()
	if s.madeSpace(ctx, err) {
		err = fn()
	}
	return err
}

// madeSpace reports whether an error is that there is no space left, and unused cache gave some.
func (s *Store) madeSpace(ctx context.Context, err error) bool {
	if !IsFull(err) || ctx.Err() != nil {
		return false
	}
	freed, merr := s.MakeSpace(ctx)
	return merr == nil && freed > 0 // otherwise err says what is the matter
}

// Again writes what is at a path, and once more when that is on the store's disk, which was full, and unused cache gave
// some space. Who reads a pipe would see twice what came before that: it is written once.
func (s *Store) Again(ctx context.Context, path string, fn func() error) error {
	err := fn()
	if IsFull(err) && s.onDisk(path) && s.madeSpace(ctx, err) {
		err = fn()
	}
	return err
}

// onDisk reports whether a file or directory that is at a path, or that can be made, is on the store's disk.
func (s *Store) onDisk(path string) bool {
	var at, own unix.Stat_t
	path, err := filepath.Abs(path)
	if err == nil {
		err = unix.Stat(s.root, &own)
	}
	if err != nil {
		return false
	}
	for unix.Stat(path, &at) != nil {
		if path == "/" {
			return false
		}
		path = filepath.Dir(path)
	}
	kind := at.Mode & unix.S_IFMT
	return at.Dev == own.Dev && (kind == unix.S_IFREG || kind == unix.S_IFDIR)
}

// patientFile is a file of the store that is written by what cannot begin again, a stream.
type patientFile struct {
	*os.File
	s *Store
}

// Patient has writes to a file of the store go on when unused cache gave the space that was missing.
func (s *Store) Patient(f *os.File) layer.SparseFile { return patientFile{f, s} }

// Write implements io.Writer.
func (p patientFile) Write(b []byte) (n int, err error) {
	err = p.s.again(context.Background(), func() error {
		m, err := p.File.Write(b[n:])
		n += m
		return err
	})
	return n, err
}

// makeRoom gives up the reserve for an operation that gives space back, where little is left. What it
// returns reserves the space again.
func (s *Store) makeRoom() (done func()) {
	if s.free() < 2*reserveSize || s.noInodes() {
		s.letGo(reserveSize)
	}
	return s.keepReserve
}

// keepReserve reserves space for when there is none, unless there is little already.
func (s *Store) keepReserve() {
	s.keepInodes()
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
	f, err := layer.TempFile(s.root)
	if err == nil {
		_, err = f.Write(make([]byte, openSize))
		err = errors.Join(err, f.Close())
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
