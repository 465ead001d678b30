package progress

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/terminal"
)

// treeBudget bounds what a live tree is given of all steps together, as [weight] counts it: it keeps
// the output of every step until the build ends, in case the step fails.
const treeBudget = 192 << 20

// streams are the outputs of the steps that run, on their way to a display: clipped, and made harmless
// for a terminal.
type streams struct {
	limits Limits
	clean  bool
	// lines says that names are shown as lines: "rawjson" has them as they are.
	lines bool
	// brief says that what stands below the first line of an error, about what was tried and what can be
	// done, is not shown: who shows the display tells the error of the build himself.
	brief bool
	// told has why a step ran again among its output, as a line: displays that are lines would say of a status that it is done.
	told bool
	// budget is what the display may still be given when it is bounded; 0 then: it is used up.
	bounded bool
	budget  int
	steps   map[digest.Digest]*stepStreams
	open    map[digest.Digest]map[string]*client.VertexStatus // statuses that have not ended, of steps that run
}

type stepStreams struct {
	started time.Time
	streams [3]stream // by number: 1 and 2
}

type stream struct {
	clip   clip
	output terminal.Output
}

func newStreams(limits Limits) *streams {
	return &streams{limits: limits, steps: map[digest.Digest]*stepStreams{}, open: map[digest.Digest]map[string]*client.VertexStatus{}}
}

// pass returns the events that a display gets for one.
func (s *streams) pass(ev *client.SolveStatus) []*client.SolveStatus {
	var all []*client.SolveStatus
	for _, v := range ev.Vertexes {
		if v.Completed != nil {
			all = append(all, s.finish(v)...)
		}
	}
	hadLogs, kept := len(ev.Logs) > 0, ev.Logs[:0]
	for _, l := range ev.Logs {
		if l.Data = s.cut(l); len(l.Data) > 0 {
			kept = append(kept, l)
		}
	}
	ev.Logs = kept
	if s.told {
		reasonsAsOutput(ev)
	}
	all = append(all, s.endStatuses(ev)...)
	if s.lines {
		oneLine(ev)
	}
	if s.brief {
		for _, v := range ev.Vertexes {
			v.Error, _, _ = strings.Cut(v.Error, "\n  ")
		}
	}
	if s.clean {
		harmless(ev)
	}
	if hadLogs && len(kept)+len(ev.Vertexes)+len(ev.Statuses)+len(ev.Warnings) == 0 {
		return all
	}
	return append(all, ev)
}

// endStatuses has what a step tells of its parts end with the step at the latest: of one with a part that goes on, as the upload of a layer that the registry then
// had of another repository, displays that are lines do not say that it has ended. What was open before is in the event that it returns.
func (s *streams) endStatuses(ev *client.SolveStatus) []*client.SolveStatus {
	ended := map[digest.Digest]*time.Time{}
	for _, v := range ev.Vertexes {
		if v.Completed != nil {
			ended[v.Digest] = v.Completed
		}
	}
	for i, st := range ev.Statuses {
		if at := ended[st.Vertex]; at != nil && st.Completed == nil {
			c := *st
			c.Completed = at
			ev.Statuses[i] = &c
		}
		switch of := s.open[st.Vertex]; {
		case ev.Statuses[i].Completed != nil:
			delete(of, st.ID)
		case of == nil:
			s.open[st.Vertex] = map[string]*client.VertexStatus{st.ID: st}
		default:
			of[st.ID] = st
		}
	}
	before := &client.SolveStatus{}
	for _, v := range ev.Vertexes {
		if v.Completed == nil {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(s.open[v.Digest])) {
			st := *s.open[v.Digest][id]
			st.Completed, st.Timestamp = v.Completed, *v.Completed
			before.Statuses = append(before.Statuses, &st)
		}
		delete(s.open, v.Digest)
	}
	if len(before.Statuses) == 0 {
		return nil
	}
	if s.clean {
		harmless(before)
	}
	return []*client.SolveStatus{before}
}

