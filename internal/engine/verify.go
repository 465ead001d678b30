package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// maxDifferences is how many paths of a step are kept.
const maxDifferences = 10000

// Verified tells of a step that was cached what it gives when it is carried out again.
type Verified struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	Key    Key           `json:"key"`
	// Differences are the paths that are not the same, the first of Count. Those that have another time, and
	// nothing else, are only counted: Times.
	Differences []layer.Difference `json:"differences,omitempty"`
	Count       int                `json:"count"`
	Times       int                `json:"times,omitempty"`
	Error       string             `json:"error,omitempty"` // with which it failed
}

// Same reports whether the step gave what is recorded, but for times.
func (v Verified) Same() bool { return v.Count == 0 && v.Error == "" }

// Note adds a difference. It reports whether that is one of times alone, which is only counted.
func (v *Verified) Note(d layer.Difference) (time bool) {
	if d.Time() {
		v.Times++
		return true
	}
	if v.Count++; v.Count <= maxDifferences {
		v.Differences = append(v.Differences, d)
	}
	return false
}

// Compare tells fn how the files of one value differ from those of another one.
func (r *Run) Compare(ctx context.Context, was, is Value, fn func(layer.Difference) error) error {
	a, err := r.Tree(ctx, was, store.NeedContent)
	if err != nil {
		return err
	}
	b, err := r.Tree(ctx, is, store.NeedContent)
	if err != nil {
		return err
	}
	return layer.Diff(a, b, fn)
}

// Verify carries out again what was cached of the graphs below edges, and compares: processes and file operations, one
// after the other, each on top of what is recorded of those before it. Nothing of what they give is recorded or used.
// It must be called before Close.
func (r *Run) Verify(ctx context.Context, edges ...graph.Edge) ([]Verified, error) {
	ctx, end := r.begin(ctx)
	defer end()
	ran := map[digest.Digest]bool{}
	for _, rec := range r.Records() {
		ran[rec.Digest] = ran[rec.Digest] || !rec.Cached
	}
	var all []Verified
	seen := map[Key]bool{}
	for _, n := range r.below(edges) {
		if n.v.Op.GetExec() == nil && n.v.Op.GetFile() == nil || ran[n.v.Digest] || n.run != r {
			continue
		}
		id, err := n.identity(ctx)
		if err != nil {
			return nil, err
		}
		res, found, _, err := r.recall(ctx, id.key)
		if err != nil {
			return nil, err
		}
		if id.fresh || !found || res.Planned || seen[id.key] { // what was planned is planned by every build
			continue
		}
		seen[id.key] = true
		v, err := r.verify(ctx, n, id, res)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// verify carries one node out.
func (r *Run) verify(ctx context.Context, n *node, id identity, res store.Result) (Verified, error) {
	v := Verified{Name: n.v.Name(), Digest: n.v.Digest, Key: id.key}
	inputs, _, err := r.inputs(ctx, n, true)
	if err != nil {
		return v, err
	}
	shown := event(n.v)
	shown.Name, shown.Digest = "verifying "+shown.Name, digest.FromString("verify "+n.v.Digest.String())
	step := progress.Start(r.sink, shown)
	outputs, err := r.operate(ctx, work{of: r.own(), step: step, created: time.Now()}, n, inputs)
	if err == nil {
		err = r.compare(ctx, res.Outputs, outputs, func(d layer.Difference) error {
			if v.Note(d) {
				return nil
			}
			_, err := fmt.Fprintln(step.Stdout(), d)
			return err
		})
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	step.Done(err)
	switch {
	case ctx.Err() != nil, errors.Is(err, store.ErrDamaged):
		return v, err
	case err != nil:
		v.Error = err.Error()
	}
	return v, nil
}

// compare tells fn how the layers that outputs have beside their inputs differ from those that are recorded.
func (r *Run) compare(ctx context.Context, recorded []layer.Snapshot, outputs []Value, fn func(layer.Difference) error) error {
	for i, out := range outputs {
		if i >= len(recorded) {
			break
		}
		was, is := recorded[i], out.Snapshot
		if len(was) != len(is) {
			return fmt.Errorf("it has %d layers, and %d are recorded", len(is), len(was))
		}
		for j := range was {
			if was[j] == is[j] {
				continue
			}
			a, err := r.Engine.opt.Store.LayerTree(ctx, was[j])
			if err != nil {
				return err
			}
			b, err := r.Engine.opt.Store.LayerTree(ctx, is[j])
			if err != nil {
				return err
			}
			if err := layer.Diff(a, b, fn); err != nil {
				return err
			}
		}
	}
	return nil
}
