package engine

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/source/local"
)

// event describes a vertex to a display.
func event(v *graph.Vertex) progress.Vertex {
	var inputs []digest.Digest
	for _, in := range v.Inputs {
		if in.Vertex != nil {
			inputs = append(inputs, in.Vertex.Digest)
		}
	}
	return progress.Vertex{Digest: v.Digest, Name: v.Name(), Inputs: inputs, Group: v.Meta.GetProgressGroup()}
}

// seat is the place of a node's run in an audience.
func (n *node) seat() *seat { return &seat{run: n.run, what: n.what(), v: event(n.v)} }

// what is what a screen shows as the node: of a source that several runs read it is one thing.
func (n *node) what() any {
	if n.src != nil {
		return n.src
	}
	return n
}

// hears notes that the run's log hears of a vertex. It reports whether it had already.
func (r *Run) hears(d digest.Digest) (known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known = r.told[d]
	r.told[d] = true
	return known
}

// start tells that a node begins to run, which no other run has part in.
func (r *Run) start(n *node) *progress.Step {
	r.hears(n.v.Digest)
	v := event(n.v)
	return progress.Start(r.sink, r.screen.shows(v, n.what(), r).as(v, n.what(), r))
}

// tellCached tells that a node, and with it everything below it that was not needed, is cached. What another run of the
// screen shows the build's log is told alone.
func (r *Run) tellCached(n *node) {
	if n.run != r {
		n.run.tellCached(n)
		return
	}
	if r.hears(n.v.Digest) {
		return
	}
	for _, in := range n.inputs {
		if in.n != nil && !isLocal(in.n) {
			r.tellCached(in.n)
		}
	}
	step := progress.Start(r.toldOf(event(n.v), n.what()), event(n.v))
	step.Cached()
	step.Done(nil)
	rec := recordOf(n)
	rec.Cached, rec.implied = true, true
	r.record(rec)
}

// slot names the place of a vertex in its Dockerfile: "[builder 2/4]" without the instruction's
// text, so that a changed instruction is compared with what it was.
func (r *Run) slot(n *node) string { return r.opt.Slot + "\n" + place(n) }

// place is the part of a slot that is the same wherever the Dockerfile lies.
func place(n *node) string {
	name := n.v.Name()
	if strings.HasPrefix(name, "[") {
		if i := strings.Index(name, "]"); i > 0 {
			name = name[:i+1]
		}
	}
	return name
}

// Reading tells a display that a frontend reads files of a local source, and returns what ends it.
// For every other vertex its own step tells enough.
func (r *Run) Reading(e graph.Edge) (done func(error)) {
	n := r.node(e.Vertex)
	if n == nil || !isLocal(n) || r.hears(n.v.Digest) {
		return func(error) {}
	}
	step := progress.Start(r.toldOf(event(n.v), n.what()), event(n.v))
	return func(err error) {
		if c, cerr := r.opt.Contexts.Context(n.v.Op.GetSource()); cerr == nil && err == nil {
			if sent, ok := c.(local.Sent); ok {
				step.Transferring(localName(n.v), sent.Sent(), true)
			}
		}
		step.Done(err)
	}
}

// toldOf is who is told of a vertex: the log alone, if the screen shows it as another run's, or something else as it.
func (r *Run) toldOf(v progress.Vertex, what any) *gate {
	if first := r.screen.shows(v, what, r); first.what != what || first.run != r {
		return r.log
	}
	return r.sink
}

// patience is how long something may be asked before a display tells of it.
const patience = 5 * time.Second

// asking is a question to a server as a step of displays: it begins when there is something to
// tell, or when the answer takes long.
type asking struct {
	whom *audience // nil: nobody is ever told

	mu    sync.Mutex
	step  *progress.Step
	over  bool
	timer *time.Timer
}

func (a *audience) asking() *asking {
	q := &asking{whom: a}
	q.timer = time.AfterFunc(patience, func() { q.start() })
	return q
}

// start begins the step. It returns nil when there is none.
func (q *asking) start() *progress.Step {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.step == nil && !q.over {
		q.step = q.whom.start()
	}
	return q.step
}

// done ends the step. An error always has one, unless nobody waits for the answer any more. told reports whether there
// was one.
func (q *asking) done(ended bool, err error) (told bool) {
	q.timer.Stop()
	switch {
	case ended && err != nil:
		err = context.Canceled
	case err != nil:
		q.start()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	if q.step != nil {
		q.whom.end(err)
	}
	return q.step != nil
}
