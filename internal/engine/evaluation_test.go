package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// A failure ends its evaluation and nothing else: the run goes on, what failed fails again, and what was done stays.
func TestEvaluationFails(t *testing.T) {
	e, p := newProcesses(t, map[string]program{
		"fail": func(context.Context, *sandbox.Spec, io.Writer) error { return &sandbox.ExitError{Code: 3} },
	})
	r := starts(t, e, RunOptions{})
	done := runs("done")
	failing, other := edgeOf(t, runs("fail", done)), edgeOf(t, runs("other", done))
	_, first := r.Result(t.Context(), failing)
	var exit *sandbox.ExitError
	if !errors.As(first, &exit) || exit.Code != 3 {
		t.Fatalf("error is %v", first)
	}
	if _, err := r.Result(t.Context(), other); err != nil {
		t.Errorf("another evaluation: %v", err)
	}
	if _, err := r.Result(t.Context(), failing); err != first {
		t.Errorf("again: %v, want %v", err, first)
	}
	for _, name := range []string{"fail", "done", "other"} {
		if n := p.times(name); n != 1 {
			t.Errorf("%s ran %d times", name, n)
		}
	}
}

// What a failed evaluation has begun is ended, but for what another one waits for.
func TestEvaluationEndsItsOwn(t *testing.T) {
	mine, theirs, mineEnded, goOn := make(signal), make(signal), make(signal), make(signal)
	e, _ := newProcesses(t, map[string]program{
		"mine": func(ctx context.Context, _ *sandbox.Spec, _ io.Writer) error {
			close(mine)
			<-ctx.Done()
			close(mineEnded)
			return context.Cause(ctx)
		},
		"theirs": func(ctx context.Context, _ *sandbox.Spec, _ io.Writer) error {
			close(theirs)
			return goOn.until(ctx)
		},
		"fail": func(ctx context.Context, _ *sandbox.Spec, _ io.Writer) error {
			if err := errors.Join(mine.until(ctx), theirs.until(ctx)); err != nil {
				return err
			}
			return &sandbox.ExitError{Code: 3}
		},
	})
	r := starts(t, e, RunOptions{})
	other := evaluated(t.Context(), r, edgeOf(t, runs("theirs")))
	<-theirs
	_, err := r.Result(t.Context(), edgeOf(t, runs("join", runs("mine"), runs("theirs"), runs("fail"))))
	if err == nil || !strings.Contains(err.Error(), "exit code: 3") {
		t.Errorf("error is %v", err)
	}
	select {
	case <-mineEnded: // before the evaluation was over
	default:
		t.Error("what the failed evaluation alone waits for is not ended")
	}
	close(goOn)
	if err := <-other; err != nil {
		t.Errorf("the other evaluation: %v", err)
	}
}

// The end of the caller's context ends its evaluation, whatever it is about.
func TestEvaluationIsCancelled(t *testing.T) {
	began, ended := make(signal), make(signal)
	e, p := newProcesses(t, map[string]program{"slow": func(ctx context.Context, _ *sandbox.Spec, _ io.Writer) error {
		select {
		case <-began: // the second time
			return nil
		default:
		}
		close(began)
		<-ctx.Done()
		close(ended)
		return context.Cause(ctx)
	}})
	r := starts(t, e, RunOptions{})
	ctx, cancel := context.WithCancelCause(t.Context())
	edge := edgeOf(t, runs("after", runs("slow")))
	got := evaluated(ctx, r, edge)
	<-began
	cancel(errEnough)
	if err := <-got; !errors.Is(err, errEnough) {
		t.Errorf("error is %v", err)
	}
	<-ended
	if _, err := r.Result(t.Context(), edge); err != nil || p.times("slow") != 2 {
		t.Errorf("asked again: %v, after %d times", err, p.times("slow"))
	}
}

