package timing

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// What becomes of steps, and the bytes that are theirs.
func TestStates(t *testing.T) {
	const password = "https://me:hushhush@example.com/x"
	r := &build.Record{Started: began, Took: time.Second, Error: "no luck at " + password, Steps: []engine.StepRecord{
		step("ran", 0, 10), step("cached", 20, 20), step("canceled", 30, 40), step("failed", 50, 60), step("shared", 70, 80),
	}, Phases: []progress.Span{phase("[internal] load build context", 0, 5)}}
	r.Steps[0].Process = &engine.Process{Usage: &sandbox.Usage{Read: 3, Written: 4}}
	r.Steps[0].Layers, r.Steps[0].Reason = []string{"l"}, "from "+password
	r.Steps[2].Error, r.Steps[3].Error, r.Steps[4].Shared = "context canceled", "exit code 1", "other"
	r.Steps[2].Canceled = true
	r.Phases[0].Parts = []progress.Part{{Name: "reading context", Bytes: 100}, {Name: "transferring context: 7B", Bytes: 50}, {Name: "something", Bytes: 7}}
	r.Work = []meter.Work{
		{Kind: meter.Fetch, Layer: "l", Read: 10}, {Kind: meter.Unpack, Layer: "l", Written: 20}, {Kind: meter.Write, Layer: "l", Written: 30},
		{Kind: meter.Pack, Layer: "l", Written: 40}, {Kind: meter.Compress, Layer: "l", Written: 50},
	}
	timing := OfBuild(r)
	var got []string
	for _, s := range timing.Steps {
		got = append(got, fmt.Sprintf("%s: %s %+v", s.Name, s.State, s.Bytes))
		if strings.Contains(s.Reason+timing.Error, "hushhush") {
			t.Errorf("a password is in %q or %q", s.Reason, timing.Error)
		}
	}
	want := []string{
		"ran: ran {Pulled:10 Read:3 Written:54 Packed:40 Compressed:50}",
		"[internal] load build context: phase {Pulled:0 Read:150 Written:0 Packed:0 Compressed:0}",
		"cached: cached {Pulled:0 Read:0 Written:0 Packed:0 Compressed:0}",
		"canceled: canceled {Pulled:0 Read:0 Written:0 Packed:0 Compressed:0}",
		"failed: failed {Pulled:0 Read:0 Written:0 Packed:0 Compressed:0}",
		"shared: shared {Pulled:0 Read:0 Written:0 Packed:0 Compressed:0}",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the steps are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if timing.Bytes != (Bytes{Pulled: 10, Read: 153, Written: 54, Packed: 40, Compressed: 50}) || timing.Total != 5 || timing.Cached != 1 {
		t.Errorf("all of it are %+v, of %d steps %d are cached", timing.Bytes, timing.Total, timing.Cached)
	}
	if s := timing.Longest(); s == nil || s.Name != "ran" {
		t.Errorf("the longest is %v", s)
	}
	of := Of(&history.Record{Recorded: build.Recorded{Record: *r, Running: true, Imported: true}})
	if of.Status != history.Running || !of.Imported {
		t.Errorf("it is %s, imported: %v", of.Status, of.Imported)
	}
}

// A step that ends a little later than what waited for it was waited for: clocks are looked at one after the other. One that ends
// much later was not, unless it has no inputs, as an image that comes while a step is prepared.
func TestSlack(t *testing.T) {
	for late, want := range map[int]string{0: "b", 4: "b", 20: "a"} {
		r := &build.Record{Started: began, Took: time.Second, Steps: []engine.StepRecord{step("a", 0, 50), step("b", 10, 100+late, "a"), step("c", 100, 200, "a", "b")}}
		timing := OfBuild(r)
		if got := timing.Steps[2].After; got != want {
			t.Errorf("with %d ms it waited for %q, want %q", late, got, want)
		}
	}
}

// Before the first step nothing of the path ran; what ran beside a part of it is told with what took most of it first.
func TestIdle(t *testing.T) {
	r := &build.Record{Started: began, Took: time.Second, Steps: []engine.StepRecord{
		step("first", 200, 900), step("short", 200, 300), step("none", 400, 400), step("long", 300, 800), step("last", 900, 1000, "first"),
	}}
	timing := OfBuild(r)
	if len(timing.Path) != 2 || timing.Path[0].Idle != 200*ms || timing.Path[1].Idle != 0 {
		t.Fatalf("the path is %+v", timing.Path)
	}
	if got := fmt.Sprint(timing.Path[0].Beside); got != "[{long 500ms} {short 100ms}]" {
		t.Errorf("beside it ran %s", got)
	}
}

// Measure asks the store for the layers of steps; those of an imported build are none of it.
func TestMeasure(t *testing.T) {
	ctx := context.Background()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id, err := s.BlobLayer(ctx, digest.FromString("d"), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("b"), Size: 9})
	if err == nil {
		err = s.Verified(ctx, id, 1234)
	}
	if err != nil {
		t.Fatal(err)
	}
	timing := &Timing{Steps: []Step{{Layers: []string{string(id), "nosuch"}, Size: 7}, {Size: 7}}}
	imported := &Timing{Imported: true, Steps: slices.Clone(timing.Steps)}
	timing.Measure(ctx, s)
	imported.Measure(ctx, s)
	if timing.Steps[0].Size != 1234 || timing.Steps[1].Size != 0 || imported.Steps[0].Size != 7 {
		t.Errorf("sizes are %d and %d, of an imported build %d", timing.Steps[0].Size, timing.Steps[1].Size, imported.Steps[0].Size)
	}
}

func TestTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.00 s", 40 * ms: "0.04 s", 100 * ms: "0.1 s", 59_940 * ms: "59.9 s", 59_960 * ms: "1 min 0 s", 61 * time.Second: "1 min 1 s", time.Hour: "1 h 0 min",
		90*time.Minute + 20*time.Second: "1 h 30 min", -2 * time.Second: "-2.0 s", math.MinInt64: "-0.00 s",
	} {
		if got := Seconds(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
	side := func(took time.Duration, size int64) *Side { return &Side{Took: took, Size: size} }
	for want, c := range map[string]Change{
		"":                {Before: side(1, 1)},
		"+2.0 s":          {Before: side(time.Second, 0), After: side(3*time.Second, 5)},
		"-2.0 s, +1kB":    {Before: side(3*time.Second, 1000), After: side(time.Second, 2000)},
		"0.00 s, -1kB":    {Before: side(0, 2000), After: side(0, 1000)},
		"+1 min 0 s":      {Before: side(0, 1000), After: side(time.Minute, 1000)},
		"-1 min 0 s, +5B": {Before: side(time.Minute, 1), After: side(0, 6)},
	} {
		if got := c.Difference(); got != want {
			t.Errorf("the difference is %q, want %q", got, want)
		}
	}
	if Size(-1) != "" || Size(0) != "" || Besides.Word() != "" || Ran.Word() != "ran" {
		t.Error("what is not known has a text")
	}
	if got := OfBuild(&build.Record{Took: 10 * time.Second, Steps: []engine.StepRecord{step("[1/1] RUN x", 0, 300)}}).Line(); got != "10.0 s; 0 of 1 steps from the cache" {
		t.Errorf("a step of little time is told: %q", got)
	}
	if got := OfBuild(&build.Record{Took: ms, Steps: []engine.StepRecord{step("[1/1] RUN x", 0, 0)}}).Line(); got != "0.00 s; 1 of 1 steps from the cache" {
		t.Errorf("one step is %q", got)
	}
}

// What of two steps counts as another one.
func TestChanged(t *testing.T) {
	at := func(state State, took time.Duration, size int64) Step {
		return Step{Name: "[1/2] RUN x", State: state, Took: took, Size: size, Reason: "why"}
	}
	steps := func(names ...string) (all []Step) {
		for _, n := range names {
			all = append(all, Step{Name: n})
		}
		return all
	}
	for _, tt := range []struct {
		before, after []Step
		want          string
	}{
		{[]Step{at(Ran, time.Second, 0)}, []Step{at(Ran, time.Second+90*ms, 0)}, "[]"},                                  // less than a tenth of a second
		{[]Step{at(Ran, 10*time.Second, 0)}, []Step{at(Ran, 10*time.Second+900*ms, 0)}, "[]"},                           // less than a tenth of it
		{[]Step{at(Ran, 10*time.Second, 0)}, []Step{at(Ran, 12*time.Second, 0)}, "[[time] why]"},                        // more
		{[]Step{at(Ran, 0, 0)}, []Step{at(Broke, 0, 0)}, "[[cache] why]"},                                               // it failed
		{[]Step{at(Ran, 0, 0)}, []Step{at(Shared, 0, 0)}, "[]"},                                                         // somebody ran it
		{[]Step{at(Ran, 0, 0)}, []Step{at(Cached, 0, 0)}, "[[cache] why]"},                                              //
		{[]Step{at(Ran, 0, 0)}, []Step{at(Ran, 0, 5)}, "[]"},                                                            // its size was not known
		{[]Step{at(Ran, 0, 4)}, []Step{at(Ran, 0, 5)}, "[[size] why]"},                                                  //
		{[]Step{{Name: "exporting", State: Besides, Took: 50 * ms}}, nil, "[]"},                                         // a phase of no time
		{nil, []Step{{Name: "exporting", State: Besides, Took: 50 * ms}}, "[]"},                                         //
		{nil, []Step{{Name: "exporting", State: Besides, Took: 150 * ms}}, "[[new] ]"},                                  //
		{steps("[a 1/2] RUN x", "[a 2/2] RUN y"), steps("[a 1/3] RUN x", "[a 2/3] RUN z", "[a 3/3] RUN y"), "[[new] ]"}, // one was inserted
		{steps("[1/2] RUN x", "[2/2] RUN y"), steps("[1/1] RUN y"), "[[gone] ]"},                                        // one was removed
		{steps("[a 1/2] RUN x", "[a 2/2] RUN y"), steps("[a 1/2] RUN y", "[a 2/2] RUN x"), "[]"},                        // in another order
		{steps("[a 1/2] RUN x"), steps("[a 1/3] RUN y"), "[[instruction] ]"},                                            // another one at its place
		{[]Step{{Name: "[a 1/2] RUN x"}}, []Step{{Name: "[b 1/2] RUN y"}}, "[[gone]  [new] ]"},                          // of another stage
		{[]Step{{Name: "RUN x"}}, []Step{{Name: "RUN y"}}, "[[gone]  [new] ]"},                                          // at no place
		{[]Step{{Name: "[a 1/2] RUN x"}}, []Step{{Name: "[a 1/2] COPY x y"}}, "[[gone]  [new] ]"},                       // another word
		{[]Step{{Name: "[a 1/2] RUN x"}}, []Step{{Name: "[a 1/2] RUN x"}, {Name: "[a 1/2] RUN x"}}, "[[new] ]"},         // twice
	} {
		c := Compare(&Timing{Steps: tt.before}, &Timing{Steps: tt.after})
		got := []string{}
		for _, ch := range c.Changes {
			got = append(got, fmt.Sprint(ch.Changed, " ", ch.Reason))
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("from %v to %v: %v, want %s", tt.before, tt.after, got, tt.want)
		}
	}
	// The same instruction of another stage is another step.
	c := Compare(&Timing{Steps: steps("[a 1/2] RUN x", "[b 1/1] RUN x")}, &Timing{Steps: steps("[b 1/2] RUN x")})
	if len(c.Changes) != 1 || c.Changes[0].Name != "[a 1/2] RUN x" || c.Same != 1 {
		t.Errorf("of a stage that is gone it says %+v", c.Changes)
	}
}
