package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/store"
)

// State tells what became of a container. The zero value is one that never ran.
type State struct {
	Running  bool      `json:"-"`   // somebody holds the lock
	PID      int       `json:"pid"` // of the slipway process that runs it, or ran it last
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"` // zero while it runs, or when its process was killed
	ExitCode int       `json:"exitCode"`
	Error    string    `json:"error,omitempty"` // why it could not be run
	OOM      bool      `json:"oom,omitempty"`   // the kernel killed it for memory
}

// Lost reports whether its process was killed with the one that ran it, which could not note that.
func (s State) Lost() bool { return !s.Running && !s.Started.IsZero() && s.Finished.IsZero() }

// Word is the state in one word of Docker's.
func (s State) Word() string {
	switch {
	case s.Running:
		return "running"
	case s.Started.IsZero():
		return "created"
	}
	return "exited"
}

// Code is the exit code of a container that ended; one whose process was killed with its slipway has the code of that.
func (s State) Code() int {
	if s.Lost() {
		return 137
	}
	return s.ExitCode
}

// State reads a container's state. What cannot be read counts as never run.
func (m *Manager) State(id string) State {
	var s State
	data, err := os.ReadFile(m.statePath(id))
	if err != nil || json.Unmarshal(data, &s) != nil {
		return State{}
	}
	f, err := os.Open(m.lockPath(id))
	if err != nil {
		return s
	}
	defer f.Close()
	s.Running = errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	return s
}

// Gone reports whether there is no such container any more.
func (m *Manager) Gone(c store.Container) bool {
	_, err := os.Stat(m.Store.ContainerDir(c.ID))
	return errors.Is(err, os.ErrNotExist)
}

func (m *Manager) statePath(id string) string {
	return filepath.Join(m.Store.ContainerDir(id), "state.json")
}

func (m *Manager) lockPath(id string) string {
	return filepath.Join(m.Store.ContainerDir(id), "lock")
}

// saveState records a state; lock is what [Manager.lock] gave, nil where nobody watches the container yet.
func (m *Manager) saveState(id string, lock *os.File, s State) error {
	if lock != nil {
		if err := noteState(lock, s); err != nil {
			return err
		}
	}
	data, err := json.Marshal(s)
	if err == nil {
		path := m.statePath(id)
		err = atomicfile.Write(path, atomicfile.Options{Temporary: path + ".tmp", Mode: 0o600}, func(f *os.File) error {
			_, err := f.Write(data)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("recording the container's state: %w", err)
	}
	return nil
}

// lock makes the container run in this process only, until the file is closed. The kernel closes
// it when the process dies, however that happens. It waits while somebody copies files into the
// container.
func (m *Manager) lock(ctx context.Context, id string) (*os.File, error) {
	f, err := os.OpenFile(m.lockPath(id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking container: %w", err)
	}
	// A shared lock of somebody who looks at the state goes away at once.
	for try := 0; ; try++ {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || try >= 20 && m.State(id).Running {
			break
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrRunning
	}
	return nil, fmt.Errorf("locking container: %w", err)
}

// keep has a container that is to go when it has ended stay, until the file is closed: it is being restarted.
func (m *Manager) keep(id string) (*os.File, error) {
	f, err := os.OpenFile(m.keepPath(id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keeping container: %w", err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), f.Close())
	}
	return f, nil
}

// isKept reports whether somebody has called keep.
func (m *Manager) isKept(id string) (bool, error) {
	f, err := os.Open(m.keepPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK} // it is only asked for: who takes it, be it for a moment, would be in the way of others who look
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, os.NewSyscallError("fcntl", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

func (m *Manager) keepPath(id string) string {
	return filepath.Join(m.Store.ContainerDir(id), "keep")
}

// lockToCopy keeps the container from being run, and other processes from copying files into it,
// until release is called. The container counts as not running all the time. One that runs is
// [ErrRunning].
func (m *Manager) lockToCopy(ctx context.Context, id string) (release func() error, err error) {
	var files []*os.File
	release = func() error {
		var errs []error
		for _, f := range files {
			errs = append(errs, f.Close())
		}
		return errors.Join(errs...)
	}
	for _, l := range []struct {
		path string
		how  int
	}{{filepath.Join(m.Store.ContainerDir(id), "copying"), unix.LOCK_EX}, {m.lockPath(id), unix.LOCK_SH}} {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking container: %w", err), release())
		}
		files = append(files, f)
		for {
			err = unix.Flock(int(f.Fd()), l.how|unix.LOCK_NB)
			if !errors.Is(err, unix.EWOULDBLOCK) || l.how == unix.LOCK_SH {
				break
			}
			if err = sleep(ctx, poll); err != nil {
				break
			}
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrRunning
		}
		if err != nil {
			return nil, errors.Join(err, release())
		}
	}
	return release, nil
}
