package cli

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/kube"
)

// task is a part of what a command does in a cluster. It begins when those that it needs are done, and holds nothing before.
type task struct {
	label string // of what is told of it; "" of the only one
	needs []*task
	done  chan struct{} // closed when it has ended well
	do    func(ctx context.Context) error
}

// carryOut carries tasks out side by side. The first one that fails ends the others.
func carryOut(ctx context.Context, all []*task) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range all {
		t.done = make(chan struct{})
	}
	for _, t := range all {
		g.Go(func() error {
			for _, n := range t.needs {
				if err := receive(ctx, n.done); err != nil {
					return err
				}
			}
			if err := t.do(ctx); err != nil {
				return err
			}
			close(t.done)
			return nil
		})
	}
	return g.Wait()
}

// receive waits until a channel is closed.
func receive(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// places bound what a command does at the same time, however many builds it has: one channel has a place for each.
type places chan struct{}

// in does something when there is a place for it. Who waits longest is the next.
func (p places) in(ctx context.Context, do func() error) error {
	select {
	case p <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p }()
	if ctx.Err() != nil { // both were there
		return context.Cause(ctx)
	}
	return do()
}

// bounds are those of one command.
type bounds struct {
	jobs  places // Jobs
	sends places // builds whose contexts are sent
}

// maxJobs is how many Jobs a bake has at the same time, where nobody says it; maxSends is how many of its builds send their contexts.
const (
	maxJobs  = 16
	maxSends = 16
)

// bounds are those that flags say, or else a number of Jobs.
func (o *onFlags) bounds(jobs int) (*bounds, error) {
	switch {
	case o.workers < 0:
		return nil, fmt.Errorf("--workers %d: want a number of Jobs", o.workers)
	case o.workers > 0:
		jobs = o.workers
	}
	return &bounds{jobs: make(places, jobs), sends: make(places, maxSends)}, nil
}

// failedBuild is that a build has failed: in its pod, as its words and its exit code tell, or by what happened to it in the cluster.
type failedBuild struct {
	said    lastLines
	out     kube.Outcome
	cluster error // nil: it has failed in its pod
}

func (f *failedBuild) Error() string {
	if f.cluster != nil {
		return f.cluster.Error()
	}
	return fmt.Sprintf("the build in the cluster failed with exit code %d", f.out.ExitCode)
}

func (f *failedBuild) Unwrap() error { return f.cluster }
