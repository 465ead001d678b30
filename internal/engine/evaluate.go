package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

// evaluate gives the result of a node: from the store, or by running it; with cold without warm directories, also in what it stands on.
func (r *Run) evaluate(ctx context.Context, n *node, cold bool) (*outcome, error) {
	if src := n.v.Op.GetSource(); src != nil {
		if out, done, err := r.evaluateSource(ctx, n, src); done {
			return out, err
		}
	}
	id, err := n.identity(ctx)
	if err != nil {
		return nil, err
	}
	for t := r.underWay(n, id); t != nil; t = r.underWay(n, id) {
		n.ran.Store(&reasons.Why{})
		if out, err := r.flown(ctx, n, id, t); !t.others(ctx, r, err) {
			return out, err
		}
	}
	var damage string
	if !id.fresh {
		var out *outcome
		if out, damage, err = r.known(ctx, n, id, cold); out != nil || err != nil {
			return out, err
		}
	}
	return r.execute(ctx, n, id, damage, cold)
}

// known gives the result of a node that need not be executed, or nil. damage is what is wrong with one that is recorded.
func (r *Run) known(ctx context.Context, n *node, id identity, cold bool) (_ *outcome, damage string, err error) {
	r.look(n)
	res, found, why, err := r.recall(ctx, id.key)
	if err != nil {
		return nil, "", err
	}
	if !found && !cold {
		if res, found, err = r.recallWarm(ctx, n, id.key); err != nil {
			return nil, "", err
		}
	}
	if found {
		if res.Planned {
			out, err := r.replan(ctx, n, id, res, "", cold)
			return out, "", err
		}
		r.tellCached(n)
		out := fromRecord(res)
		r.recordCached(n, id.key, "", out)
		return out, "", nil
	}
	out, _, err := r.foreign(ctx, n, id, cold)
	return out, why, err
}

// execute runs a node, unless that is done already, and records the result.
func (r *Run) execute(ctx context.Context, n *node, id identity, damage string, cold bool) (*outcome, error) {
	if !cold {
		fails, err := r.failsWarm(ctx, n)
		if err != nil {
			return nil, err
		}
		if fails {
			return n.coldResult(ctx)
		}
	}
	inputs, below, err := r.inputs(ctx, n, cold)
	if err != nil {
		return nil, err
	}
	w, err := r.warming(ctx, n, id, inputs, below, cold)
	if errors.Is(err, errNeedsCold) {
		r.tellWarm(fmt.Sprintf("%s runs cold, with all that it stands on: %v", n.v.Name(), err))
		return n.coldResult(ctx)
	}
	if err != nil {
		return nil, err
	}
	turn := r.turn(ctx, n, id, w)
	if turn != nil && turn.There() {
		if out, ok, err := r.foreign(ctx, n, id, cold); ok || err != nil {
			return out, err
		}
	}
	out, err := r.carryOut(ctx, n, id, damage, w, inputs)
	turn.ended(err)
	return out, err
}

