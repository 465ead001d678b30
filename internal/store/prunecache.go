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
	"time"

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
// results needed go with the next [Store.Collect]; images and containers stay whole. While other
// processes use the store nothing is done. Bytes are those of the cache mounts.
func (s *Store) PruneCache(ctx context.Context, p CachePrune) (Collected, error) {
	defer s.makeRoom()()
	if _, err := s.current(); err != nil {
		return Collected{}, err
	}
	release, ok, err := s.use.exclusive()
	if err != nil || !ok {
		return Collected{Busy: err == nil}, err
	}
	trash, err := s.TempDir()
	if err == nil && p.Mounts {
		err = moveOthers(filepath.Join(s.root, "caches"), trash, func(name string) bool { return !p.old(filepath.Join(s.root, "caches", name)) })
	}
	if err == nil && p.Results {
		err = s.pruneResults(ctx, p)
	}
	if err := errors.Join(err, release()); err != nil {
		return Collected{}, fmt.Errorf("pruning the build cache: %w", err)
	}
	n, err := deleteTree(trash)
	return Collected{Bytes: n}, err
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
	results, err := s.allResults(ctx)
	if err != nil {
		return err
	}
	shared := func(ids []layer.ID) bool {
		return len(ids) > 0 && !slices.ContainsFunc(ids, func(id layer.ID) bool { return !need.layers[id] })
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
