package engine

import (
	"context"
	"errors"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/fileop"
)

// FileError is the failure of an action of a file operation. When the run's options ask for it, it has what the operation was given and
// what the action began with, until all runs are closed that waited for the operation.
type FileError struct {
	Action int
	Inputs []Value  // as the operation has them
	Before []*Value // as many as there are actions: what the failed one was to change, and at the other's place what it was to copy from
	err    error
}

func (e *FileError) Error() string { return e.err.Error() }
func (e *FileError) Unwrap() error { return e.err }

// InputError says that files of an input could not be read, by which a vertex has its identity.
type InputError struct {
	Input int
	Value *Value // when the run's options ask for it
	err   error
}

func (e *InputError) Error() string { return e.err.Error() }
func (e *InputError) Unwrap() error { return e.err }

// failedAction makes the error of a file operation one of the action that failed. What that began with is planned once more, without
// what it did itself.
func (r *Run) failedAction(ctx context.Context, w work, n *node, op *pb.FileOp, inputs []Value, err error) error {
	var failed *fileop.ActionError
	if ctx.Err() != nil || !errors.As(err, &failed) {
		return err
	}
	e := &FileError{Action: failed.Index, err: err}
	if w.keep == nil || !w.keep.Load() {
		return e
	}
	before := op.CloneVT()
	for _, a := range before.Actions {
		a.Output = int64(pb.SkipOutput)
	}
	action := op.Actions[failed.Index]
	var wanted []int // actions
	for _, v := range []int64{action.Input, action.SecondaryInput} {
		if i := int(v) - len(inputs); i >= 0 && before.Actions[i].Output < 0 {
			before.Actions[i].Output = int64(len(wanted))
			wanted = append(wanted, i)
		}
	}
	var values []Value
	if len(wanted) > 0 {
		var berr error
		if values, berr = r.file(ctx, work{of: w.of, created: w.created}, n, before, inputs); berr != nil {
			return e // there is nothing to look into
		}
	}
	e.Inputs, e.Before = inputs, make([]*Value, len(op.Actions))
	for i, a := range wanted {
		e.Before[a] = &values[i]
	}
	switch i := int(action.Input); {
	case i < 0:
		e.Before[failed.Index] = &Value{}
	case i < len(inputs):
		e.Before[failed.Index] = &inputs[i]
	default:
		e.Before[failed.Index] = e.Before[i-len(inputs)]
	}
	return e
}

// unread makes an error about the files that n reads of its i-th input an [InputError], with lines that say why.
func (r *Run) unread(ctx context.Context, n *node, i int, err error) error {
	if err == nil || ctx.Err() != nil || isFailure(err) {
		return err
	}
	in := n.inputs[i]
	e := &InputError{Input: i, err: r.missing(ctx, n, in, err)}
	if r.opt.KeepFailed {
		if v, verr := r.value(ctx, in); verr == nil {
			e.Value = &v
		}
	}
	return e
}
