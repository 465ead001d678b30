package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

// Runs of an engine, those of one command as those of many clients, have things in common: each under a name that says all
// that it depends on.
//
//   - an execution (flights), by the key of what is executed, by the imported caches that it stands on, by the secrets
//     and agents that it, or what it stands on, was given, and by the directories that its files may still be read from;
//   - a directory or an image (sources), by its operation and by what of its build it is: the directory, the layout;
//   - what a server or a registry said (httpFiles, gitCommits, resolved), by the request and by what it was sent with;
//   - a layer with other times (clamped).
//
// Everything else, the nodes too, is each run's own: what it looks up, what it may use, what it believes, what it tells.

// shared is what is kept of such a thing as long as a run holds it. A run that holds it also holds what it stands on.
type shared struct {
	engine *Engine
	// ctx ends when no run that goes on holds it: others get nothing of it then.
	ctx    context.Context
	cancel context.CancelCauseFunc

	// The engine's lock guards:
	runs   map[*Run]bool
	needs  []*shared      // what it stands on
	forget func()         // called with the lock
	result *pendingResult // that waits to be recorded
	memo   func(context.Context) error
	plans  []layer.ID
	ends   []func()
}

// newShared makes one that nobody holds yet. The caller holds the lock.
func (e *Engine) newShared(needs ...*shared) *shared {
	s := &shared{engine: e, runs: map[*Run]bool{}}
	for _, n := range needs {
		if n != nil && !slices.Contains(s.needs, n) {
			s.needs = append(s.needs, n)
		}
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// own makes one that is the run's own.
func (r *Run) own(needs ...*shared) *shared {
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	s := r.newShared(needs...)
	r.hold(s)
	return s
}

// hold notes that the run uses something, until it is over. The caller holds the engine's lock.
func (r *Run) hold(s *shared) {
	if s.runs[r] || r.closed {
		return
	}
	s.runs[r] = true
	r.holds = append(r.holds, s)
	for _, n := range s.needs {
		r.hold(n)
	}
}

// standOnNothing is told when all layers that something stands on are in the store.
func (s *shared) standOnNothing() {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.needs = nil
}

// whenOver has f called when nobody holds it any more.
func (s *shared) whenOver(f func()) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.ends = append(s.ends, f)
}

// keepPlan keeps a planned layer as long as somebody holds it.
func (s *shared) keepPlan(id layer.ID) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.plans = append(s.plans, id)
}

// remember has f called when nobody holds it any more, before the plans end.
func (s *shared) remember(f func(context.Context) error) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.memo = f
}

// used is what the run holds, and what the runs hold whose results it stands on. The caller holds the lock.
func (r *Run) used() []*shared {
	all := r.holds
	for _, other := range r.opt.Links {
		all = slices.Concat(all, other.used())
	}
	return all
}

// planOf finds what made a planned layer that the run uses.
func (r *Run) planOf(id layer.ID) *shared {
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	for _, s := range r.used() {
		if slices.Contains(s.plans, id) {
			return s
		}
	}
	return nil
}

// giveUp ends what only runs hold that are over, or are being ended.
func (r *Run) giveUp() {
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	for _, s := range r.holds {
		alone := true
		for other := range s.runs {
			alone = alone && other.life.Err() != nil
		}
		if alone {
			s.cancel(context.Cause(r.life))
		}
	}
}

// letGo gives back what the run holds. What nobody else holds is recorded, as written or as planned, and is gone then.
func (r *Run) letGo(ctx context.Context) error {
	e := r.Engine
	e.mu.Lock()
	var last []*shared
	for _, s := range r.holds {
		if delete(s.runs, r); len(s.runs) > 0 {
			continue
		}
		if s.forget != nil {
			s.forget()
		}
		s.cancel(errOver)
		last = append(last, s)
	}
	r.holds, r.closed = nil, true
	e.mu.Unlock()
	var errs []error
	for _, s := range last {
		if s.memo != nil {
			errs = append(errs, s.memo(ctx))
		}
		errs = append(errs, e.recordAtLast(ctx, s))
	}
	var plans []layer.ID
	for _, s := range last {
		plans = append(plans, s.plans...)
	}
	e.opt.Store.EndPlans(plans...)
	for _, s := range last {
		for _, f := range s.ends { // without the lock: some wait for others, who may need it
			f()
		}
	}
	return errors.Join(errs...)
}

// pooled is a value that runs have in common.
type pooled[T any] struct {
	*shared
	audience
	future[T]
	asked time.Time
}

// pool gives the value of a name, which may be there, or be asked for by whoever asks first. Where it is about the world, which
// changes, it is none that was there before the run began.
func pool[T any](r *Run, all map[string]*pooled[T], name string, changes bool, needs ...*shared) *pooled[T] {
	e := r.Engine
	e.mu.Lock()
	defer e.mu.Unlock()
	p := all[name]
	if p == nil || p.ctx.Err() != nil || changes && p.asked.Before(r.since) && p.has() {
		mine := &pooled[T]{shared: e.newShared(needs...), asked: time.Now()}
		mine.common = true
		mine.forget = func() {
			if all[name] == mine {
				delete(all, name)
			}
		}
		if p = mine; !r.closed {
			all[name] = p
		}
	}
	r.hold(p.shared)
	return p
}

// answer gives what a server said, and has the run of n told of the question as long as it waits. n may be nil: then nobody is told.
func answer[T any](ctx context.Context, r *Run, p *pooled[T], n *node, ask func(context.Context) (T, error)) (T, error) {
	if n == nil {
		return p.do(ctx, p.ctx, r, ask)
	}
	seat := p.join(n.seat())
	v, err := p.do(ctx, p.ctx, r, ask)
	p.leave(seat, err)
	return v, err
}