// Two builds that need the same at the same time have it carried out once, and each sees it as its own.
func TestRunsShare(t *testing.T) {
	began, goOn, shared := meeting()
	e, p := newProcesses(t, map[string]program{"shared": shared})
	one, two := newView(), newView()
	a, b := starts(t, e, RunOptions{Name: "a", Sink: one}), starts(t, e, RunOptions{Name: "b", Sink: two})
	first := evaluated(t.Context(), a, edgeOf(t, runs("shared")))
	<-began
	second := evaluated(t.Context(), b, edgeOf(t, runs("shared")))
	two.hears("before") // what was told before it came
	close(goOn)
	must(t, errors.Join(<-first, <-second))
	if n := p.times("shared"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
	for name, v := range map[string]*view{"one": one, "two": two} {
		if v.out.String() != "before\nafter\n" || v.started != 1 || v.ended != 1 || v.err != "" || v.cached {
			t.Errorf("%s saw %+v: %q", name, v, v.out.String())
		}
	}
	if rec := b.Records(); len(rec) != 1 || rec[0].Shared != "a" {
		t.Errorf("the second's records are %+v", rec)
	}
	if rec := a.Records(); len(rec) != 1 || rec[0].Shared != "" || rec[0].Reason == "" {
		t.Errorf("the first's records are %+v", rec)
	}
}

// On one display it is shown once, and the log of the other build says where.
func TestRunsShareAScreen(t *testing.T) {
	began, goOn, shared := meeting()
	e, _ := newProcesses(t, map[string]program{"shared": shared})
	display, log, screen := newView(), newView(), NewScreen()
	a := starts(t, e, RunOptions{Name: "a", Sink: display, Screen: screen})
	b := starts(t, e, RunOptions{Name: "b", Sink: progress.Multi(display, log), Log: log, Screen: screen})
	first := evaluated(t.Context(), a, edgeOf(t, runs("shared")))
	<-began
	second := evaluated(t.Context(), b, edgeOf(t, runs("shared")))
	log.hears("a has this step too")
	close(goOn)
	must(t, errors.Join(<-first, <-second))
	if display.started != 1 || display.ended != 1 || display.out.String() != "before\nafter\n" {
		t.Errorf("the display saw %+v: %q", display, display.out.String())
	}
	if log.started != 1 || log.ended != 1 || strings.Contains(log.out.String(), "after") {
		t.Errorf("the log has %+v: %q", log, log.out.String())
	}
}

// The one that carries it out is cancelled, and is over at once: the other one gets what it waits for.
func TestRunsShareWithOneThatIsCancelled(t *testing.T) {
	began, goOn, shared := meeting()
	e, p := newProcesses(t, map[string]program{"shared": shared})
	one, two := newView(), newView()
	ctx, cancel := context.WithCancelCause(t.Context())
	a, b := e.NewRun(ctx, RunOptions{Name: "a", Sink: one}), starts(t, e, RunOptions{Name: "b", Sink: two})
	first := evaluated(ctx, a, edgeOf(t, runs("after", runs("shared"))))
	<-began
	second := evaluated(t.Context(), b, edgeOf(t, runs("shared")))
	two.hears("before")
	cancel(errEnough)
	if err := <-first; !errors.Is(err, errEnough) {
		t.Errorf("the first got %v", err)
	}
	must(t, a.Close())
	if one.ended != 1 || one.err != context.Canceled.Error() {
		t.Errorf("the first saw %+v", one)
	}
	close(goOn)
	must(t, <-second)
	if one.out.String() != "before\n" || two.out.String() != "before\nafter\n" || two.err != "" {
		t.Errorf("they saw %q and %q, %s", one.out.String(), two.out.String(), two.err)
	}
	if p.times("shared") != 1 || p.times("after") != 0 {
		t.Errorf("the steps ran %d and %d times", p.times("shared"), p.times("after"))
	}
	if _, found, why, err := e.opt.Store.Result(t.Context(), string(b.Records()[0].Key)); !found || err != nil {
		t.Errorf("it is not recorded: %s, %v", why, err)
	}
}

// The one that carries it out fails for a reason of its own: the other one does it by itself. How the process ends is the same
// for both, and for nobody who comes later.
func TestRunsShareWithOneThatFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		err   error
		times int  // it is carried out
		fails bool // for the other one too
	}{
		{"of its own", errors.New("its directory is gone"), 2, false},
		{"of the step", &sandbox.ExitError{Code: 3}, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began, goOn := make(signal), make(signal)
			var once sync.Once
			e, p := newProcesses(t, map[string]program{"shared": func(ctx context.Context, _ *sandbox.Spec, out io.Writer) (err error) {
				once.Do(func() {
					fmt.Fprintln(out, "first")
					close(began)
					<-goOn
					err = tt.err
				})
				return err
			}})
			two := newView()
			a, b := starts(t, e, RunOptions{Name: "a"}), starts(t, e, RunOptions{Name: "b", Sink: two})
			first := evaluated(t.Context(), a, edgeOf(t, runs("shared")))
			<-began
			second := evaluated(t.Context(), b, edgeOf(t, runs("shared")))
			two.hears("first")
			close(goOn)
			if err := <-first; !errors.Is(err, tt.err) {
				t.Errorf("the first got %v", err)
			}
			if err := <-second; errors.Is(err, tt.err) != tt.fails {
				t.Errorf("the second got %v", err)
			}
			if n := p.times("shared"); n != tt.times {
				t.Errorf("it ran %d times, want %d", n, tt.times)
			}
			must(t, <-evaluated(t.Context(), starts(t, e, RunOptions{}), edgeOf(t, runs("shared"))))
		})
	}
}

