package engine

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/slipway-build/slipway/internal/cache"
)

// usedMounts are the cache mounts that the steps of a run have used.
type usedMounts struct {
	mu  sync.Mutex
	all map[string]*usedMount // by what they are in the store
}

type usedMount struct {
	cache.Mount
	brought sync.Once
}

// use notes that a step is about to use a cache mount. The first one of the run waits until it was brought from elsewhere, and all others for that,
// unless the step ignores what is there.
func (r *Run) use(ctx context.Context, n *node, m cache.Mount) {
	r.mounts.mu.Lock()
	if r.mounts.all == nil {
		r.mounts.all = map[string]*usedMount{}
	}
	used := r.mounts.all[m.ID]
	if used == nil {
		used = &usedMount{Mount: m}
		r.mounts.all[m.ID] = used
	}
	r.mounts.mu.Unlock()
	used.brought.Do(func() {
		if r.opt.Bring != nil && !n.v.IgnoreCache() {
			r.opt.Bring(ctx, m)
		}
	})
}

// CacheMounts are the cache mounts that steps of the run have used, in the order of their names.
func (r *Run) CacheMounts() []cache.Mount {
	r.mounts.mu.Lock()
	defer r.mounts.mu.Unlock()
	var all []cache.Mount
	for _, m := range r.mounts.all {
		all = append(all, m.Mount)
	}
	slices.SortFunc(all, func(a, b cache.Mount) int { return strings.Compare(a.ID, b.ID) })
	return all
}
