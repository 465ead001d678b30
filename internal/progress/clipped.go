package progress

import (
	"sync"

	"github.com/moby/buildkit/client"
)

// Clipped hands on events with the output of steps within limits, otherwise as they come.
func Clipped(sink Sink, limits Limits) Sink {
	var mu sync.Mutex // what one step prints arrives in its order
	shown := newStreams(limits)
	return SinkFunc(func(s *client.SolveStatus) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range shown.pass(s) {
			sink.Write(s)
		}
	})
}
