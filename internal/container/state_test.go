package container

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestCopyingIsNotRunning checks who waits for whom, and what is seen meanwhile.
func TestCopyingIsNotRunning(t *testing.T) {
	l := newHostileLab(t)
	ctx := context.Background()
	// It ran once, and the process that ran it was killed: its number may belong to another one by now.
	if err := l.m.saveState(l.c.ID, nil, State{PID: 1, Started: time.Now()}); err != nil {
		t.Fatal(err)
	}
	release, err := l.m.lockToCopy(ctx, l.c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if l.m.State(l.c.ID).Running {
		t.Error("a container counts as running while files are copied into it")
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := l.m.lock(short, l.c.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("running it meanwhile: %v, want it to wait", err)
	}
	if _, err := l.m.lockToCopy(short, l.c.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("copying more meanwhile: %v, want it to wait", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	run, err := l.m.lock(ctx, l.c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !l.m.State(l.c.ID).Running {
		t.Error("it does not count as running")
	}
	if _, err := l.m.lockToCopy(ctx, l.c.ID); !errors.Is(err, ErrRunning) {
		t.Errorf("copying while it runs: %v", err)
	}
	if _, err := l.m.lock(ctx, l.c.ID); !errors.Is(err, ErrRunning) {
		t.Errorf("running it twice: %v", err)
	}
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	if release, err = l.m.lockToCopy(ctx, l.c.ID); err != nil {
		t.Fatal(err)
	}
	release()
}
