package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// warmFailure is how a step failed that ran warm. It has no place, as it may not be the step's fault.
type warmFailure struct{ err error }

func (e *warmFailure) Error() string { return e.err.Error() }
func (e *warmFailure) Unwrap() error { return e.err }

// afterWarm has a step run cold that failed warm, and tells if that helped.
func (r *Run) afterWarm(ctx context.Context, n *node, w warming, failed *warmFailure) (*outcome, error) {
	cause := failed.err
	var exit *sandbox.ExitError
	if errors.As(cause, &exit) {
		cause = exit
	}
	r.tellWarm(fmt.Sprintf("%s failed, it runs once more without warm caches: %v", n.v.Name(), cause))
	out, err := n.coldResult(ctx)
	if err != nil {
		return nil, err
	}
	r.tellWarm(fmt.Sprintf("%s did not fail without warm caches, which are dropped", n.v.Name()))
	err = r.noteFailedWarm(ctx, n)
	for _, d := range w.own {
		if d.named == nil {
			err = errors.Join(err, r.Engine.opt.Store.DropCache(d.cache))
		}
	}
	return out, err
}

// A step that failed warm so many times within such a time, and not cold, runs cold until it is over: the first time the cache may have been
// damaged, which is dropped then.
const (
	failedWarmly = 2
	failedFor    = 24 * time.Hour
)

// failedWarmKey is what it is remembered by that a step of the project failed warm, whatever it stands on.
func (r *Run) failedWarmKey(n *node) string {
	args := strings.Join(n.v.Op.GetExec().GetMeta().GetArgs(), "\n")
	return digest.FromString("failed warm\n" + r.opt.Warm.Project + "\n" + r.slot(n) + "\n" + args).Encoded()
}

// failuresWarm is how often a step failed warm lately. A damaged memo says nothing.
func (r *Run) failuresWarm(ctx context.Context, n *node) (times int, err error) {
	text, found, err := r.Engine.opt.Store.Memo(ctx, r.failedWarmKey(n))
	if err != nil || !found {
		return 0, err
	}
	var at int64
	if _, err := fmt.Sscan(text, &times, &at); err != nil || time.Since(time.Unix(at, 0)) > failedFor {
		return 0, nil //nolint:nilerr // see above
	}
	return times, nil
}

func (r *Run) noteFailedWarm(ctx context.Context, n *node) error {
	times, err := r.failuresWarm(ctx, n)
	if err != nil {
		return err
	}
	return r.Engine.opt.Store.PutMemo(ctx, r.failedWarmKey(n), fmt.Sprint(times+1, " ", time.Now().Unix()))
}

// failsWarm reports whether a step is known to fail warm.
func (r *Run) failsWarm(ctx context.Context, n *node) (bool, error) {
	if n.v.Op.GetExec() == nil || r.opt.Warm == nil {
		return false, nil
	}
	times, err := r.failuresWarm(ctx, n)
	if err != nil || times < failedWarmly {
		return false, err
	}
	r.tellWarm(n.v.Name() + " runs cold, with all that it stands on: it failed with warm caches, and did not without, not long ago")
	return true, nil
}