// carryOut has a flight carry a node out.
func (r *Run) carryOut(ctx context.Context, n *node, id identity, damage string, w warming, inputs []Value) (*outcome, error) {
	n.ran.Store(r.why(ctx, n, id, damage))
	for {
		t, err := r.launch(ctx, missed, n, id, w, inputs, func(ctx context.Context, f *flight) (*outcome, error) {
			return r.perform(ctx, f, n, id, w, inputs)
		})
		if errors.Is(err, errLanded) {
			if out, _, err := r.known(ctx, n, id, w.cold); out != nil || err != nil {
				return out, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		out, err := r.flown(ctx, n, id, t)
		var failed *warmFailure
		switch {
		case errors.As(err, &failed):
			return r.afterWarm(ctx, n, w, failed, t.mine)
		case !t.others(ctx, r, err):
			return out, r.doubt(ctx, n, w, err, t.mine)
		}
	}
}

// perform carries a node out, for all who wait for it. The error has no place.
func (r *Run) perform(ctx context.Context, f *flight, n *node, id identity, w warming, inputs []Value) (*outcome, error) {
	step := f.start()
	f.why(r, n.ran.Load().Told())
	do := work{f.shared, step, f.began, &f.keep, &f.process, w}
	if len(w.paths()) > 0 {
		do.keep = nil // it runs once more
	}
	out, err := r.operate(ctx, do, n, inputs)
	if err != nil && r.madeSpace(ctx, err, step) {
		out, err = r.operate(ctx, do, n, inputs)
	}
	if err == nil {
		if n.v.Op.GetExec() != nil {
			f.standOnNothing()
		} else {
			out = f.made(out)
		}
		f.await(r.pendingResult(n, id, w, out, store.Result{Created: f.began, Took: time.Since(f.began)}))
		err = r.keep(ctx, f.shared)
	}
	ended := err
	if err != nil && ctx.Err() == nil && len(w.paths()) > 0 && n.v.Op.GetExec() != nil && !errors.Is(err, store.ErrDamaged) {
		if err = r.failedOf(ctx, n, err, f.keep.Load()); errors.As(err, new(*warmFailure)) {
			ended = context.Canceled
		} else {
			ended = err
		}
	}
	if err != nil && ctx.Err() != nil {
		ended = context.Canceled // nobody waits for it, for a reason that is told elsewhere
	}
	f.endOf(r, ended)
	if err != nil {
		return nil, err
	}
	return &outcome{outputs: out, warm: w.paths()}, nil
}

// madeSpace reports whether a step failed for want of space, and unused cache gave some.
func (r *Run) madeSpace(ctx context.Context, err error, step *progress.Step) bool {
	if ctx.Err() != nil || !store.IsFull(err) {
		return false
	}
	freed, merr := r.Engine.opt.Store.MakeSpace(ctx)
	if merr != nil || freed == 0 {
		return false // the step's error says what is the matter
	}
	fmt.Fprintf(step.Stderr(), "no space left: %s of unused build cache went, this step is tried once more\n", units.HumanSize(float64(freed)))
	return true
}

// replan gives the result of an operation that was planned in an earlier build and written in
// none; from names the imported cache that knew of it, if one did.
func (r *Run) replan(ctx context.Context, n *node, id identity, res store.Result, from string, cold bool) (*outcome, error) {
	inputs, below, err := r.inputs(ctx, n, cold)
	if err != nil {
		return nil, err
	}
	r.tellCached(n)
	w := warming{below: below}
	if r.opt.Warm != nil {
		w.project = r.opt.Warm.Project
	}
	out, err := r.plan(ctx, n, id, w, inputs, func(ctx context.Context, f *flight) (*outcome, error) {
		outputs, err := r.operate(ctx, work{of: f.shared, created: res.Created, warm: w}, n, inputs)
		if err != nil {
			return nil, err
		}
		outputs = f.made(outputs)
		f.await(r.pendingResult(n, id, w, outputs, res))
		return &outcome{outputs: outputs, warm: w.paths()}, r.keep(ctx, f.shared)
	})
	if err == nil {
		r.recordCached(n, id.key, from, out)
	}
	return out, err
}

// plan has something planned, once for all runs, that no display is told of.
func (r *Run) plan(ctx context.Context, n *node, id identity, w warming, inputs []Value, do func(context.Context, *flight) (*outcome, error)) (*outcome, error) {
	for {
		t, err := r.launch(ctx, planned, n, id, w, inputs, do)
		if errors.Is(err, errLanded) { // planning takes no longer than looking
			r.look(n)
			continue
		}
		if err != nil {
			return nil, err
		}
		if out, err := t.wait(ctx); !t.others(ctx, r, err) {
			return out, err
		}
	}
}

// made says of values what they are kept by.
func (s *shared) made(values []Value) []Value {
	for i := range values {
		values[i].of = s
	}
	return values
}

// inputs evaluates all inputs of a node at the same time, and gives the directories that are warm in what it stands on: in none, with cold.
// The first that fails ends the others.
func (r *Run) inputs(ctx context.Context, n *node, cold bool) (values []Value, below []store.WarmDir, err error) {
	uses, err := n.uses()
	if err != nil {
		return nil, nil, err
	}
	values = make([]Value, len(n.inputs))
	warmed := make([][]store.WarmDir, len(n.inputs))
	one := func(ctx context.Context, i int) (err error) {
		values[i], warmed[i], err = r.input(ctx, n.inputs[i], uses[i], cold)
		return err
	}
	if len(n.inputs) == 1 {
		err = one(ctx, 0)
		return values, warmed[0], err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range n.inputs {
		g.Go(func() error { return one(ctx, i) })
	}
	err = g.Wait()
	return values, slices.Concat(warmed...), err
}

// input evaluates what a node uses of an input.
func (r *Run) input(ctx context.Context, in edge, u use, cold bool) (v Value, below []store.WarmDir, err error) {
	if in.n == nil {
		return v, nil, nil
	}
	var out *outcome
	if u.whole {
		if out, err = r.outcome(ctx, in.n, cold || u.read); err == nil {
			below = out.warm
		}
	} else {
		out, err = r.selected(ctx, in, u.copies)
		// A key that was made of what a cold build found is that of cold files.
		if d, ok := in.n.content(selectionOf(in, u.copies)).peek(); err == nil && ok {
			switch {
			case len(out.warm) > 0 && d.memo != "":
				out, err = in.n.coldResult(ctx)
			case len(out.warm) == 0:
				below = namesOnly(d.warm) // nor is a key of warm files, which somebody has come to see since, one that others may find cold ones by
			}
		}
	}
	if err != nil {
		return v, nil, err
	}
	if v, err = out.output(in); err == nil && !u.whole {
		err = r.agree(ctx, in, u.copies, v)
	}
	return v, below, err
}

// work is an operation that is carried out.
type work struct {
	of      *shared        // what keeps what it gives
	step    *progress.Step // nil for one that is cached
	created time.Time      // the time of what is only planned
	keep    *atomic.Bool   // whether what a process that fails leaves behind is kept; nil: no
	process **Process      // where what is told of a process goes; nil: nowhere
	warm    warming
}

// operate carries a node's operation out.
func (r *Run) operate(ctx context.Context, w work, n *node, inputs []Value) ([]Value, error) {
	switch op := n.v.Op.Op.(type) {
	case *pb.Op_Source:
		return r.fetchSource(ctx, w, n, op.Source)
	case *pb.Op_Exec:
		return r.exec(ctx, w, n, op.Exec, inputs)
	case *pb.Op_File:
		return r.file(ctx, w, n, op.File, inputs)
	case *pb.Op_Merge:
		return r.merge(ctx, op.Merge, inputs)
	case *pb.Op_Diff:
		return r.diff(ctx, op.Diff, inputs)
	case *pb.Op_Passthrough:
		return passthrough(op.Passthrough, inputs)
	}
	return nil, fmt.Errorf("operation %T is not supported", n.v.Op.Op)
}
