package engine

import (
	"context"
	"errors"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/store"
)

// errOver ends the context of a run that did not fail.
var errOver = errors.New("build is over")

// Close ends everything that the run still does, waits for it, and records the results whose
// layers were written. What was only planned is forgotten.
func (r *Run) Close() error {
	r.cancel(errOver)
	r.bg.Wait()
	ctx := context.WithoutCancel(r.ctx)
	err := errors.Join(r.keepClamped(ctx), r.keepPlanned(ctx), r.keepForeign(ctx))
	r.mu.Lock()
	plans, atEnd := r.planIDs, r.atEnd
	r.planIDs, r.atEnd = nil, nil
	r.mu.Unlock()
	r.Engine.opt.Store.EndPlans(plans...)
	r.Engine.opt.Store.KeepDigests()
	for _, f := range atEnd { // without the lock: some wait for others, who may need it
		f()
	}
	return err
}

// pendingResult is a result that is recorded as soon as all its layers are.
type pendingResult struct {
	key    Key
	slot   string
	result store.Result
	exec   bool
}

// keep records results, and those from before that wait for layers which are written by now.
func (r *Run) keep(ctx context.Context, results ...pendingResult) error {
	r.mu.Lock()
	results = append(r.pending, results...)
	r.pending = nil
	r.mu.Unlock()
	var wait []pendingResult
	for _, p := range results {
		recorded, err := r.recorded(ctx, p)
		if err != nil {
			return err
		}
		if !recorded {
			wait = append(wait, p)
			continue
		}
		if err := r.putResult(ctx, p.key, p.slot, p.result); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.pending = append(r.pending, wait...)
	r.mu.Unlock()
	return nil
}

func (r *Run) recorded(ctx context.Context, p pendingResult) (bool, error) {
	for _, snap := range p.result.Outputs {
		if ok, err := r.Engine.opt.Store.Recorded(ctx, snap); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// pendingResult completes what is recorded of a node's result.
func (r *Run) pendingResult(n *node, id identity, outputs []Value, res store.Result) pendingResult {
	p := pendingResult{key: id.key, slot: r.slot(n), result: res}
	p.result.Planned, p.result.Lines, p.result.Outputs = false, id.lines, nil
	for _, o := range outputs {
		p.result.Outputs = append(p.result.Outputs, o.Snapshot)
	}
	_, p.exec = n.v.Op.Op.(*pb.Op_Exec)
	return p
}

// keepPlanned records what is still waiting: as written where it is by now, as planned otherwise.
func (r *Run) keepPlanned(ctx context.Context) error {
	if err := r.keep(ctx); err != nil {
		return err
	}
	for _, p := range r.pending {
		if p.exec {
			continue // running a process again is no planning
		}
		p.result.Planned, p.result.Outputs = true, nil
		if err := r.putResult(ctx, p.key, p.slot, p.result); err != nil {
			return err
		}
	}
	r.pending = nil
	return nil
}
