package progress

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// Merge tells one sink of a build whose parts are carried out side by side. A step of several parts is told of by the one that began it first; where it ended
// well there, and fails in another one, that is told as another step.
type Merge struct {
	sink Sink

	mu    sync.Mutex
	parts int
	owner map[digest.Digest]int // of a step that has begun; 0 of one that was only announced
	well  map[digest.Digest]bool
}

// NewMerge gives a merge for a sink.
func NewMerge(sink Sink) *Merge {
	return &Merge{sink: sink, owner: map[digest.Digest]int{}, well: map[digest.Digest]bool{}}
}

// Part gives the sink of one more part. Of steps that each part has for itself ("[internal] load build definition") the sink is told by the main one.
func (m *Merge) Part(main bool) Sink {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts++
	return &mergePart{m, m.parts, main}
}

type mergePart struct {
	merge  *Merge
	number int
	main   bool
}

// Write passes on what is the part's.
func (p *mergePart) Write(ev *client.SolveStatus) {
	m := p.merge
	m.mu.Lock()
	ev.Vertexes = kept(ev.Vertexes, p.vertex)
	mine := func(d digest.Digest) bool { return m.owner[d] == p.number }
	ev.Statuses = kept(ev.Statuses, func(s *client.VertexStatus) bool { return mine(s.Vertex) })
	ev.Logs = kept(ev.Logs, func(l *client.VertexLog) bool { return mine(l.Vertex) })
	ev.Warnings = kept(ev.Warnings, func(w *client.VertexWarning) bool { return mine(w.Vertex) })
	m.mu.Unlock()
	if len(ev.Vertexes)+len(ev.Statuses)+len(ev.Logs)+len(ev.Warnings) > 0 {
		m.sink.Write(ev)
	}
}

func (p *mergePart) vertex(v *client.Vertex) bool {
	if !p.main && strings.HasPrefix(v.Name, "[internal] ") {
		return false
	}
	owner, known := p.merge.owner[v.Digest]
	if v.Started == nil {
		p.merge.owner[v.Digest] = owner
		return !known
	}
	if owner == 0 {
		owner = p.number
		p.merge.owner[v.Digest] = owner
	}
	switch {
	case owner == p.number:
		p.merge.well[v.Digest] = v.Completed != nil && v.Error == ""
		return true
	case p.merge.well[v.Digest] && v.Error != "" && v.Error != context.Canceled.Error():
		v.Digest = digest.FromString(fmt.Sprintf("%d %s", p.number, v.Digest))
		return true
	}
	return false
}
