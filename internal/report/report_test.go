package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/net/html"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/timing"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// evil is what a name, an error or an output may be.
const evil = `</title></style></pre><script>alert(1)</script><img src=x onerror=alert(1)> | [a](javascript:x) ` + "`code` **b** @user #1 \x1b]0;t\a\u202e www.example.com http://example.com\n\n# head"

// example is a build with all that a report shows, in which the texts are evil.
func example() (*timing.Timing, []processes.Process) {
	a, b := digest.FromString("a"), digest.FromString("b")
	t := &timing.Timing{
		ID: "20260102-030405.000000-aa", Name: "app" + evil, Status: history.Failed, Error: "failed: " + evil, Started: began, Took: 4 * time.Second,
		ImageID: "sha256:1234", Names: []string{"docker.io/library/app:" + evil}, ImageSize: 12_000_000, Total: 3, Cached: 1,
		Steps: []timing.Step{
			{Name: "[internal] load build definition", Digest: digest.FromString("d"), State: timing.Besides, Took: 100 * time.Millisecond},
			{Name: "[base 1/1] FROM " + evil, Digest: a, State: timing.Cached, Start: 110 * time.Millisecond, From: "cache" + evil},
			{Name: "[build 2/3] RUN make " + evil, Digest: b, Inputs: []digest.Digest{a}, State: timing.Ran, Start: 200 * time.Millisecond, Took: 3 * time.Second, Reason: "x" + evil, After: "[base 1/1] FROM " + evil,
				Bytes: timing.Bytes{Packed: 10, Compressed: 5}, Work: []meter.Work{{Kind: meter.Pack, Layer: "l", Started: began.Add(time.Second), Took: time.Second, Written: 10}},
				Process: &engine.Process{Run: time.Second, Usage: &sandbox.Usage{PID: 100, User: time.Second, System: time.Second / 2, Memory: 1 << 30}}},
			{Name: "[stage-1 1/1] COPY " + evil, Digest: digest.FromString("c"), Inputs: []digest.Digest{b}, State: timing.Broke, Start: 3300 * time.Millisecond, Took: time.Second / 2, Error: "no" + evil},
		},
		Path: []timing.Segment{{Name: "[build 2/3] RUN make " + evil, Digest: b, Start: 200 * time.Millisecond, Took: 3 * time.Second, Beside: []timing.Beside{{Name: evil, Took: time.Second}}}},
	}
	return t, []processes.Process{
		{PID: 100, Parent: 1, Root: 100, Command: "sh", Started: began.Add(300 * time.Millisecond), Took: 2 * time.Second, User: time.Second},
		{PID: 101, Parent: 100, Root: 100, Command: "<b>" + evil[:9], Started: began.Add(time.Second), Took: time.Second, Exit: 3},
	}
}

// What Chrome's Trace Event Format asks of each event.
func TestChrome(t *testing.T) {
	of, procs := example()
	var out bytes.Buffer
	must(t, Chrome(&out, of, procs))
	var trace struct {
		TraceEvents []struct {
			Name, Ph   string
			Ts, Dur    *float64
			Pid, Tid   *int
			ID         int
			Args       map[string]any
			S, Bp, Cat string
		}
		DisplayTimeUnit string
	}
	dec := json.NewDecoder(&out)
	must(t, dec.Decode(&trace))
	if trace.DisplayTimeUnit != "ms" {
		t.Errorf("times are shown in %q", trace.DisplayTimeUnit)
	}
	flows, busy, kinds := map[int]string{}, map[string]float64{}, map[string]int{}
	for _, e := range trace.TraceEvents {
		kinds[e.Ph+" "+e.Cat]++
		if e.Name == "" || e.Ts == nil || *e.Ts < 0 || e.Pid == nil || e.Tid == nil {
			t.Errorf("an event lacks something: %+v", e)
			continue
		}
		switch e.Ph {
		case "M":
			if len(e.Args) != 1 {
				t.Errorf("metadata has %v", e.Args)
			}
		case "X":
			lane := fmt.Sprint(*e.Pid, " ", *e.Tid)
			if e.Dur == nil || *e.Dur <= 0 || *e.Ts < busy[lane] {
				t.Errorf("%q at %v lies over another one, or has no duration", e.Name, *e.Ts)
			}
			busy[lane] = *e.Ts + *e.Dur
		case "i":
			if e.S != "t" {
				t.Errorf("an instant is one of %q", e.S)
			}
		case "s", "f":
			flows[e.ID] += e.Ph
		default:
			t.Errorf("an event of the phase %q", e.Ph)
		}
	}
	for id, both := range flows {
		if both != "sf" {
			t.Errorf("flow %d is %q", id, both)
		}
	}
	for kind, n := range map[string]int{"X path": 1, "X ran": 1, "X failed": 1, "i cached": 1, "X layer": 1, "X process": 2, "s wait": 1, "f wait": 1, "M ": 8} {
		if kinds[kind] != n {
			t.Errorf("%d events are %q, want %d", kinds[kind], kind, n)
		}
	}
}

