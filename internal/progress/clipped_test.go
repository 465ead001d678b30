package progress

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// What is handed on of a step's output is limited, with its end; everything else comes as it is.
func TestClipped(t *testing.T) {
	var text strings.Builder
	steps := 0
	sink := Clipped(SinkFunc(func(s *client.SolveStatus) {
		steps += len(s.Vertexes)
		for _, l := range s.Logs {
			text.Write(l.Data)
		}
	}), Limits{Size: 10, Speed: -1})
	st := Start(sink, Vertex{Digest: digest.FromString("v"), Name: "v\nw"})
	for range 1000 {
		_, _ = st.Stdout().Write([]byte(strings.Repeat("x", 1000)))
	}
	_, _ = st.Stdout().Write([]byte("end"))
	st.Done(nil)
	if got := text.String(); steps != 2 || len(got) > 2*tailSize || !strings.HasPrefix(got, "xxxxxxxxxx\n[output clipped") || !strings.HasSuffix(got, "xend") {
		t.Errorf("%d states, %d bytes", steps, len(got))
	}
}
