package engine

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/moby/buildkit/solver/pb"

	httpsource "github.com/slipway-build/slipway/internal/source/http"
)

// settling is how long a run that has failed waits for what sources of earlier lines give.
const settling = 5 * time.Second

// fail adds the places in the Dockerfile to an error, ends the run with it, and returns what the run ended
// with. A nil error stays nil.
//
// Sources are looked for at the same time, so that of several that are missing any may be found first. The
// run ends with the one that stands first in the Dockerfile.
func (r *Run) fail(n *node, err error) error {
	if err == nil {
		return nil
	}
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	n, err = r.blame(n, err)
	if n = r.placed(n); n != nil {
		if at, first := r.earlier(n); first != nil {
			n, err = at, first
		}
		for _, s := range n.v.Sources {
			err = s.WrapError(err)
		}
	}
	r.failBy(r, err)
	return context.Cause(r.ctx)
}

// placed returns the node whose place an error about n has: n or, as a source has no place of its own, the
// first instruction that uses it; nil when there is none.
func (r *Run) placed(n *node) *node {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ; n != nil && len(n.v.Sources) == 0; n = n.user.Load() {
		var first *node
		for _, u := range r.nodes {
			if uses := slices.ContainsFunc(u.inputs, func(in edge) bool { return in.n == n }); uses && len(u.v.Sources) > 0 &&
				(first == nil || u.line() < first.line()) {
				first = u
			}
		}
		if first != nil {
			return first
		}
	}
	return n
}

// line is the first line of a node's place; 0: it has none.
func (n *node) line() int32 {
	first := int32(0)
	for _, s := range n.v.Sources {
		for _, rng := range s.Ranges {
			if l := rng.GetStart().GetLine(); first == 0 || l < first {
				first = l
			}
		}
	}
	return first
}

// before reports whether n stands in the same file as other, above it.
func (n *node) before(other *node) bool {
	if n == nil || len(n.v.Sources) == 0 || len(other.v.Sources) == 0 {
		return false
	}
	a, b := n.v.Sources[0].Info, other.v.Sources[0].Info
	return n.line() < other.line() && a.GetFilename() == b.GetFilename() && bytes.Equal(a.GetData(), b.GetData())
}

// earlier finds the first source above n that is missing, and the node that has its place.
//
// What it asks is what this run asks in any case, so that its answer is here, or on its way. The result of a
// step is not waited for, and nothing is waited for longer than [settling].
func (r *Run) earlier(n *node) (at *node, err error) {
	type answer struct {
		at  *node
		err chan error
	}
	var answers []answer
	for _, q := range r.questions() {
		if !q.at.before(n) {
			continue
		}
		a := answer{q.at, make(chan error, 1)}
		answers = append(answers, a)
		r.bg.Add(1)
		go func() {
			defer r.bg.Done()
			a.err <- q.ask()
		}()
	}
	slices.SortStableFunc(answers, func(a, b answer) int { return cmp.Compare(a.at.line(), b.at.line()) })
	ctx, cancel := context.WithTimeout(r.ctx, settling)
	defer cancel()
	for _, a := range answers {
		select {
		case err = <-a.err:
		case <-ctx.Done(): // those that have answered count
			select {
			case err = <-a.err:
			default:
			}
		}
		if err != nil {
			return a.at, err
		}
	}
	return nil, nil
}

// question asks whether a source is there. The error has no place, or has ended the run.
type question struct {
	at  *node // has the place of the source
	ask func() error
}

// questions are those of all sources that need no step to run first.
func (r *Run) questions() []question {
	r.mu.Lock()
	nodes := make([]*node, 0, len(r.nodes))
	for _, n := range r.nodes {
		nodes = append(nodes, n)
	}
	r.mu.Unlock()
	var all []question
	quick := map[*node]bool{}
	for _, n := range nodes {
		if src := n.v.Op.GetSource(); src != nil {
			if !isLocal(n) {
				all = append(all, question{r.placed(n), func() error { return n.run.asked(n, src) }})
			}
			continue
		}
		uses, err := n.uses()
		if err != nil {
			continue // evaluating it will tell
		}
		for i, u := range uses {
			if in := n.inputs[i]; len(u.copies) > 0 && in.quick(quick) {
				all = append(all, question{n, func() error {
					_, err := r.content(in, u.copies, func() {})
					return r.missing(n, in, err)
				}})
			}
		}
	}
	return all
}

// asked is what a server says of a source. A file whose digest the Dockerfile has is only asked for when it is
// not in the cache.
func (r *Run) asked(n *node, src *pb.SourceOp) error {
	if _, err := n.identity(); err != nil {
		return err
	}
	req, err := httpsource.Parse(src)
	if err != nil {
		return nil //nolint:nilerr // it is of another kind
	}
	r.Group.mu.Lock()
	f := r.httpFiles[r.httpQuestion(req)]
	r.Group.mu.Unlock()
	if f == nil {
		return nil
	}
	_, err = f()
	return err
}

// quick reports whether the files of an edge are there without a step that is still to run. seen is what is
// known of nodes.
func (e edge) quick(seen map[*node]bool) bool {
	if e.n == nil || e.n.finished.Load() {
		return true
	}
	known, ok := seen[e.n]
	if !ok {
		known = e.n.v.Op.GetExec() == nil && !slices.ContainsFunc(e.n.inputs, func(in edge) bool { return !in.quick(seen) })
		seen[e.n] = known
	}
	return known
}