// OpenTelemetry's own types read it, with IDs that are hexadecimal in JSON.
func TestOTLP(t *testing.T) {
	of, procs := example()
	var out bytes.Buffer
	must(t, OTLP(&out, of, procs))
	var data tracepb.TracesData
	must(t, protojson.Unmarshal(out.Bytes(), &data))
	spans := data.ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 1+4+1+2 {
		t.Fatalf("%d spans", len(spans))
	}
	var raw struct {
		ResourceSpans []struct{ ScopeSpans []struct{ Spans []otlpSpan } }
	}
	must(t, json.Unmarshal(out.Bytes(), &raw))
	ids, names := map[string]string{}, map[string]otlpSpan{}
	for _, s := range raw.ResourceSpans[0].ScopeSpans[0].Spans {
		if len(s.TraceID) != 32 || len(s.SpanID) != 16 || strings.Trim(s.TraceID+s.SpanID, "0123456789abcdef") != "" || ids[s.SpanID] != "" {
			t.Errorf("%q has the IDs %s and %s", s.Name, s.TraceID, s.SpanID)
		}
		ids[s.SpanID], names[s.Name] = s.Name, s
	}
	for _, s := range names {
		if s.Parent != "" && ids[s.Parent] == "" {
			t.Errorf("the parent of %q is none", s.Name)
		}
		for _, l := range s.Links {
			if ids[l.SpanID] == "" {
				t.Errorf("a link of %q leads nowhere", s.Name)
			}
		}
	}
	if s := names["sh"]; ids[s.Parent] != of.Steps[2].Name || s.End <= s.Start {
		t.Errorf("a process is %+v, of %q", s, ids[s.Parent])
	}
	if s := names[procs[1].Command]; ids[s.Parent] != of.Steps[2].Name {
		t.Errorf("a process that another one started is of %q", ids[s.Parent])
	}
	if s := names[of.Steps[2].Name]; len(s.Links) != 1 || ids[s.Links[0].SpanID] != of.Steps[1].Name || s.End == s.Start {
		t.Errorf("a step that stands on another one is %+v", s)
	}
	if s := names[of.Steps[3].Name]; s.Status == nil || s.Status.Code != 2 {
		t.Errorf("a step that failed has the status %+v", s.Status)
	}
}

// Nothing that comes from outside is markup: neither Markdown's nor HTML's.
func TestMarkdown(t *testing.T) {
	of, _ := example()
	got := Markdown(of)
	for _, bad := range []string{"<script", "<img", "javascript:", "`", "**b", "@user", " #1", "\x1b", "\u202e", "www.", "http://", "\n# "} {
		if strings.Contains(got, bad) {
			t.Errorf("%q stands in it:\n%s", bad, got)
		}
	}
	for _, want := range []string{"### app", "| 3.0 s | ran | x", "| 1.5 s | 1.074GB |", "<details><summary>1 of 3 steps from the cache", "12MB"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "|") && strings.Count(line, "|") < 3 {
			t.Errorf("a row is broken: %q", line)
		}
	}
}

