package progress

import (
	"strings"

	"github.com/moby/buildkit/client"
)

// Prefixed puts the name of a build before the names of its steps, as docker buildx does where several builds are shown
// as one: "[app 2/3] RUN make", "[app] exporting to image".
func Prefixed(sink Sink, name string) Sink {
	return SinkFunc(func(s *client.SolveStatus) {
		for _, v := range s.Vertexes {
			v.Name = prefixed(name, v.Name)
			if g := v.ProgressGroup; g != nil { // it is others' too
				g = g.CloneVT()
				g.Name = prefixed(name, g.Name)
				v.ProgressGroup = g
			}
		}
		sink.Write(s)
	})
}

func prefixed(prefix, name string) string {
	if rest, ok := strings.CutPrefix(name, "["); ok {
		return "[" + prefix + " " + rest
	}
	return "[" + prefix + "] " + name
}
