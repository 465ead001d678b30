package frontend

import (
	"errors"
	"fmt"
	"sync"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// failures are the processes of a build that failed. A client of the gateway looks into what they left behind by ids that the
// errors have.
type failures struct {
	mu     sync.Mutex
	inputs map[string]*engine.Value
	mounts map[string]*engine.FailedMount
}

// typed makes an error of the engine BuildKit's, with ids if there is something left behind.
func (f *failures) typed(err error) error {
	var failed *engine.ExecError
	var solve *errdefs.SolveError
	if !errors.As(err, &failed) || errors.As(err, &solve) {
		return Typed(err)
	}
	inputs, mounts := f.keep(failed)
	return withIDs(err, failed, inputs, mounts)
}

// Typed makes an error of the engine BuildKit's: with the vertex and the operation that failed, and with the exit code.
func Typed(err error) error {
	var failed *engine.ExecError
	var solve *errdefs.SolveError
	if !errors.As(err, &failed) || errors.As(err, &solve) {
		return err
	}
	return withIDs(err, failed, nil, nil)
}

func withIDs(err error, failed *engine.ExecError, inputs, mounts []string) error {
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		err = &gwpb.ExitError{ExitCode: uint32(exit.Code), Err: err}
	}
	err = errdefs.WithOp(err, failed.Vertex.Op, failed.Vertex.Meta.GetDescription())
	err = errdefs.WithSolveError(err, nil, inputs, mounts)
	return errdefs.WrapVertex(err, failed.Vertex.Digest)
}

// keep gives what a process was given and left behind ids; "" for what is not there.
func (f *failures) keep(e *engine.ExecError) (inputs, mounts []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mounts == nil {
		f.inputs, f.mounts = map[string]*engine.Value{}, map[string]*engine.FailedMount{}
	}
	name := ""
	for i := range e.Mounts {
		m := &e.Mounts[i]
		mounts = append(mounts, m.ID)
		if m.ID != "" {
			name = m.ID
			f.mounts[m.ID] = m
		}
	}
	for i := range e.Inputs {
		id := ""
		if name != "" { // the inputs are kept with the mounts
			id = fmt.Sprintf("%s-input-%d", name, i)
			f.inputs[id] = &e.Inputs[i]
		}
		inputs = append(inputs, id)
	}
	return inputs, mounts
}

// show has a mount show what has an id, and reports whether there is such.
func (f *failures) show(id string, m *engine.ContainerMount) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.Failed, m.Input = f.mounts[id], f.inputs[id]
	return m.Failed != nil || m.Input != nil
}
