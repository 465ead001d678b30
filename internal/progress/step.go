package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/outbound"
)

// statusInterval is how often one status line of a step is told at most, as long as it is not
// completed.
const statusInterval = 100 * time.Millisecond

// maxPast is how many bytes of output a shared step keeps for who comes later. Each piece of it takes some more: a process may
// write single letters, which are put together up to pieceSize.
const (
	maxPast   = 256 << 10
	pieceSize = 4 << 10
	pieceCost = 96
)

// Vertex is what is shown of a vertex, whatever its state.
type Vertex struct {
	Digest digest.Digest   // stable and unique within the build
	Name   string          // "[builder 2/4] RUN make"
	Inputs []digest.Digest // vertices that it waits for
	Group  *pb.ProgressGroup
}

func (v Vertex) event() *client.Vertex {
	return &client.Vertex{Digest: v.Digest, Name: outbound.Redact(v.Name), Inputs: v.Inputs, ProgressGroup: v.Group}
}

// Step is a vertex that has started. It is safe for concurrent use. Done must be called.
//
// Several builds may be told of one step, each under its own name for it: see [Shared]. A sink that keeps its caller waiting
// makes the step wait, for all of them.
type Step struct {
	shared bool

	out sync.Mutex // held while output is told, which may take long: taken before mu

	mu       sync.Mutex
	viewers  []*Viewer     // replaced when one leaves
	state    client.Vertex // but for what the viewers have
	statuses map[string]*client.VertexStatus
	told     map[string]time.Time // when a status was last told
	past     []client.VertexLog   // of a shared step
	size     int                  // of past, with what its pieces take
	lost     int                  // bytes that are no longer in it
}

// Viewer is a sink that is told of a step.
type Viewer struct {
	step   *Step
	sink   Sink
	vertex client.Vertex // without a state
}

// Start tells that a vertex begins.
func Start(sink Sink, v Vertex) *Step {
	s := &Step{}
	s.begin()
	s.Show(sink, v)
	return s
}

// Shared begins a step that several are told of by [Step.Show]. Who comes later hears what the others have heard, of its
// output the last part.
func Shared() *Step {
	s := &Step{shared: true}
	s.begin()
	return s
}

func (s *Step) begin() {
	now := time.Now()
	s.state.Started = &now
}

// Show tells a sink of the step, as the vertex that the step is for it.
func (s *Step) Show(sink Sink, v Vertex) *Viewer {
	s.out.Lock()
	defer s.out.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &Viewer{step: s, sink: sink, vertex: *v.event()}
	s.viewers = append(s.viewers, w)
	started := s.state
	started.Completed, started.Cached, started.Error = nil, false, ""
	w.tell(started)
	for _, st := range s.statuses {
		w.status(*st)
	}
	if s.lost > 0 {
		w.log(client.VertexLog{Stream: 2, Data: fmt.Appendf(nil, "[the first %d bytes of its output are left out]\n", s.lost), Timestamp: *s.state.Started})
	}
	for _, l := range s.past {
		w.log(l)
	}
	if s.state.Completed != nil {
		w.tell(s.state)
	}
	return w
}

// Leave tells the viewer's sink, which is told nothing more, that the step has ended for it. It does nothing after the end of the step.
func (w *Viewer) Leave(err error) {
	s := w.step
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.viewers, w)
	if i < 0 {
		return
	}
	s.viewers = slices.Concat(s.viewers[:i], s.viewers[i+1:])
	if s.state.Completed == nil {
		ended := s.state
		complete(&ended, err)
		w.tell(ended)
	}
}

// tell emits a state of the vertex. The caller holds the step's lock, so that states arrive in order.
func (w *Viewer) tell(state client.Vertex) {
	v := w.vertex
	v.Started, v.Completed, v.Cached, v.Error = state.Started, state.Completed, state.Cached, state.Error
	w.sink.Write(&client.SolveStatus{Vertexes: []*client.Vertex{&v}})
}

func (w *Viewer) status(st client.VertexStatus) {
	st.Vertex = w.vertex.Digest
	w.sink.Write(&client.SolveStatus{Statuses: []*client.VertexStatus{&st}})
}

func (w *Viewer) log(l client.VertexLog) {
	l.Vertex = w.vertex.Digest
	w.sink.Write(&client.SolveStatus{Logs: []*client.VertexLog{&l}})
}

// tell emits the step's state to all. The caller holds the lock.
func (s *Step) tell() {
	for _, w := range s.viewers {
		w.tell(s.state)
	}
}

// Stdout takes what the step's process writes to its standard output.
func (s *Step) Stdout() io.Writer { return logWriter{s, 1} }