// TestPage: what comes from outside is text, and the policy of the page lets nothing run or be loaded; links lead to what is there.
func TestPage(t *testing.T) {
	of, procs := example()
	var out bytes.Buffer
	must(t, WritePage(&out, &Page{
		Timing: of, Processes: procs, Comparison: timing.Compare(of, of),
		Log:   strings.NewReader("#1 [build 2/3] RUN make " + strings.ReplaceAll(evil, "\n", " ") + "\n#1 0.1 \x1b[32mgreen\x1b[0m " + strings.ReplaceAll(evil, "\n", "\n#1 ") + "\n#1 DONE 0.1s\n"),
		Sizes: &imagesize.Node{Name: "/", Size: 100, Children: []*imagesize.Node{{Name: "usr" + evil, Size: 60, Children: []*imagesize.Node{{Name: evil, Size: 60}}}, {Name: "etc", Size: 40}, {Name: "hidden", Wasted: 7}}},
	}))
	page := out.String()
	doc, err := html.Parse(strings.NewReader(page))
	must(t, err)
	allowed := map[string]bool{}
	for name := range strings.FieldsSeq("html head meta title style body header h1 h2 p b span ul li code nav a main section div svg line text rect path g table thead tbody tr th td details summary pre") {
		allowed[name] = true
	}
	ids, links, policy := map[string]bool{}, []string{}, ""
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if !allowed[n.Data] {
			t.Errorf("the page has an element %q", n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case strings.HasPrefix(a.Key, "on"), a.Key == "style", a.Key == "src":
				t.Errorf("an element %s has %s=%q", n.Data, a.Key, a.Val)
			case a.Key == "id":
				ids[a.Val] = true
			case a.Key == "href":
				links = append(links, a.Val)
			case a.Key == "content" && strings.Contains(a.Val, "default-src"):
				policy = a.Val
			}
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") {
		t.Errorf("its policy is %q", policy)
	}
	for _, l := range links {
		if id, ok := strings.CutPrefix(l, "#"); !ok || !ids[id] {
			t.Errorf("the link %q leads nowhere", l)
		}
	}
	for _, bad := range []string{"\x1b", "\u202e", "ZgotmplZ", "hidden"} {
		if strings.Contains(page, bad) {
			t.Errorf("%q stands in the page", bad)
		}
	}
	for _, want := range []string{"0.1 green", "usr", "[build 2/3] RUN make"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
}

// Each area of the treemap leads to its place in the list.
func TestTreemapLinks(t *testing.T) {
	of, _ := example()
	inner := &imagesize.Node{Name: "lib", Size: 50}
	var out bytes.Buffer
	must(t, WritePage(&out, &Page{Timing: of, Sizes: &imagesize.Node{Size: 90, Children: []*imagesize.Node{{Name: "etc", Size: 30}, {Name: "usr", Size: 60, Children: []*imagesize.Node{inner}}}}}))
	for _, want := range []string{
		`<a href="#part-3"><title>lib: 50B</title>`, `<div id="part-3">50B <code>lib</code></div>`, `<details id="part-2"><summary>60B <code>usr</code>`, `<div id="part-1">30B`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in the page", want)
		}
	}
}

// An image that several stages begin with is one step, named after the first of them: nobody takes anything of that stage.
func TestGraph(t *testing.T) {
	step := func(name string, inputs ...string) timing.Step {
		s := timing.Step{Name: name, Digest: digest.FromString(name), State: timing.Ran}
		for _, in := range inputs {
			s.Inputs = append(s.Inputs, digest.FromString(in))
		}
		return s
	}
	g := graphOf(&timing.Timing{Steps: []timing.Step{
		step("[a 1/2] FROM busybox"), step("[a 2/2] RUN one", "[a 1/2] FROM busybox"),
		step("[b 2/2] RUN two", "[a 1/2] FROM busybox"),
		step("[c 1/2] FROM alpine"), step("[c 2/2] COPY --from=b / /", "[c 1/2] FROM alpine", "[b 2/2] RUN two"),
	}})
	var got []string
	for _, s := range g.Stages {
		from := []string{}
		for f := range s.from {
			from = append(from, f.Name)
		}
		got = append(got, fmt.Sprint(s.Name, " ", s.Steps, " ", from))
	}
	if want := "[FROM busybox 1 [] a 1 [FROM busybox] b 1 [FROM busybox] c 2 [b]]"; fmt.Sprint(got) != want {
		t.Errorf("the stages are %v, want %s", got, want)
	}
}

// A treemap fills its place: the areas are as the sizes, and nothing lies over something else.
func TestTreemap(t *testing.T) {
	root := &imagesize.Node{Size: 100}
	for i, n := range []int64{40, 25, 20, 10, 4, 1} {
		root.Children = append(root.Children, &imagesize.Node{Name: fmt.Sprint(i), Size: n})
	}
	tiles := treemapOf(root)
	if len(tiles) != 6 {
		t.Fatalf("%d tiles", len(tiles))
	}
	for i, a := range tiles {
		if want := float64(a.Part.Size) / 100 * pictureWidth * pictureWidth / 2; a.W*a.H < want*.999 || a.W*a.H > want*1.001 {
			t.Errorf("%s has the area %f, want %f", a.Part.Name, a.W*a.H, want)
		}
		for _, b := range tiles[:i] {
			const edge = 1e-6
			if a.X+edge < b.X+b.W && b.X+edge < a.X+a.W && a.Y+edge < b.Y+b.H && b.Y+edge < a.Y+a.H {
				t.Errorf("%s lies over %s", a.Part.Name, b.Part.Name)
			}
		}
	}
}
