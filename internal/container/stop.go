package container

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/store"
)

// poll is how often a container's state is looked at while its end is waited for.
const poll = 20 * time.Millisecond

// Kill sends a signal to the first process of a running container.
func (m *Manager) Kill(ctx context.Context, c store.Container, sig syscall.Signal) error {
	if !m.State(c.ID).Running {
		return fmt.Errorf("cannot kill container: %s: %w", c.Name, notRunning(c))
	}
	pid, err := m.started(ctx, c)
	if err != nil || pid == 0 {
		return err
	}
	if err := m.signal(c, pid, sig); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", c.Name, err)
	}
	m.tell(c, "kill", map[string]string{"signal": strconv.Itoa(int(sig))})
	if sig == syscall.SIGKILL {
		_, err = m.Wait(ctx, c)
	}
	return err
}

// signal sends a signal to the process that had the number when it was looked up, and to no other one
// that got it since. A process that is gone needs no signal.
func (m *Manager) signal(c store.Container, pid int, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // before Linux 5.3, or forbidden by a filter
		err = unix.Kill(pid, sig)
	case err == nil:
		defer unix.Close(fd)
		if again, perr := m.Process(c); perr != nil || again != pid {
			return nil
		}
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// started waits until a running container has its first process, which takes moments. It is 0 when
// the container ended meanwhile.
func (m *Manager) started(ctx context.Context, c store.Container) (pid int, err error) {
	for end := time.Now().Add(10 * time.Second); ; {
		if pid, err = m.Process(c); err == nil {
			return pid, nil
		}
		if !m.State(c.ID).Running {
			return 0, nil
		}
		if time.Now().After(end) {
			return 0, err
		}
		if err := sleep(ctx, poll); err != nil {
			return 0, err
		}
	}
}

// Stop asks the first process of a container to end by a signal, and kills it after a time; a
// negative one is for ever. A container that does not run is no error.
func (m *Manager) Stop(ctx context.Context, c store.Container, sig syscall.Signal, timeout time.Duration) (err error) {
	if !m.State(c.ID).Running {
		return nil
	}
	pid, err := m.started(ctx, c)
	if err != nil || pid == 0 {
		return err
	}
	if err := m.signal(c, pid, sig); err != nil {
		return fmt.Errorf("cannot stop container: %s: %w", c.Name, err)
	}
	m.tell(c, "kill", map[string]string{"signal": strconv.Itoa(int(sig))})
	defer func() {
		if err == nil {
			m.tell(c, "stop", nil)
		}
	}()
	end := time.Now().Add(timeout)
	for m.State(c.ID).Running {
		if timeout >= 0 && !time.Now().Before(end) {
			if err := m.Kill(ctx, c, syscall.SIGKILL); !errors.Is(err, ErrNotRunning) { // it has ended just before
				return err
			}
			return nil
		}
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
	return nil
}

// ParseSignal reads a signal's name or number; the first that is not "" counts, and SIGTERM if there is none.
func ParseSignal(names ...string) (syscall.Signal, error) {
	for _, name := range names {
		if name != "" {
			return signal.ParseSignal(name)
		}
	}
	return syscall.SIGTERM, nil
}

// StopOf is the signal that ends a container, and how long after it the container is killed; a negative time is for ever. sig and seconds count before what the
// container says, unless they are "" and nil.
func StopOf(c store.Container, sig string, seconds *int) (syscall.Signal, time.Duration, error) {
	config, err := ReadConfig(c)
	if err != nil {
		return 0, 0, err
	}
	s, err := ParseSignal(sig, config.StopSignal)
	if err != nil {
		return 0, 0, err
	}
	n := 10
	switch {
	case seconds != nil:
		n = *seconds
	case config.StopTimeout != nil:
		n = *config.StopTimeout
	}
	return s, time.Duration(n) * time.Second, nil
}

// Restart stops a container, if it runs, and has it run by a process of its own. What was stopped is started, also when ctx ends meanwhile.
func (m *Manager) Restart(ctx context.Context, c store.Container, sig syscall.Signal, timeout time.Duration) error {
	kept, err := m.keep(c.ID)
	if err != nil {
		return err
	}
	if err = m.Stop(ctx, c, sig, timeout); err == nil {
		err = m.Start(context.WithoutCancel(ctx), c)
	}
	err = errors.Join(err, kept.Close())
	if s := m.State(c.ID); !s.Running && !s.Started.IsZero() { // it ended while it was kept, so that who ran it has left it
		err = errors.Join(err, m.removeWanted(context.WithoutCancel(ctx), c.ID))
	}
	if err != nil {
		return fmt.Errorf("cannot restart container %s: %w", c.Name, err)
	}
	m.tell(c, "restart", nil)
	return nil
}

// Wait returns what a container is when it does not run, or not any more.
func (m *Manager) Wait(ctx context.Context, c store.Container) (State, error) {
	for {
		s := m.State(c.ID)
		if !s.Running {
			return s, nil
		}
		if err := sleep(ctx, poll); err != nil {
			return s, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
