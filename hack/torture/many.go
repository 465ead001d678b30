package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
)

// manyRound has 16 builders in one store, each with a name of its own, and collectors beside them.
func manyRound(ctx context.Context, r *round) error {
	builders, each := 16, 6
	if r.short {
		each = 2
	}
	s := r.store(filepath.Join(r.dir, "store"))
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var building, collecting sync.WaitGroup
	var mu sync.Mutex
	names := map[string]allowed{}
	for i := range builders {
		part := r.part(i)
		building.Go(func() {
			for n := range each {
				recipe := oneOf(part, slices.Sorted(maps.Keys(recipes))...)
				name := fmt.Sprintf("builder%d:%d", i, n)
				if err := part.store(s.root).buildBeside(ctx, recipe, name); err != nil {
					stop(err)
					return
				}
				r.count.Add(1)
				mu.Lock()
				names[name] = only(r.truths[recipe].id)
				mu.Unlock()
			}
		})
	}
	built := make(chan struct{})
	for i, args := range [][]string{{"builder", "prune", "-af"}, {"image", "prune", "-f"}, {"system", "prune", "-f"}, {"rmi", "-f", "thrown"}} {
		part := r.part(builders + i)
		collecting.Go(func() { part.store(s.root).collectBeside(ctx, built, stop, args) })
	}
	building.Wait()
	close(built)
	collecting.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	s.names = names
	return s.check(ctx)
}

// part is what one of several that work at the same time has for itself.
func (r *round) part(i int) *round {
	return &round{ground: r.ground, kind: r.kind, seed: r.seed, dir: r.dir, count: r.count, rng: rand.New(rand.NewPCG(r.seed, uint64(1+i)))}
}

// buildBeside builds, and the image has to be right.
func (s *store) buildBeside(ctx context.Context, recipe, name string) error {
	args := []string{"build", "-q", "-t", name, "-t", "thrown", s.path("contexts", recipe)}
	if s.rng.IntN(2) == 0 {
		args = slices.Insert(args, 1, "--no-cache")
	}
	c, err := s.do(ctx, deed{args: args})
	if err == nil && !c.ok() && ctx.Err() == nil {
		err = fmt.Errorf("it has to work beside others: %s\n%s", c, lastLines(c.err, 12))
	}
	return err
}

// collectBeside does a command until all is built.
func (s *store) collectBeside(ctx context.Context, built <-chan struct{}, stop context.CancelCauseFunc, args []string) {
	for {
		select {
		case <-built:
			return
		case <-ctx.Done():
			return
		default:
		}
		c, err := s.do(ctx, deed{args: args})
		if err == nil && !c.ok() && args[0] != "rmi" && ctx.Err() == nil { // the name may be gone
			err = fmt.Errorf("it has to work beside others: %s", c)
		}
		if err != nil {
			stop(err)
			return
		}
	}
}
