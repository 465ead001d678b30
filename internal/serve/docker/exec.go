package docker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	containertypes "github.com/moby/moby/api/types/container"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// maxEnded bounds how many processes are remembered whose containers may be gone.
const maxEnded = 512

// maxEndedArgs bounds their arguments together, in bytes; those of the newest are kept anyway.
const maxEndedArgs = 4 << 20

// endedExecs are processes that were started by clients of this server and have ended: their containers may have ended with them, and nobody else knows of them then.
type endedExecs struct {
	mu    sync.Mutex
	known map[string]containertypes.ExecInspectResponse
	order []string
	args  int // bytes
}

// argsOf is how many bytes the arguments of a process have.
func argsOf(x containertypes.ExecInspectResponse) (n int) {
	if x.ProcessConfig == nil {
		return 0
	}
	for _, arg := range x.ProcessConfig.Arguments {
		n += len(arg)
	}
	return n + len(x.ProcessConfig.Entrypoint)
}

func (e *endedExecs) add(x containertypes.ExecInspectResponse) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		e.known = map[string]containertypes.ExecInspectResponse{}
	}
	if _, known := e.known[x.ID]; known {
		return
	}
	for e.args += argsOf(x); len(e.order) >= maxEnded || len(e.order) > 0 && e.args > maxEndedArgs; e.order = e.order[1:] {
		e.args -= argsOf(e.known[e.order[0]])
		delete(e.known, e.order[0])
	}
	e.known[x.ID], e.order = x, append(e.order, x.ID)
}

func (e *endedExecs) find(id string) (x containertypes.ExecInspectResponse, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x, ok = e.known[id]
	return x, ok
}

// createExec answers POST /containers/NAME/exec.
func (s *Server) createExec(ctx context.Context, r *request) error {
	var body containertypes.ExecCreateRequest
	if err := r.document(&body); err != nil {
		return err
	}
	if len(body.Cmd) == 0 {
		return invalidf("No exec command specified")
	}
	if body.Privileged {
		if err := s.entitled(insecure, privilegedExec); err != nil {
			return err
		}
	}
	ctx, m, c, err := r.usable(ctx)
	if err != nil {
		return err
	}
	if m.State(c.ID).Running {
		if err := m.KnowsUser(ctx, c, body.User); err != nil { // dockerd tells it here already
			return err
		}
	}
	var size sandbox.WinSize
	if body.ConsoleSize != nil && !r.before("1.42") {
		size = sizeOf(*body.ConsoleSize)
	}
	e, err := m.CreateExec(c, container.ExecOptions{
		Args: body.Cmd, Env: body.Env, Cwd: body.WorkingDir, User: body.User, Terminal: body.Tty, Size: size, Privileged: body.Privileged,
		Want: host.Streams{Stdin: body.AttachStdin, Stdout: body.AttachStdout, Stderr: body.AttachStderr},
	})
	if err != nil {
		return err
	}
	return r.answer(http.StatusCreated, containertypes.ExecCreateResponse{ID: e.ID})
}

// exec is the container of the process that a request is about.
func (r *request) exec(ctx context.Context) (context.Context, *container.Manager, store.Container, error) {
	id, err := container.OfExec(r.name)
	if err != nil {
		return ctx, nil, store.Container{}, err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return ctx, nil, store.Container{}, err
	}
	c, err := view.FindContainer(ctx, b.Store, id)
	if err == nil && c.ID[:32] != id { // a prefix of an ID, but that of another container's name
		err = store.ErrNotFound
	}
	if errors.Is(err, store.ErrNotFound) {
		err = failure{http.StatusNotFound, "No such exec instance: " + r.name}
	}
	return ctx, r.s.manager(b), c, err
}

// inspectExec answers GET /exec/ID/json.
func (s *Server) inspectExec(ctx context.Context, r *request) error {
	_, m, c, err := r.exec(ctx)
	var e *host.Exec
	if err == nil {
		e, err = m.InspectExec(c, r.name)
	}
	if err != nil {
		if x, ok := s.ended.find(r.name); ok {
			return r.answer(http.StatusOK, x)
		}
		if errors.Is(err, container.ErrNotRunning) {
			err = failure{http.StatusNotFound, "No such exec instance: " + r.name}
		}
		return err
	}
	return r.answer(http.StatusOK, execOf(c, e))
}

