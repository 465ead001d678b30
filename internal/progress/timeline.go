package progress

import (
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// Span is a vertex with its times.
type Span struct {
	Name    string          `json:"name"`
	Digest  digest.Digest   `json:"digest"`
	Inputs  []digest.Digest `json:"inputs,omitempty"`
	Started time.Time       `json:"started"`
	Took    time.Duration   `json:"took"`
	Cached  bool            `json:"cached,omitempty"`
	Error   string          `json:"error,omitempty"`
	Parts   []Part          `json:"parts,omitempty"`
}

// Part is a part of a vertex that a display shows below it, such as the download of a layer.
type Part struct {
	Name    string        `json:"name"`
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took"`
	Bytes   int64         `json:"bytes,omitempty"`
}

// maxParts bounds the parts of a span: who tells of them may be a client.
const maxParts = 1000

// Timeline is a Sink that keeps the times of all vertices. What steps print passes by.
type Timeline struct {
	mu    sync.Mutex
	spans []*Span
	of    map[digest.Digest]*Span
}

// NewTimeline returns an empty one.
func NewTimeline() *Timeline { return &Timeline{of: map[digest.Digest]*Span{}} }

// Write notes an event.
func (t *Timeline) Write(s *client.SolveStatus) {
	if len(s.Vertexes)+len(s.Statuses) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range s.Vertexes {
		t.vertex(v)
	}
	for _, st := range s.Statuses {
		if sp := t.of[st.Vertex]; sp != nil {
			sp.status(st)
		}
	}
}

// Before is a sink that notes events before another one gets them, which may change them.
func (t *Timeline) Before(next Sink) Sink {
	return SinkFunc(func(s *client.SolveStatus) {
		t.Write(s)
		next.Write(s)
	})
}

// vertex notes a state. One that begins again, as another of its parts is needed, goes on.
func (t *Timeline) vertex(v *client.Vertex) {
	sp := t.of[v.Digest]
	if sp == nil {
		sp = &Span{Name: v.Name, Digest: v.Digest, Inputs: v.Inputs}
		t.of[v.Digest] = sp
		t.spans = append(t.spans, sp)
	}
	if v.Started != nil && sp.Started.IsZero() {
		sp.Started = *v.Started
	}
	if v.Completed != nil {
		sp.Took, sp.Cached, sp.Error = max(v.Completed.Sub(sp.Started), 0), v.Cached, v.Error
	}
}

func (sp *Span) status(st *client.VertexStatus) {
	i := slices.IndexFunc(sp.Parts, func(p Part) bool { return p.Name == st.ID })
	if i < 0 {
		if len(sp.Parts) == maxParts || st.Started == nil {
			return
		}
		i = len(sp.Parts)
		sp.Parts = append(sp.Parts, Part{Name: st.ID, Started: *st.Started})
	}
	p := &sp.Parts[i]
	p.Bytes = max(st.Current, p.Bytes)
	if end := st.Completed; end != nil {
		p.Took = max(end.Sub(p.Started), 0)
	}
}

// Spans are the vertices that have begun, in the order in which they did.
func (t *Timeline) Spans() []Span {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Span
	for _, sp := range t.spans {
		if !sp.Started.IsZero() {
			s := *sp
			s.Parts = slices.Clone(sp.Parts)
			all = append(all, s)
		}
	}
	return all
}
