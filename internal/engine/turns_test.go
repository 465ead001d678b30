package engine

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// later is an imported cache that has a result once somebody has waited for it, and what one waits for.
type later struct {
	Foreign
	gives bool
	took  []string // names of steps whose turn it was
	ended []error
	has   map[string]bool
}

func (*later) Name() string                                               { return "later" }
func (*later) Origin() string                                             { return "later" }
func (*later) Lines(context.Context, string) []string                     { return nil }
func (*later) Memo(context.Context, string, string) (digest.Digest, bool) { return "", false }
func (*later) Used()                                                      {}
func (*later) Ahead([]string)                                             {}
func (l *later) Result(_ context.Context, key string) (*cache.Found, bool) {
	return &cache.Found{Outputs: [][]*cache.Layer{{}}}, l.has[key]
}

func (l *later) Take(_ context.Context, key, does, name string) Turn {
	l.took = append(l.took, name)
	l.has[key] = l.gives
	return l
}

func (l *later) There() bool                      { return l.gives }
func (l *later) Ended(_ time.Duration, err error) { l.ended = append(l.ended, err) }

// A step that another machine has made meanwhile does not run; one that runs tells when it has ended. What is to be made anew waits for nobody.
func TestTurns(t *testing.T) {
	does := func(context.Context, *sandbox.Spec, io.Writer) error { return nil }
	e, p := newProcesses(t, map[string]program{"step": does, "other": does})
	for _, c := range []struct {
		gives, anew      bool
		ran, took, ended int
	}{{true, false, 0, 1, 0}, {false, true, 1, 0, 0}, {false, false, 1, 0, 0}} {
		l := &later{gives: c.gives, has: map[string]bool{}}
		r := e.NewRun(t.Context(), RunOptions{Foreign: []Foreign{l}, Turns: l, NoCache: c.anew})
		must(t, <-evaluated(t.Context(), r, edgeOf(t, runs("step"))))
		must(t, r.Close())
		if p.ran["step"] != c.ran || len(l.took) != c.took || len(l.ended) != c.ended {
			t.Errorf("%+v: it ran %d times, took %q, ended %v", c, p.ran["step"], l.took, l.ended)
		}
	}
	l := &later{has: map[string]bool{}}
	must(t, <-evaluated(t.Context(), starts(t, e, RunOptions{Foreign: []Foreign{l}, Turns: l}), edgeOf(t, runs("other"))))
	if len(l.took) != 1 || len(l.ended) != 1 || l.ended[0] != nil {
		t.Errorf("a step that runs: %q, %v", l.took, l.ended)
	}
}
