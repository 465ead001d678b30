package progress

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
)

// DisplayOptions are how a build is shown.
type DisplayOptions struct {
	// Mode is one of BuildKit's: "auto" (or "") is a live tree when Out is a terminal's *os.File and
	// plain lines otherwise, "plain", "tty" (an error when Out is no terminal), "rawjson", "quiet" and
	// "none" (nothing is drawn).
	Mode string
	Out  io.Writer
	// Terminal says that Out ends at a terminal. What comes from outside is made harmless then;
	// anywhere else it is written as it came.
	Terminal bool
	// Limits are those of steps' output.
	Limits Limits
}

// parting is how long an interrupted build waits for its display, which may never take what it is
// given: a pipe that nobody reads, a terminal that was stopped.
const parting = 200 * time.Millisecond

// Display is a Sink that draws with BuildKit's progressui. Wait ends it.
type Display struct {
	ctx      context.Context
	queue    *queue
	done     chan struct{}
	warnings []client.VertexWarning // after done

	mu      sync.Mutex
	streams *streams
}

// NewDisplay starts a display. When ctx ends, output that was not drawn yet is dropped.
func NewDisplay(ctx context.Context, opt DisplayOptions) (*Display, error) {
	mode := progressui.DisplayMode(opt.Mode)
	if opt.Mode == "none" {
		mode = progressui.QuietMode
	}
	ui, err := progressui.NewDisplay(opt.Out, mode)
	if err != nil {
		return nil, fmt.Errorf("opening progress display: %w", err)
	}
	s := newStreams(opt.Limits)
	s.clean, s.lines, s.brief = opt.Terminal, mode != progressui.RawJSONMode, mode != progressui.RawJSONMode
	s.told = mode == progressui.PlainMode || !opt.Terminal && (mode == progressui.AutoMode || mode == progressui.DefaultMode)
	if opt.Terminal && (mode == progressui.AutoMode || mode == progressui.DefaultMode || mode == progressui.TtyMode) {
		s.bounded, s.budget = true, treeBudget
	}
	d := &Display{ctx: ctx, queue: newQueue(), done: make(chan struct{}), streams: s}
	stop := context.AfterFunc(ctx, d.queue.abandon)
	events := make(chan *client.SolveStatus)
	go d.queue.feed(events)
	go func() {
		defer close(d.done)
		defer stop()
		// Without an end of the context there is no error: the queue's end is the end.
		d.warnings, _ = ui.UpdateFrom(context.Background(), events)
	}()
	return d, nil
}

// Write queues an event. Output waits when much of it is queued, until it was drawn or the context
// ends. After Wait events are dropped.
func (d *Display) Write(s *client.SolveStatus) {
	d.mu.Lock()
	all := d.streams.pass(s)
	d.mu.Unlock()
	for _, s := range all {
		d.queue.put(s)
	}
}

// Wait draws everything that was written and gives all warnings among it. It may be called again. When
// the context has ended, it does not wait long.
func (d *Display) Wait() []client.VertexWarning {
	d.queue.close()
	select {
	case <-d.done:
		return d.warnings
	case <-d.ctx.Done():
	}
	select {
	case <-d.done:
		return d.warnings
	case <-time.After(parting):
		return nil
	}
}
