package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
)

// Group is what builds that run at the same time have in common: a [Run] is one of them. They end together: the
// first error of any cancels all.
//
// What one has of another is shared here and nowhere else, each under a name that says all that it depends on:
//
//   - an execution (flights), by the key of what is executed, by the imported caches that it stands on, and by the secrets
//     and agents that it, or what it stands on, was given;
//   - a source (sources), by its operation and by what of its build it reads: the directory, the layout, the file, or
//     the secrets that its server is shown;
//   - what a server or a registry said (httpFiles, gitCommits, resolved), likewise;
//   - a build's result that is another one's context ([Run.Link]), and then all of its graph, which stays its own build's.
//
// Everything else, the nodes of operations too, is each run's own: what it looks up, what it may use, what it
// believes, what it tells.
type Group struct {
	*Engine
	ctx    context.Context
	cancel context.CancelCauseFunc
	bg     sync.WaitGroup
	// notices tells what the sandbox has to say once: it says the same of each step.
	notices sync.Once
	same    singleflight.Group // what is asked of registries and clamped, as long as it lasts

	mu       sync.Mutex
	runs     []*Run
	failed   *Run // whose error ended the group
	sources  map[sourceKey]*node
	flights  map[string]*flight
	shown    map[digest.Digest]*node // who tells a display of a vertex
	believed map[string]*atomic.Bool // by scope: something of these caches was used
	pending  []*pendingResult
	planIDs  []layer.ID // layers that the store can make only while the group is not over
	clamped  map[string]clampedLayer
	images   map[*node]*imagesource.Image // what references were resolved to
	resolved map[string]*imagesource.Image
	atEnd    []func()
	// httpFiles and gitCommits are what servers said, by the request and what it was sent with.
	httpFiles  map[string]func() (*httpsource.File, error)
	gitCommits map[gitQuestion]func() (*gitsource.Commit, error)
}

type gitQuestion struct {
	gitsource.Request
	granted string
}

// NewGroup starts a group. Close must be called; when ctx ends, so does everything of the group.
func (e *Engine) NewGroup(ctx context.Context) *Group {
	g := &Group{
		Engine: e, sources: map[sourceKey]*node{}, flights: map[string]*flight{}, shown: map[digest.Digest]*node{},
		believed: map[string]*atomic.Bool{}, clamped: map[string]clampedLayer{}, images: map[*node]*imagesource.Image{},
		resolved: map[string]*imagesource.Image{}, httpFiles: map[string]func() (*httpsource.File, error){},
		gitCommits: map[gitQuestion]func() (*gitsource.Commit, error){},
	}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

// Context ends when the group does.
func (g *Group) Context() context.Context { return g.ctx }

// Fail ends the group with an error. Of several only the first counts.
func (g *Group) Fail(err error) { g.failBy(nil, err) }

// Failed is the run whose error ended the group; nil where none did.
func (g *Group) Failed() *Run {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

// failBy ends the group with an error of a run, or nil. The run that failed is that of the error which counts.
func (g *Group) failBy(r *Run, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() == nil {
		g.failed = r
	}
	g.cancel(err)
}

// NewRun starts a build of the group. It ends with the group.
func (g *Group) NewRun(opt RunOptions) *Run {
	if opt.Sink == nil {
		opt.Sink = progress.Discard
	}
	if opt.Log == nil {
		opt.Log = progress.Discard
	}
	r := &Run{Group: g, opt: opt, scope: scopeOf(opt.believes()), nodes: map[digest.Digest]*node{}, told: map[digest.Digest]bool{}, linked: map[digest.Digest]*Run{}}
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.borrowed = g.believed[r.scope]; r.borrowed == nil {
		r.borrowed = new(atomic.Bool)
		g.believed[r.scope] = r.borrowed
	}
	g.runs = append(g.runs, r)
	return r
}

// Link makes the graph below an edge of another run, which is one of [RunOptions.Links], that run's here too: this one may use what
// comes of it, as if it was an image, and has no part in how it comes about.
func (r *Run) Link(other *Run, e graph.Edge) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var link func(v *graph.Vertex)
	link = func(v *graph.Vertex) {
		if v == nil || r.linked[v.Digest] != nil {
			return
		}
		r.linked[v.Digest] = other
		for _, in := range v.Inputs {
			link(in.Vertex)
		}
	}
	link(e.Vertex)
}

// owner is the run that a vertex is of.
func (r *Run) owner(v *graph.Vertex) *Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.linked[v.Digest]; o != nil {
		return o
	}
	return r
}

// sourceKey is what a source is shared by: the operation, and what else decides what it gives.
type sourceKey struct {
	digest      digest.Digest
	dir         local.Context // of a local source
	bound       string        // what it reads of its build otherwise
	scope       string        // of one whose results are looked up
	pull, fresh bool
}

// share gives the group's node of a source, which may be another run's.
func (g *Group) share(n *node) *node {
	key := n.run.sourceKey(n)
	g.mu.Lock()
	defer g.mu.Unlock()
	if have := g.sources[key]; have != nil {
		return have
	}
	g.sources[key] = n
	return n
}

