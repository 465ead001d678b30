// Package timing tells where the time of a build went, by its record: the critical path, what ran beside it, what waited for what, which
// bytes were moved; and what of that is another one in two builds.
package timing

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/progress"
)

// State is what became of a step.
type State string

const (
	Ran     State = "ran"
	Cached  State = "cached"
	Shared  State = "shared" // another build ran it at the same time
	Broke   State = "failed"
	GivenUp State = "canceled"
	Besides State = "phase" // no step: reading the Dockerfile, exporting
)

// maxBeside bounds what is told to run beside a part of the path.
const maxBeside = 1 << 10

// Bytes are what was moved for a step, and how long that took. Layers are packed beside later steps, so the times are not part of
// the step's.
type Bytes struct {
	Pulled     int64 `json:"pulled,omitempty"`     // from registries, caches and layouts, compressed
	Read       int64 `json:"read,omitempty"`       // from the context, and by processes from disks
	Written    int64 `json:"written,omitempty"`    // files of layers, and what processes wrote to disks
	Packed     int64 `json:"packed,omitempty"`     // tars that were made
	Compressed int64 `json:"compressed,omitempty"` // blobs that were compressed, as they are after it
}

func (b *Bytes) add(o Bytes) {
	b.Pulled, b.Read, b.Written = b.Pulled+o.Pulled, b.Read+o.Read, b.Written+o.Written
	b.Packed, b.Compressed = b.Packed+o.Packed, b.Compressed+o.Compressed
}

// Step is a step of a build, or a phase, as far as its time goes. Times are since the build began, all of them in nanoseconds.
type Step struct {
	Name    string          `json:"name"`
	Digest  digest.Digest   `json:"digest"`
	Inputs  []digest.Digest `json:"inputs,omitempty"`
	State   State           `json:"state"`
	From    string          `json:"from,omitempty"`   // the imported cache that had it
	Shared  string          `json:"shared,omitempty"` // the build that ran it
	Reason  string          `json:"reason,omitempty"` // why it was not cached
	Error   string          `json:"error,omitempty"`
	Start   time.Duration   `json:"start"`
	Took    time.Duration   `json:"took"`
	After   string          `json:"after,omitempty"` // the step that it waited for last
	Bytes   Bytes           `json:"bytes"`
	Process *engine.Process `json:"process,omitempty"`
	Work    []meter.Work    `json:"work,omitempty"`
	Parts   []progress.Part `json:"parts,omitempty"`
	Layers  []string        `json:"layers,omitempty"`
	Size    int64           `json:"size,omitempty"` // bytes of the files of its layers, where it is known
}

// End is when it ended.
func (s *Step) End() time.Duration { return s.Start + s.Took }

// Short is the name without the place in the Dockerfile: "RUN make".
func (s *Step) Short() string {
	if i := strings.Index(s.Name, "] "); strings.HasPrefix(s.Name, "[") && i > 0 && s.State != Besides {
		return s.Name[i+2:]
	}
	return s.Name
}

// Segment is a part of the critical path: the time in which the build waited for one step.
type Segment struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	Start  time.Duration `json:"start"`
	Took   time.Duration `json:"took"`
	Idle   time.Duration `json:"idle,omitempty"` // before it, in which nothing of the path ran
	Beside []Beside      `json:"beside,omitempty"`
}

// Beside is what ran at the same time as a segment of the path.
type Beside struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"` // of the time that they have in common
}

// Timing is where the time of a build went.
type Timing struct {
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Status    history.Status `json:"status"`
	Imported  bool           `json:"imported,omitempty"` // it was built elsewhere
	Error     string         `json:"error,omitempty"`
	Started   time.Time      `json:"started"`
	Took      time.Duration  `json:"took"`
	ImageID   string         `json:"imageID,omitempty"`
	Names     []string       `json:"names,omitempty"`
	ImageSize int64          `json:"imageSize,omitempty"` // bytes of its files
	Total     int            `json:"total"`               // steps
	Cached    int            `json:"cached"`              // of them
	Bytes     Bytes          `json:"bytes"`
	Steps     []Step         `json:"steps"`        // as they began, phases among them
	Path      []Segment      `json:"criticalPath"` // the first one first
}

// Of tells where the time of a build went.
func Of(r *history.Record) *Timing {
	t := OfBuild(&r.Record)
	t.Status, t.Imported = r.Status(), r.Imported
	return t
}

// OfBuild is [Of] for a build that has just ended.
func OfBuild(r *build.Record) *Timing {
	ended := history.Record{Recorded: build.Recorded{Record: *r}}
	t := &Timing{
		ID: r.ID, Name: r.Name(), Status: ended.Status(), Error: outbound.Redact(r.Error), Started: r.Started, Took: r.Took, ImageID: r.ImageID, ImageSize: r.ImageSize, Names: r.Names,
	}
	of := map[string]int{} // layers -> the step that made them
	for i := range r.Steps {
		s := stepOf(&r.Steps[i], r.Started)
		if s.State == Cached {
			t.Cached++
		}
		for _, l := range s.Layers {
			if _, ok := of[l]; !ok {
				of[l] = i
			}
		}
		t.Steps = append(t.Steps, s)
	}
	t.Total = len(t.Steps)
	var rest Bytes
	for _, w := range r.Work {
		b := bytesOf(w)
		if i, ok := of[w.Layer]; ok {
			t.Steps[i].Work = append(t.Steps[i].Work, w)
			t.Steps[i].Bytes.add(b)
		} else {
			rest.add(b)
		}
	}
	for i := range r.Phases {
		t.Steps = append(t.Steps, phaseOf(&r.Phases[i], r.Started))
	}
	for i := range t.Steps {
		t.Bytes.add(t.Steps[i].Bytes)
	}
	t.Bytes.add(rest)
	slices.SortStableFunc(t.Steps, func(a, b Step) int { return cmp.Compare(a.Start, b.Start) })
	t.path()
	return t
}

