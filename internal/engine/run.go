package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// Run is one build's use of the engine. Every vertex is a future: its key and its result are
// computed once, by whoever asks first, and shared. What it shares with other runs the [Group] has.
type Run struct {
	*Group
	opt RunOptions

	elsewhere elsewhere
	scope     string       // see borrowed.go
	borrowed  *atomic.Bool // something of the imported caches was used; one of all runs with the same

	mu      sync.Mutex
	nodes   map[digest.Digest]*node
	linked  map[digest.Digest]*Run // whose vertices are what this run has of others
	told    map[digest.Digest]bool // vertices that the build's log has heard of
	records []StepRecord
}

// StepRecord tells what became of a vertex.
type StepRecord struct {
	Name    string        `json:"name"`
	Digest  digest.Digest `json:"digest"`
	Key     Key           `json:"key"`
	Cached  bool          `json:"cached"`
	From    string        `json:"from,omitempty"`   // the imported cache that had it
	Shared  string        `json:"shared,omitempty"` // the other build that ran it, at the same time
	Reason  string        `json:"reason,omitempty"` // why it was not cached
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took"`
	Error   string        `json:"error,omitempty"`
}

// node is a vertex within a run.
type node struct {
	run      *Run // that evaluates it
	v        *graph.Vertex
	inputs   []edge
	granted  string // see [Run.grants]
	identity func() (identity, error)
	result   func() (*outcome, error)
	finished atomic.Bool // there is a result, or an error

	user    atomic.Pointer[node]      // one that n is an input of; nil for the root
	export  atomic.Pointer[exporting] // set when its layers will be asked for as blobs
	fetches sharedStep                // of its layers, from an imported cache

	reader contextReader // of a local source

	mu       sync.Mutex
	contents map[string]func() (digested, error)
}

// isSource reports whether a node is a source, which runs may share.
func (n *node) isSource() bool { return n.v.Op.GetSource() != nil }

// edge is one output of a node; n is nil for the empty filesystem.
type edge struct {
	n     *node
	index int
}

// outcome is what a vertex gave.
type outcome struct {
	outputs []Value
}

// Records returns what became of the vertices so far, in the order in which they ended.
func (r *Run) Records() []StepRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]StepRecord(nil), r.records...)
}

// Result evaluates an edge.
func (r *Run) Result(e graph.Edge) (Value, error) {
	v, err := r.value(edge{r.node(e.Vertex), e.Index})
	if err != nil && r.ctx.Err() != nil {
		// The first failure is the one that counts: the others were cancelled because of it.
		return v, context.Cause(r.ctx)
	}
	return v, err
}

func (r *Run) value(e edge) (Value, error) {
	if e.n == nil {
		return Value{}, nil
	}
	out, err := e.n.result()
	if err != nil {
		return Value{}, err
	}
	if e.n.run != r && e.n.isSource() && !isLocal(e.n) {
		r.tellCached(e.n) // to the log
	}
	if e.index >= len(out.outputs) {
		return Value{}, fmt.Errorf("%s has no output %d", e.n.v.Name(), e.index)
	}
	return out.outputs[e.index], nil
}

