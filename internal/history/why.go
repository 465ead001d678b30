package history

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/reasons"
)

// State is what became of a step.
type State string

const (
	Ran     State = "ran"
	Cached  State = "cached"
	Broken  State = "failed"
	Missing State = "not reached" // of a build that failed
)

// Explanation says why the steps of a build ran.
type Explanation struct {
	Build   string `json:"build"`
	Against string `json:"against,omitempty"` // the build that it is compared with; none if no earlier one is known, or was needed
	Steps   []Step `json:"steps"`
}

// Step is a step of an [Explanation].
type Step struct {
	Number int    `json:"number"` // from 1, in the order in which steps stand on each other
	Name   string `json:"name"`   // "[builder 2/4] RUN make"
	Line   int    `json:"line,omitempty"`
	State  State  `json:"state"`
	reasons.Why
}

// ErrNoGraph is the error of a build that has left nothing to explain it with.
var ErrNoGraph = errors.New("it has left nothing to explain its steps with: it runs, or ended before there were some")

// Explain says why the steps of a build ran; against another one, in what they differ, whether they ran or not. Without another one it
// is compared with the one that it was compared with when it was carried out: nil if there was none.
func Explain(r, against *Record) (*Explanation, error) {
	g, err := r.Graph()
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNoGraph
	}
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", r.ID, err)
	}
	e := &Explanation{Build: r.ID, Steps: []Step{}}
	c := reasons.Compare(nil, g)
	if against != nil {
		e.Against = against.ID
		if c, err = compare(r, against, g); err != nil {
			return nil, err
		}
	}
	by := recordsOf(r)
	for i := range g.Vertices {
		v := &g.Vertices[i]
		if !v.IsStep() {
			continue
		}
		rec, known := by[engine.Key(v.Key)]
		s := Step{Number: len(e.Steps) + 1, Name: v.Name, Line: v.Line, State: stateOf(r, &rec, known)}
		s.explain(&rec, c, i, against != nil && r.Earlier != against.ID)
		e.Steps = append(e.Steps, s)
	}
	return e, nil
}

// compare compares the graph of a build with that of another one.
func compare(r, against *Record, g *reasons.Build) (*reasons.Comparison, error) {
	before, err := against.Graph()
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNoGraph
	}
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", against.ID, err)
	}
	c := reasons.Compare(before, g)
	if !c.Known() {
		return nil, fmt.Errorf("comparing builds %s and %s: what one has left is damaged", r.ID, against.ID)
	}
	was, is := against.Lists(), r.Lists()
	c.Files = func(before, after digest.Digest) *reasons.FileDiff {
		if was[before] == nil || is[after] == nil {
			return nil
		}
		d, err := reasons.DiffFiles(was[before], is[after])
		if err != nil {
			return nil
		}
		return d
	}
	return c, nil
}

// recordsOf are the records of steps by their keys. Where a step was both run and cached, it ran.
func recordsOf(r *Record) map[engine.Key]engine.StepRecord {
	by := map[engine.Key]engine.StepRecord{}
	for _, s := range r.Steps {
		if old, there := by[s.Key]; s.Key != "" && (!there || old.Cached) {
			by[s.Key] = s
		}
	}
	return by
}

func stateOf(r *Record, rec *engine.StepRecord, known bool) State {
	switch {
	case known && rec.Error != "":
		return Broken
	case known && !rec.Cached:
		return Ran
	case !known && r.Error != "":
		return Missing
	}
	return Cached
}

// explain says why a step ran. What was found out then counts, unless the build is compared with another one now.
func (s *Step) explain(rec *engine.StepRecord, c *reasons.Comparison, vertex int, other bool) {
	if rec.Why != nil {
		s.Why = *rec.Why
	}
	if !c.Known() {
		return
	}
	differs := c.Step(vertex)
	switch {
	case other && (len(differs) > 0 || s.State == Cached || s.State == Missing):
		s.Why = reasons.Why{Reasons: differs}
	case other && s.Follows == "" && len(s.Reasons) > 0 && slices.Contains(anyway, s.Reasons[0].Kind): // whatever it is compared with
	case other:
		s.Why = reasons.Why{}
	case s.Follows != "":
		s.Reasons = differs
	}
}

// anyway are the reasons for which a step runs in which nothing changed.
var anyway = []reasons.Kind{reasons.NoCache, reasons.Damaged, reasons.Pruned, reasons.Unfinished, reasons.Imported, reasons.Unimported, reasons.Warm}

// Find gives the steps that a word of a user's names: "3" by its number, ":12" by its line in the Dockerfile, "2/4" or "builder 2/4" by its
// place, or else those with the word in their names.
func (e *Explanation) Find(word string) ([]Step, error) {
	by := func(fits func(s *Step) bool) (found []Step) {
		for i := range e.Steps {
			if fits(&e.Steps[i]) {
				found = append(found, e.Steps[i])
			}
		}
		return found
	}
	var found []Step
	line, isLine := strings.CutPrefix(word, ":")
	n, err := strconv.Atoi(line)
	switch {
	case isLine && err == nil:
		found = by(func(s *Step) bool { return s.Line == n })
	case err == nil:
		found = by(func(s *Step) bool { return s.Number == n })
	default:
		found = by(func(s *Step) bool {
			return strings.HasPrefix(s.Name, "["+word+"]") || strings.Contains(s.Name, " "+word+"] ") || s.Name == word
		})
		if len(found) == 0 {
			found = by(func(s *Step) bool { return strings.Contains(s.Name, word) })
		}
	}
	if word == "" || len(found) == 0 {
		return nil, fmt.Errorf("build %s has no step %q: name it by its number, by its line (\":12\"), by its place (\"builder 2/4\") or by a part of its instruction", e.Build, word)
	}
	return found, nil
}
