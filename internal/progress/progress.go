// Package progress turns what a build does into BuildKit's status events, and the events into a
// display or a log.
//
// # Structure
//
// A [Step] is one vertex at work: it makes the events. A [Sink] takes them: a [Display] shows
// them to a person with BuildKit's progressui, a [Log] keeps them as text, [Multi] hands them to
// several.
//
// # Caveats
//
// What steps print is bounded everywhere: a Display and a Log clip it, each with its own [Limits], and
// a process that prints faster than a Display draws waits when much is queued. What a build tells of
// itself never waits.
package progress

import (
	"github.com/moby/buildkit/client"
)

// Sink takes events. Write may be called from many goroutines. Only an event with output may keep its
// caller waiting. The event belongs to the sink, but for the bytes of output, which others may read.
type Sink interface {
	Write(*client.SolveStatus)
}

// SinkFunc is a function as a Sink.
type SinkFunc func(*client.SolveStatus)

// Write calls f.
func (f SinkFunc) Write(s *client.SolveStatus) { f(s) }

// Discard is a Sink that drops everything.
var Discard Sink = SinkFunc(func(*client.SolveStatus) {})

// Multi hands each event to all sinks; each gets an event of its own.
func Multi(sinks ...Sink) Sink {
	if len(sinks) == 1 {
		return sinks[0]
	}
	return SinkFunc(func(s *client.SolveStatus) {
		for i, sink := range sinks {
			if i == len(sinks)-1 {
				sink.Write(s)
				continue
			}
			sink.Write(clone(s))
		}
	})
}

// clone copies an event as deep as anybody may change it: the bytes of logs are shared.
func clone(s *client.SolveStatus) *client.SolveStatus {
	return &client.SolveStatus{
		Vertexes: clones(s.Vertexes),
		Statuses: clones(s.Statuses),
		Logs:     clones(s.Logs),
		Warnings: clones(s.Warnings),
	}
}

func clones[T any](in []*T) []*T {
	if in == nil {
		return nil
	}
	out := make([]*T, len(in))
	for i, p := range in {
		c := *p
		out[i] = &c
	}
	return out
}