// node returns the run's node of a vertex, and makes it with all that it needs.
func (r *Run) node(v *graph.Vertex) *node {
	if v == nil {
		return nil
	}
	if o := r.owner(v); o != r {
		return o.node(v)
	}
	r.mu.Lock()
	n, ok := r.nodes[v.Digest]
	r.mu.Unlock()
	if ok {
		return n
	}
	n = r.newNode(v)
	if n.isSource() {
		n = r.share(n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if other, ok := r.nodes[v.Digest]; ok {
		return other
	}
	r.nodes[v.Digest] = n
	for _, in := range n.inputs {
		if in.n != nil {
			in.n.user.CompareAndSwap(nil, n)
		}
	}
	return n
}

func (r *Run) newNode(v *graph.Vertex) *node {
	n := &node{run: r, v: v, contents: map[string]func() (digested, error){}}
	for _, in := range v.Inputs {
		n.inputs = append(n.inputs, edge{r.node(in.Vertex), in.Index})
	}
	n.granted = r.grants(n)
	n.identity = sync.OnceValues(func() (identity, error) { return r.identify(n) })
	n.result = sync.OnceValues(func() (*outcome, error) {
		defer n.finished.Store(true)
		return r.evaluate(n)
	})
	return n
}

// evaluate gives the result of a node: from the store, or by running it.
func (r *Run) evaluate(n *node) (*outcome, error) {
	if src := n.v.Op.GetSource(); src != nil {
		if out, done, err := r.evaluateSource(n, src); done {
			return out, err
		}
	}
	id, err := n.identity()
	if err != nil {
		return nil, err
	}
	if f := r.underWay(n, id); f != nil {
		return r.executed(n, id, f)
	}
	reason := "its cache is ignored"
	if !id.fresh {
		var out *outcome
		if out, reason, err = r.known(n, id); out != nil || err != nil {
			return out, err
		}
	}
	return r.execute(n, id, reason)
}

// known gives the result of a node that need not be executed, or nil and why it must be.
func (r *Run) known(n *node, id identity) (_ *outcome, reason string, err error) {
	res, found, why, err := r.recall(id.key)
	if err != nil {
		return nil, "", r.fail(n, err)
	}
	if found {
		if res.Planned {
			out, err := r.replan(n, id, res, "")
			return out, "", err
		}
		r.tellCached(n)
		r.record(StepRecord{Name: n.v.Name(), Digest: n.v.Digest, Key: id.key, Cached: true, Started: time.Now()})
		return fromRecord(res), "", nil
	}
	if out, found, err := r.foreign(n, id); found || err != nil {
		return out, "", err
	}
	if why == "" {
		why, err = r.why(n, id)
	}
	return nil, why, r.fail(n, err)
}

// why says why a vertex was not found.
func (r *Run) why(n *node, id identity) (string, error) {
	last, err := r.Engine.opt.Store.LastLines(r.ctx, r.slot(n))
	if err != nil {
		return "", err
	}
	if last == nil { // others tell no values
		reason := explain(r.foreignLines(n), store.WithoutValues(id.lines...))
		if reason == optionChanged {
			reason = "a value of the environment or an option of the instruction changed"
		}
		return reason, nil
	}
	now, err := r.Engine.opt.Store.Masked(id.lines)
	return explain(last, now), err
}

// execute runs a node, unless that is done already, and records the result.
func (r *Run) execute(n *node, id identity, reason string) (*outcome, error) {
	inputs, err := r.inputs(n)
	if err != nil {
		return nil, err
	}
	return r.executed(n, id, r.launch(missed, n, id, func() (*outcome, error) { return r.perform(n, id, inputs, reason) }))
}

// executed gives what an execution gives.
func (r *Run) executed(n *node, id identity, f *flight) (*outcome, error) {
	out, err := r.board(n, id, f)
	if err == nil && n.export.Load() != nil {
		r.packAhead(n, out.outputs)
	}
	return out, err
}

// perform carries a node out.
func (r *Run) perform(n *node, id identity, inputs []Value, reason string) (*outcome, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, context.Cause(r.ctx)
	}
	step := r.start(n)
	began := time.Now()
	outputs, err := r.operate(n, inputs, step, began)
	if err != nil && r.madeSpace(err, step) {
		outputs, err = r.operate(n, inputs, step, began)
	}
	rec := StepRecord{Name: n.v.Name(), Digest: n.v.Digest, Key: id.key, Reason: reason, Started: began, Took: time.Since(began)}
	if err == nil {
		err = r.keep(r.ctx, r.pendingResult(n, id, outputs, store.Result{Created: began, Took: rec.Took}))
	}
	ended := err
	if err != nil && r.ctx.Err() != nil {
		ended = context.Canceled // something else failed first, and its error is told there
	}
	step.Done(ended)
	if ended != nil {
		rec.Error = ended.Error()
	}
	r.record(rec)
	if err != nil {
		return nil, r.fail(n, err)
	}
	return &outcome{outputs: outputs}, nil
}

// madeSpace reports whether a step failed for want of space, and unused cache gave some.
func (r *Run) madeSpace(err error, step *progress.Step) bool {
	if r.ctx.Err() != nil || !store.IsFull(err) {
		return false
	}
	freed, merr := r.Engine.opt.Store.MakeSpace(r.ctx)
	if merr != nil || freed == 0 {
		return false // the step's error says what is the matter
	}
	fmt.Fprintf(step.Stderr(), "no space left: %s of unused build cache went, this step is tried once more\n", units.HumanSize(float64(freed)))
	return true
}

// replan gives the result of an operation that was planned in an earlier build and written in
// none; from names the imported cache that knew of it, if one did.
func (r *Run) replan(n *node, id identity, res store.Result, from string) (*outcome, error) {
	inputs, err := r.inputs(n)
	if err != nil {
		return nil, err
	}
	r.tellCached(n)
	f := r.launch(planned, n, id, func() (*outcome, error) {
		outputs, err := r.operate(n, inputs, nil, res.Created)
		if err == nil {
			err = r.keep(r.ctx, r.pendingResult(n, id, outputs, res))
		}
		if err != nil {
			return nil, r.fail(n, err)
		}
		return &outcome{outputs: outputs}, nil
	})
	out, err := f.do()
	if err == nil {
		r.record(StepRecord{Name: n.v.Name(), Digest: n.v.Digest, Key: id.key, Cached: true, From: from, Started: time.Now()})
	}
	return out, err
}

// inputs evaluates all inputs of a node at the same time.
func (r *Run) inputs(n *node) ([]Value, error) {
	values := make([]Value, len(n.inputs))
	var g errgroup.Group
	for i, in := range n.inputs {
		g.Go(func() (err error) {
			values[i], err = r.value(in)
			return err
		})
	}
	return values, g.Wait()
}

// operate carries a node's operation out. created is the time of what is only planned.
func (r *Run) operate(n *node, inputs []Value, step *progress.Step, created time.Time) ([]Value, error) {
	switch op := n.v.Op.Op.(type) {
	case *pb.Op_Source:
		return r.fetchSource(n, op.Source, step)
	case *pb.Op_Exec:
		return r.exec(n, op.Exec, inputs, step)
	case *pb.Op_File:
		return r.file(n, op.File, inputs, created, step != nil)
	case *pb.Op_Merge:
		return r.merge(op.Merge, inputs)
	case *pb.Op_Diff:
		return r.diff(op.Diff, inputs)
	case *pb.Op_Passthrough:
		return passthrough(op.Passthrough, inputs)
	}
	return nil, fmt.Errorf("operation %T is not supported", n.v.Op.Op)
}

func fromRecord(res store.Result) *outcome {
	out := &outcome{}
	for _, snap := range res.Outputs {
		out.outputs = append(out.outputs, Value{Snapshot: snap})
	}
	return out
}

func (r *Run) record(rec StepRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, rec)
}
