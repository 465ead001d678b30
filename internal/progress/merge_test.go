package progress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// TestMerge: each step is told of once, by the part that began it, with what it printed; the parts' own steps by the main one.
func TestMerge(t *testing.T) {
	var told []string
	names := map[digest.Digest]string{}
	m := NewMerge(SinkFunc(func(s *client.SolveStatus) {
		for _, v := range s.Vertexes {
			names[v.Digest] = v.Name
			if v.Completed != nil {
				told = append(told, strings.TrimSpace(v.Name+" ended "+v.Error))
			} else if v.Started != nil {
				told = append(told, v.Name+" began")
			} else {
				told = append(told, v.Name+" is known")
			}
		}
		for _, l := range s.Logs {
			told = append(told, names[l.Vertex]+" prints "+string(l.Data))
		}
	}))
	a, b, main := m.Part(false), m.Part(false), m.Part(true)
	step := func(s Sink, name string) *Step { return Start(s, Vertex{Digest: digest.FromString(name), Name: name}) }
	for _, part := range []Sink{b, a} {
		part.Write(&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: digest.FromString("RUN make"), Name: "RUN make"}}})
	}
	inA := step(a, "RUN make")
	inB := step(b, "RUN make")
	inB.Stdout().Write([]byte("twice"))
	inA.Stdout().Write([]byte("once"))
	inB.Done(errors.New("failed there alone"))
	inA.Done(nil)
	step(a, "exporting cache").Done(nil)
	step(main, "exporting cache").Done(errors.New("refused"))
	step(b, "exporting cache").Done(context.Canceled)
	step(b, "RUN other").Done(errors.New("exit code 1"))
	for i, part := range []Sink{a, main, b} { // it is another one of each
		Start(part, Vertex{Digest: digest.FromString(fmt.Sprint(i)), Name: "[internal] load build definition from Dockerfile"}).Done(nil)
	}
	want := []string{
		"RUN make is known", "RUN make began", "RUN make prints once", "RUN make ended", "exporting cache began", "exporting cache ended", "exporting cache ended refused",
		"RUN other began", "RUN other ended exit code 1",
		"[internal] load build definition from Dockerfile began", "[internal] load build definition from Dockerfile ended",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
