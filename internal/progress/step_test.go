package progress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"
)

// told writes down what a sink is told.
type told struct {
	mu  sync.Mutex
	all []string
}

func (d *told) Write(s *client.SolveStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range s.Vertexes {
		d.all = append(d.all, fmt.Sprintf("%s %s started %t ended %t cached %t %s", v.Digest, v.Name, v.Started != nil, v.Completed != nil, v.Cached, v.Error))
	}
	for _, st := range s.Statuses {
		d.all = append(d.all, fmt.Sprintf("%s %s %d", st.Vertex, st.ID, st.Current))
	}
	for _, l := range s.Logs {
		d.all = append(d.all, fmt.Sprintf("%s %d %s", l.Vertex, l.Stream, l.Data))
	}
}

func (d *told) want(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if got := strings.Join(d.all, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("told is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// Each sink is told of a shared step as its own, and who comes later of what was before.
func TestSharedStep(t *testing.T) {
	first, later, last := &told{}, &told{}, &told{}
	s := Shared()
	s.Show(first, Vertex{Digest: "a", Name: "A"})
	fmt.Fprint(s.Stdout(), "before")
	s.Status("layer", 5, 9, true)
	s.Show(later, Vertex{Digest: "b", Name: "B"})
	fmt.Fprint(s.Stderr(), "after")
	s.Cached()
	s.Done(errors.New("no"))
	s.Show(last, Vertex{Digest: "c", Name: "C"})
	fmt.Fprint(s.Stdout(), "late")
	first.want(t, "a A started true ended false cached false ", "a 1 before", "a layer 5", "a 2 after", "a A started true ended true cached true no", "a 1 late")
	later.want(t, "b B started true ended false cached false ", "b layer 5", "b 1 before", "b 2 after", "b B started true ended true cached true no", "b 1 late")
	last.want(t, "c C started true ended false cached false ", "c layer 5", "c C started true ended true cached true no", "c 1 late")
}

// Who leaves is told that it has ended, and of nothing after that.
func TestLeaveSharedStep(t *testing.T) {
	stays, leaves := &told{}, &told{}
	s := Shared()
	s.Show(stays, Vertex{Digest: "a", Name: "A"})
	w := s.Show(leaves, Vertex{Digest: "b", Name: "B"})
	w.Leave(context.Canceled)
	w.Leave(nil)
	fmt.Fprint(s.Stdout(), "out")
	s.Done(nil)
	w.Leave(nil)
	stays.want(t, "a A started true ended false cached false ", "a 1 out", "a A started true ended true cached false ")
	leaves.want(t, "b B started true ended false cached false ", "b B started true ended true cached false context canceled")
}

// What is kept of the output is bounded.
func TestPastOfSharedStep(t *testing.T) {
	s := Shared()
	const size, pieces = 10_000, 100
	for i := range pieces {
		fmt.Fprint(s.Stdout(), strings.Repeat("x", size-3), fmt.Sprintf("%03d", i))
	}
	later := &told{}
	s.Show(later, Vertex{Digest: "a", Name: "A"})
	kept := maxPast / (size + pieceCost)
	if len(later.all) != kept+2 || !strings.Contains(later.all[1], fmt.Sprintf("[the first %d bytes of its output are left out]", size*(pieces-kept))) ||
		!strings.HasSuffix(later.all[len(later.all)-1], "099") {
		t.Errorf("told %d times: %.80s", len(later.all), later.all[1])
	}
	if s.size > maxPast || len(s.past) > kept+1 {
		t.Errorf("%d bytes are kept, of %d pieces", s.size, len(s.past))
	}
}

// Output that comes letter by letter takes no more.
func TestPastOfLetters(t *testing.T) {
	s, first, later := Shared(), &told{}, &told{}
	s.Show(first, Vertex{Digest: "a", Name: "A"})
	for i := range 2 * maxPast {
		fmt.Fprintf(s.Stdout(), "%c", 'a'+i%26)
	}
	s.Show(later, Vertex{Digest: "b", Name: "B"})
	text := func(d *told, from int) string {
		var all strings.Builder
		for _, line := range d.all[from:] {
			all.WriteString(line[len("a 1 "):])
		}
		return all.String()
	}
	whole, part := text(first, 1), text(later, 2)
	if !strings.HasSuffix(whole, part) || len(part) < maxPast/2 || !strings.Contains(later.all[1], fmt.Sprintf("the first %d bytes", len(whole)-len(part))) {
		t.Errorf("who comes later hears %d bytes: %.80s", len(part), later.all[1])
	}
	if s.size > maxPast || len(s.past) > maxPast/pieceSize || cap(s.past) > 4*maxPast/pieceSize {
		t.Errorf("%d bytes are kept, in %d pieces of %d", s.size, len(s.past), cap(s.past))
	}
}
