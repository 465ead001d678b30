package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/store"
)

// errOver ends the context of a run that did not fail.
var errOver = errors.New("build is over")

// pendingResult is a result that is recorded as soon as all its layers are.
type pendingResult struct {
	run    *Run
	key    Key
	slot   string
	result store.Result
	exec   bool
	taken  bool // somebody looks whether it can be recorded; under the engine's lock
}

// await has a result recorded when its layers are.
func (s *shared) await(p *pendingResult) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.result = p
}

// keep records the results of what the run holds, and of more, that wait for layers which are written by now. Until it is recorded a
// result stays among those that wait: others look for it there.
func (r *Run) keep(ctx context.Context, more ...*shared) error {
	r.Engine.mu.Lock()
	var mine []*shared
	for _, s := range slices.Concat(r.holds, more) {
		if s.result != nil && !s.result.taken {
			s.result.taken = true
			mine = append(mine, s)
		}
	}
	r.Engine.mu.Unlock()
	return r.keepAll(ctx, mine)
}

// keepAll records what can be recorded of results that the caller has taken.
func (e *Engine) keepAll(ctx context.Context, all []*shared) error {
	for i, s := range all {
		p := s.result
		recorded, err := e.recorded(ctx, p)
		if err == nil && recorded {
			err = p.run.putResult(ctx, p.key, p.slot, p.result)
		}
		e.mu.Lock()
		p.taken = false
		if err == nil && recorded {
			s.result = nil
		}
		if err != nil { // of a run that ends, most likely: there is another look at its end
			for _, s := range all[i+1:] {
				s.result.taken = false
			}
		}
		e.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) recorded(ctx context.Context, p *pendingResult) (bool, error) {
	for _, snap := range p.result.Outputs {
		if ok, err := e.opt.Store.Recorded(ctx, snap); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// pendingResult completes what is recorded of a node's result.
func (r *Run) pendingResult(n *node, id identity, w warming, outputs []Value, res store.Result) *pendingResult {
	p := &pendingResult{run: r, key: w.key(id.key), slot: r.slot(n), result: res}
	p.result.Planned, p.result.Lines, p.result.Outputs, p.result.Warm = false, id.lines, nil, w.paths()
	for _, o := range outputs {
		p.result.Outputs = append(p.result.Outputs, o.Snapshot)
	}
	_, p.exec = n.v.Op.Op.(*pb.Op_Exec)
	return p
}

// recordAtLast records what is still waiting of something that nobody holds: as written where it is by now, as planned otherwise.
func (e *Engine) recordAtLast(ctx context.Context, s *shared) error {
	if s.result == nil {
		return nil
	}
	if err := e.keepAll(ctx, []*shared{s}); err != nil {
		return err
	}
	p := s.result
	if p == nil || p.exec {
		return nil // running a process again is no planning
	}
	p.result.Planned, p.result.Outputs = true, nil
	return p.run.putResult(ctx, p.key, p.slot, p.result)
}

// pendingOf finds the result of a node that waits to be recorded, of an execution that the run has part in, or the one that the node
// is of.
func (r *Run) pendingOf(n *node, id identity) *pendingResult {
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	for _, kind := range []string{missed, planned} {
		for _, scope := range slices.Concat(r.scopes(), n.run.scopes()) {
			if f := r.flights[kind+r.flightName(n, id, scope)]; f != nil && (f.runs[r] || f.runs[n.run]) && f.result != nil {
				return f.result
			}
		}
	}
	return nil
}