// execOf describes a process.
func execOf(c store.Container, e *host.Exec) containertypes.ExecInspectResponse {
	p := &e.Options.Process
	x := containertypes.ExecInspectResponse{
		ID: e.ID, Running: e.Running, ContainerID: c.ID, Pid: e.PID, OpenStdin: e.Options.Want.Stdin, OpenStdout: e.Options.Want.Stdout, OpenStderr: e.Options.Want.Stderr, DetachKeys: []byte{},
		ProcessConfig: &containertypes.ExecProcessConfig{Tty: p.Terminal, Entrypoint: p.Args[0], Arguments: append([]string{}, p.Args[1:]...), Privileged: &p.Privileged, User: p.User},
	}
	if e.Exit != nil {
		x.ExitCode = &e.Exit.Code
	}
	return x
}

// startExec answers POST /exec/ID/start.
func (s *Server) startExec(ctx context.Context, r *request) error {
	var body containertypes.ExecStartRequest
	if r.ContentLength != 0 {
		if err := r.document(&body); err != nil {
			return err
		}
	}
	ctx, m, c, err := r.exec(ctx)
	if err != nil {
		return err
	}
	if err := s.mayEnter(m, c); err != nil {
		return err
	}
	e, err := m.InspectExec(c, r.name)
	if err != nil {
		return err
	}
	if e.Options.Process.Privileged { // others may have created it
		if err := s.entitled(insecure, privilegedExec); err != nil {
			return err
		}
	}
	ctx = r.letGo()
	var size *sandbox.WinSize
	if body.ConsoleSize != nil && !r.before("1.42") {
		z := sizeOf(*body.ConsoleSize)
		size = &z
	}
	if !body.Detach {
		return s.attachExec(ctx, r, m, c, e, body.Tty, size)
	}
	session, err := m.RunExec(c, e.ID, true, size)
	if err != nil {
		return failure{containerStatus(err), err.Error()}.or(http.StatusConflict)
	}
	session.Close()
	return r.ok()
}

// attachExec starts a process with its streams on the client's connection, which are as they are or with frames as the client says here, whatever the process has, as
// with dockerd: some clients leave it out. The head of the answer is sent before the process is started: clients
// lose what comes right behind it. What fails then they see as output, and in the exit code.
func (s *Server) attachExec(ctx context.Context, r *request, m *container.Manager, c store.Container, e *host.Exec, raw bool, size *sandbox.WinSize) error {
	switch {
	case e.Exit != nil:
		return failure{http.StatusConflict, "exec command has already run"}
	case e.Running:
		return failure{http.StatusConflict, "exec command " + e.ID + " is already running"}
	}
	terminal := e.Options.Process.Terminal
	conn, in, err := r.hijack(raw)
	if err != nil {
		return err
	}
	session, err := m.RunExec(c, e.ID, false, size)
	if err != nil {
		defer conn.Close()
		s.remember(m, c, e)
		_, stderr := streamsTo(conn, raw)
		_, _ = io.WriteString(stderr, "OCI runtime exec failed: exec failed: unable to start container process: "+execWords(e.Options.Process.Args[0], err)+": unknown\r\n") // who is gone needs no words
		return nil
	}
	ended := func(exit host.Exit) {
		e.Running, e.Exit = false, &exit
		s.ended.add(execOf(c, e))
	}
	_, _ = join(ctx, conn, in, session, joining{terminal: terminal, raw: raw, stdin: e.Options.Want.Stdin, ended: ended}) // the end is told by inspect
	return nil
}

// remember notes a process that has ended.
func (s *Server) remember(m *container.Manager, c store.Container, e *host.Exec) {
	if now, err := m.InspectExec(c, e.ID); err == nil && now.Exit != nil {
		s.ended.add(execOf(c, now))
	}
}

// resizeExec answers POST /exec/ID/resize.
func (s *Server) resizeExec(ctx context.Context, r *request) error {
	size, err := r.size()
	if err != nil {
		return err
	}
	_, m, c, err := r.exec(ctx)
	if err == nil {
		err = m.Resize(c, strings.ToLower(r.name), size)
	}
	if err != nil {
		return err
	}
	return r.ok()
}
