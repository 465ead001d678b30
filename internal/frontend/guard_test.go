package frontend

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerui"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestGuardedMemory: what takes more and more memory is given up, although it cannot be stopped.
func TestGuardedMemory(t *testing.T) {
	given, ended := make(chan struct{}), make(chan struct{})
	_, err := guarded(t.Context(), 64<<20, func() (int, error) {
		defer close(ended)
		var kept [][]byte
		for {
			kept = append(kept, make([]byte, 1<<20))
			select {
			case <-given:
				return len(kept), nil
			default:
			}
		}
	})
	close(given)
	<-ended
	if err == nil || !strings.Contains(err.Error(), "more than 64MiB of memory") {
		t.Errorf("error %v", err)
	}
}

// TestGuardedContext: the end of the context ends the wait for what does not look at it.
func TestGuardedContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	given := make(chan struct{})
	defer close(given)
	_, err := guarded(ctx, maxMemory, func() (int, error) {
		cancel(stop)
		<-given
		return 0, nil
	})
	if !errors.Is(err, stop) {
		t.Errorf("error %v, want the cause", err)
	}
}

func TestGuardedResult(t *testing.T) {
	want := errors.New("no such stage")
	if n, err := guarded(t.Context(), maxMemory, func() (int, error) { return 7, want }); n != 7 || err != want {
		t.Errorf("%d, %v", n, err)
	}
}

// What panics while a Dockerfile is read is an error of its build, in whatever goroutine (of the module that is linked: hack/patches).
func TestFrontendThatPanics(t *testing.T) {
	if _, err := guarded(context.Background(), maxMemory, func() (int, error) { panic("at the disco") }); err == nil || !strings.Contains(err.Error(), "panic: at the disco") {
		t.Errorf("the error is %v", err)
	}
	c, err := dockerui.NewClient(&Client{opt: Options{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Build(context.Background(), func(context.Context, *ocispec.Platform, int) (*dockerui.BuildResult, error) { panic("at the disco") })
	if err == nil || !strings.Contains(err.Error(), "panic: at the disco") {
		t.Errorf("the error is %v", err)
	}
}
