package build_test

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/longlife"
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
	longlife.Flat(t, life, 60, perBuild)
}

// perBuild is how many objects a build may leave, of the hundreds that it has when it is over: see perRun of the engine's test.
const perBuild = 100
