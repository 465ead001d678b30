package engine

import (
	"context"
	"errors"
)

// Doubted is how a step ended that is cold itself, and was given files of steps that ran warm. A build without warm caches may not have it.
type Doubted struct{ err error }

func (e *Doubted) Error() string { return e.err.Error() }
func (e *Doubted) Unwrap() error { return e.err }

// doubt is the error of a step: one to be proved by a build without warm caches, if it may be for what came out of them, and was not often before. Of all
// runs that waited for the step, the one whose it was counts that.
func (r *Run) doubt(ctx context.Context, n *node, w warming, err error, mine bool) error {
	if r.opt.Warm == nil || len(w.paths()) > 0 || !ofTheStep(err) || ctx.Err() != nil || !standsOnWarm(n, w.cold, map[*node]bool{}) {
		return err
	}
	key := r.provedKey(n)
	proved, merr := r.lately(ctx, key)
	if merr != nil {
		return errors.Join(err, merr)
	}
	count, doubted := r.countProved, error(&Doubted{err})
	if proved >= maxProved && proved < maxProved+maxBelieved {
		count, doubted = r.countLately, err
	}
	if mine {
		if merr := count(ctx, key); merr != nil {
			return errors.Join(err, merr)
		}
	}
	return doubted
}

// standsOnWarm reports whether something was warm that a node was made of. One that was made cold stands on what is cold, but what it copies may be of
// what was warm.
func standsOnWarm(n *node, cold bool, seen map[*node]bool) bool {
	uses, err := n.uses()
	if err != nil {
		return false // evaluating it has told
	}
	for i, in := range n.inputs {
		if in.n == nil || seen[in.n] {
			continue
		}
		seen[in.n] = true
		coldly := cold && uses[i].whole
		if out, ok := in.n.outcome.peek(); !coldly && ok && out != nil && len(out.warm) > 0 || standsOnWarm(in.n, coldly, seen) {
			return true
		}
	}
	return false
}
