package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// What a monitor says to who has started it.
const (
	monitorReady = "ready"
	monitorBusy  = "busy" // another process is there for the container
)

const (
	// reachTime is how long a container's process may take to be there.
	reachTime = 15 * time.Second
	// unclaimed is how long a monitor waits for its first client.
	unclaimed = 10 * time.Second
	// removedPoll is how often a monitor that waits looks whether its container is there still.
	removedPoll = 5 * time.Second
)

// Start has a container run by a process of its own, which outlives this one, and returns when its program has been executed. One that runs
// already is [ErrRunning].
func (m *Manager) Start(ctx context.Context, c store.Container) error {
	if err := m.Settle(ctx, c); err != nil {
		return err
	}
	err := m.reach(ctx, c, func(dir string) error {
		if m.State(c.ID).Running {
			return host.ErrRuns
		}
		err := host.Start(dir)
		if errors.Is(err, host.ErrRuns) && !m.State(c.ID).Running { // that one is ending
			return host.ErrNone
		}
		return err
	})
	if errors.Is(err, host.ErrRuns) {
		return ErrRunning
	}
	return err
}

// Attach connects to the streams of a container: it gets what is printed from now on. One that does not run is waited for until somebody
// starts it.
func (m *Manager) Attach(ctx context.Context, c store.Container, want host.Streams) (s *host.Session, err error) {
	err = m.reach(ctx, c, func(dir string) error {
		s, err = host.Attach(dir, want)
		return err
	})
	return s, err
}

// reach asks the process that is there for a container, and starts one if there is none.
func (m *Manager) reach(ctx context.Context, c store.Container, ask func(dir string) error) error {
	dir := m.Store.ContainerDir(c.ID)
	for end := time.Now().Add(reachTime); ; {
		err := ask(dir)
		if !errors.Is(err, host.ErrNone) {
			return err
		}
		if _, serr := os.Stat(dir); serr != nil {
			return fmt.Errorf("container %s: %w", c.Name, store.ErrNotFound)
		}
		if time.Now().After(end) {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
		spawned := false
		if !m.State(c.ID).Running {
			if spawned, err = m.spawn(ctx, c.ID); err != nil {
				return fmt.Errorf("starting container %s: %w", c.Name, err)
			}
		}
		if !spawned {
			if err := sleep(ctx, poll); err != nil {
				return err
			}
		}
	}
}

// spawn starts a monitor. It is false if another process is there for the container.
func (m *Manager) spawn(ctx context.Context, id string) (bool, error) {
	if m.Command == nil {
		return false, errors.New("this process cannot start others")
	}
	read, write, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("making a pipe: %w", err)
	}
	defer read.Close()
	cmd := m.Command(id)
	cmd.ExtraFiles = []*os.File{write} // descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if err = errors.Join(err, write.Close()); err != nil {
		return false, fmt.Errorf("starting the container's process: %w", err)
	}
	go func() { _ = cmd.Wait() }() // it may live longer than this process

	// Nobody waits for one whose client is gone: it leaves when nobody comes.
	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Now()) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(read, 1<<16))
	if err != nil && ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("hearing of the container's process: %w", err)
	}
	switch word := string(bytes.TrimSpace(said)); word {
	case monitorReady:
		return true, nil
	case monitorBusy:
		return false, nil
	case "":
		return false, errors.New("the container's process ended before it was ready")
	default:
		return false, errors.New(strings.TrimPrefix(word, "error: "))
	}
}

// Monitor is the process that [Manager.Start] and [Manager.Attach] start: it runs a container for them. What it says goes to ready, which it closes
// when it has said all.
func (m *Manager) Monitor(ctx context.Context, id string, ready io.WriteCloser) (err error) {
	told := sync.OnceFunc(func() { _ = ready.Close() })
	defer func() {
		if err != nil {
			fmt.Fprintf(ready, "error: %v", err)
		}
		told()
	}()
	c, err := m.Store.Container(ctx, id)
	if err != nil {
		return err
	}
	config, err := ReadConfig(c)
	if err != nil {
		return err
	}
	begin := &beginning{asked: make(chan struct{}), began: make(chan struct{})}
	h, err := m.hosts(c, config, begin.start)
	if errors.Is(err, errHosted) {
		fmt.Fprint(ready, monitorBusy)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprint(ready, monitorReady)
	told()
	wanted, err := m.await(ctx, m.Store.ContainerDir(id), h, begin)
	if err != nil || !wanted {
		begin.done(errors.Join(err, host.ErrNone))
		h.end(State{ExitCode: 128})
		return nil
	}
	streams := sandbox.IO{Started: func() { begin.done(nil) }}
	ctx, done := m.stopping(ctx, c)
	defer done()
	runErr := m.run(ctx, c, config, Given{}, streams, h, func(err error) { begin.done(err) })
	if errors.Is(runErr, ErrRunning) {
		return nil
	}
	return m.removeWanted(context.WithoutCancel(ctx), id)
}

// stopping is a context in which a container is run: where the first one ends, as when the machine does, the container is stopped as it wants to be, and the
// context ends only if that fails.
func (m *Manager) stopping(first context.Context, c store.Container) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(first))
	stop := context.AfterFunc(first, func() {
		if !m.State(c.ID).Running { // not yet, or not any more
			cancel(context.Cause(first))
			return
		}
		sig, timeout, err := StopOf(c, "", nil)
		if err == nil {
			err = m.Stop(ctx, c, sig, timeout)
		}
		if err != nil {
			cancel(errors.Join(context.Cause(first), err))
		}
	})
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// await waits until somebody wants the container of a directory to run. It is not wanted when the last client has gone before, or the container.
func (m *Manager) await(ctx context.Context, dir string, h *hosting, begin *beginning) (wanted bool, err error) {
	resume, err := m.Store.Yield() // nobody waits for who waits
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, resume()) }()
	first := time.NewTimer(unclaimed)
	defer first.Stop()
	look := time.NewTicker(removedPoll)
	defer look.Stop()
	for {
		select {
		case <-begin.asked:
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-h.Left():
		case <-first.C:
		case <-look.C:
			if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
				return false, nil
			}
			continue
		}
		select {
		case <-begin.asked: // and is gone
			return true, nil
		default:
		}
		if h.Leave() {
			return false, nil
		}
	}
}

// beginning is the start of a container that a monitor waits for.
type beginning struct {
	asked chan struct{} // closed when somebody wants it
	began chan struct{} // closed when it is over, and err says how

	once, over sync.Once
	err        error
}

// start is what a client wants: the container is to run. It returns when it does.
func (b *beginning) start() error {
	first := false
	b.once.Do(func() {
		first = true
		close(b.asked)
	})
	<-b.began
	if !first && b.err == nil {
		return host.ErrRuns
	}
	return b.err
}

// done says how it went; what is said later does not count.
func (b *beginning) done(err error) {
	b.over.Do(func() {
		b.err = err
		close(b.began)
	})
}
