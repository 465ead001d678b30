package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func noFill(string) error { return nil }

func cache(t testing.TB, s *Store, id string, sharing Sharing) *Cache {
	t.Helper()
	c, err := s.Cache(context.Background(), id, sharing, noFill)
	must(t, err)
	return c
}

func TestCacheKeepsFiles(t *testing.T) {
	for _, sharing := range []Sharing{SharingShared, SharingPrivate, SharingLocked} {
		s := newStore(t)
		c := cache(t, s, "id", sharing)
		must(t, os.WriteFile(filepath.Join(c.Dir, "file"), []byte("x"), 0o644))
		c.Release()
		again := cache(t, open(t, s.root), "id", sharing)
		if got, err := os.ReadFile(filepath.Join(again.Dir, "file")); err != nil || string(got) != "x" {
			t.Errorf("sharing %d: the file is %q, %v", sharing, got, err)
		}
		again.Release()
		if other := cache(t, s, "../id", sharing); other.Dir == c.Dir || filepath.Dir(other.Dir) != filepath.Dir(c.Dir) {
			t.Errorf("sharing %d: another id has the directory %s", sharing, other.Dir)
		}
		wantClean(t, s)
	}
}

func TestCacheFill(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	bad := errors.New("no first files")
	for _, sharing := range []Sharing{SharingShared, SharingLocked} {
		id := fmt.Sprint(sharing)
		if _, err := s.Cache(ctx, id, sharing, func(dir string) error {
			must(t, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
			return bad
		}); !errors.Is(err, bad) {
			t.Errorf("error is %v", err)
		}
		wantClean(t, s)
		fills := 0
		for range 2 {
			c, err := s.Cache(ctx, id, sharing, func(dir string) error {
				fills++
				return os.WriteFile(filepath.Join(dir, "whole"), nil, 0o644)
			})
			must(t, err) // the lock was given back
			c.Release()
			if got, _ := os.ReadDir(c.Dir); len(got) != 1 || got[0].Name() != "whole" {
				t.Errorf("the cache has %v", got)
			}
			if fi, _ := os.Stat(c.Dir); fi.Mode().Perm() != 0o755 {
				t.Errorf("the cache's mode is %v", fi.Mode())
			}
		}
		if fills != 1 {
			t.Errorf("the cache was filled %d times", fills)
		}
	}
}

// openShared opens a shared cache, which is full when the given group is done, and holds its directory as a
// mount does.
func openShared(s *Store, id string, full *sync.WaitGroup) (*os.File, error) {
	c, err := s.Cache(context.Background(), id, SharingShared, func(string) error {
		full.Wait()
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer c.Release()
	return os.Open(c.Dir)
}

// However many start at once with a cache that is not there yet, all share one directory from the
// beginning: what one writes is not lost because another one made the cache too.
func TestSharedCacheIsOne(t *testing.T) {
	s := newStore(t)
	stores := []*Store{s, open(t, s.root), open(t, s.root)}
	for round := range 20 {
		id := fmt.Sprint(round)
		var wg, asking, ready sync.WaitGroup
		const users = 6
		ready.Add(users)
		asking.Add(users)
		for i := range users {
			wg.Add(1)
			go func() {
				defer wg.Done()
				asking.Done()
				dir, err := openShared(stores[i%3], id, &asking)
				ready.Done()
				if err != nil {
					t.Error(err)
					return
				}
				defer dir.Close()
				ready.Wait()
				if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/%d", dir.Fd(), i), nil, 0o644); err != nil {
					t.Errorf("writing to a cache in use: %v", err)
				}
			}()
		}
		wg.Wait()
		c := cache(t, s, id, SharingShared)
		if got, _ := os.ReadDir(c.Dir); len(got) != users {
			t.Fatalf("%d users left the files %v", users, got)
		}
	}
	wantClean(t, s)
}

func TestPrivateCache(t *testing.T) {
	s := newStore(t)
	a, b := cache(t, s, "id", SharingPrivate), cache(t, open(t, s.root), "id", SharingPrivate)
	if a.Dir == b.Dir {
		t.Fatal("two users have one private cache")
	}
	a.Release()
	c := cache(t, s, "id", SharingPrivate)
	if c.Dir != a.Dir {
		t.Errorf("a released private cache is %s, then %s", a.Dir, c.Dir)
	}
}

func TestLockedCache(t *testing.T) {
	s := newStore(t)
	stores := []*Store{s, open(t, s.root)}
	var asking, inside, most atomic.Int32
	var wg sync.WaitGroup
	const users = 8
	for i := range users {
		wg.Add(1)
		go func() {
			defer wg.Done()
			asking.Add(1)
			c, err := stores[i%2].Cache(context.Background(), "id", SharingLocked, noFill)
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			for asking.Load() < users {
				runtime.Gosched()
			}
			inside.Add(-1)
			c.Release()
		}()
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d users had a locked cache at once", most.Load())
	}
}

// Who shares a cache has it beside those that share it too; the others wait, or get another one.
func TestSharedBesideOthers(t *testing.T) {
	s := newStore(t)
	a, b := cache(t, s, "id", SharingShared), cache(t, open(t, s.root), "id", SharingShared)
	if a.Dir != b.Dir {
		t.Fatal("two users of a shared cache have two")
	}
	a.Release()
	if p := cache(t, s, "id", SharingPrivate); p.Dir == b.Dir {
		t.Error("a private cache is one that somebody shares")
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 100*time.Millisecond, errors.New("waited enough"))
	defer cancel()
	_, err := s.Cache(ctx, "id", SharingLocked, noFill)
	wantErr(t, err, "waited enough")
	b.Release()
	if l := cache(t, s, "id", SharingLocked); l.Dir != b.Dir {
		t.Errorf("the locked cache is %s, the shared one was %s", l.Dir, b.Dir)
	}
}

func childHoldsCache(root string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	c, err := s.Cache(context.Background(), "id", SharingLocked, noFill)
	if err != nil {
		return err
	}
	say("holding", c.Dir)
	return nil
}

func TestLockedCacheOfOtherProcess(t *testing.T) {
	s := newStore(t)
	c := start(t, "locked", s.root)
	ctx, cancel := context.WithTimeoutCause(context.Background(), 100*time.Millisecond, errors.New("waited enough"))
	defer cancel()
	_, err := s.Cache(ctx, "id", SharingLocked, noFill)
	wantErr(t, err, "waited enough")
	if p := cache(t, s, "id", SharingPrivate); p.Dir == c.ready[1] {
		t.Error("a private cache is the one that another process has locked")
	}
	if sh := cache(t, s, "id", SharingShared); sh.Dir == c.ready[1] {
		t.Error("a shared cache is the one that another process has locked")
	}
	c.kill() // the kernel gives the lock back
	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got, err := s.Cache(ctx, "id", SharingLocked, noFill)
	must(t, err)
	if got.Dir != c.ready[1] {
		t.Errorf("the cache is %s, the other process had %s", got.Dir, c.ready[1])
	}
	got.Release()
}
