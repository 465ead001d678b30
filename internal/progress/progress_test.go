package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// recorder keeps all events.
type recorder struct {
	mu     sync.Mutex
	events []*client.SolveStatus
}

func (r *recorder) Write(s *client.SolveStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, s)
}

func vertex(name string) Vertex { return Vertex{Digest: digest.FromString(name), Name: name} }

func TestStepStates(t *testing.T) {
	var r recorder
	s := Start(&r, vertex("a"))
	s.Cached()
	s.Done(nil)
	s.Done(errors.New("too late"))
	if len(r.events) != 2 {
		t.Fatalf("got %d events, want started, completed", len(r.events))
	}
	started, completed := r.events[0].Vertexes[0], r.events[1].Vertexes[0]
	if started.Started == nil || started.Completed != nil || started.Cached {
		t.Errorf("started %+v", started)
	}
	if completed.Completed == nil || !completed.Cached || completed.Error != "" || !completed.Started.Equal(*started.Started) {
		t.Errorf("completed %+v", completed)
	}
	if started.Digest != completed.Digest {
		t.Error("the digest of a vertex changed")
	}
}

func TestStepErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{errors.New("boom"), "boom"},
		{fmt.Errorf("running: %w", context.Canceled), "context canceled"},
	} {
		var r recorder
		Start(&r, vertex("a")).Done(tc.err)
		if got := r.events[1].Vertexes[0].Error; got != tc.want {
			t.Errorf("Done(%v): error %q, want %q", tc.err, got, tc.want)
		}
	}
}

func TestStatusIsThrottled(t *testing.T) {
	var r recorder
	s := Start(&r, vertex("pull"))
	for i := range 1000 {
		s.Status("sha256:aa", int64(i), 1000, false)
	}
	s.Status("sha256:aa", 1000, 1000, true)
	s.Status("sha256:aa", 5, 1000, false) // after the end
	last := r.events[len(r.events)-1].Statuses[0]
	if last.Completed == nil || last.Current != 1000 || last.Started == nil {
		t.Errorf("last status %+v", last)
	}
	if len(r.events) > 20 {
		t.Errorf("%d events for a thousand updates", len(r.events))
	}
}

// slow is a terminal that takes nothing until its gate is open.
type slow struct {
	gate chan struct{}
	buf  bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	<-s.gate
	return s.buf.Write(p)
}

func TestWhatABuildTellsNeverWaits(t *testing.T) {
	out := &slow{gate: make(chan struct{})}
	d := display(t, DisplayOptions{Mode: "plain", Out: out, Limits: DefaultLimits})
	s := Start(d, vertex("RUN a"))
	io.WriteString(s.Stdout(), strings.Repeat("y\n", maxQueued/2)) // fills the queue
	for i := range 500 {
		Start(d, vertex(fmt.Sprint(i))).Done(nil) // would hang here
	}
	s.Warn("JSONArgsRecommended", []string{"detail"}, "", nil)
	s.Done(nil)
	close(out.gate)
	warnings := d.Wait()
	if len(warnings) != 1 || string(warnings[0].Short) != "JSONArgsRecommended" {
		t.Errorf("warnings %v", warnings)
	}
	Start(d, vertex("late")).Done(nil) // dropped, no panic
}

// TestOutputWaits: whoever prints faster than the terminal takes waits, and loses nothing.
func TestOutputWaits(t *testing.T) {
	out := &slow{gate: make(chan struct{})}
	d := display(t, DisplayOptions{Mode: "plain", Out: out, Limits: Limits{-1, -1}})
	s := Start(d, vertex("RUN a"))
	const pieces, lines = 64, 4 << 10
	written := make(chan int, pieces)
	go func() {
		defer close(written)
		for i := range pieces {
			io.WriteString(s.Stdout(), strings.Repeat(strings.Repeat("y", 63)+"\n", lines))
			written <- i
		}
	}()
	for len(written)*lines*64 < maxQueued-lines*64 { // it goes on until the queue is full
		runtime.Gosched()
	}
	if d.queue.held() > maxQueued+lines*64 || len(written) == pieces {
		t.Errorf("%d bytes are queued, %d pieces are written", d.queue.held(), len(written))
	}
	close(out.gate)
	for range written {
	}
	s.Done(nil)
	d.Wait()
	if n := strings.Count(out.buf.String(), "yyy\n"); n != pieces*lines {
		t.Errorf("%d lines of %d were shown", n, pieces*lines)
	}
}