// cut returns what is shown of a piece of output.
func (s *streams) cut(l *client.VertexLog) []byte {
	step := s.steps[l.Vertex]
	if step == nil {
		step = &stepStreams{started: l.Timestamp}
		s.steps[l.Vertex] = step
	}
	one, limits := &step.streams[l.Stream], s.limits
	if s.usedUp() {
		limits.Size = 0 // the end is kept for the case that the step fails
	}
	data, sequences := s.safe(one, one.clip.cut(limits, l.Data, l.Timestamp.Sub(step.started)))
	if !s.bounded {
		return data
	}
	if s.usedUp() {
		return nil
	}
	if s.budget = max(0, s.budget-weight(data, sequences)); s.usedUp() {
		data = append(data[:len(data):len(data)], "\n[output clipped, the display's limit for all steps is reached]\n"...)
	}
	return data
}

func (s *streams) usedUp() bool { return s.bounded && s.budget == 0 }

// finish returns the ends of what was clipped of a step that has ended.
func (s *streams) finish(v *client.Vertex) []*client.SolveStatus {
	step := s.steps[v.Digest]
	if step == nil {
		return nil
	}
	delete(s.steps, v.Digest)
	failed := v.Error != "" && !strings.HasSuffix(v.Error, context.Canceled.Error())
	if s.usedUp() && !failed {
		return nil
	}
	var all []*client.SolveStatus
	for number := range step.streams {
		one := &step.streams[number]
		one.output = terminal.Output{} // what was held back belongs in front of the end, or to nothing
		if data, _ := s.safe(one, bytes.Clone(one.clip.rest())); len(data) > 0 {
			all = append(all, &client.SolveStatus{Logs: []*client.VertexLog{{
				Vertex: v.Digest, Stream: number, Data: data, Timestamp: *v.Completed,
			}}})
		}
	}
	return all
}

// safe makes output harmless, if it is to be, and counts the sequences in it.
func (s *streams) safe(one *stream, data []byte) ([]byte, int) {
	if !s.clean {
		return data, 0
	}
	return one.output.Clean(data)
}

// weight is about how many bytes a live tree takes for some output: a line is kept as a slice of its
// own, and a sequence that it does not know under its text.
func weight(data []byte, sequences int) int {
	return len(data) + 64*bytes.Count(data, []byte("\n")) + 256*sequences
}

// maxFailed is how many letters of the name of a step are shown again when it has failed.
const maxFailed = 160

// oneLine makes the names of steps lines. The name of one that failed, which was shown when it began, is cut.
func oneLine(ev *client.SolveStatus) {
	for _, v := range ev.Vertexes {
		if v.Error != "" && v.Started != nil {
			v.Name = terminal.Short(v.Name, maxFailed)
		}
		v.Name = NameLine(v.Name)
	}
}

// NameLine is the name of a step as a line, by which a [Log] has it.
func NameLine(name string) string { return terminal.Short(name, len(name)) }

// reasonsAsOutput makes output of statuses that say why a step ran again.
func reasonsAsOutput(ev *client.SolveStatus) {
	ev.Statuses = slices.DeleteFunc(ev.Statuses, func(st *client.VertexStatus) bool {
		if !strings.HasPrefix(st.ID, again) {
			return false
		}
		ev.Logs = append(ev.Logs, &client.VertexLog{Vertex: st.Vertex, Stream: 2, Data: []byte(terminal.Line(st.ID) + "\n"), Timestamp: *st.Started})
		return true
	})
}

// harmless makes everything but output harmless for a terminal.
func harmless(ev *client.SolveStatus) {
	for _, v := range ev.Vertexes {
		v.Name, v.Error = terminal.Line(v.Name), terminal.Text(v.Error)
		if g := v.ProgressGroup; g != nil && g.Name != terminal.Line(g.Name) {
			g = g.CloneVT()
			g.Name = terminal.Line(g.Name)
			v.ProgressGroup = g
		}
	}
	for _, st := range ev.Statuses {
		st.ID, st.Name = terminal.Line(st.ID), terminal.Line(st.Name)
	}
	for _, w := range ev.Warnings {
		w.Short = []byte(terminal.Line(string(w.Short)))
	}
}
