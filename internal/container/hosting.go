package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/container/logfile"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// hosting is what a process that runs a container does for others. The zero value is nothing.
type hosting struct {
	*host.Host // nil: nobody is served
	lock       *os.File
	log        *logfile.Writer
}

// errHosted says that another process is there for a container.
var errHosted = errors.New("another process serves the container")

// hosts begins to serve others of a container. start is called when a client wants it to run; nil where it runs anyway. One that another
// process serves is errHosted.
func (m *Manager) hosts(c store.Container, config *Config, start func() error) (h *hosting, err error) {
	h = &hosting{}
	defer func() {
		if err != nil {
			h.release()
		}
	}()
	dir := m.Store.ContainerDir(c.ID)
	if h.lock, err = os.OpenFile(filepath.Join(dir, "host"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return h, err
	}
	if err := unix.Flock(int(h.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return h, errHosted
	}
	if config.Log.Driver != logNone {
		size := config.Log.MaxSize
		if size == 0 {
			size = logfile.DefaultSize
		}
		if h.log, err = logfile.Open(m.logPath(c.ID), size); err != nil {
			return h, err
		}
	}
	h.Host, err = host.Listen(host.Options{
		Dir: dir, ID: c.ID, Log: h.log, Terminal: config.Terminal, OpenStdin: config.OpenStdin && start != nil, StdinOnce: config.StdinOnce, Start: start,
		Exec: func(ctx context.Context, p *sandbox.Process, streams sandbox.IO) error {
			return m.Runner.Exec(ctx, c.ID, p, streams)
		},
		Tell: func(action string, attributes map[string]string) { m.tell(m.renamed(c), action, attributes) },
	})
	return h, err
}

// flush writes what is held back of the log.
func (h *hosting) flush() {
	if h.Host != nil {
		h.Flush()
	}
}

// release ends it.
func (h *hosting) release() {
	if h.log != nil {
		_ = h.log.Close() // what could not be written is lost already
	}
	if h.lock != nil {
		_ = h.lock.Close()
	}
}

// end tells clients how the container has ended, and ends it.
func (h *hosting) end(s State) {
	if h.Host != nil {
		h.End(host.Exit{Code: s.Code(), Error: s.Error})
	}
	h.release()
}

func (m *Manager) logPath(id string) string {
	return filepath.Join(m.Store.ContainerDir(id), "log.json")
}

// logNone is the log driver that keeps nothing.
const logNone = "none"

// ErrNoLog says that nothing is kept of what a container prints.
var ErrNoLog = errors.New("configured logging driver does not support reading")

// LogConfig says what is kept of what a container prints.
type LogConfig struct {
	Driver  string `json:"driver,omitempty"`  // "" and "json-file" are the same, "none" keeps nothing
	MaxSize int64  `json:"maxSize,omitempty"` // of each of the two files, in bytes; 0 is [logfile.DefaultSize]
}

// Logs gives what a container has printed, and follows it as long as it runs.
func (m *Manager) Logs(ctx context.Context, c store.Container, o logfile.Options, give func(*logfile.Entry) error) error {
	config, err := ReadConfig(c)
	if err != nil {
		return err
	}
	if config.Log.Driver == logNone {
		return ErrNoLog
	}
	o.Alive = func() bool { return m.State(c.ID).Running }
	if err := logfile.Read(ctx, m.logPath(c.ID), o, give); err != nil {
		return fmt.Errorf("logs of container %s: %w", c.Name, err)
	}
	return nil
}
