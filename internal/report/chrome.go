package report

import (
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/timing"
)

// chromeEvent is an event of the Trace Event Format. Times are in microseconds since the build began.
type chromeEvent struct {
	Name     string         `json:"name"`
	Category string         `json:"cat,omitempty"`
	Phase    string         `json:"ph"`
	Time     float64        `json:"ts"`
	Duration *float64       `json:"dur,omitempty"`
	Process  int            `json:"pid"`
	Thread   int            `json:"tid"`
	ID       int            `json:"id,omitempty"` // of a flow: one from the end of a step to the beginning of another
	Bind     string         `json:"bp,omitempty"`
	Scope    string         `json:"s,omitempty"`
	Args     map[string]any `json:"args,omitempty"`
}

// The tracks of a trace are processes, whose lanes are threads.
const (
	trackPath = 1 + iota
	trackSteps
	trackLayers
	trackProcesses
)

// chrome is a trace that is being made.
type chrome struct {
	events []chromeEvent
	lanes  map[int][]time.Duration // when each lane of a track is free
}

// Chrome writes a build as a trace for Chrome and Perfetto, in the JSON Object Format of trace events: the critical path, the steps with what
// they waited for, the work on their layers, and the processes of a build that was traced.
func Chrome(w io.Writer, t *timing.Timing, processes []processes.Process) error {
	c := &chrome{lanes: map[int][]time.Duration{}}
	for track, name := range map[int]string{trackPath: "critical path", trackSteps: "steps of " + t.Name, trackLayers: "layers", trackProcesses: "processes"} {
		c.events = append(c.events,
			chromeEvent{Name: "process_name", Phase: "M", Process: track, Args: map[string]any{"name": name}},
			chromeEvent{Name: "process_sort_index", Phase: "M", Process: track, Args: map[string]any{"sort_index": track}})
	}
	slices.SortFunc(c.events, func(a, b chromeEvent) int { return a.Process - b.Process })
	for _, s := range t.Path {
		c.add(trackPath, s.Name, "path", s.Start, s.Took, nil)
	}
	c.steps(t)
	for i := range t.Steps {
		for _, work := range t.Steps[i].Work {
			c.add(trackLayers, string(work.Kind), "layer", work.Started.Sub(t.Started), work.Took, map[string]any{
				"step": t.Steps[i].Name, "layer": work.Layer, "read": work.Read, "written": work.Written,
			})
		}
	}
	for _, p := range processes {
		c.add(trackProcesses, p.Command, "process", p.Started.Sub(t.Started), p.Took, processArgs(&p))
	}
	return json.NewEncoder(w).Encode(map[string]any{
		"traceEvents": c.events, "displayTimeUnit": "ms",
		"otherData": map[string]any{"build": t.ID, "name": t.Name, "status": t.Status, "started": t.Started, "imageID": t.ImageID},
	})
}

// steps adds the steps, and an arrow to each from what it waited for.
func (c *chrome) steps(t *timing.Timing) {
	at := map[string]chromeEvent{} // by name: what a step waited for is known by that
	for i := range t.Steps {
		s := &t.Steps[i]
		args := map[string]any{"state": s.State, "digest": s.Digest.String()}
		for name, v := range map[string]string{"reason": s.Reason, "error": s.Error, "from": s.From, "shared": s.Shared, "waitedFor": s.After} {
			if v != "" {
				args[name] = v
			}
		}
		if s.Process != nil {
			args["process"] = s.Process
		}
		if s.Bytes != (timing.Bytes{}) {
			args["bytes"] = s.Bytes
		}
		e := c.add(trackSteps, s.Name, string(s.State), s.Start, s.Took, args)
		if before, ok := at[s.After]; ok && s.After != "" {
			id := len(c.events)
			end := before.Time
			if before.Duration != nil {
				end += *before.Duration
			}
			c.events = append(c.events,
				chromeEvent{Name: "waited for", Category: "wait", Phase: "s", ID: id, Time: min(end, e.Time), Process: before.Process, Thread: before.Thread},
				chromeEvent{Name: "waited for", Category: "wait", Phase: "f", Bind: "e", ID: id, Time: e.Time, Process: e.Process, Thread: e.Thread})
		}
		at[s.Name] = e
	}
}

// add adds a slice to the first lane of a track that is free then, or an instant for what took no time.
func (c *chrome) add(track int, name, category string, start, took time.Duration, args map[string]any) chromeEvent {
	start = max(start, 0)
	lanes := c.lanes[track]
	lane := slices.IndexFunc(lanes, func(free time.Duration) bool { return free <= start })
	if lane < 0 {
		lane = len(lanes)
		lanes = append(lanes, 0)
	}
	lanes[lane] = start + took
	c.lanes[track] = lanes
	e := chromeEvent{Name: name, Category: category, Phase: "X", Time: micros(start), Process: track, Thread: lane + 1, Args: args}
	if dur := micros(took); took > 0 {
		e.Duration = &dur
	} else {
		e.Phase, e.Scope = "i", "t"
	}
	c.events = append(c.events, e)
	return e
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// processArgs are what is known of a process.
func processArgs(p *processes.Process) map[string]any {
	return map[string]any{
		"pid": p.PID, "parent": p.Parent, "first": p.Root, "exit": p.Exit, "user": micros(p.User), "system": micros(p.System),
		"peakMemory": p.Memory, "read": p.Read, "written": p.Written,
	}
}