// What a build that is over has planned is there as long as another one uses it, and gone then.
func TestRunsSharePlans(t *testing.T) {
	e, _ := newProcesses(t, map[string]program{"make": func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
		return os.WriteFile(filepath.Join(spec.Root.Upper, "file"), []byte("made"), 0o644)
	}})
	copied := edgeOf(t, llb.Scratch().File(llb.Copy(runs("make"), "/file", "/copy")).File(llb.Mkdir("/dir", 0o755)))
	a, b := e.NewRun(t.Context(), RunOptions{}), e.NewRun(t.Context(), RunOptions{})
	one, err := a.Result(t.Context(), copied)
	must(t, err)
	two, err := b.Result(t.Context(), copied)
	must(t, err)
	if fmt.Sprint(one.Snapshot) != fmt.Sprint(two.Snapshot) {
		t.Fatalf("the layers are %v and %v", one.Snapshot, two.Snapshot)
	}
	must(t, a.Close())
	tree, err := b.Tree(t.Context(), Value{Snapshot: two.Snapshot}, store.NeedContent)
	must(t, err)
	data, err := layer.ReadFile(tree, "copy")
	if err != nil || string(data) != "made" {
		t.Errorf("the file is %q, %v", data, err)
	}
	for _, id := range two.Snapshot {
		if _, _, err := e.opt.Store.Blob(t.Context(), id, layer.Encoding{}); err != nil {
			t.Errorf("packing: %v", err)
		}
	}
	must(t, b.Close())
	if len(e.flights) != 0 {
		t.Errorf("executions are left: %v", e.flights)
	}
	if left, _ := filepath.Glob(filepath.Join(e.opt.Store.Root(), "tmp", "*", "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// What must be made anew is taken of an execution that began before the run only where it was to be made anew, too, as long as a run
// lives that has it.
func TestRunsShareNothingOld(t *testing.T) {
	e, p := newProcesses(t, nil)
	a := starts(t, e, RunOptions{})
	must(t, <-evaluated(t.Context(), a, edgeOf(t, runs("step"))))
	asked := func(opt RunOptions, st llb.State, want int) *Run {
		t.Helper()
		r := e.NewRun(t.Context(), opt)
		must(t, <-evaluated(t.Context(), r, edgeOf(t, st)))
		if got := p.times("step"); got != want {
			t.Errorf("it ran %d times, want %d", got, want)
		}
		return r
	}
	ignoring := llb.Scratch().Run(llb.Args([]string{"step"}), llb.IgnoreCache).Root()
	must(t, asked(RunOptions{}, runs("step"), 1).Close())
	b := asked(RunOptions{NoCache: true}, runs("step"), 2)
	must(t, asked(RunOptions{NoCache: true, Since: a.since}, runs("step"), 2).Close())
	c := asked(RunOptions{}, ignoring, 2) // which the other one has made anew
	must(t, asked(RunOptions{}, runs("step"), 2).Close())
	must(t, b.Close())
	d := asked(RunOptions{}, ignoring, 2)
	must(t, c.Close())
	must(t, d.Close())
	must(t, asked(RunOptions{}, ignoring, 3).Close()) // nobody has it any more
	must(t, asked(RunOptions{}, runs("step"), 3).Close())
}

// A step that is given other secrets is another one.
func TestRunsShareNoSecrets(t *testing.T) {
	e, p := newProcesses(t, nil)
	dir, began := t.TempDir(), time.Now()
	var all []*secrets.Store
	for _, name := range []string{"one", "two"} {
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, []byte(name), 0o600))
		s, err := secrets.NewStore([]secrets.Source{{ID: "key", FilePath: file}})
		must(t, err)
		all = append(all, s)
	}
	st := llb.Scratch().Run(llb.Args([]string{"step"}), llb.AddSecret("/key", llb.SecretID("key"))).Root()
	for n, s := range []*secrets.Store{all[0], all[1], all[0], nil} {
		r := starts(t, e, RunOptions{Secrets: s, NoCache: true, Since: began})
		_ = <-evaluated(t.Context(), r, edgeOf(t, st))
		if want := []int{1, 2, 2, 2}[n]; p.times("step") != want {
			t.Errorf("%d: it ran %d times, want %d", n, p.times("step"), want)
		}
	}
}

