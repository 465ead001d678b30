package progress

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
)

// Display is a Sink that draws with BuildKit's progressui. Wait ends it.
type Display struct {
	queue    *queue
	done     chan struct{}
	warnings []client.VertexWarning // after done
}

// NewDisplay starts a display on out. The modes are BuildKit's: "auto" (or "") is a live tree
// when out is a terminal's *os.File and plain lines otherwise, "plain", "tty" (an error when out
// is no terminal), "rawjson", "quiet" and "none" (nothing is drawn).
func NewDisplay(mode string, out io.Writer, opts ...progressui.DisplayOpt) (*Display, error) {
	if mode == "none" {
		mode = string(progressui.QuietMode)
	}
	ui, err := progressui.NewDisplay(out, progressui.DisplayMode(mode), opts...)
	if err != nil {
		return nil, fmt.Errorf("opening progress display: %w", err)
	}
	return startDisplay(ui), nil
}

func startDisplay(ui progressui.Display) *Display {
	d := &Display{queue: newQueue(), done: make(chan struct{})}
	events := make(chan *client.SolveStatus)
	go d.queue.feed(events)
	go func() {
		defer close(d.done)
		// Without an end of the context there is no error: the queue's end is the end.
		d.warnings, _ = ui.UpdateFrom(context.Background(), events)
	}()
	return d
}

// Write queues an event. After Wait it is dropped.
func (d *Display) Write(s *client.SolveStatus) { d.queue.put(s) }

// Wait draws everything that was written and gives all warnings among it. It may be called again.
func (d *Display) Wait() []client.VertexWarning {
	d.queue.close()
	<-d.done
	return d.warnings
}

// Log is a Sink that writes the plain form of all events, as a record that people read. Close
// ends it.
type Log struct {
	display *Display
	out     *errWriter
}

// NewLog starts a log on w, which stays the caller's to close, after Close.
func NewLog(w io.Writer) (*Log, error) {
	out := &errWriter{w: w}
	d, err := NewDisplay(string(progressui.PlainMode), out)
	if err != nil {
		return nil, err
	}
	return &Log{display: d, out: out}, nil
}

// Write queues an event. After Close it is dropped.
func (l *Log) Write(s *client.SolveStatus) { l.display.Write(s) }

// Close writes what is left and returns the first error of writing.
func (l *Log) Close() error {
	l.display.Wait()
	if l.out.err != nil {
		return fmt.Errorf("writing build log: %w", l.out.err)
	}
	return nil
}

// errWriter remembers the first error and drops everything after it, as progressui looks at none.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	if e.err != nil {
		return len(p), nil
	}
	n, err := e.w.Write(p)
	e.err = err
	return n, err
}

// queue is a list of events without a limit, so that whoever writes never waits.
type queue struct {
	mu     sync.Mutex
	more   *sync.Cond
	events []*client.SolveStatus
	closed bool
}

func newQueue() *queue {
	q := &queue{}
	q.more = sync.NewCond(&q.mu)
	return q
}

func (q *queue) put(s *client.SolveStatus) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.events = append(q.events, s)
		q.more.Signal()
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Signal()
}

// feed hands on all events and closes the channel after the last.
func (q *queue) feed(out chan<- *client.SolveStatus) {
	defer close(out)
	for {
		q.mu.Lock()
		for len(q.events) == 0 && !q.closed {
			q.more.Wait()
		}
		batch := q.events
		q.events = nil
		q.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, s := range batch {
			out <- s
		}
	}
}
