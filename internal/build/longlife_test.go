package build_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/build"
)

// A builder that lives long holds nothing of builds that are over.
func TestLongLife(t *testing.T) {
	h := newHarness(t)
	const dockerfile = "FROM busybox AS made\nCOPY same /\nRUN echo made > /made\nFROM busybox\nCOPY --from=made /made /\n"
	h.write("good/Dockerfile", dockerfile+"RUN cat /made\n")
	h.write("bad/Dockerfile", dockerfile+"RUN exit 3\n")
	h.write("ended/Dockerfile", dockerfile+"RUN echo waiting; exec sleep 1000000\n")
	for _, name := range []string{"good", "bad", "ended"} {
		h.write(name+"/same", "same")
	}
	life := func(n int) {
		var all errgroup.Group
		all.SetLimit(3)
		for i := range n {
			all.Go(func() error {
				name := []string{"good", "bad", "good", "ended"}[i%4]
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				display, done := newHeard(), make(chan error, 1)
				go func() {
					_, err := h.builder.Build(ctx, build.Request{Context: h.context + "/" + name, NoCache: i%5 == 0, Outputs: []build.Output{{Type: build.OutputCacheOnly}}}, display)
					done <- err
				}()
				if name == "ended" {
					display.wait("waiting")
					cancel()
				}
				if err := <-done; (err == nil) != (name == "good") {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			})
		}
		must(t, all.Wait())
	}
	life(12)
	before := held()
	const n = 60
	life(n)
	after := held()
	for range 1000 { // what builds that were ended had open, those close who had it, and finalizers
		if after.goroutines <= before.goroutines && after.files <= before.files+5 {
			break
		}
		time.Sleep(time.Millisecond)
		after = held()
	}
	t.Logf("%+v, and after %d builds %+v", before, n, after)
	if after.goroutines > before.goroutines || after.files > before.files+5 || after.objects > before.objects+n*perBuild {
		t.Errorf("it holds %+v, and after %d builds %+v", before, n, after)
	}
}

// perBuild is how many objects a build may leave, of the hundreds that it has when it is over: see perRun of the engine's test.
const perBuild = 100

// holding is what a process holds.
type holding struct{ goroutines, files, objects int }

func held() (h holding) {
	for range 3 { // what has a finalizer takes several
		runtime.GC()
		runtime.Gosched()
	}
	h.goroutines = runtime.NumGoroutine()
	files, _ := filepath.Glob("/proc/self/fd/*")
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && !strings.Contains(to, "/layers/") && !strings.Contains(to, "/meta.db") { // of these the store keeps some open
			h.files++
		}
	}
	objects := []metrics.Sample{{Name: "/gc/heap/objects:objects"}}
	metrics.Read(objects)
	h.objects = int(objects[0].Value.Uint64())
	return h
}
