package sandbox

import (
	"context"
	"errors"
	"fmt"
)

// Exec implements [Runner].
func (r *placeRunner) Exec(ctx context.Context, id string, proc *Process, streams IO) error {
	if len(proc.Args) == 0 {
		return errors.New("running a process: no command given")
	}
	if proc.Privileged {
		return errors.New("running a process: without isolation there are no other rights than the container's")
	}
	r.mu.Lock()
	run := r.running[id]
	r.mu.Unlock()
	notRunning := fmt.Errorf("running a process in %s: %w", id, ErrNotRunning)
	if run == nil {
		return notRunning
	}
	run.mu.Lock()
	if run.over {
		run.mu.Unlock()
		return notRunning
	}
	run.all.Add(1)
	run.mu.Unlock()
	defer run.all.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(run.end, func() { cancel(notRunning) })()
	spec := proc.in(run.spec)
	root, err := openRoot(run.root)
	if err != nil {
		return err
	}
	u, err := lookupUser(root, spec.User)
	if err == nil {
		err = addGroups(root, u, spec.Groups)
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return err
	}
	b, err := placedBundle(&spec, u, run.root)
	if err != nil {
		return err
	}
	err = r.start(ctx, b, run.lock, streams, streams.Started)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
