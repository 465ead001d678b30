package timing

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/progress"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const ms = time.Millisecond

// step is a record of a step that began and ended so many milliseconds after the build; it is cached when it took nothing.
func step(name string, start, end int, inputs ...string) engine.StepRecord {
	rec := engine.StepRecord{Name: name, Digest: digest.FromString(name), Started: began.Add(time.Duration(start) * ms), Took: time.Duration(end-start) * ms, Cached: start == end}
	for _, in := range inputs {
		rec.Inputs = append(rec.Inputs, digest.FromString(in))
	}
	return rec
}

func phase(name string, start, end int) progress.Span {
	return progress.Span{Name: name, Digest: digest.FromString(name), Started: began.Add(time.Duration(start) * ms), Took: time.Duration(end-start) * ms}
}

// example is a build of two stages, one of which waits for the other, and of a base image that comes while the first step is prepared.
func example() *build.Record {
	r := &build.Record{
		ID: "20260102-030405.000000-aa", Context: "/src/app", Started: began, Took: 10 * time.Second,
		Steps: []engine.StepRecord{
			step("[base] FROM golang", 200, 1200),
			step("[build 2/3] RUN go mod download", 210, 4000, "[base] FROM golang"),
			step("[build 3/3] RUN go build", 4000, 9000, "[build 2/3] RUN go mod download"),
			step("[docs 2/2] RUN make docs", 1300, 5300, "[base] FROM golang"),
			step("[stage-2 1/3] WORKDIR /app", 150, 150, "[base] FROM golang"),
			step("[stage-2 2/3] COPY --from=docs / /docs", 5300, 5310, "[stage-2 1/3] WORKDIR /app", "[docs 2/2] RUN make docs"),
			step("[stage-2 3/3] COPY --from=build /app /app", 9000, 9010, "[stage-2 2/3] COPY --from=docs / /docs", "[build 3/3] RUN go build"),
		},
		Phases: []progress.Span{phase("[internal] load build definition", 0, 100), phase("exporting to image", 9050, 9990)},
	}
	r.Steps[2].Layers = []string{"l1"}
	r.Work = []meter.Work{
		{Kind: meter.Pack, Layer: "l1", Started: began.Add(9 * time.Second), Took: time.Second / 2, Read: 100, Written: 120},
		{Kind: meter.Compress, Layer: "l1", Started: began.Add(9500 * ms), Took: time.Second / 4, Read: 120, Written: 50},
		{Kind: meter.Fetch, Layer: "other", Read: 7, Written: 7},
	}
	return r
}

