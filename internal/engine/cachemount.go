package engine

import (
	"fmt"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// cacheID names the cache of a cache mount in the store. What it was filled from is part of its identity, as BuildKit has it: a cache
// for another user (uid=, mode=) is another cache.
func (x *execution) cacheID(n *node, m *pb.Mount) (string, error) {
	id := m.CacheOpt.GetID()
	if m.Input < 0 {
		return id, nil
	}
	in, err := n.inputs[m.Input].n.identity(x.ctx)
	if err != nil {
		return "", err
	}
	return id + fmt.Sprintf(" from %s output %d %s", in.key, n.inputs[m.Input].index, m.Selector), nil
}

// sharingOf is who may use a cache mount at the same time.
func sharingOf(m *pb.Mount) (store.Sharing, bool) {
	switch m.CacheOpt.GetSharing() {
	case pb.CacheSharingOpt_SHARED:
		return store.SharingShared, true
	case pb.CacheSharingOpt_PRIVATE:
		return store.SharingPrivate, true
	case pb.CacheSharingOpt_LOCKED:
		return store.SharingLocked, true
	}
	return 0, false
}

// cacheMount opens a cache mount; a new one is filled from the mount's input.
func (x *execution) cacheMount(n *node, m *pb.Mount) error {
	sharing, ok := sharingOf(m)
	if !ok {
		return fmt.Errorf("mounting cache %s: invalid sharing mode %d", m.Dest, m.CacheOpt.GetSharing())
	}
	if strings.Contains(m.CacheOpt.GetID(), "\x00") { // as the names have of what is none of a graph's: [store.GitCache], [store.WarmCache]
		return fmt.Errorf("mounting cache %s: invalid id %q", m.Dest, m.CacheOpt.GetID())
	}
	v, err := x.input(m)
	if err != nil {
		return err
	}
	id, err := x.cacheID(n, m)
	if err != nil {
		return err
	}
	opened := x.caches[id]
	if opened == nil {
		err := x.r.renewCache(n, id)
		if err == nil {
			x.r.use(x.ctx, n, cache.Mount{ID: id, Name: m.CacheOpt.GetID(), Everywhere: id})
			opened, err = x.openCache(id, sharing, func(dir string) error {
				if m.Input < 0 {
					return nil
				}
				return x.seed(dir, v, m.Selector)
			})
		}
		if err != nil {
			return fmt.Errorf("mounting cache %s: %w", m.Dest, err)
		}
		x.caches[id] = opened
	}
	x.spec.Mounts = append(x.spec.Mounts, sandbox.Mount{Dest: x.dest(m), ReadOnly: m.Readonly, Bind: opened.Dir, Mapped: true})
	return nil
}

// openCache opens a cache of the store until the step has ended.
func (x *execution) openCache(id string, sharing store.Sharing, fill func(dir string) error) (*store.Cache, error) {
	asked := time.Now()
	opened, err := x.r.Engine.opt.Store.Cache(x.ctx, id, sharing, fill)
	if err != nil {
		return nil, err
	}
	x.process.Queued += time.Since(asked)
	x.undo = append(x.undo, opened.Release)
	return opened, nil
}

// renewCache has a step that ignores the cache begin with an empty cache mount, or a newly filled one: the first of a run that
// mounts it, so that the others find what that one put there.
func (r *Run) renewCache(n *node, id string) error {
	if !n.v.IgnoreCache() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.renewed[id] {
		return nil
	}
	if _, err := r.Engine.opt.Store.DropCache(id); err != nil {
		return err
	}
	if r.renewed == nil {
		r.renewed = map[string]bool{}
	}
	r.renewed[id] = true
	return nil
}

// seed fills dir with the files below selector.
func (x *execution) seed(dir string, v Value, selector string) error {
	tree, err := x.r.Tree(x.ctx, v, store.NeedContent)
	if err != nil {
		return err
	}
	return x.r.Engine.opt.Store.FillCache(dir, tree, selector)
}
