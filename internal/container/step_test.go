package container

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
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

// TestStepThatIsLookedInto has a newer step take the place of one that runs, while somebody has the name that this one would get.
func TestStepThatIsLookedInto(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, ctx := &Manager{Store: s}, context.Background()
	keep := func() store.Container {
		t.Helper()
		c, err := m.KeepStep(ctx, &KeptStep{Step: Step{Slot: "failed-app-00000000"}, Started: time.Now(), Err: errors.New("exit code: 3")})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := keep()
	lock, err := m.lock(ctx, first.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := m.saveState(first.ID, lock, State{PID: 1, Started: time.Now()}); err != nil {
		t.Fatal(err)
	}
	other := store.Container{ID: strings.Repeat("0", 64), Name: "failed-app-00000000." + first.ID[:8], Created: time.Now(), Config: []byte("{}")}
	if err := s.AddContainer(ctx, other); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it has been let go already
		newer := keep()
		if c, err := s.Container(ctx, "failed-app-00000000"); err != nil || c.ID != newer.ID {
			t.Errorf("what is kept is %s (%v), want %s", c.ID, err, newer.ID)
		}
		c, err := s.Container(ctx, first.ID)
		if err != nil {
			t.Fatal(err)
		}
		if config, err := ReadConfig(c); err != nil || !config.AutoRemove {
			t.Errorf("it does not go when it ends: %s (%v)", c.Config, err)
		}
		if want := "failed-app-00000000." + first.ID[:16]; c.Name != want {
			t.Errorf("it is called %s, want %s", c.Name, want)
		}
	}
}