// TestInterruptedDisplay: nobody waits for a terminal that takes nothing when the build was interrupted.
func TestInterruptedDisplay(t *testing.T) {
	out := &slow{gate: make(chan struct{})}
	defer close(out.gate)
	ctx, cancel := context.WithCancel(context.Background())
	d, err := NewDisplay(ctx, DisplayOptions{Mode: "plain", Out: out, Limits: Limits{-1, -1}})
	if err != nil {
		t.Fatal(err)
	}
	s := Start(d, vertex("RUN yes"))
	ended := make(chan struct{})
	go func() {
		for ctx.Err() == nil {
			io.WriteString(s.Stdout(), strings.Repeat("y\n", 1<<16))
		}
		s.Done(ctx.Err())
		close(ended)
	}()
	for d.queue.held() < maxQueued-1<<18 {
		runtime.Gosched()
	}
	cancel()
	<-ended
	d.Wait()
}

func display(t *testing.T, opt DisplayOptions) *Display {
	t.Helper()
	d, err := NewDisplay(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDisplayModes(t *testing.T) {
	for mode, ok := range map[string]bool{"": true, "auto": true, "plain": true, "rawjson": true, "quiet": true, "none": true, "tty": false, "fancy": false} {
		var out bytes.Buffer
		d, err := NewDisplay(context.Background(), DisplayOptions{Mode: mode, Out: &out, Limits: DefaultLimits})
		if (err == nil) != ok {
			t.Errorf("mode %q: %v", mode, err)
		}
		if err != nil {
			continue
		}
		Start(d, vertex("step")).Done(nil)
		d.Wait()
		switch mode {
		case "quiet", "none":
			if out.Len() > 0 {
				t.Errorf("mode %q wrote %q", mode, out.String())
			}
		case "rawjson":
			var s client.SolveStatus
			if err := json.NewDecoder(&out).Decode(&s); err != nil || len(s.Vertexes) != 1 {
				t.Errorf("rawjson: %v", err)
			}
		default:
			if !strings.Contains(out.String(), "#1 step") {
				t.Errorf("mode %q wrote %q", mode, out.String())
			}
		}
	}
}

// TestOpenStatus: a step ends, and is shown to, when a part of it has not, whether that was told before or with the end.
func TestOpenStatus(t *testing.T) {
	for failure, want := range map[string]string{"": "#1 DONE", "no": "#1 ERROR: no", context.Canceled.Error(): "#1 CANCELED"} {
		for _, together := range []bool{true, false} {
			var out bytes.Buffer
			d, err := NewDisplay(context.Background(), DisplayOptions{Mode: "plain", Out: &out, Limits: DefaultLimits})
			if err != nil {
				t.Fatal(err)
			}
			now, v := time.Now(), vertex("exporting to image").event()
			ev := &client.SolveStatus{Vertexes: []*client.Vertex{v}, Statuses: []*client.VertexStatus{{ID: "pushing a layer", Vertex: v.Digest, Total: 10, Started: &now, Timestamp: now}}}
			if v.Started = &now; !together {
				d.Write(ev)
				ended := *v
				v, ev = &ended, &client.SolveStatus{Vertexes: []*client.Vertex{&ended}}
			}
			v.Completed, v.Error = &now, failure
			d.Write(ev)
			d.Wait()
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q, together %v: want %q, got\n%s", failure, together, want, out.String())
			}
		}
	}
}

func TestMultiGivesEachSinkItsOwn(t *testing.T) {
	var a, b recorder
	Start(Multi(&a, &b), vertex("x")).Done(nil)
	if len(a.events) != 2 || len(b.events) != 2 {
		t.Fatalf("%d and %d events", len(a.events), len(b.events))
	}
	a.events[0].Vertexes[0].Name = "changed"
	if b.events[0].Vertexes[0].Name != "x" {
		t.Error("the sinks share an event")
	}
}