// A process that fails leaves behind what it changed, for runs that ask for it.
func TestKeepFailed(t *testing.T) {
	e, _ := newProcesses(t, map[string]program{
		"make": func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
			return os.WriteFile(filepath.Join(spec.Root.Upper, "below"), []byte("below"), 0o644)
		},
		"fail": func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
			must(t, os.WriteFile(filepath.Join(spec.Root.Upper, "left"), []byte("left"), 0o644))
			return &sandbox.ExitError{Code: 3}
		},
	})
	st := runs("make").Run(llb.Args([]string{"fail"}), llb.AddMount("/more", runs("make"), llb.Readonly)).Root()
	for _, keep := range []bool{true, false} {
		r := e.NewRun(t.Context(), RunOptions{KeepFailed: keep})
		_, err := r.Result(t.Context(), edgeOf(t, st))
		var failed *ExecError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), "exit code: 3") {
			t.Fatalf("error is %v", err)
		}
		if !keep {
			if failed.Mounts != nil {
				t.Errorf("kept are %+v", failed.Mounts)
			}
			must(t, r.Close())
			continue
		}
		if len(failed.Mounts) != 2 || len(failed.Inputs) != len(failed.Vertex.Inputs) || failed.Mounts[0].ID == "" || failed.Mounts[0].ID == failed.Mounts[1].ID {
			t.Fatalf("kept are %+v", failed)
		}
		for name, want := range map[string]string{"below": "below", "left": "left"} {
			if data, err := layer.ReadFile(failed.Mounts[0].Tree(), name); err != nil || string(data) != want {
				t.Errorf("%s is %q, %v", name, data, err)
			}
		}
		if failed.Mounts[1].Upper != "" || len(failed.Mounts[1].Lower) == 0 {
			t.Errorf("the mount that is only read is %+v", failed.Mounts[1])
		}
		must(t, r.Close())
		if _, err := os.Stat(failed.Mounts[0].Upper); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after the end of the run it is still there: %v", err)
		}
	}
}

