package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	imagesource "github.com/slipway-build/slipway/internal/source/image"
)

// What a build asks for, and does not need any more as something else of it failed, another build still gets.
func TestResolveImageOfOneThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := (&Engine{}).NewGroup(t.Context())
		failing, fail := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := g.NewRun(RunOptions{}).ResolveImage(failing, "key", "name", func() (*imagesource.Image, error) {
				<-failing.Done()
				return nil, context.Cause(failing)
			})
			done <- err
		}()
		synctest.Wait()
		got := make(chan error, 1)
		go func() {
			_, err := g.NewRun(RunOptions{}).ResolveImage(t.Context(), "key", "name", func() (*imagesource.Image, error) {
				return &imagesource.Image{}, nil
			})
			got <- err
		}()
		synctest.Wait()
		other := errors.New("another image is not there")
		fail(other)
		if err := <-done; !errors.Is(err, other) {
			t.Errorf("the one that failed: %v", err)
		}
		if err := <-got; err != nil {
			t.Errorf("the other one: %v", err)
		}
		g.cancel(nil)
	})
}
