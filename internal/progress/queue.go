package progress

import (
	"sync"

	"github.com/moby/buildkit/client"
)

// maxQueued is how many bytes of output wait to be drawn before those who write more must wait. With
// the usual limits that is many seconds of a step's output.
const maxQueued = 4 << 20

// queue is a list of events. Only output waits for room in it: what a build tells of itself is little.
type queue struct {
	mu        sync.Mutex
	more      *sync.Cond // there are events, or it is closed
	room      *sync.Cond // bytes has become less, or nobody may wait any more
	events    []*client.SolveStatus
	bytes     int // of output in events, and in those that are handed on
	closed    bool
	abandoned bool
}

func newQueue() *queue {
	q := &queue{}
	q.more, q.room = sync.NewCond(&q.mu), sync.NewCond(&q.mu)
	return q
}

// size is how much an event with output takes, however small its pieces are; 0 without output.
func size(s *client.SolveStatus) (n int) {
	const event = 512
	for _, l := range s.Logs {
		n += event + len(l.Data)
	}
	return n
}

func (q *queue) put(s *client.SolveStatus) {
	n := size(s)
	q.mu.Lock()
	defer q.mu.Unlock()
	for n > 0 && q.bytes > 0 && q.bytes+n > maxQueued && !q.closed && !q.abandoned {
		q.room.Wait()
	}
	if q.closed || q.abandoned && n > 0 {
		return
	}
	q.events = append(q.events, s)
	q.bytes += n
	q.more.Signal()
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Broadcast()
	q.room.Broadcast()
}

// abandon drops output from now on: nobody waits for it.
func (q *queue) abandon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.abandoned = true
	q.room.Broadcast()
}

// next takes the first event; nil is the end.
func (q *queue) next() *client.SolveStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for len(q.events) == 0 && !q.closed {
			q.more.Wait()
		}
		if len(q.events) == 0 {
			return nil
		}
		s := q.events[0]
		q.events[0] = nil
		q.events = q.events[1:]
		if q.abandoned && size(s) > 0 {
			continue
		}
		return s
	}
}

// feed hands on all events and closes the channel after the last.
func (q *queue) feed(out chan<- *client.SolveStatus) {
	defer close(out)
	for s := q.next(); s != nil; s = q.next() {
		out <- s
		if n := size(s); n > 0 {
			q.mu.Lock()
			q.bytes -= n
			q.mu.Unlock()
			q.room.Broadcast()
		}
	}
}

// held is how much output waits, with what is being drawn.
func (q *queue) held() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}
