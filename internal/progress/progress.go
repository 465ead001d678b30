// Package progress turns what a build does into BuildKit's status events, and the events into a
// display or a log.
package progress

import (
	"github.com/moby/buildkit/client"
)

// Sink takes events. Write may be called from many goroutines and must not keep a build waiting.
// The event belongs to the sink.
type Sink interface {
	Write(*client.SolveStatus)
}

// SinkFunc is a function as a Sink.
type SinkFunc func(*client.SolveStatus)

// Write calls f.
func (f SinkFunc) Write(s *client.SolveStatus) { f(s) }

// Discard is a Sink that drops everything.
var Discard Sink = SinkFunc(func(*client.SolveStatus) {})
