package progress

import (
	"bytes"
	"context"
	"errors"
	"io"
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
type Step struct {
	sink Sink

	mu       sync.Mutex
	state    client.Vertex
	statuses map[string]*client.VertexStatus
	told     map[string]time.Time // when a status was last told
}

// Start tells that a vertex begins.
func Start(sink Sink, v Vertex) *Step {
	s := &Step{sink: sink, state: *v.event()}
	now := time.Now()
	s.state.Started = &now
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell()
	return s
}

// tell emits the vertex's state. The caller holds the lock, so that states arrive in order.
func (s *Step) tell() {
	c := s.state
	s.sink.Write(&client.SolveStatus{Vertexes: []*client.Vertex{&c}})
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
	s := w.step
	s.sink.Write(&client.SolveStatus{Logs: []*client.VertexLog{{
		Vertex: s.state.Digest, Stream: w.stream, Data: bytes.Clone(p), Timestamp: time.Now(),
	}}})
	return len(p), nil
}

// Status tells how far one part of the step is, such as the download of one layer. The units of
// current and total are bytes; a total of 0 is not known. It may be called as often as one likes:
// only some calls become events.
func (s *Step) Status(id string, current, total int64, completed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	st := s.statuses[id]
	if st == nil {
		if s.statuses == nil {
			s.statuses, s.told = map[string]*client.VertexStatus{}, map[string]time.Time{}
		}
		st = &client.VertexStatus{ID: id, Name: id, Vertex: s.state.Digest, Started: &now}
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
	c := *st
	s.sink.Write(&client.SolveStatus{Statuses: []*client.VertexStatus{&c}})
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
	w := &client.VertexWarning{Vertex: s.state.Digest, Level: 1, Short: []byte(short), URL: url, SourceInfo: source, Range: ranges}
	for _, d := range detail {
		w.Detail = append(w.Detail, []byte(d))
	}
	s.sink.Write(&client.SolveStatus{Warnings: []*client.VertexWarning{w}})
}

// Done tells that the step has ended. An error that is context.Canceled is told as such, whatever
// surrounds it: displays know it by that name. The second and later calls do nothing.
func (s *Step) Done(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Completed != nil {
		return
	}
	now := time.Now()
	s.state.Completed = &now
	switch {
	case errors.Is(err, context.Canceled):
		s.state.Error = context.Canceled.Error()
	case err != nil:
		s.state.Error = outbound.Redact(err.Error())
	}
	s.tell()
}
