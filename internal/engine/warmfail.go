package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// warmFailure is how a step failed that ran warm. It has no place, as it may not be the step's fault.
type warmFailure struct{ err error }

func (e *warmFailure) Error() string { return e.err.Error() }
func (e *warmFailure) Unwrap() error { return e.err }

// maxProved is how often it is proved in a day that the process of a step ends by its own fault, before that is believed: who writes a program
// makes errors in it, and need not wait for a cold build each time. After maxBelieved such failures it is proved once more.
const (
	maxProved   = 2
	maxBelieved = 3
)

// A step that failed warm so many times within such a time, and not cold, runs cold until it is over: the first time the cache may have been
// damaged, which is dropped then.
const (
	failedWarmly = 2
	failedFor    = 24 * time.Hour
)

// failedOf is how a step ended that ran warm: with a failure that is to be proved by a cold run, unless it is believed.
func (r *Run) failedOf(ctx context.Context, n *node, err error, keep bool) error {
	proved, merr := r.lately(ctx, r.provedKey(n))
	if keep || merr != nil || proved < maxProved || proved >= maxProved+maxBelieved || !ofTheStep(err) {
		return &warmFailure{err}
	}
	if merr := r.countLately(ctx, r.provedKey(n)); merr != nil {
		return errors.Join(err, merr)
	}
	return fmt.Errorf("%w\n  it found warm caches, which were not the reason when it failed before: without --warm it finds none", err)
}

// afterWarm has a step run cold that failed warm, and tells if that helped. Of all runs that waited for the step, the one whose it was counts that.
func (r *Run) afterWarm(ctx context.Context, n *node, w warming, failed *warmFailure, mine bool) (*outcome, error) {
	cause := failed.err
	var exit *sandbox.ExitError
	if errors.As(cause, &exit) {
		cause = exit
	}
	r.tellWarm(fmt.Sprintf("%s failed, it runs once more without warm caches: %v", n.v.Name(), cause))
	out, err := n.coldResult(ctx)
	switch {
	case err != nil && mine && ofTheStep(err) && !errors.As(err, new(*Doubted)):
		if cerr := r.countProved(ctx, r.provedKey(n)); cerr != nil {
			err = errors.Join(err, cerr)
		}
		return nil, err
	case err != nil:
		return nil, err
	}
	if !mine {
		return out, nil
	}
	return out, r.blameWarm(ctx, n, w, failed.err)
}

// blameWarm drops the caches of a step that failed with them alone, and counts that. What cannot remove a cache, or rename it, never will.
func (r *Run) blameWarm(ctx context.Context, n *node, w warming, cause error) (err error) {
	became := "are dropped"
	for _, d := range w.own {
		if d.named != nil || d.Tool == "" { // it runs nothing that uses it
			continue
		}
		all, derr := r.Engine.opt.Store.DropCache(d.cache)
		if err = errors.Join(err, derr); !all {
			became = "are dropped, but for those that other steps use"
		}
	}
	r.tellWarm(fmt.Sprintf("%s did not fail without warm caches, which %s", n.v.Name(), became))
	times, lerr := r.lately(ctx, r.failedWarmKey(n))
	if times++; foundBusy(cause) {
		times = max(times, failedWarmly)
	}
	return errors.Join(err, lerr, r.putLately(ctx, r.failedWarmKey(n), times), r.Engine.opt.Store.PutMemo(ctx, r.provedKey(n), ""))
}

// foundBusy reports whether the last lines of a process say that it tried to remove or rename a place where something is mounted.
func foundBusy(err error) bool {
	var e *ExecError
	return errors.As(err, &e) && slices.ContainsFunc(e.Output, func(line string) bool { return strings.Contains(strings.ToLower(line), "resource busy") })
}

// failsWarm reports whether a step is known to fail warm.
func (r *Run) failsWarm(ctx context.Context, n *node) (bool, error) {
	if n.v.Op.GetExec() == nil || r.opt.Warm == nil {
		return false, nil
	}
	times, err := r.lately(ctx, r.failedWarmKey(n))
	if err != nil || times < failedWarmly {
		return false, err
	}
	r.tellWarm(n.v.Name() + " runs cold, with all that it stands on: it failed with warm caches, and did not without, not long ago")
	return true, nil
}

// failedWarmKey is what it is remembered by how often a step of the project failed warm and not cold, whatever it stands on.
func (r *Run) failedWarmKey(n *node) string {
	return r.keyOfStep("failed warm", n)
}

// provedKey is what it is remembered by how often a step of the project failed warm, and cold as well, or is believed to.
func (r *Run) provedKey(n *node) string { return r.keyOfStep("failed warm and cold", n) }

// keyOfStep is what something is remembered by of a step of the project, whatever it stands on.
func (r *Run) keyOfStep(what string, n *node) string {
	args := strings.Join(n.v.Op.GetExec().GetMeta().GetArgs(), "\n")
	return digest.FromString(what + "\n" + r.opt.Warm.Project + "\n" + r.slot(n) + "\n" + args).Encoded()
}

// countProved counts a failure that was proved. One after those that were believed begins them anew.
func (r *Run) countProved(ctx context.Context, key string) error {
	times, err := r.lately(ctx, key)
	if err != nil {
		return err
	}
	return r.putLately(ctx, key, min(times+1, maxProved))
}

// lately is how often something was counted, the last time in a day. A damaged memo says nothing.
func (r *Run) lately(ctx context.Context, key string) (times int, err error) {
	text, found, err := r.Engine.opt.Store.Memo(ctx, key)
	if err != nil || !found {
		return 0, err
	}
	var at int64
	if _, err := fmt.Sscan(text, &times, &at); err != nil || time.Since(time.Unix(at, 0)) > failedFor {
		return 0, nil //nolint:nilerr // see above
	}
	return times, nil
}

func (r *Run) countLately(ctx context.Context, key string) error {
	times, err := r.lately(ctx, key)
	if err != nil {
		return err
	}
	return r.putLately(ctx, key, times+1)
}

func (r *Run) putLately(ctx context.Context, key string, times int) error {
	return r.Engine.opt.Store.PutMemo(ctx, key, fmt.Sprint(times, " ", time.Now().Unix()))
}
