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

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// processes are a runner whose programs are functions, by their names.
type processes struct {
	mu       sync.Mutex
	programs map[string]program
	ran      map[string]int
}

type program func(ctx context.Context, spec *sandbox.Spec, out io.Writer) error

// Run implements [sandbox.Runner].
func (p *processes) Run(ctx context.Context, spec *sandbox.Spec, streams sandbox.IO) error {
	name := spec.Args[0]
	p.mu.Lock()
	p.ran[name]++
	run := p.programs[name]
	p.mu.Unlock()
	if run == nil {
		return nil
	}
	return run(ctx, spec, streams.Stdout)
}

// Exec implements [sandbox.Runner]: nothing runs beside these programs.
func (p *processes) Exec(context.Context, string, *sandbox.Process, sandbox.IO) error {
	return errors.New("there is nothing to run in")
}

func (p *processes) times(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ran[name]
}

// newProcesses returns an engine on a store of its own, and the runner that it has.
func newProcesses(t *testing.T, programs map[string]program) (*Engine, *processes) {
	t.Helper()
	s, err := store.Open(shm(t))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	p := &processes{programs: programs, ran: map[string]int{}}
	return New(Options{Store: s, Runner: p}), p
}

// starts is a run that is closed at the end of the test.
func starts(t *testing.T, e *Engine, opt RunOptions) *Run {
	t.Helper()
	r := e.NewRun(context.Background(), opt)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

// runs is a state after a process, with others below /in0, /in1 and so on.
func runs(name string, in ...llb.State) llb.State {
	opts := []llb.RunOption{llb.Args([]string{name})}
	for i, st := range in {
		opts = append(opts, llb.AddMount(fmt.Sprintf("/in%d", i), st))
	}
	return llb.Scratch().Run(opts...).Root()
}

func edgeOf(t *testing.T, st llb.State) graph.Edge {
	t.Helper()
	def, err := st.Marshal(context.Background())
	must(t, err)
	e, err := graph.Load(def.ToPB())
	must(t, err)
	return e
}

// evaluated evaluates in a goroutine of its own.
func evaluated(ctx context.Context, r *Run, e graph.Edge) chan error {
	done := make(chan error, 1)
	go func() {
		_, err := r.Result(ctx, e)
		done <- err
	}()
	return done
}

// signal is something that happens once.
type signal chan struct{}

// until ends with the context, or when s is closed.
func (s signal) until(ctx context.Context) error {
	select {
	case <-s:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// view is what a display is told of one vertex.
type view struct {
	mu      sync.Mutex
	changed *sync.Cond
	started int
	ended   int
	err     string
	cached  bool
	out     strings.Builder
}

func newView() *view {
	v := &view{}
	v.changed = sync.NewCond(&v.mu)
	return v
}

func (v *view) Write(s *client.SolveStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, x := range s.Vertexes {
		if x.Completed != nil {
			v.ended, v.err, v.cached = v.ended+1, x.Error, x.Cached
		} else {
			v.started++
		}
	}
	for _, l := range s.Logs {
		v.out.Write(l.Data)
	}
	v.changed.Broadcast()
}

// hears waits for output.
func (v *view) hears(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for !strings.Contains(v.out.String(), text) {
		v.changed.Wait()
	}
}

// meeting is a program that tells when it has begun, and ends when it is told to.
func meeting() (began, goOn signal, p program) {
	began, goOn = make(signal), make(signal)
	return began, goOn, func(ctx context.Context, spec *sandbox.Spec, out io.Writer) error {
		fmt.Fprintln(out, "before")
		close(began)
		if err := goOn.until(ctx); err != nil {
			return err
		}
		fmt.Fprintln(out, "after")
		return os.WriteFile(filepath.Join(spec.Root.Upper, "file"), []byte("made"), 0o644)
	}
}