// What a build asks for, and does not need any more as something else of it failed, another build still gets.
func TestResolveImageOfOneThatEnded(t *testing.T) {
	e, _ := newProcesses(t, nil)
	asks, answer := make(signal), make(signal)
	ctx, end := context.WithCancelCause(t.Context())
	find := func(ctx context.Context) (*imagesource.Image, error) {
		close(asks)
		return &imagesource.Image{}, answer.until(ctx)
	}
	one, two := newView(), newView()
	a, b := e.NewRun(ctx, RunOptions{Sink: one}), starts(t, e, RunOptions{Sink: two})
	first, second := make(chan error, 1), make(chan error, 1)
	ask := func(ctx context.Context, r *Run, got chan error) {
		_, err := r.ResolveImage(ctx, "key", "name", find)
		got <- err
	}
	go ask(ctx, a, first)
	<-asks
	go ask(t.Context(), b, second)
	layertest.WaitBlocked(t, "inflight.(*Call[...]).Wait", 2)
	end(errEnough)
	if err := <-first; !errors.Is(err, errEnough) {
		t.Errorf("the one that ended: %v", err)
	}
	must(t, a.Close())
	close(answer)
	if err := <-second; err != nil || two.err != "" {
		t.Errorf("the other one: %v, %s", err, two.err)
	}
}

// liar is an imported cache that says of everything that it was planned.
type liar struct{ Foreign }

func (liar) Name() string                                               { return "liar" }
func (liar) Origin() string                                             { return "liar" }
func (liar) Lines(context.Context, string) []string                     { return nil }
func (liar) Memo(context.Context, string, string) (digest.Digest, bool) { return "", false }
func (liar) Used()                                                      {}
func (liar) Result(context.Context, string) (*cache.Found, bool) {
	return &cache.Found{Result: store.Result{Planned: true}}, true
}

// A process is never only planned, whatever a cache says: it has a step.
func TestProcessIsNotPlanned(t *testing.T) {
	e, _ := newProcesses(t, map[string]program{"step": func(_ context.Context, _ *sandbox.Spec, out io.Writer) error {
		_, err := fmt.Fprintln(out, "here")
		return err
	}})
	display := newView()
	r := starts(t, e, RunOptions{Sink: display, Foreign: []Foreign{liar{}}})
	must(t, <-evaluated(t.Context(), r, edgeOf(t, runs("step"))))
	if display.out.String() != "here\n" || display.cached {
		t.Errorf("the display saw %+v: %q", display, display.out.String())
	}
}

// Of a run that is over nobody is told anything, whatever goes on.
func TestClosedRunTellsNothing(t *testing.T) {
	e, _ := newProcesses(t, nil)
	display, log := newView(), newView()
	r := e.NewRun(t.Context(), RunOptions{Sink: display, Log: log})
	n := r.node(edgeOf(t, runs("step")).Vertex)
	must(t, r.Close())
	r.start(n).Done(nil)
	r.tellCached(n)
	progress.Start(r.log, event(n.v)).Done(nil)
	if display.started+log.started != 0 {
		t.Errorf("they saw %+v and %+v", display, log)
	}
	if _, err := r.Result(t.Context(), edgeOf(t, runs("step"))); !errors.Is(err, errOver) {
		t.Errorf("asked: %v", err)
	}
	if len(e.flights)+len(e.sources) != 0 {
		t.Error("it holds something")
	}
}

// What is evaluated ahead of what needs it ends the evaluation when it fails: nobody waits for another stage then.
func TestEvaluationFailsAhead(t *testing.T) {
	began, ended := make(signal), make(signal)
	e, _ := newProcesses(t, map[string]program{
		"slow": func(ctx context.Context, _ *sandbox.Spec, _ io.Writer) error {
			close(began)
			<-ctx.Done()
			close(ended)
			return context.Cause(ctx)
		},
		"fail": func(ctx context.Context, _ *sandbox.Spec, _ io.Writer) error {
			if err := began.until(ctx); err != nil {
				return err
			}
			return &sandbox.ExitError{Code: 3}
		},
	})
	r := starts(t, e, RunOptions{})
	_, err := r.Result(t.Context(), edgeOf(t, runs("fail").File(llb.Copy(runs("slow"), "/file", "/copy"))))
	if err == nil || !strings.Contains(err.Error(), "exit code: 3") {
		t.Errorf("error is %v", err)
	}
	<-ended
}
