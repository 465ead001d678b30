package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/store"
)

// stateSize is how much of the lock's file a state takes: it is written at once, over the one before.
const stateSize = 4 << 10

// noteState writes a state to the lock's file, where those read it who watch a container that may be removed before they look. Who runs
// the container has it.
func noteState(lock *os.File, s State) error {
	data, err := json.Marshal(s)
	for ; err == nil && len(data) > stateSize; data, err = json.Marshal(s) {
		s.Error = s.Error[:len(s.Error)/2]
	}
	if err == nil {
		_, err = lock.WriteAt(append(data, bytes.Repeat([]byte{' '}, max(0, stateSize-len(data)))...), 0)
	}
	if err != nil {
		return fmt.Errorf("recording the container's state: %w", err)
	}
	return nil
}

// Watch waits for what becomes of a container. No end of it is missed, however short it ran, also when it was removed after that.
type Watch struct {
	m     *Manager
	c     store.Container
	f     *os.File
	first State // as it was in the beginning
}

// Watch begins to watch a container.
func (m *Manager) Watch(c store.Container) (*Watch, error) {
	f, err := os.OpenFile(m.lockPath(c.ID), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container %s: %w", c.Name, store.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("watching container %s: %w", c.Name, err)
	}
	w := &Watch{m: m, c: c, f: f}
	w.first = w.state()
	if w.first.Started.IsZero() { // it ran before states were noted there
		running := w.first.Running
		w.first = m.State(c.ID)
		w.first.Running = running
	}
	return w, nil
}

// Close ends it.
func (w *Watch) Close() error { return w.f.Close() }

// state reads the state.
func (w *Watch) state() (s State) {
	for try := 0; try < 10; try++ {
		data := make([]byte, stateSize)
		n, _ := w.f.ReadAt(data, 0)
		if data = bytes.TrimSpace(data[:n]); len(data) == 0 || json.Unmarshal(data, &s) == nil {
			break
		}
	}
	err := unix.Flock(int(w.f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	s.Running = errors.Is(err, unix.EWOULDBLOCK)
	if err == nil {
		_ = unix.Flock(int(w.f.Fd()), unix.LOCK_UN) // it is open, and was locked
	}
	return s
}

// removed reports whether there is no such container any more.
func (w *Watch) removed() bool {
	var st unix.Stat_t
	return unix.Fstat(int(w.f.Fd()), &st) == nil && st.Nlink == 0
}

// patience is how many looks a container that is to go may be there after its end before it is removed from here: who ran it does that, unless it could not.
const patience = 50

// until looks at the state until it is what is waited for.
func (w *Watch) until(ctx context.Context, enough func(State) bool) (State, error) {
	for look := 1; ; look++ {
		gone := w.removed() // before the state: it is the last one then
		s := w.state()
		if !gone && (s.Lost() || look%patience == 0) {
			if err := w.m.Settle(ctx, w.c); err != nil {
				return s, err
			}
			s = w.state()
		}
		if gone || enough(s) {
			return s, nil
		}
		if err := sleep(ctx, poll); err != nil {
			return s, err
		}
	}
}

// NotRunning waits until the container does not run, and returns how it has ended.
func (w *Watch) NotRunning(ctx context.Context) (State, error) {
	s, err := w.until(ctx, func(s State) bool { return !s.Running })
	if err == nil && s.Started.IsZero() {
		s = w.first
	}
	return s, err
}

// NextExit waits until the container has ended that ran in the beginning, or began to run since.
func (w *Watch) NextExit(ctx context.Context) (State, error) {
	return w.until(ctx, func(s State) bool {
		return !s.Running && (w.first.Running || !s.Started.Equal(w.first.Started))
	})
}

// Removed waits until there is no such container any more, and returns how it has ended last.
func (w *Watch) Removed(ctx context.Context) (State, error) {
	return w.until(ctx, func(State) bool { return false })
}
