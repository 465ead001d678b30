package engine

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/store"
)

// What an imported cache says, that a step with some key gave some layers, or that files have some digest,
// is believed by a build that imports the cache, and by no other one: nobody can verify it. So as soon as a
// run has used something of a cache, all that it records from then on, which may stand on that, is recorded
// for builds that import the same caches. The others neither find it nor lose what they have.

// scopeOf names the caches that a build believes, as a part of keys; it is "" for none.
func scopeOf(caches []Foreign) string {
	var origins []string
	for _, f := range caches {
		origins = append(origins, f.Origin())
	}
	if len(origins) == 0 {
		return ""
	}
	slices.Sort(origins)
	return "@" + digest.FromString(strings.Join(slices.Compact(origins), "\n")).Encoded()
}

// beliefs are the caches that a run imports.
type beliefs struct {
	foreign []Foreign
	scopes  []string // of those that it believes; before the last one those of the time when they were fewer
}

// believe has a run believe caches, besides those that it believes.
func (r *Run) believe(foreign []Foreign) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := beliefs{scopes: []string{""}}
	if old := r.believes.Load(); old != nil {
		b = *old
	}
	b.foreign = slices.Concat(b.foreign, foreign)
	all := slices.Clone(b.foreign)
	for _, l := range r.opt.Links {
		all = append(all, l.believed()...)
	}
	if scope := scopeOf(all); !slices.Contains(b.scopes, scope) {
		b.scopes = append(slices.Clone(b.scopes), scope)
	}
	r.believes.Store(&b)
}

// Import has the run ask one more cache for what the store does not have.
func (r *Run) Import(f Foreign) { r.believe([]Foreign{f}) }

// believed are the caches of a run, and those of the runs whose results it stands on.
func (r *Run) believed() []Foreign {
	all := slices.Clone(r.believes.Load().foreign)
	for _, l := range r.opt.Links {
		all = append(all, l.believed()...)
	}
	return all
}

// scopes are "" and the parts of keys of what the run believes, the last of which is that of all of it.
func (r *Run) scopes() []string { return r.believes.Load().scopes }

// hasBorrowed reports whether something of the caches was used that the run believes.
func (r *Run) hasBorrowed() bool {
	return r.borrowed.Load() || slices.ContainsFunc(r.opt.Links, (*Run).hasBorrowed)
}

// recordScope is the part of keys that what is recorded now has; it is "" when that is for everybody.
func (r *Run) recordScope() string {
	if r.hasBorrowed() {
		scopes := r.scopes()
		return scopes[len(scopes)-1]
	}
	return ""
}

// recordKey is the key that something is recorded under now.
func (r *Run) recordKey(key string) string { return key + r.recordScope() }

// lookUp asks the store for something by its key: for what holds for every build first, then for what holds
// for those with this one's caches. ask reports whether it is there.
func (r *Run) lookUp(key string, ask func(key string) (bool, error)) error {
	for _, scope := range r.scopes() {
		found, err := ask(key + scope)
		if err != nil {
			return err
		}
		if found {
			if scope != "" {
				r.borrowed.Store(true)
			}
			return nil
		}
	}
	return nil
}

// recall looks a result up in the store. Where there is none, reason says why, unless nothing is known of it.
func (r *Run) recall(ctx context.Context, key Key) (res store.Result, found bool, reason string, err error) {
	err = r.lookUp(string(key), func(key string) (bool, error) {
		var why string
		var err error
		if res, found, why, err = r.Engine.opt.Store.Result(ctx, key); why != "" {
			reason = why
		}
		return found, err
	})
	return res, found, reason, err
}

// recallMemo looks a memo up in the store. lent says that it holds only for builds with this one's caches.
func (r *Run) recallMemo(ctx context.Context, key string) (value string, found, lent bool, err error) {
	err = r.lookUp(key, func(scoped string) (bool, error) {
		var err error
		value, found, err = r.Engine.opt.Store.Memo(ctx, scoped)
		lent = scoped != key
		return found, err
	})
	return value, found, lent && found, err
}

// forgetMemo forgets a digest of files that is not theirs, wherever it may be found by the run.
func (r *Run) forgetMemo(ctx context.Context, of Key, memo string) error {
	var keys []string
	for _, scope := range r.scopes() {
		keys = append(keys, memo+scope)
	}
	for _, f := range r.believes.Load().foreign {
		f.Forget(string(of), memo)
	}
	return r.Engine.opt.Store.ForgetMemo(ctx, keys...)
}

func (r *Run) putResult(ctx context.Context, key Key, slot string, res store.Result) error {
	return r.Engine.opt.Store.PutResult(ctx, r.recordKey(string(key)), slot, res)
}

func (r *Run) putMemo(ctx context.Context, key, value string) error {
	return r.Engine.opt.Store.PutMemo(ctx, r.recordKey(key), value)
}
