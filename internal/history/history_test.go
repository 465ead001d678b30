package history

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// records leaves the records of builds in a store: two that ended well, one that failed, one that was interrupted, and one
// that runs, which has no record yet.
func records(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	now := time.Now()
	for id, r := range map[string]*build.Record{
		"20010101-000000.000000-aa": {Context: "/src/app", Started: now.Add(-48 * time.Hour), Took: time.Minute, Steps: []engine.StepRecord{{}, {Cached: true}}},
		"20010102-000000.000000-bb": {Context: "https://git.example/a,b.git", Started: now.Add(-2 * time.Hour), Took: 90 * time.Minute, Error: `step "RUN echo context canceled" failed`, Steps: []engine.StepRecord{{Cached: true}, {Error: "failed"}}},
		"20010103-000000.000000-cc": {Context: "/src/other", Started: now.Add(-time.Hour), Took: time.Second, Error: "interrupted: SIGINT", Canceled: true},
		"20010104-000000.000000-dd": nil,
		"20010105-000000.000000-ee": {Context: "/src/app", Started: now.Add(-time.Minute), Took: 2 * time.Second},
	} {
		dir, err := s.NewBuild(id)
		must(t, err)
		if r == nil {
			t.Cleanup(func() { dir.Close() })
			continue
		}
		data, err := json.Marshal(r)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir.Path, "record.json"), data, 0o600))
		must(t, dir.Close())
	}
	return s
}

// ends are the last parts of the records' IDs.
func ends(t *testing.T, s *store.Store, f Filter, limit int) string {
	t.Helper()
	all, err := List(s, f, limit)
	must(t, err)
	var ids []string
	for _, r := range all {
		ids = append(ids, r.ID[len(r.ID)-2:])
	}
	return strings.Join(ids, " ")
}

func TestList(t *testing.T) {
	s := records(t)
	if got := ends(t, s, nil, 0); got != "dd ee cc bb aa" {
		t.Errorf("all are %s", got)
	}
	if got := ends(t, s, nil, 2); got != "dd ee" {
		t.Errorf("two are %s", got)
	}
	ended := func(r *Record) bool { return !r.Running }
	if got := ends(t, s, ended, 3); got != "ee cc bb" {
		t.Errorf("three that ended are %s", got)
	}
	all, err := List(s, nil, 0)
	must(t, err)
	for i, want := range []Status{Running, Completed, Canceled, Failed, Completed} {
		if r := all[i]; r.Status() != want || r.Completed().IsZero() != (want == Running) {
			t.Errorf("%s is %s, and ended at %v", r.ID, r.Status(), r.Completed())
		}
	}
	if r := all[4]; !r.Completed().Equal(r.Started.Add(time.Minute)) {
		t.Errorf("it began at %v and ended at %v", r.Started, r.Completed())
	}
	if done, cached := all[3].Counts(); done != 1 || cached != 1 {
		t.Errorf("%d steps are done, %d were cached", done, cached)
	}
}

// The build before is one of the same thing, which has ended, and has steps.
func TestBefore(t *testing.T) {
	record := func(change func(*Record)) *Record {
		r := &Record{build.Recorded{Record: build.Record{ID: "2", Context: "/src", File: "/src/Dockerfile", Target: "t", Called: "c", Platforms: []string{"linux/amd64"}, Steps: []engine.StepRecord{{}}}}}
		change(r)
		return r
	}
	now := record(func(r *Record) { r.ID = "3" })
	for name, change := range map[string]func(*Record){
		"":                func(*Record) {},
		"it runs":         func(r *Record) { r.Running = true },
		"imported":        func(r *Record) { r.Imported = true },
		"later":           func(r *Record) { r.ID = "4" },
		"itself":          func(r *Record) { r.ID = "3" },
		"another context": func(r *Record) { r.Context = "/other" },
		"another file":    func(r *Record) { r.File = "/other" },
		"another target":  func(r *Record) { r.Target = "" },
		"another name":    func(r *Record) { r.Called = "" },
		"all platforms":   func(r *Record) { r.Platforms = nil },
		"no steps":        func(r *Record) { r.Steps = nil },
	} {
		if got := record(change).Before(now); got != (name == "") {
			t.Errorf("%q is before: %v", name, got)
		}
	}
	if other := record(func(r *Record) { r.Imported = true }); !other.Before(record(func(r *Record) { r.ID, r.Imported = "3", true })) {
		t.Error("what was imported is not compared with what was")
	}
}

func TestWords(t *testing.T) {
	s := records(t)
	for words, want := range map[string]string{
		"":                                   "dd ee cc bb aa",
		"status=error":                       "bb",
		"status=canceled":                    "cc",
		"status=failed":                      "",
		"status!=completed":                  "dd cc bb",
		"status=running":                     "dd",
		"ref=-aa":                            "aa",
		"repository=app$":                    "",
		"ref!=20010101-000000.000000-aa":     "dd ee cc bb",
		"repository=app":                     "ee aa",
		"repository=a,b.git":                 "bb",
		"repository=":                        "dd ee cc bb aa",
		"repository!=/src/app status!=error": "dd cc",
		"startedAt>90m status!=running":      "ee cc",
		"startedAt<=90m status!=running":     "bb aa",
		"completedAt<45m status=error":       "",
		"completedAt>45m status=error":       "bb",
		"completedAt<1h status=running":      "dd",
		"startedAt<2000-01-01T00:00:00Z":     "",
		"duration>=90m":                      "bb",
		"duration<2s":                        "dd cc",
		"duration<=2s":                       "dd ee cc",
	} {
		f, err := ParseWords(strings.Fields(words))
		must(t, err)
		if got := ends(t, s, f, 0); got != want {
			t.Errorf("%s: %s, want %s", words, got, want)
		}
	}
	for bad, message := range map[string]string{
		"status": `invalid filter "status"`, "color=red": `unsupported filter "color=red"`, "status<error": `invalid separator for "status<error", expected = or !=`,
		"duration=5s": `invalid separator for "duration=5s", expected <=, <, >= or >`, "duration>long": `invalid value of the filter duration: "long"`,
		"startedAt>2026-01-01": `invalid value of the filter startedAt: "2026-01-01"`, "ref!x": `invalid separator for "ref!x"`,
	} {
		if _, err := ParseWords([]string{bad}); err == nil || !strings.HasPrefix(err.Error(), message) {
			t.Errorf("%s: %v, want %s", bad, err, message)
		}
	}
}

// Filters of BuildKit's API are what its clients make of their words.
func TestParseFilter(t *testing.T) {
	s := records(t)
	for _, tc := range []struct {
		lines []string
		want  string
	}{
		{nil, "dd ee cc bb aa"},
		{[]string{"status==error"}, "bb"},
		{[]string{"status==error", "ref~=-a+$"}, "bb aa"},
		{[]string{"status==completed,duration>=1m"}, "aa"},
		{[]string{"startedAt<90m"}, "dd bb aa"},
		{[]string{"repository~=app,status!=running"}, "ee aa"},
		{[]string{`"repository==""https://git.example/a,b.git""",startedAt>3h`}, "bb"},
		{[]string{"color==red"}, ""},
	} {
		f, err := ParseFilter(tc.lines)
		must(t, err)
		if got := ends(t, s, f, 0); got != tc.want {
			t.Errorf("%q: %s, want %s", tc.lines, got, tc.want)
		}
	}
	for _, bad := range []string{"", `"`, "status=x", "duration>soon", "status==,"} {
		if _, err := ParseFilter([]string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
