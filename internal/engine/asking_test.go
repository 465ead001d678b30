package engine

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/graph"
)

// events counts what a display is told of vertices.
type events struct {
	mu             sync.Mutex
	started, ended int
	failure        string
}

func (e *events) Write(s *client.SolveStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range s.Vertexes {
		if v.Completed != nil {
			e.ended, e.failure = e.ended+1, v.Error
		} else {
			e.started++
		}
	}
}

// A display hears of a question that takes long, or that fails, and of no other.
func TestAsking(t *testing.T) {
	tests := []struct {
		name   string
		takes  time.Duration
		err    error
		nobody bool
		told   bool
	}{
		{name: "quick", takes: time.Second},
		{name: "slow", takes: time.Minute, told: true},
		{name: "failure", err: errors.New("no"), told: true},
		{name: "slow failure", takes: time.Minute, err: errors.New("no"), told: true},
		{name: "nobody waits", takes: time.Minute, err: errors.New("no"), nobody: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := &events{}
				r := New(Options{}).NewRun(t.Context(), RunOptions{Sink: sink})
				n := &node{run: r, v: &graph.Vertex{Digest: "sha256:1", Op: &pb.Op{}, Meta: &pb.OpMetadata{}}}
				var whom audience
				if !tt.nobody {
					whom.join(n.seat())
				}
				a := whom.asking()
				time.Sleep(tt.takes)
				if told := a.done(false, tt.err); told != (tt.told || tt.nobody) {
					t.Errorf("told %t, want %t", told, tt.told)
				}
				time.Sleep(time.Minute) // nothing comes later
				want := 0
				if tt.told {
					want = 1
				}
				if sink.started != want || sink.ended != want || tt.told && tt.err != nil && sink.failure != "no" {
					t.Errorf("events are %+v", sink)
				}
			})
		})
	}
}
