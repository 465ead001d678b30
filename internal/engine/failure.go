package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/graph"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
)

// settling is how long an evaluation that has failed waits for what sources of earlier lines give.
const settling = 5 * time.Second

// Failure is an error of an evaluation. It has its place in the Dockerfile, if it has one.
type Failure struct {
	Run    *Run          // whose vertex failed: another one's, if what that gives was asked for
	Vertex *graph.Vertex // that failed; nil: none did
	err    error
}

func (f *Failure) Error() string { return f.err.Error() }
func (f *Failure) Unwrap() error { return f.err }

// fail makes an error about n, which may be nil, a failure. A nil error stays nil, and what is one stays as it is; one that came as
// nobody waits any longer is the cause of that.
//
// Sources are looked for at the same time, so that of several that are missing any may be found first. The
// failure is about the one that stands first in the Dockerfile.
func (r *Run) fail(ctx context.Context, n *node, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if isFailure(err) {
		return err
	}
	n, err = r.blame(ctx, n, err)
	failed := n
	if n = r.placed(n); n != nil {
		if at, first := r.earlier(ctx, n); first != nil {
			if isFailure(first) {
				return first
			}
			n, failed, err = at, at, first
		}
		for _, s := range n.v.Sources {
			err = s.WrapError(err)
		}
	}
	f := &Failure{Run: r, err: err}
	if failed != nil {
		f.Vertex = failed.v
	}
	return f
}

func isFailure(err error) bool { return errors.As(err, new(*Failure)) }

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
func (r *Run) earlier(ctx context.Context, n *node) (at *node, err error) {
	type answer struct {
		at  *node
		err chan error
	}
	var asked sync.WaitGroup
	defer asked.Wait()
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	var answers []answer
	for _, q := range r.questions() {
		if !q.at.before(n) {
			continue
		}
		a := answer{q.at, make(chan error, 1)}
		answers = append(answers, a)
		asked.Go(func() {
			if err := q.ask(ctx); ctx.Err() == nil { // those that have answered by then count
				a.err <- err
			}
		})
	}
	slices.SortStableFunc(answers, func(a, b answer) int { return cmp.Compare(a.at.line(), b.at.line()) })
	for _, a := range answers {
		select {
		case err = <-a.err:
		case <-ctx.Done():
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

// question asks whether a source is there. The error has no place, or is a [Failure].
type question struct {
	at  *node // has the place of the source
	ask func(context.Context) error
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
				all = append(all, question{r.placed(n), func(ctx context.Context) error { return r.asked(ctx, n, src) }})
			}
			continue
		}
		uses, err := n.uses()
		if err != nil {
			continue // evaluating it will tell
		}
		for i, u := range uses {
			if in := n.inputs[i]; len(u.copies) > 0 && in.quick(quick) {
				all = append(all, question{n, func(ctx context.Context) error {
					_, err := r.content(ctx, in, u.copies, func() {})
					return r.unread(ctx, n, i, err)
				}})
			}
		}
	}
	return all
}

// asked is what a server says of a source. A file whose digest the Dockerfile has is only asked for when it is
// not in the cache.
func (r *Run) asked(ctx context.Context, n *node, src *pb.SourceOp) error {
	if _, err := n.identity(ctx); err != nil {
		return err
	}
	req, err := httpsource.Parse(src)
	if err != nil {
		return nil //nolint:nilerr // it is of another kind
	}
	question := r.httpQuestion(req) // a client may be asked for that: no lock is held
	r.Engine.mu.Lock()
	p := r.httpFiles[question]
	r.Engine.mu.Unlock()
	if p == nil {
		return nil
	}
	_, err = r.httpFile(ctx, n, src)
	return err
}

// quick reports whether the files of an edge are there without a step that is still to run. seen is what is
// known of nodes.
func (e edge) quick(seen map[*node]bool) bool {
	if e.n == nil || e.n.outcome.has() {
		return true
	}
	known, ok := seen[e.n]
	if !ok {
		known = e.n.v.Op.GetExec() == nil && !slices.ContainsFunc(e.n.inputs, func(in edge) bool { return !in.quick(seen) })
		seen[e.n] = known
	}
	return known
}