func TestCriticalPath(t *testing.T) {
	timing := OfBuild(example())
	var path []string
	for _, s := range timing.Path {
		line := fmt.Sprintf("%s %s+%s", s.Name, s.Start, s.Took)
		for _, b := range s.Beside {
			line += fmt.Sprintf(", beside %s %s", b.Name, b.Took)
		}
		path = append(path, line)
	}
	want := []string{
		"[internal] load build definition 0s+100ms",
		"[base] FROM golang 200ms+1s",
		"[build 2/3] RUN go mod download 1.2s+2.8s, beside [docs 2/2] RUN make docs 2.7s",
		"[build 3/3] RUN go build 4s+5s, beside [docs 2/2] RUN make docs 1.3s, beside [stage-2 2/3] COPY --from=docs / /docs 10ms",
		"[stage-2 3/3] COPY --from=build /app /app 9s+10ms",
		"exporting to image 9.05s+940ms",
	}
	if got := strings.Join(path, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the path is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if idle := timing.Path[1].Idle; idle != 100*ms {
		t.Errorf("before the image it was idle for %s", idle)
	}
	for _, s := range timing.Steps {
		if s.Name == "[stage-2 2/3] COPY --from=docs / /docs" && s.After != "[docs 2/2] RUN make docs" {
			t.Errorf("%s waited for %q", s.Name, s.After)
		}
		if s.Name == "[build 3/3] RUN go build" && (s.Bytes != Bytes{Packed: 120, Compressed: 50} || len(s.Work) != 2) {
			t.Errorf("%s has %+v", s.Name, s.Bytes)
		}
	}
	if timing.Bytes != (Bytes{Pulled: 7, Packed: 120, Compressed: 50}) {
		t.Errorf("all of it are %+v", timing.Bytes)
	}
}

// A record of a client's graph may say anything.
func TestPathEnds(t *testing.T) {
	for name, r := range map[string]*build.Record{
		"nothing":             {Started: began},
		"a circle":            {Started: began, Took: time.Second, Steps: []engine.StepRecord{step("a", 0, 500, "b"), step("b", 0, 500, "a"), step("c", 100, 100, "c")}},
		"times that are none": {Started: began, Took: -time.Second, Steps: []engine.StepRecord{step("a", -5000, -6000, "b"), step("b", 9000, 100)}},
	} {
		if timing := OfBuild(r); len(timing.Path) > len(r.Steps) {
			t.Errorf("%s: the path has %d parts", name, len(timing.Path))
		} else if timing.Line() == "" {
			t.Errorf("%s: no line", name)
		}
	}
}

func TestLine(t *testing.T) {
	many := example()
	cached := &build.Record{Took: 41 * ms, Steps: []engine.StepRecord{step("[1/2] FROM x", 1, 1), step("[2/2] RUN y", 1, 1)}}
	slow := &build.Record{Took: 125 * time.Second, Steps: []engine.StepRecord{step("[1/1] RUN "+strings.Repeat("very ", 50)+"long", 0, 60_100)}}
	for want, r := range map[string]*build.Record{
		"10.0 s, of which 5.0 s RUN go build; 1 of 7 steps from the cache":                                      many,
		"0.04 s; all 2 steps from the cache":                                                                    cached,
		"2 min 5 s, of which 1 min 0 s RUN " + strings.Repeat("very ", 8) + "v...; 0 of 1 steps from the cache": slow,
		"0.50 s": {Took: 500 * ms},
	} {
		if got := OfBuild(r).Line(); got != want && !(want == "0.50 s" && got == "0.5 s") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	before, after := example(), example()
	after.Steps[2].Took = 2 * time.Second                 // faster
	after.Steps[3].Took, after.Steps[3].Cached = 0, true  // cached
	after.Steps[1].Name = "[build 2/3] RUN go mod vendor" // another instruction
	after.Steps[5].Took += 20 * ms                        // nothing to speak of
	after.Steps = append(after.Steps, step("[stage-2 4/4] RUN true", 9010, 9020))
	before.Steps = append(before.Steps, step("[lint 1/1] RUN vet", 10, 20))
	x, y := OfBuild(before), OfBuild(after)
	x.Steps[0].Size, y.Steps[0].Size = 5, 5
	for i := range y.Steps {
		if y.Steps[i].Name == "[base] FROM golang" {
			y.Steps[i].Size = 200
		}
	}
	for i := range x.Steps {
		if x.Steps[i].Name == "[base] FROM golang" {
			x.Steps[i].Size = 100
		}
	}
	c := Compare(x, y)
	var got []string
	for _, ch := range c.Changes {
		got = append(got, fmt.Sprintf("%s: %v", ch.Name, ch.Changed))
	}
	want := []string{
		"[docs 2/2] RUN make docs: [cache time]",
		"[build 3/3] RUN go build: [time]",
		"[lint 1/1] RUN vet: [gone]",
		"[stage-2 4/4] RUN true: [new]",
		"[base] FROM golang: [size]",
		"[build 2/3] RUN go mod vendor: [instruction]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || c.Same != 5 {
		t.Errorf("changes are\n%s\nwant\n%s\nand %d are the same", strings.Join(got, "\n"), strings.Join(want, "\n"), c.Same)
	}
	if c := Compare(x, x); len(c.Changes) != 0 {
		t.Errorf("a build is not as itself: %+v", c.Changes)
	}
}
