package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
)

// flight is an execution, which is carried out once for all runs that need it at the same time. It ends when nobody waits for
// it any longer, whoever began it. What it fails of reaches those who wait, and nobody who comes later.
type flight struct {
	*shared
	audience
	run   *Run   // that carries it out
	scope string // of the imported caches that it may stand on; "" when it stands on none
	began time.Time
	fresh bool        // whoever began it ignores the cache
	keep  atomic.Bool // somebody wants what it leaves behind when it fails
	call  *call[*outcome]

	process *Process // of what runs one; once it has ended
}

// ticket is a node's part in a flight, of which it must call wait.
type ticket struct {
	*flight
	seat *seat
	mine bool // it began it
	late bool // it had ended before
}

// flightName is what the execution of a node is shared by: its key, the secrets and agents in it, the directories and uploads that what it
// gives may be read from, how a process of it is run, and the imported caches that it may stand on. What stands on none is everybody's.
// What has an address as its name is the flight's run's too, and stays as long as the flight.
func (r *Run) flightName(n *node, id identity, scope string) string {
	name := string(id.key) + scope + "\n" + n.granted
	for _, from := range n.reads {
		if text, ok := from.(string); ok {
			name += fmt.Sprintf("\nreads %q", text)
		} else {
			name += fmt.Sprintf("\nreads %p", from)
		}
	}
	return name + n.asRun
}

// readBy are the directories, and names of the uploads, that files of a node may be read from later: what a file operation gives is
// written when somebody needs it, and an upload goes with its build. What a process is given is copied before it runs, and what it gives
// is in the store.
func (r *Run) readBy(n *node) (all []any) {
	if src := n.v.Op.GetSource(); src != nil {
		if !isLocal(n) {
			return r.uploadOf(src)
		}
		if c, err := r.opt.Contexts.Context(src); err == nil { // evaluating it will tell
			all = append(all, c)
		}
		return all
	}
	if n.v.Op.GetExec() != nil {
		return nil
	}
	for _, in := range n.inputs {
		if in.n == nil {
			continue
		}
		for _, c := range in.n.reads {
			if !slices.Contains(all, c) {
				all = append(all, c)
			}
		}
	}
	return all
}

// uploadOf is the name of the upload that a source is, if it is one.
func (r *Run) uploadOf(src *pb.SourceOp) []any {
	if !strings.HasPrefix(src.Identifier, "http") {
		return nil
	}
	req, err := httpsource.Parse(src)
	if err != nil {
		return nil // evaluating it will tell
	}
	if _, is := req.Upload(); !is {
		return nil
	}
	return []any{r.sentWith(req)}
}

// asRun tells how a process of a vertex is run, as far as it is in no key: with which caches, addresses and limits. How it ends is that of
// all who wait, so it ends in the same way for each of them. It is "" for all that is no process.
func (r *Run) asRun(v *graph.Vertex) string {
	if v.Op.GetExec() == nil {
		return ""
	}
	op := v.Op.CloneVT()
	op.Inputs, op.Constraints = nil, nil
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	if err != nil {
		return "\n" + r.alone() // its key will tell
	}
	return fmt.Sprintf("\nruns %s %+v %d %q %t", digest.FromBytes(data), resources(v.Meta.GetLinuxResources()), r.maxProcesses(), r.opt.AppArmor, r.opt.UserNS)
}

// Executions of what was planned in an earlier build have other names: they are no misses.
const (
	missed  = ""
	planned = "planned "
)

// underWay joins an execution of the same that somebody began; nil is none.
func (r *Run) underWay(n *node, id identity) *ticket {
	for _, scope := range r.scopes() {
		r.Engine.mu.Lock()
		t := r.join(missed+r.flightName(n, id, scope), id)
		r.Engine.mu.Unlock()
		if t != nil {
			return t.sit(n)
		}
	}
	return nil
}

// errLanded says that an execution was carried out since its result was looked for.
var errLanded = errors.New("it was carried out meanwhile")

// mostLanded is how many names of flights that are gone are remembered.
const mostLanded = 1024

// land notes that a flight is gone. The caller holds the engine's lock.
func (e *Engine) land(name string) {
	if len(e.landed) >= mostLanded {
		clear(e.landed)
	}
	e.landings++
	e.landed[name] = e.landings
}

// look notes that the result of a node is about to be looked for.
func (r *Run) look(n *node) {
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	n.looked.Store(r.landings)
}

// launch begins an execution, unless somebody did. The inputs have been evaluated before: what they stand on is known. Where one is gone
// since the result was looked for, it is to be looked for again: errLanded.
func (r *Run) launch(ctx context.Context, kind string, n *node, id identity, w warming, inputs []Value, do func(context.Context, *flight) (*outcome, error)) (*ticket, error) {
	scope := r.recordScope()
	name := kind + r.flightName(n, id, scope) + w.flight()
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		r.Engine.mu.Lock()
		f := r.flights[name]
		t := r.join(name, id)
		if t == nil && (f == nil || !r.takes(f, id)) {
			if r.landed[name] > n.looked.Load() && !id.fresh {
				r.Engine.mu.Unlock()
				return nil, errLanded
			}
			t = r.depart(ctx, departure{name, scope, id.fresh}, n, inputs, do)
		}
		r.Engine.mu.Unlock()
		if t != nil {
			return t.sit(n), nil
		}
		select { // nobody waits for it any longer: it ends first
		case <-f.call.Ended():
		case <-ctx.Done():
		}
	}
}

