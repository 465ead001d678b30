package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// CachePrune says what of the build cache goes.
type CachePrune struct {
	// All takes what images share with the cache too, base images that were only pulled for builds,
	// and what is remembered of files and servers.
	All bool
	// Before, unless zero, spares what was made later.
	Before time.Time
	// Results and Mounts choose between steps and cache mounts.
	Results, Mounts bool
}

// PruneCache forgets results of builds, and deletes cache mounts. Layers and blobs that only the
// results needed go with the next [Store.Collect]; images and containers stay whole, and so does what
// others use. freed is the bytes of the cache mounts.
func (s *Store) PruneCache(ctx context.Context, p CachePrune) (freed int64, err error) {
	defer s.makeRoom()()
	trash, err := s.TempDir()
	if err == nil && p.Mounts {
		err = s.pruneMounts(p, trash)
	}
	if err == nil && p.Results {
		err = s.pruneResults(ctx, p)
	}
	if err != nil {
		return 0, fmt.Errorf("pruning the build cache: %w", err)
	}
	return deleteTree(trash)
}

// pruneMounts moves the cache mounts that nobody uses to trash.
func (s *Store) pruneMounts(p CachePrune, trash string) error {
	dir := filepath.Join(s.root, "caches")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[strings.TrimSuffix(e.Name(), ".lock")] = true
	}
	for name := range names {
		err = errors.Join(err, s.pruneMount(p, filepath.Join(dir, name), filepath.Join(trash, name)))
	}
	return err
}

// pruneMount moves one cache mount, and its lock, which is taken for that: with the gate shut, so that nobody who
// is about to take it finds it taken. Whoever has opened the lock before and gets it after looks again.
func (s *Store) pruneMount(p CachePrune, mount, to string) (err error) {
	if _, err := os.Lstat(mount); err == nil && !p.old(mount) {
		return nil
	}
	open, err := s.gate.shut()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, open()) }()
	lock, err := os.OpenFile(mount+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	if err := os.Rename(mount, to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Remove(lock.Name())
}

// old reports whether a cache mount was last changed, at its top, before p.Before.
func (p CachePrune) old(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && (p.Before.IsZero() || fi.ModTime().Before(p.Before))
}

func (s *Store) pruneResults(ctx context.Context, p CachePrune) error {
	need := s.newReach()
	if !p.All {
		if err := errors.Join(need.addNamed(ctx), need.close(ctx)); err != nil {
			return err
		}
	}
	own, err := s.current()
	if err != nil {
		return err
	}
	if need.others, err = s.readLeases(own); err != nil {
		return err
	}
	results, err := s.allResults(ctx)
	if err != nil {
		return err
	}
	shared := func(ids []layer.ID) bool {
		return len(ids) > 0 && !slices.ContainsFunc(ids, func(id layer.ID) bool { return !need.hasLayer(id) })
	}
	maps.DeleteFunc(results, func(_ string, r Result) bool {
		return !p.Before.IsZero() && !r.Created.Before(p.Before) || shared(slices.Concat(r.Outputs...))
	})
	memos := map[string]string{}
	if p.All && p.Before.IsZero() {
		if memos, err = s.memos(ctx); err != nil {
			return err
		}
	}
	if err := s.forgetCache(ctx, results, memos); err != nil || !p.All || !p.Before.IsZero() {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM refs") // base images that have no name here are cache
		return err
	})
}
