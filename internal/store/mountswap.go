package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/digests"
)

// MountTree gives the files of a cache mount's directory, which processes may change meanwhile.
func (s *Store) MountTree(dir string) layer.Tree {
	return layer.OpenDir(dir, layer.DirOptions{Flavor: s.flavor, Live: true})
}

// digestsOfMount ends the name of the file with the digests of a mount's contents, as they were when somebody last wanted to know all of them.
const digestsOfMount = ".digests"

// RememberedMount is MountTree with the digests of contents that were known when keep was called last, if they were not written to since; keep saves
// those that this process has found.
func (s *Store) RememberedMount(dir string) (tree layer.Tree, keep func() error) {
	tmp, err := s.leaseDir()
	if err != nil {
		tmp = "" // whoever writes is told
	}
	memory := digests.Open(dir+digestsOfMount, tmp)
	return layer.OpenDir(dir, layer.DirOptions{Flavor: s.flavor, Live: true, Memory: memory}), func() error {
		return memory.Save(func(write func(*os.File) error) error { return s.replaceBeside(dir+digestsOfMount, write) })
	}
}

// DescribeMount is what messages call the cache mount with an id.
func DescribeMount(id string) string {
	var r CacheRecord
	r.describe(id)
	return strings.TrimPrefix(r.Description, "cached mount ")
}

// LookIntoCache opens the cache mount with an id as one that shares it, without waiting. nil: there is none, or somebody has it alone.
func (s *Store) LookIntoCache(id string) (*Cache, error) {
	dir := filepath.Join(s.root, "caches", cacheName(id))
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening cache mount %s: %w", DescribeMount(id), err)
	}
	err = s.gate.pass(func() error { return flock(lock, unix.LOCK_SH|unix.LOCK_NB) })
	_, derr := os.Lstat(dir)
	switch {
	case err == nil && derr == nil && isAt(lock):
		return &Cache{Dir: dir, lock: lock}, nil
	case err != nil && !errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("opening cache mount %s: %w", DescribeMount(id), err), lock.Close())
	}
	return nil, lock.Close()
}

// CacheUsed is when the cache mount with an id was used last; zero: there is none.
func (s *Store) CacheUsed(id string) (time.Time, error) {
	dir := filepath.Join(s.root, "caches", cacheName(id))
	_, err := os.Lstat(dir)
	if err == nil {
		var fi os.FileInfo
		if fi, err = os.Lstat(dir + ".lock"); err == nil {
			return fi.ModTime(), nil
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		return time.Time{}, nil
	}
	return time.Time{}, fmt.Errorf("looking at cache mount %s: %w", DescribeMount(id), err)
}

// IsCache reports whether the cache mount with an id is the one that [Cache.Made] told of, as far as can be told: while a step that runs in place has it,
// it is elsewhere.
func (s *Store) IsCache(id, made string) (bool, error) {
	name := cacheName(id)
	if now := madeOf(filepath.Join(s.root, "caches", name)); now != "" {
		return now == made, nil
	}
	busy, err := s.busyMounts([]string{name})
	return busy[name], err
}

// Made tells the mount from others that had its place, or will have it.
func (c *Cache) Made() string { return madeOf(c.Dir) }

func madeOf(dir string) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d %d.%d", st.Ino, st.Btime.Sec, st.Btime.Nsec) // the second is 0 where the filesystem does not tell
}

// ReplaceCache puts what is made aside in the place of the cache mount with an id, which was used last at a time that [Store.CacheUsed] gave. made is
// given the directory of the mount as it is ("": there is none), which others may use, and an empty one. It stays as it is, and false is returned, when
// somebody uses it or has used it since.
func (s *Store) ReplaceCache(id string, used time.Time, made func(old, dir string) error) (done bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replacing cache mount %s: %w", DescribeMount(id), err)
		}
	}()
	tmp, err := s.TempDir()
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	dir, fresh := filepath.Join(s.root, "caches", cacheName(id)), filepath.Join(tmp, "mount")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return false, err
	}
	old := dir
	if used.IsZero() {
		old = ""
	}
	if err := made(old, fresh); err != nil {
		return false, err
	}
	if err := syncfs(tmp); err != nil { // as in makeCache
		return false, err
	}
	lock, err := s.openLock(dir + ".lock")
	if err != nil {
		return false, err
	}
	defer lock.Close()
	err = s.gate.pass(func() error { return flock(lock, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil || !isAt(lock) {
		return false, err
	}
	return s.swap(id, lock, used, dir, fresh)
}

// swap puts a directory in the place of a cache mount whose lock is held.
func (s *Store) swap(id string, lock *os.File, used time.Time, dir, fresh string) (bool, error) {
	now, err := s.CacheUsed(id)
	if err != nil || !now.Equal(used) {
		return false, err
	}
	flags := uint(unix.RENAME_EXCHANGE) // what was there goes with the directory that this one was made in
	if used.IsZero() {
		flags = unix.RENAME_NOREPLACE
	}
	if err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, flags); err != nil {
		return false, os.NewSyscallError("renameat2", err)
	}
	if err := forgetMount(dir); err != nil {
		return false, err
	}
	noteMount(lock, id)
	return true, nil
}
