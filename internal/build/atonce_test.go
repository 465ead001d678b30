package build_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
)

// heard is a display that somebody waits for.
type heard struct {
	mu      sync.Mutex
	changed *sync.Cond
	text    strings.Builder
	ended   map[string]string // the errors of steps, by their names
	over    bool
	late    bool // it was told something when it was over
}

func newHeard() *heard {
	h := &heard{ended: map[string]string{}}
	h.changed = sync.NewCond(&h.mu)
	return h
}

func (h *heard) Write(s *client.SolveStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.late = h.late || h.over
	for _, l := range s.Logs {
		h.text.Write(l.Data)
	}
	for _, v := range s.Vertexes {
		if v.Completed != nil {
			h.ended[v.Name] = v.Error
		}
	}
	h.changed.Broadcast()
}

func (h *heard) wait(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !strings.Contains(h.text.String(), text) {
		h.changed.Wait()
	}
}

func (h *heard) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
}

// The shared step waits for a build that says so. Around it the builds are of their own, and each has its own directory.
const (
	sharedStep = "RUN --mount=type=cache,id=meet,target=/meet echo shared-began; until [ -e /meet/go ]; do usleep 10000; done; echo shared-ended; cat /proc/sys/kernel/random/uuid > /id\n"
	goOn       = "FROM busybox\nRUN --mount=type=cache,id=meet,target=/meet touch /meet/go\n"
)

// shares begins a build with the shared step.
func (h *harness) shares(ctx context.Context, name string) (*heard, chan error, string) {
	h.t.Helper()
	h.write(name+"/Dockerfile", "FROM busybox\nCOPY same /\n"+sharedStep+"COPY own /\nRUN echo "+name+"-ran\n")
	h.write(name+"/same", "same")
	h.write(name+"/own", "of "+name)
	display, done, out := newHeard(), make(chan error, 1), h.out(name)
	go func() {
		_, err := h.builder.Build(ctx, build.Request{Context: h.context + "/" + name, Outputs: to(out)}, display)
		display.close()
		done <- err
	}()
	return display, done, out
}

// letGo lets the shared step end.
func (h *harness) letGo() {
	h.t.Helper()
	h.write("go/Dockerfile", goOn)
	h.build(build.Request{Context: h.context + "/go"})
}

// TestBuildsShare: two builds at the same time, of two calls, have a step that is the same carried out once, and each sees it as its own.
func TestBuildsShare(t *testing.T) {
	h := newHarness(t)
	one, first, out1 := h.shares(t.Context(), "one")
	one.wait("shared-began")
	two, second, out2 := h.shares(t.Context(), "two")
	two.wait("shared-began")
	h.letGo()
	must(t, errors.Join(<-first, <-second))
	id1, err1 := os.ReadFile(out1 + "/id")
	id2, err2 := os.ReadFile(out2 + "/id")
	must(t, errors.Join(err1, err2))
	if string(id1) != string(id2) {
		t.Error("the step ran twice")
	}
	wantFile(t, out1+"/own", "of one")
	wantFile(t, out2+"/own", "of two")
	for name, d := range map[string]*heard{"one": one, "two": two} {
		if text := d.text.String(); strings.Count(text, "shared-began") != 1 || strings.Count(text, "shared-ended") != 1 || !strings.Contains(text, name+"-ran") {
			t.Errorf("%s heard %q", name, text)
		}
		if d.late {
			t.Errorf("%s is told of progress when it is over", name)
		}
	}
	logs, err := filepath.Glob(filepath.Join(h.store.Root(), "builds", "*", "log"))
	must(t, err)
	n := 0
	for _, log := range logs {
		data, err := os.ReadFile(log)
		must(t, err)
		if strings.Contains(string(data), "shared-began") && strings.Contains(string(data), "shared-ended") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d logs have the step's output", n)
	}
	h.clean()
}

// TestBuildsShareWithOneThatIsCancelled: the build that carries a step out is cancelled, and the other one, of another call, gets it.
func TestBuildsShareWithOneThatIsCancelled(t *testing.T) {
	h := newHarness(t)
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	one, first, out1 := h.shares(ctx, "one")
	one.wait("shared-began")
	two, second, out2 := h.shares(t.Context(), "two")
	two.wait("shared-began")
	cancel(stop)
	if err := <-first; !errors.Is(err, stop) {
		t.Errorf("the first: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(h.context, "one")); err != nil { // nobody reads it any more
		t.Fatal(err)
	}
	h.letGo()
	must(t, <-second)
	wantFile(t, out2+"/own", "of two")
	if _, err := os.Stat(out1 + "/own"); err == nil {
		t.Error("the first wrote its output")
	}
	if one.late || strings.Contains(one.text.String(), "shared-ended") || !strings.Contains(two.text.String(), "shared-ended") {
		t.Errorf("they heard %q and %q", one.text.String(), two.text.String())
	}
	for name, err := range two.ended {
		if err != "" {
			t.Errorf("the second saw %s fail: %s", name, err)
		}
	}
	if _, ev := h.build(build.Request{Context: h.context + "/two"}); ev.ranStep("RUN") {
		t.Errorf("what they shared is not in the cache: %q ran", ev.ran)
	}
	h.clean()
}

// TestBuildsShareWithOneThatFails: two builds at the same time are no part of each other's failures.
func TestBuildsShareWithOneThatFails(t *testing.T) {
	h := newHarness(t)
	one, first, _ := h.shares(t.Context(), "one")
	one.wait("shared-began")
	h.write("bad/Dockerfile", "FROM busybox AS a\nCOPY same /\n"+sharedStep+"FROM busybox\nRUN --mount=type=cache,id=meet,target=/meet echo bad-began; until [ -e /meet/fail ]; do usleep 10000; done; exit 3\nCOPY --from=a /id /\n")
	h.write("bad/same", "same")
	bad, failed := newHeard(), make(chan error, 1)
	go func() {
		_, err := h.builder.Build(t.Context(), build.Request{Context: h.context + "/bad"}, progress.SinkFunc(bad.Write))
		failed <- err
	}()
	bad.wait("shared-began")
	bad.wait("bad-began")
	h.write("fail/Dockerfile", strings.ReplaceAll(goOn, "/meet/go", "/meet/fail"))
	h.build(build.Request{Context: h.context + "/fail"})
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "exit code: 3") {
		t.Errorf("the one that fails: %v", err)
	}
	h.letGo()
	must(t, <-first)
}
