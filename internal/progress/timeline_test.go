package progress

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestTimeline(t *testing.T) {
	tl, next := NewTimeline(), &told{}
	sink := tl.Before(next)
	one := Start(sink, Vertex{Digest: "a", Name: "A", Inputs: []digest.Digest{"b"}})
	one.Status("layer", 5, 9, false)
	one.Status("layer", 9, 9, true)
	two := Start(sink, Vertex{Digest: "b", Name: "B"})
	_, _ = two.Stdout().Write([]byte("out"))
	two.Cached()
	two.Done(nil)
	one.Done(errors.New("no"))
	spans := tl.Spans()
	if len(spans) != 2 || len(next.all) < 6 {
		t.Fatalf("%d spans, and %d events after it", len(spans), len(next.all))
	}
	a, b := spans[0], spans[1]
	if a.Name != "A" || a.Inputs[0] != "b" || a.Error != "no" || a.Cached || a.Took < b.Took || len(a.Parts) != 1 || a.Parts[0].Bytes != 9 {
		t.Errorf("the first is %+v", a)
	}
	if b.Name != "B" || !b.Cached || b.Started.Before(a.Started) || b.Started.Add(b.Took).After(a.Started.Add(a.Took)) {
		t.Errorf("the second is %+v", b)
	}
	many := Start(tl, Vertex{Digest: "c", Name: "C"})
	for i := range 2 * maxParts {
		many.Status(strings.Repeat("x", i), 1, 1, true)
	}
	if n := len(tl.Spans()[2].Parts); n != maxParts {
		t.Errorf("%d parts are kept", n)
	}
}
