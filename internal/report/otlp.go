package report

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
	"time"

	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/timing"
)

// The JSON of OpenTelemetry's protocol: that of its protocol buffers, but for IDs, which are hexadecimal there.
type (
	otlpSpan struct {
		TraceID    string      `json:"traceId"`
		SpanID     string      `json:"spanId"`
		Parent     string      `json:"parentSpanId,omitempty"`
		Name       string      `json:"name"`
		Kind       int         `json:"kind"`
		Start      string      `json:"startTimeUnixNano"`
		End        string      `json:"endTimeUnixNano"`
		Attributes []otlpValue `json:"attributes,omitempty"`
		Links      []otlpLink  `json:"links,omitempty"`
		Status     *otlpStatus `json:"status,omitempty"`
	}
	otlpLink struct {
		TraceID string `json:"traceId"`
		SpanID  string `json:"spanId"`
	}
	otlpStatus struct {
		Message string `json:"message,omitempty"`
		Code    int    `json:"code"`
	}
	otlpValue struct {
		Key   string         `json:"key"`
		Value map[string]any `json:"value"`
	}
)

const (
	otlpInternal = 1 // SPAN_KIND_INTERNAL
	otlpError    = 2 // STATUS_CODE_ERROR
)

// otlp is a trace that is being made.
type otlp struct {
	t     *timing.Timing
	trace string
	spans []otlpSpan
}

// OTLP writes a build as a trace of OpenTelemetry, in the JSON that its collectors and files have: the build, its steps with links to those
// that they stand on, the work on their layers, and the processes of a build that was traced.
func OTLP(w io.Writer, t *timing.Timing, processes []processes.Process) error {
	o := &otlp{t: t, trace: otlpID(16, t.ID)}
	root := o.span("", t.ID, t.Name, 0, t.Took, t.Error)
	root.text("slipway.build.id", t.ID).text("slipway.build.status", string(t.Status)).text("slipway.image.id", t.ImageID).number("slipway.steps", int64(t.Total)).number("slipway.steps.cached", int64(t.Cached))
	build := root.SpanID
	of := map[int]string{} // spans of steps by the first process of theirs
	for i := range t.Steps {
		s := &t.Steps[i]
		sp := o.span(build, s.Digest.String(), s.Name, s.Start, s.Took, s.Error)
		id := sp.SpanID
		o.describe(sp, s)
		for j, work := range s.Work {
			o.span(id, s.Digest.String()+strconv.Itoa(j), string(work.Kind), work.Started.Sub(t.Started), work.Took, "").
				text("slipway.layer", work.Layer).number("slipway.read", work.Read).number("slipway.written", work.Written)
		}
		if p := s.Process; p != nil && p.Usage != nil {
			of[p.Usage.PID] = id
		}
	}
	for i, p := range processes {
		parent := of[p.Root]
		if parent == "" {
			parent = build
		}
		o.span(parent, "process "+strconv.Itoa(i), p.Command, p.Started.Sub(t.Started), p.Took, "").
			number("process.pid", int64(p.PID)).number("process.parent_pid", int64(p.Parent)).text("process.command", p.Command).
			number("process.exit.code", int64(p.Exit)).number("slipway.cpu.user", int64(p.User)).number("slipway.cpu.system", int64(p.System)).number("slipway.memory.peak", p.Memory)
	}
	return json.NewEncoder(w).Encode(map[string]any{"resourceSpans": []any{map[string]any{
		"resource":   map[string]any{"attributes": []otlpValue{textValue("service.name", "slipway")}},
		"scopeSpans": []any{map[string]any{"scope": map[string]any{"name": "slipway"}, "spans": o.spans}},
	}}})
}

// describe adds what is known of a step.
func (o *otlp) describe(sp *otlpSpan, s *timing.Step) {
	sp.text("slipway.state", string(s.State)).text("slipway.digest", s.Digest.String()).text("slipway.reason", s.Reason).text("slipway.cache", s.From).text("slipway.shared", s.Shared)
	for key, n := range map[string]int64{
		"pulled": s.Bytes.Pulled, "read": s.Bytes.Read, "written": s.Bytes.Written, "packed": s.Bytes.Packed, "compressed": s.Bytes.Compressed,
	} {
		if n > 0 {
			sp.number("slipway."+key, n)
		}
	}
	if p := s.Process; p != nil {
		sp.number("slipway.prepare", int64(p.Prepare)).number("slipway.queued", int64(p.Queued)).number("slipway.run", int64(p.Run)).number("slipway.commit", int64(p.Commit))
		if u := p.Usage; u != nil {
			sp.number("slipway.cpu.user", int64(u.User)).number("slipway.cpu.system", int64(u.System)).number("slipway.memory.peak", u.Memory)
		}
	}
	for _, d := range s.Inputs {
		sp.Links = append(sp.Links, otlpLink{o.trace, o.id(d.String())})
	}
}

// span adds a span, which is valid until the next one is added. key tells it apart from others of the build.
func (o *otlp) span(parent, key, name string, start, took time.Duration, failure string) *otlpSpan {
	began := o.t.Started.Add(start)
	sp := otlpSpan{
		TraceID: o.trace, SpanID: o.id(key), Parent: parent, Name: name, Kind: otlpInternal,
		Start: strconv.FormatInt(began.UnixNano(), 10), End: strconv.FormatInt(began.Add(took).UnixNano(), 10),
	}
	if failure != "" {
		sp.Status = &otlpStatus{failure, otlpError}
	}
	o.spans = append(o.spans, sp)
	return &o.spans[len(o.spans)-1]
}

func (o *otlp) id(key string) string { return otlpID(8, o.t.ID+"\n"+key) }

// otlpID is an ID of so many bytes: the same for the same key.
func otlpID(bytes int, key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:bytes])
}

// text adds an attribute, unless it is empty.
func (sp *otlpSpan) text(key, v string) *otlpSpan {
	if v != "" {
		sp.Attributes = append(sp.Attributes, textValue(key, v))
	}
	return sp
}

// number adds an attribute. JSON has 64 bits as a text.
func (sp *otlpSpan) number(key string, n int64) *otlpSpan {
	sp.Attributes = append(sp.Attributes, otlpValue{key, map[string]any{"intValue": strconv.FormatInt(n, 10)}})
	return sp
}

func textValue(key, v string) otlpValue {
	return otlpValue{key, map[string]any{"stringValue": v}}
}
