package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Sharing says who may use a cache mount at the same time, as in the Dockerfile reference.
type Sharing int

const (
	SharingShared  Sharing = iota // all who share it, at the same time; beside the others, of its own
	SharingPrivate                // one at a time; others get a cache of their own
	SharingLocked                 // one at a time; others wait
	SharingWaiting                // all who share it, at the same time; waits for one who has it alone
)

// Cache is a cache mount in use. Release must be called.
type Cache struct {
	Dir  string // host directory with the cache's files
	lock *os.File
}

// Release ends the use of the cache; its files stay.
func (c *Cache) Release() { c.lock.Close() }

// Cache opens the cache mount with the given id. When it is missing it is created, and fill puts
// the first files into it. With SharingLocked Cache waits for all other users, in this and in other
// processes, until ctx ends, and with SharingWaiting for such as have it alone; the others get a cache of their own when this one is taken from them, as
// in BuildKit.
func (s *Store) Cache(ctx context.Context, id string, sharing Sharing, fill func(dir string) error) (*Cache, error) {
	hash := cacheName(id)
	mode := unix.LOCK_EX
	if sharing == SharingShared || sharing == SharingWaiting {
		mode = unix.LOCK_SH
	}
	for n := 0; ; {
		name := hash
		if n > 0 {
			name = fmt.Sprintf("%s-%d", hash, n)
		}
		lock, err := s.openLock(filepath.Join(s.root, "caches", name+".lock"))
		if err != nil {
			return nil, fmt.Errorf("opening cache mount %s: %w", id, err)
		}
		err = s.gate.pass(func() error { return flock(lock, mode|unix.LOCK_NB) })
		switch {
		case err == nil && isAt(lock):
			noteMount(lock, id)
			return s.openCache(name, lock, fill)
		case err == nil: // the cache was pruned, and its lock with it
			lock.Close()
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("opening cache mount %s: %w", id, err), lock.Close())
		}
		lock.Close()
		if sharing != SharingLocked && sharing != SharingWaiting {
			n++
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// FillCache puts the files of a tree below selector into the directory of a cache mount.
func (s *Store) FillCache(dir string, tree layer.Tree, selector string) error {
	from, err := layer.Resolve(tree, selector, true)
	if err != nil {
		return err
	}
	w, err := s.MountWriter(dir)
	if err != nil {
		return err
	}
	err = layer.Walk(tree, from, func(e *layer.Entry) error {
		c := *e
		rel, err := filepath.Rel(from, e.Path)
		if err != nil {
			return err
		}
		c.Path = rel
		return w.Add(&c)
	})
	return errors.Join(err, w.Close())
}

// DropCache removes what nobody uses of the cache mount with the given id, so that who opens it next fills a new one. all reports whether that was all of it.
func (s *Store) DropCache(id string) (all bool, err error) {
	names, err := s.mounts()
	if err != nil {
		return false, fmt.Errorf("emptying cache mount %s: %w", id, err)
	}
	trash, err := s.TempDir()
	if err != nil {
		return false, fmt.Errorf("emptying cache mount %s: %w", id, err)
	}
	defer os.RemoveAll(trash)
	hash := cacheName(id)
	all = true
	for _, name := range names {
		if name != hash && !strings.HasPrefix(name, hash+"-") {
			continue
		}
		gone, err := s.pruneMount(name, time.Now(), trash)
		if err != nil {
			return false, fmt.Errorf("emptying cache mount %s: %w", id, err)
		}
		all = all && gone
	}
	return all, nil
}

// cacheName is that of a cache mount's directory, and with a number of those beside it.
func cacheName(id string) string { return digest.FromString(id).Encoded()[:32] }

// isAt reports whether an open file is what its path leads to.
func isAt(f *os.File) bool {
	open, err := f.Stat()
	there, lerr := os.Lstat(f.Name())
	return err == nil && lerr == nil && os.SameFile(open, there)
}

func (s *Store) openCache(name string, lock *os.File, fill func(dir string) error) (*Cache, error) {
	c := &Cache{Dir: filepath.Join(s.root, "caches", name), lock: lock}
	if _, err := os.Lstat(c.Dir); err == nil {
		return c, nil
	}
	if err := s.makeCache(c.Dir, fill); err != nil {
		c.Release()
		return nil, fmt.Errorf("making cache mount: %w", err)
	}
	return c, nil
}

// makeCache fills a directory aside and renames it, so that nobody sees a cache half-filled.
func (s *Store) makeCache(dir string, fill func(dir string) error) error {
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	filled, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	if len(filled) > 0 { // no record knows of caches: one that is there is whole, also after a crash of the machine
		if err := syncfs(tmp); err != nil {
			return err
		}
	}
	// Without NOREPLACE an empty directory that somebody uses already could be replaced.
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return nil // somebody else was faster
	}
	return os.NewSyscallError("renameat2", err)
}
