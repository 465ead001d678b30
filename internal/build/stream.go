package build

import (
	"io"
	"slices"
	"sync/atomic"
)

// stream is an output's writer that knows whether something was written: what others have read
// cannot be taken back.
type stream struct {
	io.Writer
	wrote atomic.Bool
}

func (s *stream) Write(p []byte) (int, error) {
	s.wrote.Store(true)
	return s.Writer.Write(p)
}

// watchStreams puts a stream in the place of each writer. The caller's outputs stay as they are.
func (r *Request) watchStreams() {
	r.Outputs = slices.Clone(r.Outputs)
	for i, o := range r.Outputs {
		if o.Writer != nil {
			r.Outputs[i].Writer = &stream{Writer: o.Writer}
		}
	}
}

// once reports whether the build cannot begin again: a stream has got something, a client may have, or somebody evaluates it by calls.
func (r *Request) once() bool {
	return r.Evaluate != nil || r.Client != nil && len(r.Outputs) > 0 || slices.ContainsFunc(r.Outputs, func(o Output) bool {
		s, ok := o.Writer.(*stream)
		return ok && s.wrote.Load()
	})
}
