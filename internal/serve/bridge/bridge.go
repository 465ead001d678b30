// Package bridge serves BuildKit's gateway: a client, or a frontend that is a process of its own, drives a build by
// calls, as the frontend that is linked in does by those of Go. It is the inverse of BuildKit's frontend/gateway/grpcclient.
//
// # Structure
//
//	bridge.go    one build: what its client has of it, and the end of that
//	builds.go    all builds of a server, by the ids that calls carry
//	solve.go, sources.go, files.go, result.go   calls that ask
//	containers.go, process.go, input.go   containers and the processes in them
//	pipe.go      the same on the standard streams of a process
//
// # Invariants
//
// A client is a stranger. It may leave out any field, name what is not there and send everything in any order; what it
// holds of this process is bounded ([Limits]), and all of it is given back by Close, which waits for the calls under way.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Limits bound what a client holds of a build. A zero field is a default.
type Limits struct {
	Refs       int // results
	Graphs     int // bytes of the graphs of all results
	Containers int // at the same time
	Processes  int // of a container, at the same time
}

// Defaults of Limits. A client that makes a result per package of a distribution has some thousands.
const (
	defaultRefs       = 1 << 14
	defaultGraphs     = 1 << 30
	defaultContainers = 64
	defaultProcesses  = 64
)

func (l Limits) withDefaults() Limits {
	for field, value := range map[*int]int{&l.Refs: defaultRefs, &l.Graphs: defaultGraphs, &l.Containers: defaultContainers, &l.Processes: defaultProcesses} {
		if *field == 0 {
			*field = value
		}
	}
	return l
}

// errClosed is what calls get when their build is over.
var errClosed = status.Error(codes.Unavailable, "the build is over")

// Bridge is a build that somebody drives by calls. Close must be called.
type Bridge struct {
	client gw.Client
	limits Limits
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	over   chan struct{} // closed when nobody can call any longer, if it is on a connection of its own
	stop   func()        // ends that connection; may be nil

	mu         sync.Mutex
	refs       map[string]gw.Reference
	graphs     int // bytes of theirs
	containers map[string]*held
	result     *gw.Result // what the client returned, or err
	err        error
	returned   chan struct{} // closed when it has
	closed     bool
	calls      sync.WaitGroup
}

var _ gwpb.LLBBridgeServer = (*Bridge)(nil)

// New makes a bridge to a build's client. Its calls end with ctx too.
func New(ctx context.Context, c gw.Client, limits Limits) *Bridge {
	b := &Bridge{
		client: c, limits: limits.withDefaults(), refs: map[string]gw.Reference{}, containers: map[string]*held{},
		returned: make(chan struct{}), over: make(chan struct{}),
	}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	return b
}

// Wait gives what the client returns.
func (b *Bridge) Wait(ctx context.Context) (*gw.Result, error) {
	select {
	case <-b.returned:
		return b.Result()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Result is what the client has returned; without it an error.
func (b *Bridge) Result() (*gw.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.result == nil && b.err == nil {
		return nil, errNoResult
	}
	return b.result, b.err
}

// Returned reports whether the client has returned something.
func (b *Bridge) Returned() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.result != nil || b.err != nil
}

var errNoResult = errors.New("no result for incomplete build")

// Done is closed when nobody can call any longer.
func (b *Bridge) Done() <-chan struct{} { return b.over }

// Close ends all calls, the containers with their processes, and what the client has of the build. Of what was returned the
// caller has everything.
func (b *Bridge) Close() {
	b.cancel(errClosed)
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return
	}
	if b.stop != nil {
		b.stop()
	}
	b.releaseAll() // a call may wait for a process
	b.calls.Wait()
	b.releaseAll()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refs = nil
}

// enter begins a call: its context ends with the build. Close waits for leave.
func (b *Bridge) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, errClosed
	}
	b.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
		b.calls.Done()
	}, nil
}

// ref finds a result that the client has. The id of the empty filesystem is "", and there is nothing in it.
func (b *Bridge) ref(id string) (gw.Reference, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ref, ok := b.refs[id]
	if !ok {
		return nil, status.Error(codes.NotFound, fmt.Sprintf("no such ref: %s", short(id)))
	}
	return ref, nil
}

// about makes a call about what find gives for an id, while the build lives.
func about[T, A any](ctx context.Context, b *Bridge, find func(id string) (T, error), id string, call func(context.Context, T) (A, error)) (A, error) {
	var none A
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return none, err
	}
	defer leave()
	v, err := find(id)
	if err != nil {
		return none, err
	}
	return call(ctx, v)
}

// short is what a message has of a name that a client made up.
func short(name string) string {
	const most = 100
	if len(name) > most {
		name = name[:most] + "..."
	}
	return fmt.Sprintf("%q", name)
}
