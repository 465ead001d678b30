package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/warm"
)

// Run is one build's use of the engine: any number of evaluations of one graph. One that fails leaves the run as it is: what was
// done stays, and what failed fails again. Close must be called.
type Run struct {
	*Engine
	id        int64
	opt       RunOptions
	screen    *Screen
	sink, log *gate
	since     time.Time // what the world is like it has asked after that, or others have
	believes  atomic.Pointer[beliefs]
	borrowed  atomic.Bool // see borrowed.go
	views     warm.Views  // of the graphs that were asked for, if the run has steps run warm

	// life ends with the context that the run was begun with, or when it is closed: what is evaluated may use it until then.
	life   context.Context
	cancel context.CancelCauseFunc
	crew   crew
	holds  []*shared // under the engine's lock
	closed bool      // likewise: it holds nothing any more

	elsewhere elsewhere
	before    func() *Earlier

	mu      sync.Mutex
	nodes   map[digest.Digest]*node
	linked  map[digest.Digest]*Run // whose vertices are what this run has of others
	told    map[digest.Digest]bool // vertices that the build's log has heard of
	renewed map[string]bool        // cache mounts that were emptied
	mounts  usedMounts             // cache mounts that steps used
	atEnd   []func(failed bool)
	records []StepRecord
	lists   map[digest.Digest]*reasons.List // of the files that digests are of
}

// StepRecord tells what became of a vertex.
type StepRecord struct {
	Name    string          `json:"name"`
	Digest  digest.Digest   `json:"digest"`
	Inputs  []digest.Digest `json:"inputs,omitempty"` // the vertices that it stands on
	Key     Key             `json:"key"`              // "" where only what stands on it was looked up
	Cached  bool            `json:"cached"`
	From    string          `json:"from,omitempty"`   // the imported cache that had it
	Shared  string          `json:"shared,omitempty"` // the other build that ran it, at the same time
	Reason  string          `json:"reason,omitempty"` // why it was not cached
	Why     *reasons.Why    `json:"why,omitempty"`    // likewise, in its parts, of a step that was looked up
	Started time.Time       `json:"started"`
	Took    time.Duration   `json:"took"`
	Error   string          `json:"error,omitempty"`

	Canceled bool `json:"canceled,omitempty"` // it was given up; Error has the words

	Layers  []string `json:"layers,omitempty"` // IDs of those that it has made, or an image's
	Process *Process `json:"process,omitempty"`
	Warm    []string `json:"warm,omitempty"` // directories that it, or what it stands on, found as another build left them

	implied bool // nobody has asked for it: what stands on it is cached
}

// Process is how the process of a RUN came about, and what it and those that it has started have used.
type Process struct {
	Prepare time.Duration  `json:"prepare"` // until its filesystem was there
	Queued  time.Duration  `json:"queued"`  // of that for cache mounts which other steps had
	Run     time.Duration  `json:"run"`     // until all of them had ended
	Commit  time.Duration  `json:"commit"`  // until what it changed was a layer
	Usage   *sandbox.Usage `json:"usage,omitempty"`
	// Files are those that they have opened, of a step that was traced.
	Files *filetrace.Summary `json:"files,omitempty"`
}

// NewRun begins a run, which ends with ctx.
func (e *Engine) NewRun(ctx context.Context, opt RunOptions) *Run {
	if opt.Sink == nil {
		opt.Sink = progress.Discard
	}
	if opt.Log == nil {
		opt.Log = progress.Discard
	}
	if opt.Screen == nil {
		opt.Screen = NewScreen()
	}
	if opt.Since.IsZero() {
		opt.Since = time.Now()
	}
	opt.complete()
	if opt.Images == nil {
		opt.Images = e.opt.Images
	}
	r := &Run{
		Engine: e, id: e.last.Add(1), opt: opt, screen: opt.Screen, sink: &gate{sink: opt.Sink}, log: &gate{sink: opt.Log}, since: opt.Since,
		nodes: map[digest.Digest]*node{}, told: map[digest.Digest]bool{}, linked: map[digest.Digest]*Run{},
	}
	if opt.Warm != nil {
		r.views.Given = opt.Warm.Paths
	}
	r.before = sync.OnceValue(opt.Earlier)
	r.believe(opt.Foreign)
	r.life, r.cancel = context.WithCancelCause(ctx)
	context.AfterFunc(r.life, r.giveUp)
	return r
}

