package frontend

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
)

// settling is how long a registry that is asked for an image is waited for when another image could not be resolved.
const settling = 5 * time.Second

// beginning is how long it takes at most until all goroutines that ask run.
const beginning = 5 * time.Millisecond

// build runs the frontend.
//
// It asks for all images at the same time and gives up with the first answer that is an error, and only then does it
// say where in the Dockerfile an image stands. So that the one is named that comes first in the Dockerfile, an error is
// kept back until the other questions under way are answered, and when there are several, the frontend runs again for
// each of them, with that one alone missing: then its error has a place. Nothing is asked again.
func (c *Client) build(ctx context.Context) (*gw.Result, error) {
	res, err := builder.Build(ctx, c)
	err = c.withStages(c.placed(err))
	if err == nil || c.only != "" || len(c.missing()) < 2 {
		return res, err
	}
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	first, found := int32(0), err
	for _, key := range c.missing() {
		again := &Client{opt: c.opt, attrs: maps.Clone(c.attrs), last: c.last, resolved: c.resolved, failed: c.failed, nested: c.nested, failures: c.failures, only: key}
		again.opt.Warn, again.opt.Solved = nil, nil
		if _, err := again.build(ctx); err != nil && again.unresolved != "" {
			if l := line(err); l > 0 && (first == 0 || l < first) {
				first, found = l, err
			}
		}
	}
	return nil, found
}

// missing are the keys of the images that could not be resolved.
func (c *Client) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.failed))
}

// line is that which an error points at; 0: at none.
func line(err error) int32 {
	first := int32(0)
	for _, s := range errdefs.Sources(err) {
		for _, r := range s.Ranges {
			if l := r.GetStart().GetLine(); first == 0 || l < first {
				first = l
			}
		}
	}
	return first
}

// questions are those to registries that are under way.
type questions struct {
	mu      sync.Mutex
	open    int
	changed chan struct{} // closed, and made anew, when there are less
}

// begin counts a question. The caller calls end when it is answered.
func (q *questions) begin() (end func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.open--
		if q.changed != nil {
			close(q.changed)
			q.changed = nil
		}
	}
}

// wait returns when no question is open, or when it has waited long enough. Those that begin at the same time as the
// one that has failed get the time to do so.
func (q *questions) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	select {
	case <-time.After(beginning):
	case <-ctx.Done():
	}
	for {
		q.mu.Lock()
		if q.open == 0 {
			q.mu.Unlock()
			return
		}
		if q.changed == nil {
			q.changed = make(chan struct{})
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
