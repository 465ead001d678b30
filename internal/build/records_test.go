package build_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	gw "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
)

// A build that panics ends, and nothing else does.
func TestBuildThatPanics(t *testing.T) {
	h := newHarness(t)
	_, _, err := h.try(build.Request{Evaluate: func(context.Context, gw.Client) (*gw.Result, error) { panic("at the disco") }})
	if err == nil || !strings.Contains(err.Error(), "panic: at the disco") {
		t.Errorf("the error is %v", err)
	}
	h.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	h.build(build.Request{})
}

// A build that leaves no record is in no list of builds while it runs, either, and nothing of it stays.
func TestUnrecorded(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	told := 0
	_, err := h.builder.Build(t.Context(), build.Request{Context: h.context, Unrecorded: true, Outputs: []build.Output{{Type: build.OutputCacheOnly}}}, progress.SinkFunc(func(*client.SolveStatus) {
		told++
		if all, err := h.store.Builds(); err != nil || len(all) != 0 {
			t.Errorf("while it runs builds are %v, %v", all, err)
		}
	}))
	must(t, err)
	if told == 0 {
		t.Error("it tells of nothing")
	}
	if logs, err := filepath.Glob(filepath.Join(h.store.Root(), "*", "*", "*", "log")); err != nil || len(logs) != 0 {
		t.Errorf("there are still %q, %v", logs, err)
	}
}
