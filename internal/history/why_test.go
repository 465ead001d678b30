package history

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

// explained is a store with two builds: in the second one an argument changed, the last step failed, and one was not reached.
func explained(t *testing.T) (now, before *Record) {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	graph := func(version, key string) *reasons.Build {
		return &reasons.Build{Arguments: []string{"VERSION"}, Vertices: []reasons.Vertex{
			{Name: "[builder 1/3] FROM busybox", Key: "image", Lines: []string{"operation image", "manifest sha256:1"}},
			{Name: "[builder 2/3] RUN one", Line: 3, Key: "one", Inputs: []int{0}, Lines: []string{"operation exec", "command one", "input 0 image output 0"}},
			{Name: "[builder 3/3] RUN two", Line: 4, Key: key, Inputs: []int{1}, Lines: []string{"operation exec", "command two", "environment VERSION=" + version, "input 0 one output 0"}},
			{Name: "[stage-1 2/2] COPY --from=builder /a /", Line: 7, Key: "copy" + key, Inputs: []int{-1, 2}, Lines: []string{"operation file", "input 0 scratch output 0", "files of input 1 " + key}},
		}}
	}
	for id, r := range map[string]*build.Record{
		"20010101-000000.000000-aa": {Steps: []engine.StepRecord{{Key: "one"}, {Key: "two1"}, {Key: "copytwo1"}}},
		"20010102-000000.000000-bb": {Earlier: "20010101-000000.000000-aa", Error: "failed", Steps: []engine.StepRecord{
			{Key: "one", Cached: true},
			{Key: "two2", Error: "failed", Why: &reasons.Why{Reasons: []reasons.Reason{{Kind: reasons.Argument, Name: "VERSION", Before: "1", After: "2", Text: "build argument VERSION changed 1 -> 2"}}}},
		}},
	} {
		dir, err := s.NewBuild(id)
		must(t, err)
		version := "1"
		if r.Error != "" {
			version = "2"
		}
		for name, v := range map[string]any{"record.json": r, "graph.json": graph(version, "two"+version)} {
			data, err := json.Marshal(v)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir.Path, name), data, 0o600))
		}
		must(t, dir.Close())
	}
	all, err := List(s, nil, 0)
	must(t, err)
	return &all[0], &all[1]
}

