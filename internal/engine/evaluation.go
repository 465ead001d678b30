package engine

import (
	"context"
	"sync"
)

// evaluation is one question to a run, such as [Run.Result]. Its first failure ends all that it has begun and that nobody else
// waits for, and nothing else: the run goes on.
type evaluation struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	values context.Context // those of ctx
	crew   crew
}

type evaluationKey struct{}

func evaluationOf(ctx context.Context) *evaluation {
	e, _ := ctx.Value(evaluationKey{}).(*evaluation)
	return e
}

// begin begins an evaluation under ctx, which ends with the run as well: what it waits for may be others' that go on. The function that
// it returns ends it, and waits for what was begun ahead.
func (r *Run) begin(ctx context.Context) (context.Context, func()) {
	e := &evaluation{}
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, evaluationKey{}, e))
	e.ctx, e.cancel, e.values = ctx, cancel, context.WithoutCancel(ctx)
	leave, ok := r.crew.enter()
	if !ok {
		cancel(errOver)
		return ctx, func() {}
	}
	alone := context.AfterFunc(r.life, func() { cancel(context.Cause(r.life)) })
	return ctx, func() {
		alone()
		cancel(errOver)
		e.crew.end()
		leave()
	}
}

// ahead begins work that is most likely needed later in the evaluation that ctx is of. It is ended with the evaluation, and its
// failure is one of the evaluation, at once.
func ahead(ctx context.Context, work func(context.Context) error) {
	e := evaluationOf(ctx)
	if e == nil {
		return
	}
	e.crew.start(func() {
		if err := work(e.ctx); isFailure(err) {
			e.cancel(err)
		}
	})
}

// beside begins work that goes on beside evaluations, as long as the run does.
func (r *Run) beside(ctx context.Context, work func(context.Context)) {
	r.crew.start(func() { work(within(r.life, ctx)) })
}

// crew are those who work until somebody waits for them in the end.
type crew struct {
	mu   sync.Mutex
	over bool
	wg   sync.WaitGroup
}

// enter counts the caller, who must call leave. After the end nobody enters.
func (c *crew) enter() (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, false
	}
	c.wg.Add(1)
	return c.wg.Done, true
}

// start begins work, unless it is the end.
func (c *crew) start(work func()) {
	leave, ok := c.enter()
	if !ok {
		return
	}
	go func() {
		defer leave()
		work()
	}()
}

// end waits for all.
func (c *crew) end() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.wg.Wait()
}