// flight is an execution, which is carried out once in a group.
type flight struct {
	run   *Run   // that carries it out
	scope string // of the imported caches that it may stand on; "" when it stands on none
	do    func() (*outcome, error)
}

// flightName is what the execution of a node is shared by: its key, the secrets and agents in it, and the imported caches that
// it may stand on. What stands on none is everybody's.
func (r *Run) flightName(n *node, id identity, scope string) string {
	return string(id.key) + scope + "\n" + n.granted
}

// underWay finds an execution of the same that somebody began; nil is none.
func (r *Run) underWay(n *node, id identity) *flight {
	r.Group.mu.Lock()
	defer r.Group.mu.Unlock()
	f := r.flights[r.flightName(n, id, "")]
	if f == nil {
		f = r.flights[r.flightName(n, id, r.scope)]
	}
	r.take(f)
	return f
}

// take notes what using an execution means: it may stand on caches.
func (r *Run) take(f *flight) {
	if f != nil && f.scope != "" {
		r.borrowed.Store(true)
	}
}

// Executions of what was planned in an earlier build have other names: they are no misses.
const (
	missed  = ""
	planned = "planned "
)

// launch begins an execution, unless somebody did. The inputs have been evaluated before: what they stand on is known.
func (r *Run) launch(kind string, n *node, id identity, do func() (*outcome, error)) *flight {
	scope := r.recordScope()
	name := kind + r.flightName(n, id, scope)
	r.Group.mu.Lock()
	defer r.Group.mu.Unlock()
	f := r.flights[name]
	if f == nil {
		f = &flight{run: r, scope: scope, do: sync.OnceValues(do)}
		r.flights[name] = f
	}
	r.take(f)
	return f
}

// board gives what an execution gives. Of one that is another run's the log has a line.
func (r *Run) board(n *node, id identity, f *flight) (*outcome, error) {
	if f.run == r {
		return f.do()
	}
	r.mu.Lock()
	r.told[n.v.Digest] = true
	r.mu.Unlock()
	began := time.Now()
	step := progress.Start(r.opt.Log, event(n.v))
	fmt.Fprintf(step.Stderr(), "%s has this step too, it runs there\n", f.run.opt.Name)
	out, err := f.do()
	if err != nil && r.ctx.Err() != nil {
		err = context.Cause(r.ctx)
	}
	step.Done(err)
	rec := StepRecord{Name: n.v.Name(), Digest: n.v.Digest, Key: id.key, Shared: f.run.opt.Name, Started: began, Took: time.Since(began)}
	if err != nil {
		rec.Error = err.Error()
	}
	r.record(rec)
	return out, err
}

// shows reports whether it is this node that displays hear of by its vertex's digest. Another one with the same digest has,
// or may use, something else.
func (g *Group) shows(n *node) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if have := g.shown[n.v.Digest]; have != nil {
		return have == n
	}
	g.shown[n.v.Digest] = n
	return true
}

// ResolveImage asks for an image once in the group, and shows it as one step. key says all that is asked. ctx is what find
// works with: when that of another build ends, which has failed, this one asks itself.
func (r *Run) ResolveImage(ctx context.Context, key, name string, find func() (*imagesource.Image, error)) (*imagesource.Image, error) {
	shown := progress.Vertex{Digest: digest.FromString(key), Name: name}
	tell := func(sink progress.Sink) *progress.Step {
		r.mu.Lock()
		r.told[shown.Digest] = true
		r.mu.Unlock()
		return progress.Start(sink, shown)
	}
	ask := func() (any, error) {
		r.Group.mu.Lock()
		img := r.resolved[key]
		r.Group.mu.Unlock()
		if img != nil {
			return img, nil
		}
		step := tell(r.opt.Sink)
		img, err := find()
		step.Done(err)
		if err != nil {
			return ctx.Err() != nil, err
		}
		r.Group.mu.Lock()
		r.resolved[key] = img
		r.Group.mu.Unlock()
		return img, nil
	}
	v, err, _ := r.same.Do("resolve "+key, ask)
	for gaveUp, _ := v.(bool); gaveUp && ctx.Err() == nil; gaveUp, _ = v.(bool) {
		v, err, _ = r.same.Do("resolve "+key, ask)
	}
	r.mu.Lock()
	told := r.told[shown.Digest]
	r.mu.Unlock()
	if !told { // another build asked
		tell(r.opt.Log).Done(err)
	}
	if err != nil {
		return nil, err
	}
	return v.(*imagesource.Image), nil
}

// Close ends everything that the group still does, waits for it, and records the results whose
// layers were written. What was only planned is forgotten.
func (g *Group) Close() error {
	g.cancel(errOver)
	g.bg.Wait()
	ctx := context.WithoutCancel(g.ctx)
	err := errors.Join(g.keepClamped(ctx), g.keepPlanned(ctx))
	for _, r := range g.runs {
		err = errors.Join(err, r.keepForeign(ctx))
	}
	g.mu.Lock()
	plans, atEnd := g.planIDs, g.atEnd
	g.planIDs, g.atEnd = nil, nil
	g.mu.Unlock()
	s := g.Engine.opt.Store
	s.EndPlans(plans...)
	s.KeepDigests()
	for _, f := range atEnd { // without the lock: some wait for others, who may need it
		f()
	}
	return err
}
