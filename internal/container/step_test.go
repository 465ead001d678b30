package container

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/store"
)

// TestStepsAtTheSameTime has many builds of a Dockerfile, each a process of its own, keep what failed: none fails at that, and one is left.
func TestStepsAtTheSameTime(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	ctx := context.Background()
	const builds, rounds = 6, 8
	var managers []*Manager
	for range builds {
		s, err := store.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		managers = append(managers, &Manager{Store: s})
	}
	var done sync.WaitGroup
	for _, m := range managers {
		done.Go(func() {
			for range rounds {
				k := &KeptStep{Step: Step{Slot: "failed-app-00000000"}, Started: time.Now(), Err: errors.New("exit code: 3")}
				if _, err := m.KeepStep(ctx, k); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	left, err := managers[0].Store.Containers(ctx)
	if err != nil || len(left) != 1 || left[0].Name != "failed-app-00000000" {
		t.Fatalf("left: %+v (%v)", left, err)
	}
	if s := managers[0].State(left[0].ID); s.Finished.IsZero() {
		t.Errorf("it never ended: %+v", s)
	}
}
