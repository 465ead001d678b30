package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/progress"
)

// Screen is a display: of one run, or of several, as those of one command. What its runs have in common it shows once.
type Screen struct {
	mu      sync.Mutex
	shown   map[digest.Digest]shown
	notices []string // what the sandbox had to say: it says the same of each step
}

// shown says what is shown as a vertex, by which run, and as what.
type shown struct {
	what any
	run  *Run
	v    progress.Vertex
}

// NewScreen returns the screen of one display.
func NewScreen() *Screen { return &Screen{shown: map[digest.Digest]shown{}} }

// notice reports whether nobody was told of something yet.
func (s *Screen) notice(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.notices, text) {
		return false
	}
	s.notices = append(s.notices, text)
	return true
}

// shows reports what the screen shows under the digest of a vertex: it is what, and shown by r, if there was nothing yet.
func (s *Screen) shows(v progress.Vertex, what any, r *Run) shown {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.shown[v.Digest]; !ok {
		s.shown[v.Digest] = shown{what, r, v}
	}
	return s.shown[v.Digest]
}

// as is what a vertex is called where its digest is that of something else.
func (s shown) as(v progress.Vertex, what any, r *Run) progress.Vertex {
	if s.what != what {
		v.Digest = digest.FromString(r.opt.Name + " " + v.Digest.String())
	}
	return v
}

// gate is a sink of a run, which is told nothing when the run is over: others may still wait for what the run began.
type gate struct {
	mu   sync.RWMutex
	shut bool
	sink progress.Sink
}

func (g *gate) Write(s *client.SolveStatus) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if !g.shut {
		g.sink.Write(s)
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

// audience are the runs that are told of the steps of something that they have in common: one of each screen is shown them, and
// the logs of the others say where.
type audience struct {
	mu    sync.Mutex
	step  *progress.Step // under way
	seats []*seat
}

// seat is a run in an audience. It may have come several times.
type seat struct {
	run  *Run
	what any             // that the vertex is of, for the screen
	v    progress.Vertex // what it is for the run

	times  int
	viewer *progress.Viewer // of the step under way, if the run's screen is shown it by this seat
	log    *progress.Step   // the line of the run's log, if it is shown by another one
}

// join has a run told of the steps from now on, and of one under way. It gives the seat that the run has.
func (a *audience) join(s *seat) *seat {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.seats, func(o *seat) bool { return o.run == s.run }); i >= 0 {
		a.seats[i].times++
		return a.seats[i]
	}
	s.times = 1
	a.seats = append(a.seats, s)
	if a.step != nil {
		a.show(s)
	}
	return s
}

// show tells a seat of the step under way.
func (a *audience) show(s *seat) {
	known := s.run.hears(s.v.Digest)
	for _, o := range a.seats {
		if o != s && o.viewer != nil && o.run.screen == s.run.screen {
			if known {
				return
			}
			s.log = progress.Start(s.run.log, s.v)
			fmt.Fprintf(s.log.Stderr(), "%s has this step too, it runs there\n", o.run.opt.Name)
			return
		}
	}
	first := s.run.screen.shows(s.v, s.what, s.run)
	if first.what == s.what { // as it was shown before
		s.viewer = a.step.Show(first.run.sink, first.v)
		return
	}
	s.viewer = a.step.Show(s.run.sink, first.as(s.v, s.what, s.run))
}

// leave is the end of what join began. For a run that does not come to the end of the step err is what it ends with.
func (a *audience) leave(s *seat, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.times--; s.times > 0 {
		return
	}
	a.seats = slices.DeleteFunc(a.seats, func(o *seat) bool { return o == s })
	if s.log != nil {
		s.log.Done(err)
	}
	if s.viewer == nil || a.step == nil {
		return
	}
	for _, o := range a.seats {
		if o.run.screen == s.run.screen { // the screen goes on to show it
			o.viewer = s.viewer
			return
		}
	}
	s.viewer.Leave(err)
}

// start begins a step, unless one is under way.
func (a *audience) start() *progress.Step {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.step != nil {
		return a.step
	}
	a.step = progress.Shared()
	for _, s := range a.seats {
		a.show(s)
	}
	return a.step
}

// why tells a run why the step under way is carried out; "" is nothing.
func (a *audience) why(r *Run, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.seats {
		switch {
		case text == "" || s.run != r:
		case s.viewer != nil:
			s.viewer.Again(text)
		case s.log != nil:
			s.log.Again(text)
		}
	}
}

// end ends the step.
func (a *audience) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over(err)
}

// endOf ends the step that r has carried out. What went wrong with r is not told to runs of other commands, which try by themselves.
func (a *audience) endOf(r *Run, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.seats {
		if err == nil || ofTheStep(err) || !s.run.apart(r) {
			continue
		}
		if s.viewer != nil {
			s.viewer.Leave(context.Canceled)
		}
		if s.log != nil {
			s.log.Done(context.Canceled)
		}
	}
	a.over(err)
}

// over ends the step. The caller holds the lock.
func (a *audience) over(err error) {
	if a.step == nil {
		return
	}
	a.step.Done(err)
	a.step = nil
	for _, s := range a.seats {
		if s.log != nil {
			s.log.Done(err)
		}
		s.viewer, s.log = nil, nil
	}
}

// record adds a record of a step to those of all runs, by their names for it.
func (a *audience) record(rec StepRecord) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.seats {
		rec.Name, rec.Digest = s.v.Name, s.v.Digest
		s.run.record(rec)
	}
}
