package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// maxReplayed is how many steps a replay shows: what else claims to be one is dropped.
const maxReplayed = 100_000

// Replay tells a sink again what a build elsewhere has told by the display "rawjson". What comes is a claim: what makes no sense is dropped.
//
// The build may begin anew, elsewhere ([Replay.Again]): its steps are others for the sink then.
type Replay struct {
	sink Sink

	mu    sync.Mutex
	tries int
	known map[digest.Digest]bool           // vertices that the sink was told of
	open  map[digest.Digest]*client.Vertex // those that have begun and not ended
}

// NewReplay gives a replay for a sink.
func NewReplay(sink Sink) *Replay {
	return &Replay{sink: sink, known: map[digest.Digest]bool{}, open: map[digest.Digest]*client.Vertex{}}
}

// Line takes a line of what the build has printed, and reports whether it is an event.
func (r *Replay) Line(line []byte) bool {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '{' {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	var ev client.SolveStatus
	if err := dec.Decode(&ev); err != nil {
		return false
	}
	r.mu.Lock()
	ok := r.take(&ev)
	r.mu.Unlock()
	if ok {
		r.sink.Write(&ev)
	}
	return true
}

// Again says that the build begins anew: what has not ended never will.
func (r *Replay) Again() { r.end(context.Canceled.Error(), 1) }

// End says that the build has ended well: so has what has begun, whose end was not told where a log went with its pod.
func (r *Replay) End() { r.end("", 0) }

func (r *Replay) end(why string, tries int) {
	r.mu.Lock()
	now := time.Now()
	var ev client.SolveStatus
	for _, v := range r.open {
		v.Completed, v.Error = &now, why
		ev.Vertexes = append(ev.Vertexes, v)
	}
	clear(r.open)
	r.tries += tries
	r.mu.Unlock()
	if len(ev.Vertexes) > 0 {
		r.sink.Write(&ev)
	}
}

// take leaves in an event what the sink may be told, and reports whether that is anything.
func (r *Replay) take(ev *client.SolveStatus) bool {
	ev.Vertexes = kept(ev.Vertexes, r.vertex)
	ev.Statuses = kept(ev.Statuses, func(s *client.VertexStatus) bool {
		s.Vertex = r.renamed(s.Vertex)
		if s.Started == nil {
			s.Started = &s.Timestamp
		}
		return r.known[s.Vertex]
	})
	ev.Logs = kept(ev.Logs, func(l *client.VertexLog) bool {
		l.Vertex = r.renamed(l.Vertex)
		return r.known[l.Vertex] && (l.Stream == 1 || l.Stream == 2)
	})
	ev.Warnings = kept(ev.Warnings, func(w *client.VertexWarning) bool {
		w.Vertex = r.renamed(w.Vertex)
		w.Range = kept(w.Range, func(p *pb.Range) bool { return p.Start != nil && p.End != nil })
		return r.known[w.Vertex]
	})
	return len(ev.Vertexes)+len(ev.Statuses)+len(ev.Logs)+len(ev.Warnings) > 0
}

func (r *Replay) vertex(v *client.Vertex) bool {
	if v.Digest.Validate() != nil {
		return false
	}
	v.Digest = r.renamed(v.Digest)
	for i := range v.Inputs {
		v.Inputs[i] = r.renamed(v.Inputs[i])
	}
	if !r.known[v.Digest] && len(r.known) == maxReplayed {
		return false
	}
	r.known[v.Digest] = true
	switch {
	case v.Completed != nil:
		if v.Started == nil {
			v.Started = v.Completed
		}
		delete(r.open, v.Digest)
	case v.Started != nil:
		c := *v
		r.open[v.Digest] = &c
	}
	return true
}

// renamed is what a vertex is for the sink: those of the first try are what they are.
func (r *Replay) renamed(d digest.Digest) digest.Digest {
	if r.tries == 0 {
		return d
	}
	return digest.FromString(fmt.Sprintf("%d %s", r.tries, d))
}

// kept are those of a list that are there and wanted.
func kept[T any](all []*T, wanted func(*T) bool) []*T {
	out := all[:0]
	for _, one := range all {
		if one != nil && wanted(one) {
			out = append(out, one)
		}
	}
	return out
}
