package kube

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// reading is the log of a pod while it is read.
type reading struct {
	lines chan []byte // closed when it was read to its end
	done  bool        // and that was seen
	stop  context.CancelFunc
	ended chan struct{} // closed when the container is known to have ended
	once  sync.Once
}

// end says that the container has ended: there will be no more than what it has printed.
func (r *reading) end() { r.once.Do(func() { close(r.ended) }) }

// startReading reads the log of a pod, through as many connections as that takes.
func (c *Cluster) startReading(ctx context.Context, pod string) *reading {
	ctx, stop := context.WithCancel(ctx)
	r := &reading{lines: make(chan []byte), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(r.lines)
		c.readWhole(ctx, pod, r)
	}()
	return r
}

func (c *Cluster) readWhole(ctx context.Context, pod string, r *reading) {
	var from place
	send := func(line []byte) {
		select {
		case r.lines <- line:
		case <-ctx.Done():
		}
	}
	for pause, last := pauseFirst, 0; ctx.Err() == nil && last < 5; {
		over := false
		select {
		case <-r.ended:
			over = true
		default:
		}
		before := from
		err := c.readOnce(ctx, pod, !over, &from, r, send)
		switch {
		case over && err == nil, isCode(err, http.StatusNotFound):
			return
		case over: // tried a few times more: its node may be gone
			last++
		}
		if from != before {
			pause = pauseFirst
		}
		select {
		case <-time.After(pause):
		case <-r.ended:
			if over {
				_ = wait(ctx, pause)
			}
		case <-ctx.Done():
		}
		pause = min(2*pause, pauseMost)
	}
}

// drainTime is how long a log may still come in when its container has ended.
var drainTime = 10 * time.Second

// readOnce reads a log through one connection, which may hang where the node of the pod is gone. A kubelet notices up to a second later that there will be no
// more: who follows does not wait for that when the container is known to have ended, as what is left can be read at once.
func (c *Cluster) readOnce(ctx context.Context, pod string, follow bool, from *place, r *reading, line func([]byte)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.ended:
			if !follow {
				_ = wait(ctx, drainTime)
			}
			cancel()
		case <-ctx.Done():
		}
	}()
	return c.readLog(ctx, pod, follow, from, line)
}