// Stderr takes what the step's process writes to its standard error.
func (s *Step) Stderr() io.Writer { return logWriter{s, 2} }

type logWriter struct {
	step   *Step
	stream int
}

// Write never fails.
func (w logWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w.step.output(client.VertexLog{Stream: w.stream, Data: bytes.Clone(p), Timestamp: time.Now()})
	return len(p), nil
}

// output tells of output. Who comes meanwhile hears it once.
func (s *Step) output(l client.VertexLog) {
	s.out.Lock()
	defer s.out.Unlock()
	s.mu.Lock()
	if s.shared && s.state.Completed == nil {
		s.keep(l)
	}
	viewers := s.viewers
	s.mu.Unlock()
	for _, w := range viewers {
		w.log(l)
	}
}

// keep keeps output for who comes later.
func (s *Step) keep(l client.VertexLog) {
	if n := len(s.past); n > 0 && s.past[n-1].Stream == l.Stream && len(s.past[n-1].Data)+len(l.Data) <= pieceSize {
		s.past[n-1].Data = append(s.past[n-1].Data, l.Data...) // behind what viewers may have of it
		s.size += len(l.Data)
	} else {
		l.Data = slices.Clip(l.Data) // viewers have it, too
		s.past = append(s.past, l)
		s.size += len(l.Data) + pieceCost
	}
	for s.size > maxPast && len(s.past) > 1 {
		first := len(s.past[0].Data)
		s.size, s.lost = s.size-first-pieceCost, s.lost+first
		s.past[0].Data = nil
		s.past = s.past[1:] // the array goes when the next one is made
	}
}

// Status tells how far one part of the step is, such as the download of one layer. The units of
// current and total are bytes; a total of 0 is not known. It may be called as often as one likes:
// only some calls become events.
func (s *Step) Status(id string, current, total int64, completed bool) {
	s.status(id, id, current, total, completed)
}

// Transferring is Status of a client's directory by its name, in BuildKit's words: clients know them.
func (s *Step) Transferring(name string, current int64, completed bool) {
	s.status("transferring "+name+":", "transferring", current, 0, completed)
}

func (s *Step) status(id, name string, current, total int64, completed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	st := s.statuses[id]
	if st == nil {
		if s.statuses == nil {
			s.statuses, s.told = map[string]*client.VertexStatus{}, map[string]time.Time{}
		}
		st = &client.VertexStatus{ID: id, Name: name, Started: &now}
		s.statuses[id] = st
	}
	if st.Completed != nil || (!completed && now.Sub(s.told[id]) < statusInterval) {
		return
	}
	st.Current, st.Total, st.Timestamp = current, total, now
	if completed {
		st.Completed = &now
	}
	s.told[id] = now
	for _, w := range s.viewers {
		w.status(*st)
	}
}

// again begins the status that says why a step ran again.
const again = "ran again: "

// Again tells the viewer's sink why the step ran again, in one line. It is a status, which all clients of BuildKit show beside the step.
func (w *Viewer) Again(why string) {
	now := time.Now()
	text := again + outbound.Redact(why)
	w.status(client.VertexStatus{ID: text, Name: text, Started: &now, Completed: &now, Timestamp: now})
}

// Again tells it all viewers.
func (s *Step) Again(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.viewers {
		w.Again(why)
	}
}

// Cached marks the step's result as taken from the cache. It is told with Done.
func (s *Step) Cached() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Cached = true
}

// Warn tells something that does not stop the build, in one line. Detail, url, source and ranges may be empty.
func (s *Step) Warn(short string, detail []string, url string, source *pb.SourceInfo, ranges ...*pb.Range) {
	short = strings.ReplaceAll(short, "\n  ", "; ") // an error's lines about what was tried
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.viewers {
		warning := &client.VertexWarning{Vertex: w.vertex.Digest, Level: 1, Short: []byte(short), URL: url, SourceInfo: source, Range: ranges}
		for _, d := range detail {
			warning.Detail = append(warning.Detail, []byte(d))
		}
		w.sink.Write(&client.SolveStatus{Warnings: []*client.VertexWarning{warning}})
	}
}

// Done tells that the step has ended. An error that is context.Canceled is told as such, whatever
// surrounds it: displays know it by that name. The second and later calls do nothing.
func (s *Step) Done(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Completed != nil {
		return
	}
	complete(&s.state, err)
	s.tell()
	s.past = nil
}

// complete makes a state that of a step that has ended.
func complete(state *client.Vertex, err error) {
	now := time.Now()
	state.Completed = &now
	switch {
	case errors.Is(err, context.Canceled):
		state.Error = context.Canceled.Error()
	case err != nil:
		state.Error = outbound.Redact(err.Error())
	}
}
