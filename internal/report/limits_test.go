package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/timing"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// Of a log there are the first and the last lines of each step, whatever is in it.
func TestStepLogs(t *testing.T) {
	var log strings.Builder
	log.WriteString("#1 [1/2] RUN many\n#2 [2/2] RUN one\nno line of a step\n#x\n")
	for i := range 2000 {
		fmt.Fprintf(&log, "#1 0.1 line %d\r\n", i)
	}
	fmt.Fprintf(&log, "#2 0.1 %s\n#2 0.2 \x1b[1;31mred\x1b[0m \x1b[12\n#1 DONE 3s\n#3 [internal] nothing\n#3 CACHED\n#2 0.3 the end", strings.Repeat("x", 200_000))
	all, err := stepLogs(io.MultiReader(strings.NewReader(log.String()), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if err != nil || len(all) != 2 {
		t.Fatalf("%d steps, %v", len(all), err)
	}
	many, one := all[0], all[1]
	if many.Number != "#1" || many.Name != "[1/2] RUN many" || many.Lines() != 2000 || len(many.First) != firstLines || len(many.Last) != lastLines || many.Left() != 2000-firstLines-lastLines ||
		many.First[0] != "0.1 line 0" || many.Last[lastLines-1] != "0.1 line 1999" || many.Last[0] != fmt.Sprintf("0.1 line %d", 2000-lastLines) {
		t.Errorf("of many lines it has %q to %q, and %d are left out", many.First[0], many.Last[0], many.Left())
	}
	if one.Lines() != 3 || len(one.First[0]) > maxLogLine || one.First[1] != "0.2 red ^[[12" || one.First[2] != "0.3 the end" || one.Left() != 0 {
		t.Errorf("the lines are %.20q..., %q", one.First[0], one.First[1:])
	}
	if _, err := stepLogs(iotest.ErrReader(errors.New("no"))); err == nil {
		t.Error("an error of reading is not told")
	}
}

func manySteps(n int, change func(i int, s *timing.Step)) *timing.Timing {
	t := &timing.Timing{Took: time.Duration(n) * time.Second, Total: n}
	for i := range n {
		s := timing.Step{Name: fmt.Sprintf("[s%d 1/1] RUN %d", i, i), Digest: digest.FromString(fmt.Sprint(i)), State: timing.Ran, Start: time.Duration(i) * time.Second, Took: time.Second}
		change(i, &s)
		t.Steps = append(t.Steps, s)
	}
	return t
}

// Tables and pictures say what they leave out.
func TestMuch(t *testing.T) {
	ran := manySteps(maxBars+50, func(int, *timing.Step) {})
	text := Markdown(ran)
	if want := fmt.Sprintf("| and %d more | |", maxBars+50-maxRows); !strings.Contains(text, want) || strings.Count(text, "| ran |") != maxRows {
		t.Errorf("a summary of %d steps has %d rows, want %q", len(ran.Steps), strings.Count(text, "| ran |"), want)
	}
	if tl := timelineOf(ran); len(tl.Rows) != maxBars || tl.Left != 50 {
		t.Errorf("the timeline has %d rows, and %d are left", len(tl.Rows), tl.Left)
	}
	if g := graphOf(ran); len(g.Stages) != maxStages {
		t.Errorf("the graph has %d stages", len(g.Stages))
	}
	cached := manySteps(60, func(i int, s *timing.Step) {
		if i > 0 {
			s.State = timing.Cached
		}
	})
	if tl := timelineOf(cached); len(tl.Rows) != 1 {
		t.Errorf("the timeline of what is cached has %d rows", len(tl.Rows))
	}
	root := &imagesize.Node{}
	for range 2 * maxTiles {
		root.Size += 100
		root.Children = append(root.Children, &imagesize.Node{Size: 100})
	}
	if tiles := treemapOf(root); len(tiles) != maxTiles {
		t.Errorf("the treemap has %d areas", len(tiles))
	}
	if longestProcesses(make([]processes.Process, 1000)); len(longestProcesses(make([]processes.Process, 1000))) != maxMost {
		t.Error("all processes are shown")
	}
}

// What takes as much looks as much: areas are nearly squares.
func TestSquares(t *testing.T) {
	root := &imagesize.Node{Size: 12, Children: slices.Repeat([]*imagesize.Node{{Size: 1}}, 12)}
	tiles := treemapOf(root)
	if len(tiles) != 12 {
		t.Fatalf("%d areas", len(tiles))
	}
	for _, a := range tiles {
		if r := math.Max(a.W/a.H, a.H/a.W); r > 1.6 {
			t.Errorf("an area is %f by %f", a.W, a.H)
		}
	}
	for _, none := range []*imagesize.Node{nil, {}, {Size: -1}} {
		if len(treemapOf(none)) != 0 {
			t.Error("nothing has areas")
		}
	}
}

// Bars stay in the picture, whatever times say, and those of the critical path are marked.
func TestTimeline(t *testing.T) {
	of := manySteps(4, func(i int, s *timing.Step) {
		switch i {
		case 1:
			s.Start, s.Took = 0, 1000*time.Hour
		case 2:
			s.Start = 1000 * time.Hour
		case 3:
			s.State, s.Took = timing.Besides, 0
		}
	})
	of.Path = []timing.Segment{{Digest: of.Steps[2].Digest}}
	tl := timelineOf(of)
	if len(tl.Rows) != 3 {
		t.Fatalf("%d rows", len(tl.Rows))
	}
	for i, b := range tl.Rows {
		if b.X < 0 || b.W <= 0 || b.X+b.W > pictureWidth || b.Path != (i == 2) || b.Index != i {
			t.Errorf("row %d is %+v", i, b)
		}
	}
	if b := tl.Rows[2]; !b.Before || b.Label >= b.X {
		t.Errorf("the text of a late one leads out: %+v", b)
	}
	if got := timelineOf(&timing.Timing{}).Marks; len(got) != 5 || got[0].Text != "0.00 s" {
		t.Errorf("marks are %+v", got)
	}
}

// A stage stands to the right of what it takes something of, says what became of it, and circles end.
func TestPlaces(t *testing.T) {
	step := func(name string, state timing.State, inputs ...string) timing.Step {
		s := timing.Step{Name: name, Digest: digest.FromString(name), State: state, Took: time.Second}
		for _, in := range inputs {
			s.Inputs = append(s.Inputs, digest.FromString(in))
		}
		return s
	}
	g := graphOf(&timing.Timing{Steps: []timing.Step{
		step("[b 1/1] RUN b", timing.Broke, "[a 1/1] RUN a"), step("[a 1/1] RUN a", timing.Cached), step("[b 2/2] RUN c", timing.Ran),
		step("[linux/amd64 c 1/1] COPY x", timing.GivenUp, "[b 1/1] RUN b", "[a 1/1] RUN a"), step("[1/1] RUN d", timing.Ran), step("merge", timing.Ran),
		step("[internal] load", timing.Besides), step("[x 1/1] RUN x", timing.Ran, "[y 1/1] RUN y"), step("[y 1/1] RUN y", timing.Ran, "[x 1/1] RUN x"),
	}})
	var got []string
	for _, s := range g.Stages {
		if s.Name != "x" && s.Name != "y" {
			got = append(got, fmt.Sprintf("%s at %d: %s, %s, %s", s.Title(), s.rank, s.Text(), s.Class, s.Took))
		}
	}
	want := []string{
		"b at 1: 2 steps, 0 cached, s-failed, 2s", "a at 0: 1 step, 1 cached, s-cached, 1s", "linux/amd64 c at 2: 1 step, 0 cached, s-ran, 1s",
		"Dockerfile at 0: 1 step, 0 cached, s-ran, 1s", "steps at 0: 1 step, 0 cached, s-ran, 1s",
	}
	if !slices.Equal(got, want) || len(g.Edges) != 5 {
		t.Errorf("stages are\n%s\nwant\n%s\nwith %d edges", strings.Join(got, "\n"), strings.Join(want, "\n"), len(g.Edges))
	}
	for i, s := range g.Stages {
		for _, o := range g.Stages[:i] {
			if s.X == o.X && s.Y == o.Y {
				t.Errorf("%s lies over %s", s.Name, o.Name)
			}
		}
		if s.X+stageWidth > g.Width || s.Y+stageHeight > g.Height {
			t.Errorf("%s is out of the picture", s.Name)
		}
	}
}

func TestMarkdownText(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\n c": "a b c", "größer/ß": "größer/ß", "--max 9%": "--max 9%", "x.y": "x&#46;y", "": "", "\x00\u202e": "\ufffd\ufffd",
		strings.Repeat("é", 301): strings.Repeat("é", 300) + "…", strings.Repeat("é", 300): strings.Repeat("é", 300),
	} {
		if got := MarkdownText(in); got != want {
			t.Errorf("%.20q is %.40q, want %.40q", in, got, want)
		}
	}
	other := timing.Step{Name: "x", State: timing.Shared, Shared: "build 7"}
	canceled := timing.Step{Name: "y", State: timing.GivenUp, Error: "context canceled", Reason: "files"}
	if why(&other) != "build 7 ran it" || why(&canceled) != "files" {
		t.Errorf("they say %q and %q", why(&other), why(&canceled))
	}
	long := &timing.Timing{Took: time.Minute, Steps: []timing.Step{{Name: "phase", State: timing.Besides, Took: time.Second}, {Name: "short", State: timing.Besides, Took: time.Millisecond}}}
	if text := Markdown(long); !strings.Contains(text, "| phase | 1.0 s |") || strings.Contains(text, "short") {
		t.Errorf("phases are\n%s", text)
	}
}

// Sizes of layers stand in the place of an image that is gone, and processors are summed up.
func TestPageOfLayers(t *testing.T) {
	of, procs := example()
	if StepSizes(of) != nil {
		t.Error("there are sizes where none are known")
	}
	of.Steps[1].Size, of.Steps[2].Size = 10, 32
	sizes := StepSizes(of)
	if sizes == nil || sizes.Size != 42 || len(sizes.Children) != 2 || sizes.Children[1].Name != of.Steps[2].Name {
		t.Fatalf("sizes are %+v", sizes)
	}
	of.Imported = true
	v, err := (&Page{Timing: of, Processes: procs, Sizes: sizes}).view()
	must(t, err)
	if v.Busy != 3*time.Second/2 || len(v.Most) != 2 || v.Most[0].PID != 100 || len(v.parts) != 3 {
		t.Errorf("processors were busy for %s, %d processes, %d parts", v.Busy, len(v.Most), len(v.parts))
	}
	var out bytes.Buffer
	must(t, WritePage(&out, v.Page))
	if !strings.Contains(out.String(), `<span class="tag">imported</span>`) || !strings.Contains(out.String(), "42B in all") {
		t.Error("the page does not say that it is imported, or how large all of it is")
	}
	if err := WritePage(io.Discard, &Page{Timing: of, Log: iotest.ErrReader(errors.New("no"))}); err == nil {
		t.Error("an error of reading the log is not told")
	}
}

// Lanes: what runs at the same time stands in several; arrows lead from the end of a step, to where it was waited for.
func TestTraces(t *testing.T) {
	of := manySteps(3, func(i int, s *timing.Step) {
		s.Start, s.Took = time.Duration(i)*100*time.Millisecond, 150*time.Millisecond
	})
	of.Steps[2].After = of.Steps[0].Name
	of.Steps[1].After = of.Steps[0].Name // which was still running
	stray := []processes.Process{{PID: 7, Root: 9, Command: "stray", Started: of.Started.Add(-time.Second), Took: time.Second}}
	var out bytes.Buffer
	must(t, Chrome(&out, of, stray))
	var trace struct{ TraceEvents []chromeEvent }
	must(t, json.Unmarshal(out.Bytes(), &trace))
	var got []string
	for _, e := range trace.TraceEvents {
		if e.Process == trackSteps && e.Phase != "M" || e.Process == trackProcesses && e.Phase == "X" {
			got = append(got, fmt.Sprintf("%s %s %d %.0f", e.Phase, e.Name, e.Thread, e.Time))
		}
	}
	want := []string{
		"X [s0 1/1] RUN 0 1 0", "X [s1 1/1] RUN 1 2 100000", "s waited for 1 100000", "f waited for 2 100000",
		"X [s2 1/1] RUN 2 1 200000", "s waited for 1 150000", "f waited for 1 200000", "X stray 1 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	out.Reset()
	must(t, OTLP(&out, of, stray))
	var raw struct {
		ResourceSpans []struct{ ScopeSpans []struct{ Spans []otlpSpan } }
	}
	must(t, json.Unmarshal(out.Bytes(), &raw))
	spans := raw.ResourceSpans[0].ScopeSpans[0].Spans
	if last := spans[len(spans)-1]; last.Name != "stray" || last.Parent != spans[0].SpanID {
		t.Errorf("a process of no step is %+v", last)
	}
}
