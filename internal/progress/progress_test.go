package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

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

func TestLogIsComplete(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLog(&out)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s := Start(log, vertex(fmt.Sprintf("RUN %d", i)))
			for j := range 500 {
				fmt.Fprintf(s.Stdout(), "line %d of %d\n", j, i)
			}
			io.WriteString(s.Stderr(), "half a line")
			s.Done(nil)
		}()
	}
	wg.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		for _, want := range []string{fmt.Sprintf("RUN %d\n", i), fmt.Sprintf("line 0 of %d\n", i), fmt.Sprintf("line 499 of %d\n", i)} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("log has no %q", want)
			}
		}
	}
	if n := strings.Count(out.String(), "DONE"); n != 4 {
		t.Errorf("%d steps are done, want 4:\n%s", n, out.String())
	}
}

func TestLogReportsWriteError(t *testing.T) {
	r, w := io.Pipe()
	r.CloseWithError(errors.New("disk full"))
	log, err := NewLog(w)
	if err != nil {
		t.Fatal(err)
	}
	Start(log, vertex("a")).Done(nil)
	if err := log.Close(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Close: %v", err)
	}
}

// slow is a terminal that nobody reads.
type slow struct {
	gate chan struct{}
	buf  bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	<-s.gate
	return s.buf.Write(p)
}

func TestDisplayNeverBlocksTheBuild(t *testing.T) {
	out := &slow{gate: make(chan struct{})}
	d, err := NewDisplay("auto", out)
	if err != nil {
		t.Fatal(err)
	}
	s := Start(d, vertex("RUN yes"))
	for range 10000 {
		io.WriteString(s.Stdout(), "y\n") // would hang here
	}
	s.Warn("JSONArgsRecommended", []string{"detail"}, "", nil)
	s.Done(nil)
	close(out.gate)
	warnings := d.Wait()
	if len(warnings) != 1 || string(warnings[0].Short) != "JSONArgsRecommended" {
		t.Errorf("warnings %v", warnings)
	}
	if n := strings.Count(out.buf.String(), " y\n"); n < 10000 {
		t.Errorf("%d lines of 10000 were shown", n)
	}
	Start(d, vertex("late")).Done(nil) // dropped, no panic
}

func TestDisplayModes(t *testing.T) {
	for mode, ok := range map[string]bool{"": true, "auto": true, "plain": true, "rawjson": true, "quiet": true, "none": true, "tty": false, "fancy": false} {
		var out bytes.Buffer
		d, err := NewDisplay(mode, &out)
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