// whenOver has f called when the run is closed. failed says that it was ended before.
func (r *Run) whenOver(f func(failed bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.atEnd = append(r.atEnd, f)
}

// Close ends everything that the run still does, waits for it, and records the results whose layers were written. What was only
// planned is forgotten, unless another run uses it.
func (r *Run) Close() error {
	r.cancel(errOver)
	r.crew.end()
	r.mu.Lock()
	atEnd := r.atEnd
	r.atEnd = nil
	r.mu.Unlock()
	failed := !errors.Is(context.Cause(r.life), errOver)
	for _, f := range atEnd {
		f(failed)
	}
	ctx := context.WithoutCancel(r.life)
	err := errors.Join(r.keepForeign(ctx), r.letGo(ctx))
	r.Engine.opt.Store.KeepDigests()
	r.sink.close()
	r.log.close()
	return err
}

// apart reports whether the run is of another command than r: each has its own display, files and failures.
func (r *Run) apart(from *Run) bool { return r.screen != from.screen }

// Records returns what became of the vertices so far, in the order in which they ended. Those that are cached as something that
// stands on them is are among them, unless they were asked for as well.
func (r *Run) Records() []StepRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := map[digest.Digest]bool{}
	for i := range r.records {
		asked[r.records[i].Digest] = asked[r.records[i].Digest] || !r.records[i].implied
	}
	return slices.DeleteFunc(slices.Clone(r.records), func(rec StepRecord) bool { return rec.implied && asked[rec.Digest] })
}

func (r *Run) record(rec StepRecord) {
	r.mu.Lock()
	r.records = append(r.records, rec)
	r.mu.Unlock()
	if r.opt.Ended != nil {
		r.opt.Ended()
	}
}

// recordOf begins the record of a node.
func recordOf(n *node) StepRecord {
	rec := StepRecord{Name: n.v.Name(), Digest: n.v.Digest, Started: time.Now()}
	for _, in := range n.v.Inputs {
		if in.Vertex != nil && !slices.Contains(rec.Inputs, in.Vertex.Digest) {
			rec.Inputs = append(rec.Inputs, in.Vertex.Digest)
		}
	}
	return rec
}

// recordCached records a node that was cached; from names the imported cache that had it, if one did.
func (r *Run) recordCached(n *node, key Key, from string, out *outcome) {
	rec := recordOf(n)
	rec.Key, rec.Cached, rec.From, rec.Layers, rec.Warm = key, true, from, out.layers(), out.warmth()
	r.record(rec)
}

// warmth are the directories that were warm in o, which may be nil.
func (o *outcome) warmth() []string {
	if o == nil {
		return nil
	}
	return dirsOf(o.warm)
}

// layers names the layer that each output has on top. o may be nil.
func (o *outcome) layers() (names []string) {
	if o == nil {
		return nil
	}
	for _, v := range o.outputs {
		if n := len(v.Snapshot); n > 0 {
			names = append(names, string(v.Snapshot[n-1]))
		}
	}
	return names
}

func layerNames(snap layer.Snapshot) (names []string) {
	for _, id := range snap {
		names = append(names, string(id))
	}
	return names
}

// Result evaluates an edge. The first failure ends the evaluation, and what it has begun that nobody else waits for. It is a
// [Failure].
func (r *Run) Result(ctx context.Context, e graph.Edge) (Value, error) {
	r.seen(e)
	ctx, end := r.begin(ctx)
	defer end()
	return r.value(ctx, edge{r.node(e.Vertex), e.Index})
}

// Link makes the graph below an edge of another run, which is one of [RunOptions.Links], that run's here too: this one may use what
// comes of it, as if it was an image, and has no part in how it comes about. The other run must be closed after this one has done its work.
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

func fromRecord(res store.Result) *outcome {
	out := &outcome{warm: res.Warm}
	for _, snap := range res.Outputs {
		out.outputs = append(out.outputs, Value{Snapshot: snap})
	}
	return out
}
