package frontend

import (
	"errors"
	"fmt"
	"sync"

	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/graph"
)

// failures are those of a build's steps. A client of the gateway looks into what they had and left behind by ids that the errors
// have.
type failures struct {
	warning sync.Mutex // held while somebody is told of a finding

	mu  sync.Mutex
	ids map[error][2][]string // of inputs and mounts, by the engine's error
	all map[string]shown
}

// shown is what there is to look into; the zero one is nothing.
type shown struct {
	input  *engine.Value
	failed *engine.FailedMount
}

// typed makes an error of the engine BuildKit's, with ids if there is something to look into.
func (f *failures) typed(err error) error { return typed(err, f.keep) }

// Typed makes an error of the engine BuildKit's: with the vertex and the operation that failed, what of it did, and with the exit code.
func Typed(err error) error {
	return typed(err, func(error, []shown, []shown) (_, _ []string) { return nil, nil })
}

func typed(err error, keep func(of error, inputs, mounts []shown) ([]string, []string)) error {
	var failure *engine.Failure
	var solve *errdefs.SolveError
	if !errors.As(err, &failure) || failure.Vertex == nil || errors.As(err, &solve) {
		return err
	}
	of, subject, inputs, mounts := left(failure)
	var inputIDs, mountIDs []string
	if len(inputs)+len(mounts) > 0 {
		inputIDs, mountIDs = keep(of, inputs, mounts)
	}
	v := failure.Vertex
	var unread *engine.InputError
	if errors.As(err, &unread) && !missedLate(err) {
		err = fmt.Errorf("failed to compute cache key: failed to calculate checksum of ref %s: %w", inputOf(v, unread.Input), err)
	}
	err = errdefs.WithOp(exitError(err), v.Op, v.Meta.GetDescription())
	err = errdefs.WithSolveError(err, subject, inputIDs, mountIDs)
	if len(errdefs.Sources(err)) == 0 {
		for _, place := range v.Sources {
			err = errdefs.WithSource(err, place)
		}
	}
	return errdefs.WrapVertex(err, v.Digest)
}

// missedLate reports whether BuildKit misses a file in other words.
func missedLate(err error) bool {
	var gone *fileop.NotFoundError
	return errors.As(err, &gone) && gone.Late
}

// inputOf is the digest of an input.
func inputOf(v *graph.Vertex, i int) digest.Digest {
	if i < len(v.Inputs) && v.Inputs[i].Vertex != nil {
		return v.Inputs[i].Vertex.Digest
	}
	return v.Digest
}

// left is what the error of a step has to look into, with BuildKit's order: of a process both by its mounts, of a file operation the
// inputs and by its actions, and else the one input that could not be read.
func left(err error) (of error, subject errdefs.IsSolve_Subject, inputs, mounts []shown) {
	var process *engine.ExecError
	var file *engine.FileError
	var input *engine.InputError
	switch {
	case errors.As(err, &process):
		if process.Mounts == nil {
			return nil, nil, nil, nil
		}
		for i, m := range process.Vertex.Op.GetExec().GetMounts() {
			var in shown
			if m.Input >= 0 && int(m.Input) < len(process.Inputs) {
				in.input = &process.Inputs[m.Input]
			}
			inputs = append(inputs, in)
			if left := &process.Mounts[i]; left.ID != "" {
				in = shown{failed: left}
			}
			mounts = append(mounts, in)
		}
		return process, nil, inputs, mounts
	case errors.As(err, &file):
		for i := range file.Inputs {
			inputs = append(inputs, shown{input: &file.Inputs[i]})
		}
		for _, v := range file.Before {
			mounts = append(mounts, shown{input: v})
		}
		return file, &errdefs.Solve_File{File: &errdefs.FileAction{Index: int64(file.Action)}}, inputs, mounts
	case errors.As(err, &input):
		if input.Value != nil {
			inputs = []shown{{input: input.Value}}
		}
		return input, &errdefs.Solve_Cache{Cache: &errdefs.ContentCache{Index: int64(input.Input)}}, inputs, nil
	}
	return nil, nil, nil, nil
}

// keep gives what an error has to look into ids, the same ones each time; "" for what is not there.
func (f *failures) keep(of error, inputs, mounts []shown) (inputIDs, mountIDs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids == nil {
		f.ids, f.all = map[error][2][]string{}, map[string]shown{}
	}
	known, ok := f.ids[of]
	if !ok {
		for i, list := range [][]shown{inputs, mounts} {
			for _, s := range list {
				id := ""
				if s != (shown{}) {
					id = identity.NewID()
					f.all[id] = s
				}
				known[i] = append(known[i], id)
			}
		}
		f.ids[of] = known
	}
	return known[0], known[1]
}

// show has a mount show what has an id, and reports whether there is such.
func (f *failures) show(id string, m *engine.ContainerMount) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.all[id]
	m.Failed, m.Input = s.failed, s.input
	return ok
}
