package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// ExecError is the failure of a process of a step. When the run's options ask for it, it has what the process was given and what it left
// behind, until all runs are closed that waited for the step.
type ExecError struct {
	Vertex *graph.Vertex
	Inputs []Value       // as the operation has them
	Mounts []FailedMount // as the operation has them; without an ID where a mount has no files
	Step   *FailedStep   // how the process was run
	Output []string      // the last lines that it has printed, without secrets
	err    error
}

func (e *ExecError) Error() string { return e.err.Error() }
func (e *ExecError) Unwrap() error { return e.err }

// FailedMount is what a mount of a process that failed shows.
type FailedMount struct {
	ID string // names it
	// Lower are the directories of layers that it shows, base first, and Upper is the one of what the process changed, in
	// overlayfs's form; "" for a mount that it could not write to.
	Lower []string
	Upper string

	// What holds these files: layers of the store, or a copy of the files of a directory; and what holds the changes.
	Layers          layer.Snapshot
	Copied, Changed *store.Draft

	flavor layer.Flavor
}

// Tree is what the process saw at its end.
func (m FailedMount) Tree() layer.Tree {
	var trees []layer.Tree
	for _, dir := range m.Lower {
		trees = append(trees, layer.OpenDir(dir, layer.DirOptions{Overlay: true, Flavor: m.flavor, Records: m.flavor.Records(dir), Immutable: true}))
	}
	if m.Upper != "" {
		trees = append(trees, layer.OpenDir(m.Upper, layer.DirOptions{Overlay: true, Flavor: m.flavor, Records: m.flavor.Records(m.Upper)}))
	}
	return layer.Merged(trees)
}

// shows notes what a mount shows.
func (x *execution) shows(m *pb.Mount, shown FailedMount) {
	i := slices.Index(x.op.Mounts, m)
	shown.ID, shown.flavor = fmt.Sprintf("%s-%d", x.spec.ID, i), x.r.Engine.opt.Store.Flavor()
	x.mounts[i] = shown
}

// failedHere makes the failure of a process that another run has carried out one of a node that is the same: that has its own vertex, and its own
// inputs, which may be more than what the process was given of them. What was copied from a directory of another command's
// is nobody else's to look into.
func (r *Run) failedHere(ctx context.Context, n *node, by *Run, err error) error {
	var there *ExecError
	if by == r || !errors.As(err, &there) {
		return err
	}
	e := &ExecError{Vertex: n.v, Output: there.Output, err: there.err}
	if !r.opt.KeepFailed || there.Mounts == nil {
		return e
	}
	inputs, _, ierr := r.inputs(ctx, n, false)
	if ierr != nil {
		return e
	}
	e.Inputs, e.Mounts = inputs, slices.Clone(there.Mounts)
	for i, m := range n.v.Op.GetExec().Mounts {
		if m.Input >= 0 && int(m.Input) < len(inputs) && inputs[m.Input].local() && by.apart(r) {
			e.Mounts[i] = FailedMount{}
		}
	}
	if !by.apart(r) { // what somebody else's step has left is his
		e.Step = there.Step
	}
	return e
}

// failed makes the error of a process, and keeps what that leaves behind if somebody wants it.
func (x *execution) failed(n *node, err error) error {
	if x.ctx.Err() != nil {
		return err
	}
	shown := make([]FailedMount, len(x.op.Mounts))
	for i, m := range x.mounts {
		shown[i] = m
	}
	if why := x.whyNotFound(err, shown); why != "" {
		err = fmt.Errorf("%w\n  %s", err, why)
	}
	e := &ExecError{Vertex: n.v, Output: x.printed.lines(linesTold), err: err}
	if x.dropped || x.work.keep == nil || !x.work.keep.Load() {
		return e
	}
	e.Inputs, e.Mounts = x.inputs, shown
	e.Step = x.step(n, e.Mounts)
	for _, d := range x.drafts {
		x.work.of.whenOver(d.Abort)
	}
	x.drafts = nil
	return e
}

// whyNotFound is notFound, where there is still all that the process saw.
func (x *execution) whyNotFound(err error, shown []FailedMount) string {
	var exit *sandbox.ExitError
	if x.dropped && errors.As(err, &exit) && exit.InMemory > 0 { // its changes are gone with the memory
		return ""
	}
	return x.notFound(err, x.printed.lines(linesSearched), shown)
}
