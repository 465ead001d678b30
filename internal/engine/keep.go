package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// errOver ends the context of a run that did not fail.
var errOver = errors.New("build is over")

// whenOver has f called at the end of the group.
func (g *Group) whenOver(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.atEnd = append(g.atEnd, f)
}

// keepPlan keeps a planned layer until the end of the group.
func (g *Group) keepPlan(id layer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.planIDs = append(g.planIDs, id)
}

// pendingResult is a result that is recorded as soon as all its layers are.
type pendingResult struct {
	run    *Run
	key    Key
	flight string // the name of its execution
	slot   string
	result store.Result
	exec   bool
	kept   bool // it is recorded, or somebody looks whether it can be
}

// keep records results, and those from before that wait for layers which are written by now. Until it is recorded a result stays
// among those that wait: others look for it there.
func (g *Group) keep(ctx context.Context, results ...*pendingResult) error {
	g.mu.Lock()
	g.pending = append(g.pending, results...)
	var mine []*pendingResult
	for _, p := range g.pending {
		if !p.kept {
			p.kept = true
			mine = append(mine, p)
		}
	}
	g.mu.Unlock()
	for i, p := range mine {
		recorded, err := g.recorded(ctx, p)
		if err == nil && recorded {
			err = p.run.putResult(ctx, p.key, p.slot, p.result)
		}
		if err != nil { // of a group that ends, most likely: there is another look at its end
			g.mu.Lock()
			for _, p := range mine[i:] {
				p.kept = false
			}
			g.mu.Unlock()
			return err
		}
		g.mu.Lock()
		if p.kept = recorded; recorded {
			g.pending = slices.DeleteFunc(g.pending, func(q *pendingResult) bool { return q == p })
		}
		g.mu.Unlock()
	}
	return nil
}

func (g *Group) recorded(ctx context.Context, p *pendingResult) (bool, error) {
	for _, snap := range p.result.Outputs {
		if ok, err := g.Engine.opt.Store.Recorded(ctx, snap); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// pendingResult completes what is recorded of a node's result.
func (r *Run) pendingResult(n *node, id identity, outputs []Value, res store.Result) *pendingResult {
	p := &pendingResult{run: r, key: id.key, flight: r.flightName(n, id, r.recordScope()), slot: r.slot(n), result: res}
	p.result.Planned, p.result.Lines, p.result.Outputs = false, id.lines, nil
	for _, o := range outputs {
		p.result.Outputs = append(p.result.Outputs, o.Snapshot)
	}
	_, p.exec = n.v.Op.Op.(*pb.Op_Exec)
	return p
}

// keepPlanned records what is still waiting: as written where it is by now, as planned otherwise.
func (g *Group) keepPlanned(ctx context.Context) error {
	if err := g.keep(ctx); err != nil {
		return err
	}
	for _, p := range g.pending {
		if p.exec {
			continue // running a process again is no planning
		}
		p.result.Planned, p.result.Outputs = true, nil
		if err := p.run.putResult(ctx, p.key, p.slot, p.result); err != nil {
			return err
		}
	}
	g.pending = nil
	return nil
}

// pendingOf finds the result of a node that waits to be recorded: the run's own, or what it shares.
func (r *Run) pendingOf(n *node, id identity) *pendingResult {
	everybodys, own := r.flightName(n, id, ""), r.flightName(n, id, r.scope)
	r.Group.mu.Lock()
	defer r.Group.mu.Unlock()
	for _, p := range r.pending {
		if p.flight == own || p.flight == everybodys || p.run == r && p.key == id.key {
			return p
		}
	}
	return nil
}
