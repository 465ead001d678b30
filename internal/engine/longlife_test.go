package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/longlife"
	"github.com/slipway-build/slipway/internal/sandbox"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
)

// A process that lives long holds nothing of runs that are over, whatever became of them, also where some are always under way.
func TestLongLife(t *testing.T) {
	e, _ := newProcesses(t, map[string]program{
		"make": func(_ context.Context, spec *sandbox.Spec, out io.Writer) error {
			fmt.Fprintln(out, "made")
			return os.WriteFile(filepath.Join(spec.Root.Upper, "file"), []byte("made"), 0o644)
		},
		"fail": func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
			return errors.Join(os.WriteFile(filepath.Join(spec.Root.Upper, "left"), nil, 0o644), &sandbox.ExitError{Code: 3})
		},
		"wait": func(ctx context.Context, _ *sandbox.Spec, out io.Writer) error {
			fmt.Fprintln(out, "waiting")
			<-ctx.Done()
			return context.Cause(ctx)
		},
	})
	dir := shm(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("of the context"), 0o644))
	made := runs("make").File(llb.Copy(llb.Local("context"), "/file", "/copy"))
	good := llb.Scratch().File(llb.Copy(runs("after", made), "/", "/")).File(llb.Copy(made, "/file", "/other"))
	edges := map[string]llb.State{"good": good, "fails": runs("last", made, runs("fail", made)), "cancelled": runs("last", made, runs("wait", made))}

	life := func(n int) {
		var all errgroup.Group
		all.SetLimit(4)
		for i := range n {
			all.Go(func() error {
				name := []string{"good", "fails", "cancelled", "good"}[i%4]
				display := newView()
				r := e.NewRun(context.Background(), RunOptions{
					Sink: display, NoCache: i%3 == 0, KeepFailed: i%2 == 0, Contexts: local.Named{"context": local.NewDir(dir, "")},
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				_, err := r.ResolveImage(ctx, "key", "name", func(context.Context) (*imagesource.Image, error) { return &imagesource.Image{}, nil })
				got := evaluated(ctx, r, edgeOf(t, edges[name]))
				if name == "cancelled" {
					display.hears("waiting")
					cancel(errEnough)
				}
				end := <-got
				var exit *sandbox.ExitError
				if ok := map[string]bool{"good": end == nil, "fails": errors.As(end, &exit), "cancelled": errors.Is(end, errEnough)}[name]; !ok {
					err = errors.Join(err, fmt.Errorf("%s: %w", name, end))
				}
				return errors.Join(err, r.Close())
			})
		}
		must(t, all.Wait())
	}
	stay := e.NewRun(t.Context(), RunOptions{Contexts: local.Named{"context": local.NewDir(dir, "")}}) // somebody is always there
	_, err := stay.Result(t.Context(), edgeOf(t, good))
	must(t, err)
	life(50)
	longlife.Flat(t, life, 300, perRun)
	must(t, stay.Close())
	if all := len(e.flights) + len(e.sources) + len(e.resolved) + len(e.httpFiles) + len(e.gitCommits) + len(e.clamped); all > 0 {
		t.Errorf("runs have %d things in common when there are none", all)
	}
	if left, _ := filepath.Glob(filepath.Join(e.opt.Store.Root(), "tmp", "*", "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// perRun is how many objects a run may leave: the store notes what a process uses of it as long as it is open. A run has hundreds.
const perRun = 20