// join joins a flight that the run may have. The caller holds the engine's lock.
func (r *Run) join(name string, id identity) *ticket {
	f := r.flights[name]
	if f == nil || !r.takes(f, id) || !f.call.Join() {
		return nil
	}
	r.board(f)
	return &ticket{flight: f, late: f.call.Over()}
}

// takes reports whether a run may have what an execution gives: nothing of one that failed, or whose runs are all over. What is
// to be made anew it has of one that began with the run or later, or that somebody began who ignores the cache as well, as in BuildKit:
// a target that is a context of others runs once, though a client asks for them one after the other.
func (r *Run) takes(f *flight, id identity) bool {
	return f.ctx.Err() == nil && !f.call.failed() && (!id.fresh || f.fresh || !f.began.Before(r.since))
}

// board notes what using an execution means: the run holds it, and may stand on caches. The caller holds the engine's lock.
func (r *Run) board(f *flight) {
	if f.scope != "" {
		r.borrowed.Store(true)
	}
	if r.opt.KeepFailed {
		f.keep.Store(true)
	}
	r.hold(f.shared)
}

// departure is how a flight begins.
type departure struct {
	name, scope string
	fresh       bool
}

// depart begins a flight. The caller holds the engine's lock.
func (r *Run) depart(ctx context.Context, d departure, n *node, inputs []Value, do func(context.Context, *flight) (*outcome, error)) *ticket {
	var needs []*shared
	for _, v := range inputs {
		needs = append(needs, v.of)
	}
	f := &flight{shared: r.newShared(needs...), run: r, scope: d.scope, began: time.Now(), fresh: d.fresh}
	f.forget = func() {
		if r.flights[d.name] == f {
			delete(r.flights, d.name)
			r.land(d.name)
		}
	}
	if !r.closed {
		r.flights[d.name] = f
	}
	r.board(f)
	t := &ticket{flight: f, seat: f.audience.join(n.seat()), mine: true}
	f.call = begin(ctx, f.ctx, r, func(ctx context.Context) (*outcome, error) { return do(ctx, f) })
	return t
}

// sit has the node's run told of the flight.
func (t *ticket) sit(n *node) *ticket {
	if t.seat == nil && !t.late {
		t.seat = t.audience.join(n.seat())
	}
	return t
}

// wait gives what the execution gives.
func (t *ticket) wait(ctx context.Context) (*outcome, error) {
	out, err := t.call.Wait(ctx)
	if t.seat != nil {
		var ended error
		if ctx.Err() != nil {
			ended = context.Canceled
		}
		t.leave(t.seat, ended)
	}
	return out, err
}

// others reports whether an error is none of the run: one of another command that carried the step out had it, perhaps for want
// of something that this one has. How a process ends is the same for both.
func (t *ticket) others(ctx context.Context, r *Run, err error) bool {
	return err != nil && t.run.apart(r) && ctx.Err() == nil && !ofTheStep(err)
}

// ofTheStep reports whether an error is how a process ended, whoever carried it out.
func ofTheStep(err error) bool {
	var exit *sandbox.ExitError
	return errors.As(err, &exit)
}

// flown gives what an execution gives that was a miss, and tells of it.
func (r *Run) flown(ctx context.Context, n *node, id identity, t *ticket) (*outcome, error) {
	came := time.Now()
	elsewhere := t.run.apart(r)
	if t.late && t.run != r && !elsewhere { // its display has shown it
		r.hears(n.v.Digest)
		step := progress.Start(r.log, event(n.v))
		fmt.Fprintf(step.Stderr(), "%s has this step too, it ran there\n", t.run.opt.Name)
		step.Done(nil)
	}
	out, err := t.wait(ctx)
	if t.others(ctx, r, err) || errors.As(err, new(*warmFailure)) {
		return nil, err
	}
	err = r.failedHere(ctx, n, t.run, err)
	rec := recordOf(n)
	rec.Key, rec.Started, rec.Took, rec.Layers, rec.Warm = id.key, came, time.Since(came), out.layers(), out.warmth()
	switch {
	case t.mine:
		rec.Why, rec.Started, rec.Took, rec.Process = n.ran.Load(), t.began, time.Since(t.began), t.process
		rec.Reason = rec.Why.Text()
	case t.late && elsewhere:
		r.tellCached(n)
		rec.Cached = true
	default:
		rec.Shared = t.run.opt.Name
	}
	switch {
	case ctx.Err() != nil:
		rec.Error, rec.Canceled = context.Canceled.Error(), true
	case err != nil:
		rec.Error = err.Error()
	}
	if t.mine || t.run != r { // the run has it once
		r.record(rec)
	}
	if err == nil && n.export.Load() != nil {
		r.packAhead(ctx, n, out.outputs)
	}
	return out, err
}