func stepOf(rec *engine.StepRecord, began time.Time) Step {
	s := Step{
		Name: outbound.Redact(rec.Name), Digest: rec.Digest, Inputs: rec.Inputs, State: Ran, From: rec.From, Shared: rec.Shared,
		Reason: outbound.Redact(rec.Reason), Error: outbound.Redact(rec.Error),
		Start: max(rec.Started.Sub(began), 0), Took: rec.Took, Process: rec.Process, Layers: rec.Layers,
	}
	switch {
	case rec.Canceled:
		s.State = GivenUp
	case rec.Error != "":
		s.State = Broke
	case rec.Cached:
		s.State = Cached
	case rec.Shared != "":
		s.State = Shared
	}
	if p := rec.Process; p != nil && p.Usage != nil {
		s.Bytes.Read, s.Bytes.Written = p.Usage.Read, p.Usage.Written
	}
	return s
}

// readingContext is the part of a directory's span that says how much of it was read.
const readingContext = "reading context"

func phaseOf(sp *progress.Span, began time.Time) Step {
	s := Step{
		Name: sp.Name, Digest: sp.Digest, Inputs: sp.Inputs, State: Besides, Error: sp.Error, Start: max(sp.Started.Sub(began), 0), Took: sp.Took, Parts: sp.Parts,
	}
	for _, p := range sp.Parts {
		if p.Name == readingContext || strings.HasPrefix(p.Name, "transferring ") {
			s.Bytes.Read += p.Bytes
		}
	}
	return s
}

func bytesOf(w meter.Work) (b Bytes) {
	switch w.Kind {
	case meter.Fetch:
		b.Pulled = w.Read
	case meter.Unpack, meter.Write:
		b.Written = w.Written
	case meter.Pack:
		b.Packed = w.Written
	case meter.Compress:
		b.Compressed = w.Written
	}
	return b
}

// slack is how much later than something that waited for it a step may seem to end: they look at the clock one after the other.
const slack = 5 * time.Millisecond

// path finds the critical path: from the step that ended last back to what each waited for last.
func (t *Timing) path() {
	of := map[digest.Digest]*Step{}
	var last *Step
	for i := range t.Steps {
		s := &t.Steps[i]
		of[s.Digest] = s
		if before := t.waitedFor(s, of); before != nil {
			s.After = before.Name
		}
		if last == nil || s.End() >= last.End() {
			last = s
		}
	}
	seen := map[*Step]bool{}
	for s := last; s != nil && !seen[s]; {
		seen[s] = true
		before := t.waitedFor(s, of)
		seg := Segment{Name: s.Name, Digest: s.Digest, Start: s.Start, Took: s.Took}
		if before != nil {
			own := max(s.Start, before.End()) // an image that came while the step's filesystem was made
			seg.Start, seg.Took, seg.Idle = own, max(s.End()-own, 0), own-before.End()
		} else {
			seg.Idle = s.Start
		}
		t.Path = append(t.Path, seg)
		s = before
	}
	slices.Reverse(t.Path)
	onPath := map[digest.Digest]bool{}
	for _, seg := range t.Path {
		onPath[seg.Digest] = true
	}
	for i := range t.Path {
		t.Path[i].Beside = t.beside(&t.Path[i], onPath)
	}
}

// waitedFor is the step that ended last of those that a step waits for: its inputs, or, of what has none that is known, all phases,
// and of a phase everything that was over.
func (t *Timing) waitedFor(s *Step, of map[digest.Digest]*Step) (last *Step) {
	later := func(o *Step, most time.Duration) {
		if o != s && o.End() <= most && (last == nil || o.End() > last.End()) {
			last = o
		}
	}
	for _, d := range s.Inputs {
		if o := of[d]; o != nil {
			most := s.Start + slack
			if len(o.Inputs) == 0 {
				most = s.End()
			}
			later(o, most)
		}
	}
	if last != nil {
		return last
	}
	for i := range t.Steps {
		if o := &t.Steps[i]; (o.State == Besides || s.State == Besides) && o.Took > 0 {
			later(o, s.Start)
		}
	}
	return last
}

// beside is what ran in the time of a segment and is not on the path, what took most of it first.
func (t *Timing) beside(seg *Segment, onPath map[digest.Digest]bool) (all []Beside) {
	for i := range t.Steps {
		s := &t.Steps[i]
		both := min(s.End(), seg.Start+seg.Took) - max(s.Start, seg.Start)
		if both >= time.Millisecond && !onPath[s.Digest] && len(all) < maxBeside {
			all = append(all, Beside{s.Name, both})
		}
	}
	slices.SortStableFunc(all, func(a, b Beside) int { return cmp.Compare(b.Took, a.Took) })
	return all
}

// Longest is the step or phase that took longest, nil if none took any time.
func (t *Timing) Longest() (longest *Step) {
	for i := range t.Steps {
		if s := &t.Steps[i]; s.Took > 0 && (longest == nil || s.Took > longest.Took) {
			longest = s
		}
	}
	return longest
}