func lines(e *Explanation) string {
	var b strings.Builder
	for _, s := range e.Steps {
		b.WriteString(strings.Join([]string{s.Name, string(s.State), s.Text()}, ": ") + "\n")
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	now, before := explained(t)
	const mine = "[builder 2/3] RUN one: cached: \n[builder 3/3] RUN two: failed: build argument VERSION changed 1 -> 2\n"
	for _, tt := range []struct {
		name       string
		r, against *Record
		want       string
	}{
		{"alone", now, nil, mine + "[stage-1 2/2] COPY --from=builder /a /: not reached: \n"},
		{"against the one before", now, before, mine + "[stage-1 2/2] COPY --from=builder /a /: not reached: \n"},
		{"the other way round", before, now, "[builder 2/3] RUN one: ran: \n[builder 3/3] RUN two: ran: build argument VERSION changed 2 -> 1\n" +
			"[stage-1 2/2] COPY --from=builder /a /: ran: files of builder changed\n"},
		{"against itself", now, now, "[builder 2/3] RUN one: cached: \n[builder 3/3] RUN two: failed: \n[stage-1 2/2] COPY --from=builder /a /: not reached: \n"},
	} {
		e, err := Explain(tt.r, tt.against)
		must(t, err)
		if got := lines(e); got != tt.want {
			t.Errorf("%s:\n%swant\n%s", tt.name, got, tt.want)
		}
	}
	must(t, os.Remove(filepath.Join(now.Dir(), "graph.json")))
	if _, err := Explain(now, nil); err == nil || !strings.Contains(err.Error(), "nothing to explain its steps with") {
		t.Errorf("of a build without a graph it says %v", err)
	}
}

// What was found out when a build was carried out counts, unless it is compared with another one than then.
func TestExplainAnother(t *testing.T) {
	now, before := explained(t)
	explain := func(r, against *Record, step int) Step {
		t.Helper()
		e, err := Explain(r, against)
		must(t, err)
		return e.Steps[step]
	}
	now.Steps[1].Why = &reasons.Why{Follows: "RUN one"}
	if s := explain(now, before, 1); s.Follows != "RUN one" || len(s.Reasons) != 1 || s.Reasons[0].Name != "VERSION" {
		t.Errorf("what follows another step is %+v", s)
	}
	now.Earlier = "another"
	if s := explain(now, before, 1); s.Follows != "" || len(s.Reasons) != 1 {
		t.Errorf("against another build it is %+v", s)
	}
	for kind, want := range map[reasons.Kind]int{reasons.NoCache: 1, reasons.Pruned: 1, reasons.Files: 0} {
		now.Steps[0] = engine.StepRecord{Key: "one", Why: &reasons.Why{Reasons: []reasons.Reason{{Kind: kind}}}}
		if s := explain(now, before, 0); len(s.Reasons) != want || s.State != Ran {
			t.Errorf("in what is the same and ran for %q it has %+v", kind, s)
		}
	}
	// What nobody looked up stood below something that was cached.
	before.Steps = before.Steps[1:]
	if s := explain(before, nil, 0); s.State != Cached {
		t.Errorf("what a build that ended well has no record of is %s", s.State)
	}
	// A step that was run and was cached, for another platform, ran.
	for _, steps := range [][]engine.StepRecord{{{Key: "one"}, {Key: "one", Cached: true}}, {{Key: "one", Cached: true}, {Key: "one"}}} {
		now.Steps = steps
		if s := explain(now, nil, 0); s.State != Ran {
			t.Errorf("it is %s", s.State)
		}
	}
}

// Files are told where both builds have left their lists.
func TestExplainFiles(t *testing.T) {
	now, before := explained(t)
	leave := func(r *Record, digest string, files ...string) {
		var m reasons.ListMaker
		for i, f := range files {
			m.Add(f, false, []byte(strings.Repeat(string(rune('0'+i)), 64)), nil)
		}
		data, err := json.Marshal(map[string]*reasons.List{digest: m.List()})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(r.Dir(), "lists-x"), data, 0o600))
	}
	told := func() string {
		t.Helper()
		e, err := Explain(before, now)
		must(t, err)
		return e.Steps[2].Text()
	}
	leave(before, "two1", "a", "b")
	if got := told(); got != "files of builder changed" {
		t.Errorf("with one list it says %q", got)
	}
	leave(now, "two2", "a", "c")
	if got := told(); got != "2 of 2 files of builder changed: b (new), c (removed)" {
		t.Errorf("with both lists it says %q", got)
	}
	must(t, os.WriteFile(filepath.Join(now.Dir(), "lists-x"), []byte(`{"two2":{"files":2,"data":"AAAA"}}`), 0o600))
	if got := told(); got != "files of builder changed" {
		t.Errorf("with a damaged list it says %q", got)
	}
	must(t, os.WriteFile(filepath.Join(now.Dir(), "graph.json"), []byte(`{"vertices":[{"name":"x","inputs":[7]}]}`), 0o600))
	if _, err := Explain(before, now); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("of a damaged graph it says %v", err)
	}
	must(t, os.Remove(filepath.Join(now.Dir(), "graph.json")))
	if _, err := Explain(before, now); err == nil || !strings.Contains(err.Error(), "nothing to explain its steps with") {
		t.Errorf("of a build without a graph it says %v", err)
	}
}

func TestFind(t *testing.T) {
	now, _ := explained(t)
	e, err := Explain(now, nil)
	must(t, err)
	for word, want := range map[string]string{
		"1": "RUN one", "3": "COPY", ":4": "RUN two", "builder 2/3": "RUN one", "2/2": "COPY", "two": "RUN two", "RUN": "RUN one RUN two",
		"": "", "9": "", ":1": "", "nothing": "",
	} {
		found, err := e.Find(word)
		var names []string
		for _, s := range found {
			names = append(names, strings.TrimSuffix(reasons.Step(s.Name), " --from=builder /a /"))
		}
		if got := strings.Join(names, " "); got != want || (err != nil) != (want == "") {
			t.Errorf("%q finds %q, %v, want %q", word, got, err, want)
		}
	}
}

// What is printed as JSON has the form that users are told of.
func TestSchema(t *testing.T) {
	c := jsonschema.NewCompiler()
	schema, err := c.Compile("../../docs/schemas/why.json")
	must(t, err)
	now, before := explained(t)
	for _, r := range []*Record{now, before} {
		e, err := Explain(r, before)
		must(t, err)
		e.Steps = append(e.Steps, Step{Number: 9, Name: "x", State: Ran, Why: reasons.Why{Follows: "y", Reasons: []reasons.Reason{{
			Kind: reasons.Input, Text: "t", Because: []reasons.Reason{{Kind: reasons.Files, Text: "f", Files: &reasons.FileDiff{Total: 1, Names: []reasons.FileChange{{Path: "a", Change: "added"}}}}},
		}}}})
		data, err := json.Marshal(e)
		must(t, err)
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
		must(t, err)
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", data, err)
		}
	}
	if err := schema.Validate(map[string]any{"build": "x", "steps": []any{map[string]any{"number": 1, "name": "a", "state": "odd"}}}); err == nil {
		t.Error("a state that is none is accepted")
	}
}
