package engine

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// distant is an imported cache whose answers take one tick of a clock of its own, any number at the same time.
type distant struct {
	Foreign
	now   int
	there map[string]int // when the answers are, by the keys
}

func (*distant) Name() string                                               { return "distant" }
func (*distant) Origin() string                                             { return "distant" }
func (*distant) Lines(context.Context, string) []string                     { return nil }
func (*distant) Memo(context.Context, string, string) (digest.Digest, bool) { return "", false }
func (*distant) Used()                                                      {}
func (d *distant) Ahead(keys []string) {
	for _, key := range keys {
		d.there[key] = d.now + 1
	}
}

func (d *distant) Result(_ context.Context, key string) (*cache.Found, bool) {
	if _, ok := d.there[key]; !ok {
		d.there[key] = d.now + 1
	}
	d.now = max(d.now, d.there[key])
	return nil, false
}

// A chain of steps that nobody has is known to be so after a few answers in a row, and no key is asked for twice. Where the store has one, nobody
// is asked for what is below.
func TestAskAhead(t *testing.T) {
	const steps = 40
	e, p := newProcesses(t, map[string]program{})
	chain := func(n int) llb.State {
		st := llb.Scratch()
		for i := range n {
			name := fmt.Sprint("step", i)
			p.programs[name] = func(context.Context, *sandbox.Spec, io.Writer) error { return nil }
			st = st.Run(llb.Args([]string{name})).Root()
		}
		return st
	}
	for _, c := range []struct {
		name              string
		steps, most, last int
	}{{"nothing is there", steps, 7, steps}, {"all but one is there", steps + 1, 1, 1}, {"all but some are there", steps + 6, 3, 5}} {
		d := &distant{there: map[string]int{}}
		r := starts(t, e, RunOptions{Foreign: []Foreign{d}})
		must(t, <-evaluated(t.Context(), r, edgeOf(t, chain(c.steps))))
		if d.now > c.most || len(d.there) != c.last {
			t.Errorf("%s: %d answers in a row, want %d; %d keys, want %d", c.name, d.now, c.most, len(d.there), c.last)
		}
	}
}
