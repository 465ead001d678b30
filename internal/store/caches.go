package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Sharing says who may use a cache mount at the same time, as in the Dockerfile reference.
type Sharing int

const (
	SharingShared  Sharing = iota // everybody
	SharingPrivate                // one at a time; others get a cache of their own
	SharingLocked                 // one at a time; others wait
)

// Cache is a cache mount in use. Release must be called.
type Cache struct {
	Dir  string // host directory with the cache's files
	New  bool   // nobody has used it before
	lock *os.File
}

// Release ends the use of the cache; its files stay.
func (c *Cache) Release() {
	if c.lock != nil {
		c.lock.Close()
	}
}

// Cache opens the cache mount with the given id and creates it when it is missing. With
// SharingLocked it waits for other users, in this and in other processes, until ctx ends.
func (s *Store) Cache(ctx context.Context, id string, sharing Sharing) (*Cache, error) {
	hash := digest.FromString(id).Encoded()[:32]
	if sharing == SharingShared {
		return s.openCache(hash, nil)
	}
	for n := 0; ; {
		name := hash
		if n > 0 {
			name = fmt.Sprintf("%s-%d", hash, n)
		}
		lock, err := os.OpenFile(filepath.Join(s.root, "caches", name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening cache mount %s: %w", id, err)
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return s.openCache(name, lock)
		}
		lock.Close()
		if sharing == SharingPrivate {
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

func (s *Store) openCache(name string, lock *os.File) (*Cache, error) {
	c := &Cache{Dir: filepath.Join(s.root, "caches", name), lock: lock}
	switch err := os.Mkdir(c.Dir, 0o755); {
	case err == nil:
		c.New = true
	case !os.IsExist(err):
		c.Release()
		return nil, fmt.Errorf("opening cache mount: %w", err)
	}
	return c, nil
}
