package progress

import (
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// Apart tells a sink of a build beside others whose steps are not the same where they have the same digests, as each is carried out by a machine of its own: names
// are prefixed as by [Prefixed].
func Apart(sink Sink, name string) Sink {
	sink = Prefixed(sink, name)
	own := func(d digest.Digest) digest.Digest { return digest.FromString(name + "\x00" + d.String()) }
	return SinkFunc(func(s *client.SolveStatus) {
		s = clone(s) // who tells of it goes on to use it
		for _, v := range s.Vertexes {
			inputs := make([]digest.Digest, len(v.Inputs))
			for i, in := range v.Inputs {
				inputs[i] = own(in)
			}
			v.Digest, v.Inputs = own(v.Digest), inputs
		}
		for _, st := range s.Statuses {
			st.Vertex = own(st.Vertex)
		}
		for _, l := range s.Logs {
			l.Vertex = own(l.Vertex)
		}
		for _, w := range s.Warnings {
			w.Vertex = own(w.Vertex)
		}
		sink.Write(s)
	})
}
