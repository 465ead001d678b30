package frontend

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
)

// maxMemory is how much more memory the process may use while a Dockerfile is read. One of 6,000
// instructions takes 50 MB; one that doubles a variable in each line would take all there is.
const maxMemory = 512 << 20

const (
	// lookPeriod is the time between two looks at the memory.
	lookPeriod = 5 * time.Millisecond
	// parting is how long a frontend has to notice that its context has ended.
	parting = 200 * time.Millisecond
)

// guarded runs what reads a Dockerfile, which is the work of BuildKit's frontend: it has no bound of its
// own for what variables grow to, and does not look at the context while it works. When the context
// ends or the memory is used up, guarded returns and f is left to itself: a caller whose process goes
// on living must know that it may work on for as long.
//
// One that panics, as some Dockerfiles have it, is an error of its build.
//
// Of several that are read at the same time nobody knows which takes the memory: each further one may take an eighth of what one
// may take alone, which is more than any that is honest.
func guarded[T any](ctx context.Context, limit uint64, f func() (T, error)) (T, error) {
	g := guardOf(ctx)
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	defer watching.leave()
	limited := watching.join(limit)
	go func() {
		var a answer
		defer func() {
			if r := recover(); r != nil {
				a.err = fmt.Errorf("a bug of what reads it: panic: %v\n%s", r, debug.Stack())
			}
			done <- a
		}()
		a.value, a.err = f()
	}()
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	ended := ctx.Done()
	var late <-chan time.Time
	for {
		var none T
		select {
		case a := <-done:
			return a.value, a.err
		case <-ended:
			if ended = nil; !g.off() {
				late = time.After(parting)
			}
		case <-late:
			return none, context.Cause(ctx)
		case <-look.C:
			if !g.off() && memoryInUse() > limited() {
				return none, memoryError(limit)
			}
		}
	}
}

// guard is what those know of each other who guard the reading of a Dockerfile and who read it. Nil is nothing.
type guard struct{ over atomic.Bool }

type guardKey struct{}

func guardOf(ctx context.Context) *guard {
	g, _ := ctx.Value(guardKey{}).(*guard)
	return g
}

func (g *guard) off() bool { return g != nil && g.over.Load() }

// withGuard is a context for what [guarded] runs.
func withGuard(ctx context.Context) context.Context {
	return context.WithValue(ctx, guardKey{}, &guard{})
}

// isGuarded reports whether somebody looks at what the reader of a Dockerfile does.
func isGuarded(ctx context.Context) bool { g := guardOf(ctx); return g != nil && !g.off() }

// unguard ends that: from here on another process reads, which has its own bounds, and the build works for it.
func unguard(ctx context.Context) {
	if g := guardOf(ctx); g != nil {
		g.over.Store(true)
	}
}

// memoryError is that reading a Dockerfile took more than so many bytes.
type memoryError uint64

func (e memoryError) Error() string {
	return fmt.Sprintf("reading the Dockerfile takes more than %s of memory: do its variables grow, or those of its base image's ONBUILD?", units.BytesSize(float64(e)))
}

// Guarded runs what reads another file that somebody wrote, a bake file, within the bounds of a Dockerfile.
func Guarded[T any](ctx context.Context, file string, f func() (T, error)) (T, error) {
	v, err := guarded(ctx, maxMemory, f)
	var memory memoryError
	if errors.As(err, &memory) {
		err = fmt.Errorf("reading the %s takes more than %s of memory: do its variables grow?", file, units.BytesSize(float64(memory)))
	}
	return v, err
}

// watching are those who read Dockerfiles now.
var watching readers

type readers struct {
	mu     sync.Mutex
	now    int
	before uint64 // the memory that was in use when the first of them began
	most   int    // of them since
}

// join begins to read. The function that it returns tells what may be in use.
func (r *readers) join(limit uint64) func() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now++; r.now == 1 {
		r.before, r.most = memoryInUse(), 0
	}
	r.most = max(r.most, r.now)
	return func() uint64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.before + limit + uint64(r.most-1)*limit/8
	}
}

func (r *readers) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now--
}

// memoryInUse is what objects and stacks of this process take.
func memoryInUse() (n uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	for _, s := range samples {
		n += s.Value.Uint64()
	}
	return n
}
