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
		all := &client.SolveStatus{}
		for _, v := range s.Vertexes {
			c := *v // who tells of it goes on to use it
			c.Digest, c.Inputs = own(v.Digest), nil
			for _, in := range v.Inputs {
				c.Inputs = append(c.Inputs, own(in))
			}
			all.Vertexes = append(all.Vertexes, &c)
		}
		for _, st := range s.Statuses {
			c := *st
			c.Vertex = own(st.Vertex)
			all.Statuses = append(all.Statuses, &c)
		}
		for _, l := range s.Logs {
			c := *l
			c.Vertex = own(l.Vertex)
			all.Logs = append(all.Logs, &c)
		}
		for _, w := range s.Warnings {
			c := *w
			c.Vertex = own(w.Vertex)
			all.Warnings = append(all.Warnings, &c)
		}
		sink.Write(all)
	})
}
