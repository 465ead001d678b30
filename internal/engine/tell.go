package engine

import (
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
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

// start tells that a node begins to run.
func (r *Run) start(n *node) *progress.Step {
	r.mu.Lock()
	r.told[n.v.Digest] = true
	r.mu.Unlock()
	v := event(n.v)
	if !r.shows(n) {
		v.Digest = digest.FromString(r.opt.Name + " " + v.Digest.String())
	}
	return progress.Start(r.opt.Sink, v)
}

// tellCached tells that a node, and with it everything below it that was not needed, is cached. What another run
// shows the build's log is told alone.
func (r *Run) tellCached(n *node) {
	if n.run != r && !n.isSource() {
		n.run.tellCached(n)
		return
	}
	r.mu.Lock()
	known := r.told[n.v.Digest]
	r.told[n.v.Digest] = true
	r.mu.Unlock()
	if known {
		return
	}
	for _, in := range n.inputs {
		if in.n != nil && !isLocal(in.n) {
			r.tellCached(in.n)
		}
	}
	sink := r.opt.Sink
	if n.run != r || !r.shows(n) {
		sink = r.opt.Log
	}
	step := progress.Start(sink, event(n.v))
	step.Cached()
	step.Done(nil)
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
	if n == nil || !isLocal(n) {
		return func(error) {}
	}
	r.mu.Lock()
	known := r.told[n.v.Digest]
	r.mu.Unlock()
	if known {
		return func(error) {}
	}
	if n.run == r {
		return r.start(n).Done
	}
	r.mu.Lock()
	r.told[n.v.Digest] = true
	r.mu.Unlock()
	return progress.Start(r.opt.Log, event(n.v)).Done
}

// patience is how long something may be asked before a display tells of it.
const patience = 5 * time.Second

// asking is a question to a server as a step of the display: it begins when there is something to
// tell, or when the answer takes long.
type asking struct {
	r *Run
	n *node // nil: nothing is ever told

	mu    sync.Mutex
	step  *progress.Step
	over  bool
	timer *time.Timer
}

func (r *Run) asking(n *node) *asking {
	a := &asking{r: r, n: n}
	a.timer = time.AfterFunc(patience, func() { a.start() })
	return a
}

// start begins the step. It returns nil when there is none.
func (a *asking) start() *progress.Step {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.step == nil && a.n != nil && !a.over {
		a.step = a.r.start(a.n)
	}
	return a.step
}

// done ends the step. An error always has one, unless the run has ended. told reports whether there
// was one.
func (a *asking) done(err error) (told bool) {
	a.timer.Stop()
	if err != nil && a.r.ctx.Err() == nil {
		a.start()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	if a.step != nil {
		a.step.Done(err)
	}
	return a.step != nil
}
