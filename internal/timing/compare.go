package timing

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Measure adds to steps how large their layers are, as far as the store knows that already. Those of an imported build are none of it.
func (t *Timing) Measure(ctx context.Context, s *store.Store) {
	if t.Imported {
		return
	}
	for i := range t.Steps {
		t.Steps[i].Size = 0
		for _, id := range t.Steps[i].Layers {
			if info, err := s.Layer(ctx, layer.ID(id)); err == nil && info.Size > 0 { // it may have been pruned
				t.Steps[i].Size += info.Size
			}
		}
	}
}

// Change is a step in two builds.
type Change struct {
	Name    string  `json:"name"`
	Before  *Side   `json:"before,omitempty"` // nil: it is new
	After   *Side   `json:"after,omitempty"`  // nil: it is gone
	Reason  string  `json:"reason,omitempty"` // why it ran in the second one
	Changed []Which `json:"changed"`
}

// Side is a step in one of them.
type Side struct {
	Name  string        `json:"name"`
	State State         `json:"state"`
	Took  time.Duration `json:"took"`
	Size  int64         `json:"size,omitempty"` // bytes; 0 is not known
}

// Which is what of a step is another one.
type Which string

const (
	ChangedText  Which = "instruction"
	ChangedTime  Which = "time"
	ChangedState Which = "cache"
	ChangedSize  Which = "size"
	ChangedNew   Which = "new"
	ChangedGone  Which = "gone"
)

// Comparison is what is not the same in two builds.
type Comparison struct {
	Before  *Timing  `json:"before"`
	After   *Timing  `json:"after"`
	Changes []Change `json:"changes"`
	Same    int      `json:"same"` // steps that are the same in both
}

// Compare compares two builds, step by step: those of the same name, of the same instruction, and others at the same place of a Dockerfile. What took no more than a
// tenth, or a tenth of a second, longer or less takes the same time.
func Compare(before, after *Timing) *Comparison {
	c := &Comparison{Before: before, After: after}
	pairs := pair(before.Steps, after.Steps)
	for _, p := range pairs {
		if ch := changeOf(p[0], p[1]); len(ch.Changed) > 0 {
			c.Changes = append(c.Changes, ch)
		} else {
			c.Same++
		}
	}
	slices.SortStableFunc(c.Changes, func(a, b Change) int { return cmp.Compare(b.weight(), a.weight()) })
	return c
}

// weight is by how much time a step changed the build.
func (c *Change) weight() time.Duration {
	var d time.Duration
	if c.Before != nil {
		d -= c.Before.Took
	}
	if c.After != nil {
		d += c.After.Took
	}
	return d.Abs()
}

// pair finds the steps of two builds that belong together; one that has no counterpart stands with nil.
func pair(before, after []Step) (pairs [][2]*Step) {
	with := make([]*Step, len(before))
	match := func(name func(*Step) string, to []*Step) (left []*Step) {
		free := map[string][]int{}
		for i := range before {
			if with[i] == nil {
				free[name(&before[i])] = append(free[name(&before[i])], i)
			}
		}
		for _, s := range to {
			n := name(s)
			if all := free[n]; n != "" && len(all) > 0 {
				with[all[0]], free[n] = s, all[1:]
			} else {
				left = append(left, s)
			}
		}
		return left
	}
	var all []*Step
	for i := range after {
		all = append(all, &after[i])
	}
	left := match(sameText, match(func(s *Step) string { return s.Name }, all))
	left = match(samePlace, left)
	for i := range before {
		pairs = append(pairs, [2]*Step{&before[i], with[i]})
	}
	for _, s := range left {
		pairs = append(pairs, [2]*Step{nil, s})
	}
	return pairs
}

// place is where a step stands in its Dockerfile: of "[linux/arm64 build 2/4] RUN make" the stage is "linux/arm64 build" and the number 2.
func (s *Step) place() (stage, number string, ok bool) {
	place, _, ok := strings.Cut(s.Name, "] ")
	if !ok || !strings.HasPrefix(place, "[") || s.State == Besides {
		return "", "", false
	}
	stage, last, more := cutLast(place[1:])
	if !more {
		stage, last = "", place[1:]
	}
	number, _, ok = strings.Cut(last, "/")
	return stage, number, ok
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// sameText is what a step has in common with one of the same stage and instruction: an instruction more changes the numbers of the others.
func sameText(s *Step) string {
	stage, _, ok := s.place()
	if !ok {
		return ""
	}
	return stage + "] " + s.Short()
}

// samePlace is what a step has in common with one whose instruction was changed: the place, and the first word.
func samePlace(s *Step) string {
	stage, number, ok := s.place()
	if !ok {
		return ""
	}
	word, _, _ := strings.Cut(s.Short(), " ")
	return stage + " " + number + "] " + word
}

func changeOf(before, after *Step) Change {
	var c Change
	side := func(s *Step) *Side {
		if s == nil {
			return nil
		}
		c.Name = s.Name
		return &Side{s.Name, s.State, s.Took, s.Size}
	}
	c.Before, c.After = side(before), side(after)
	switch {
	case before == nil && after.State == Besides && after.Took < minChange, after == nil && before.State == Besides && before.Took < minChange:
		return c
	case before == nil:
		c.Changed = []Which{ChangedNew}
	case after == nil:
		c.Changed = []Which{ChangedGone}
	default:
		c.compare(before, after)
	}
	if after != nil {
		c.Reason = after.Reason
	}
	return c
}

// minChange is by how much a step has to be slower or faster at least.
const minChange = time.Second / 10

func (c *Change) compare(before, after *Step) {
	if before.Short() != after.Short() {
		c.Changed = append(c.Changed, ChangedText)
	}
	if (before.State == Cached) != (after.State == Cached) || before.State != after.State && (before.State == Broke || after.State == Broke) {
		c.Changed = append(c.Changed, ChangedState)
	}
	if d := (after.Took - before.Took).Abs(); d >= minChange && d > max(before.Took, after.Took)/10 {
		c.Changed = append(c.Changed, ChangedTime)
	}
	if before.Size > 0 && after.Size > 0 && before.Size != after.Size {
		c.Changed = append(c.Changed, ChangedSize)
	}
}
