package fileop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/slipway-build/slipway/internal/layer"
)

// Output is one result of a file operation: plans stacked on one of its inputs.
type Output struct {
	Index int     // number of the output, as the actions give it
	Base  int     // input below the plans; -1 is an empty root
	Plans []*Plan // layers to add, lowest first; some may be empty
}

// Options changes how [Make] works. The zero value is fine.
type Options struct {
	// TempDir is where the content of unpacked archives waits; "" is the system's.
	TempDir string
	// Now is the time of what is made without a time of its own; zero: the current time.
	Now time.Time
}

// maker evaluates the actions of one operation. A value is an index into the inputs followed by
// the results of the actions, as in the operation itself.
type maker struct {
	ctx     context.Context
	opt     Options
	actions []*pb.FileAction
	inputs  []layer.Tree
	uses    map[int64]int // how many actions use a value
	results map[int64]*result
	busy    map[int64]bool
}

// result is what an action made.
type result struct {
	base  int
	plans []*Plan
	tree  layer.Tree
	// open: nobody else looks at the result, so that the next action may add to the last plan.
	open bool
}

// Make evaluates an operation. The outputs come in the order of their numbers. On success the
// caller closes every plan when it was written or dropped (plans may be in several outputs). An
// error of an action is an [ActionError].
func Make(ctx context.Context, op *pb.FileOp, inputs []layer.Tree, opt Options) (_ []Output, err error) {
	m := &maker{
		ctx: ctx, opt: opt, actions: op.Actions, inputs: inputs,
		uses: map[int64]int{}, results: map[int64]*result{}, busy: map[int64]bool{},
	}
	if m.opt.Now.IsZero() {
		m.opt.Now = time.Now()
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	outs, err := m.outputs()
	if err != nil {
		return nil, fmt.Errorf("reading file operation: %w", err)
	}
	var out []Output
	for i, v := range outs {
		r, err := m.value(v)
		if err != nil {
			return nil, err
		}
		for _, p := range r.plans {
			if err := p.dropUnchanged(); err != nil {
				return nil, err
			}
		}
		out = append(out, Output{Index: i, Base: r.base, Plans: r.plans})
	}
	return out, nil
}

func (m *maker) close() {
	for _, r := range m.results {
		for _, p := range r.plans {
			p.Close()
		}
	}
}

// outputs checks the operation and gives the value of each of its outputs.
func (m *maker) outputs() ([]int64, error) {
	if _, err := Usage(&pb.FileOp{Actions: m.actions}, len(m.inputs)); err != nil {
		return nil, err
	}
	byNumber := map[int64]int64{}
	for i, a := range m.actions {
		m.uses[a.Input]++
		m.uses[a.SecondaryInput]++
		for _, n := range names(a) {
			// The base of an action may be looked at by that action itself.
			if n.Input != a.Input {
				m.uses[n.Input]++
			}
		}
		if a.Output == int64(pb.SkipOutput) {
			continue
		}
		if _, ok := byNumber[a.Output]; ok {
			return nil, fmt.Errorf("two actions make output %d", a.Output)
		}
		v := int64(len(m.inputs) + i)
		byNumber[a.Output] = v
		m.uses[v]++
	}
	if len(byNumber) == 0 {
		return nil, fmt.Errorf("no action makes an output")
	}
	outs := make([]int64, len(byNumber))
	for i := range outs {
		v, ok := byNumber[int64(i)]
		if !ok {
			return nil, fmt.Errorf("no action makes output %d", i)
		}
		outs[i] = v
	}
	return outs, nil
}

// value gives an input, or the result of an action that runs at the first call.
func (m *maker) value(v int64) (*result, error) {
	if r, ok := m.results[v]; ok {
		return r, nil
	}
	var r *result
	switch {
	case v == -1:
		r = &result{base: -1, tree: layer.Merged(nil)}
	case v < int64(len(m.inputs)):
		r = &result{base: int(v), tree: m.inputs[v]}
	default:
		if m.busy[v] {
			return nil, fmt.Errorf("reading file operation: action %d needs itself", v-int64(len(m.inputs)))
		}
		m.busy[v] = true
		var err error
		if r, err = m.run(v); err != nil {
			return nil, err
		}
	}
	m.results[v] = r
	return r, nil
}

// tree is the value as something to read from.
func (m *maker) tree(v int64) (layer.Tree, error) {
	r, err := m.value(v)
	if err != nil {
		return nil, err
	}
	return r.tree, nil
}

func (m *maker) run(v int64) (*result, error) {
	i := v - int64(len(m.inputs))
	a := m.actions[i]
	from, err := m.value(a.Input)
	if err != nil {
		return nil, err
	}
	source, err := m.tree(a.SecondaryInput)
	if err != nil {
		return nil, err
	}
	r := &result{base: from.base, plans: from.plans}
	if from.open {
		r.tree = from.tree
	} else {
		p := newPlan(from.tree, m.opt.TempDir)
		r.plans = append(append([]*Plan(nil), from.plans...), p)
		r.tree = p
	}
	// From now on an error must find the plan in order to close it.
	m.results[v] = r
	r.open = a.Output == int64(pb.SkipOutput) && m.uses[v] == 1
	plan := r.plans[len(r.plans)-1]
	if err := m.act(plan, source, a); err != nil {
		delete(m.busy, v)
		return nil, &ActionError{Index: int(i), Err: err}
	}
	return r, nil
}

// summed reports whether BuildKit sums what is copied of a value: of an input that nothing is done to.
func (m *maker) summed(v int64) bool {
	return v >= 0 && v < int64(len(m.inputs)) && !slices.ContainsFunc(m.actions, func(a *pb.FileAction) bool { return a.Input == v })
}

func (m *maker) act(p *Plan, source layer.Tree, a *pb.FileAction) error {
	switch x := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return m.mkdir(p, x.Mkdir)
	case *pb.FileAction_Mkfile:
		return m.mkfile(p, x.Mkfile)
	case *pb.FileAction_Symlink:
		return m.symlink(p, x.Symlink)
	case *pb.FileAction_Rm:
		return m.rm(p, x.Rm)
	case *pb.FileAction_Copy:
		err := m.copy(p, source, x.Copy)
		if gone := (*NotFoundError)(nil); errors.As(err, &gone) {
			gone.Late = !m.summed(a.SecondaryInput)
		}
		return err
	}
	return fmt.Errorf("unknown kind of file action %T", a.Action)
}
