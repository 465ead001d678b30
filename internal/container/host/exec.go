package host

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// ExecOptions are what is known of a process before it is started.
type ExecOptions struct {
	Process sandbox.Process
	Want    Streams
}

// Exec is one more process of a container.
type Exec struct {
	ID      string
	Options ExecOptions
	Running bool
	PID     int   // on the host; 0 is unknown
	Exit    *Exit // nil before it has ended
}

// maxExecs bounds the processes that are known: of those that have ended the oldest are forgotten, then of those that were not begun.
const maxExecs = 256

// maxExecBytes bounds their arguments and variables together, in the same way.
const maxExecBytes = 16 << 20

// exec is one with what belongs to it. Its fields are guarded by the host's lock.
type exec struct {
	Exec
	begun bool
	size  int // of its arguments and variables, in bytes
	sizes chan sandbox.WinSize
}

// execID is a new one: half of it is the container's ID, by which it is found.
func execID(container string) (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return container[:min(len(container), 32)] + hex.EncodeToString(b[:]), nil
}

// create notes a process that may be started.
func (h *Host) create(opt *ExecOptions) (*Exec, error) {
	if opt == nil || len(opt.Process.Args) == 0 {
		return nil, errors.New("no exec command specified")
	}
	id, err := execID(h.opt.ID)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return nil, errOver
	}
	size := sizeOf(&opt.Process)
	if err := h.makeRoom(size); err != nil {
		return nil, err
	}
	e := &exec{Exec: Exec{ID: id, Options: *opt}, size: size, sizes: make(chan sandbox.WinSize, 1)}
	h.execs[id], h.order = e, append(h.order, id)
	out := e.Exec
	return &out, nil
}

// makeRoom forgets processes until there is room for one more of a size. The lock is held.
func (h *Host) makeRoom(size int) error {
	for sum := h.execSize(); len(h.order) >= maxExecs || len(h.order) > 0 && sum+size > maxExecBytes; sum = h.execSize() {
		i := slices.IndexFunc(h.order, func(id string) bool { return h.execs[id].Exit != nil })
		if i < 0 { // the oldest that nobody has begun
			i = slices.IndexFunc(h.order, func(id string) bool { return !h.execs[id].begun })
		}
		if i < 0 {
			return fmt.Errorf("%d processes run in the container that were started in it, with %d bytes of arguments and variables: there is no room for more", len(h.order), sum)
		}
		delete(h.execs, h.order[i])
		h.order = slices.Delete(h.order, i, i+1)
	}
	return nil
}

// execSize is how many bytes all of them have. The lock is held.
func (h *Host) execSize() (sum int) {
	for _, e := range h.execs {
		sum += e.size
	}
	return sum
}

// sizeOf is how many bytes the arguments and variables of a process have.
func sizeOf(p *sandbox.Process) (n int) {
	for _, text := range slices.Concat(p.Args, p.Env) {
		n += len(text)
	}
	return n
}

// exec finds a process.
func (h *Host) exec(id string) (*exec, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.execs[id]
	if e == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoExec, id)
	}
	return e, nil
}

// inspect tells of a process.
func (h *Host) inspect(id string) (*Exec, error) {
	e, err := h.exec(id)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out := e.Exec
	return &out, nil
}

// claim begins a process, which can be done once.
func (h *Host) claim(id string) (*exec, error) {
	e, err := h.exec(id)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.over:
		return nil, errOver
	case e.begun && e.Exit == nil:
		return nil, fmt.Errorf("exec command %s is already running", id)
	case e.begun:
		return nil, fmt.Errorf("exec command has already run")
	}
	e.begun = true
	return e, nil
}

// runExec starts a process for a client, and gives it its streams. A process whose client has gone runs on.
func (h *Host) runExec(c *conn, q *request) {
	e, err := h.claim(q.Exec)
	if err != nil {
		h.reply(c, nil, err)
		return
	}
	if q.Size != nil {
		h.mu.Lock()
		e.Options.Process.Size = *q.Size
		h.mu.Unlock()
		setSize(e.sizes, *q.Size) // after those that came before
	}
	h.tellExec("exec_start", &e.Exec, nil)
	a := newAttachment(c, e.Options.Want)
	started := make(chan struct{})
	ended := make(chan error, 1)
	streams, stdin := h.execStreams(e, a, q.Detach)
	streams.Started = func() {
		h.mu.Lock()
		e.Running = true
		h.mu.Unlock()
		close(started)
	}
	streams.Used = func(sandbox.Usage) { a.hurry(false) }
	go func() { ended <- h.opt.Exec(h.ctx, &e.Options.Process, streams) }()
	select {
	case <-started:
	case err = <-ended:
		select {
		case <-started: // and has ended at once
			ended <- err
		default:
			_ = stdin.Close()
			h.endExec(e, exitOf(err))
			h.reply(c, nil, err)
			return
		}
	}
	h.reply(c, nil, nil)
	if q.Detach {
		_ = c.CloseWrite()
		h.endExec(e, exitOf(<-ended))
		return
	}
	go a.run()
	go func() {
		if input(c, newInbox(stdin, func() { _ = stdin.Close() })) {
			_, _, _ = c.receive()
		}
		if !h.hasEnded(e) {
			a.drop()
		}
	}()
	exit := exitOf(<-ended)
	_ = stdin.Close()
	h.endExec(e, exit)
	a.end(exit)
}

func (h *Host) hasEnded(e *exec) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return e.Exit != nil
}

func (h *Host) endExec(e *exec, exit Exit) {
	h.mu.Lock()
	e.Running, e.Exit = false, &exit
	h.mu.Unlock()
	h.tellExec("exec_die", &e.Exec, map[string]string{"exitCode": fmt.Sprint(exit.Code)})
}

// tellExec tells of a process, in the beginning with its command.
func (h *Host) tellExec(action string, e *Exec, attributes map[string]string) {
	all := map[string]string{"execID": e.ID}
	maps.Copy(all, attributes)
	if action != "exec_die" {
		action += ": " + strings.Join(e.Options.Process.Args, " ")
	}
	h.opt.Tell(action, all)
}

// execStreams are those of a process whose client is a.
func (h *Host) execStreams(e *exec, a *attachment, detach bool) (streams sandbox.IO, stdin *io.PipeWriter) {
	read, write := io.Pipe()
	streams.Resize = e.sizes
	if detach {
		return streams, write
	}
	if e.Options.Want.Stdin {
		streams.Stdin = read
	}
	if e.Options.Want.Stdout || e.Options.Process.Terminal {
		streams.Stdout = sender{a, frameStdout}
	}
	if e.Options.Want.Stderr {
		streams.Stderr = sender{a, frameStderr}
	}
	return streams, write
}

// sender gives an attachment one of the streams.
type sender struct {
	a    *attachment
	kind byte
}

// Write implements io.Writer.
func (s sender) Write(p []byte) (int, error) {
	s.a.put(s.kind, p)
	return len(p), nil
}

// deadline gives a client some time for the rest.
func deadline(c *conn) { _ = c.SetWriteDeadline(time.Now().Add(lastWords)) }
