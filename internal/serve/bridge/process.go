package bridge

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/sys/signal"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxRemembered is how many processes one stream may have had. A client that runs more opens another one.
const maxRemembered = 1 << 14

// stream is a client's one connection to processes of its containers.
type stream struct {
	b   *Bridge
	ctx context.Context

	sending sync.Mutex
	srv     gwpb.LLBBridge_ExecProcessServer

	mu        sync.Mutex
	processes map[string]*process // those that have ended too: something may be under way to them
}

// ExecProcess implements the service. With the stream all its processes end.
func (b *Bridge) ExecProcess(srv gwpb.LLBBridge_ExecProcessServer) error {
	ctx, leave, err := b.enter(srv.Context())
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{b: b, ctx: ctx, srv: srv, processes: map[string]*process{}}
	// The processes are waited for by Close, and not here: one may wait for a client that does not read, until the call returns.
	defer cancel(errors.New("the stream has ended"))
	// Whoever waits for a process to read, or to end, is to see the end of the stream.
	defer context.AfterFunc(ctx, s.end)()
	defer s.end()
	messages := make(chan *gwpb.ExecMessage)
	ended := make(chan error, 1)
	go func() { // it ends with the call
		for {
			m, err := srv.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case m := <-messages:
			if err := s.take(m); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end ends all processes.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		p.kill()
	}
}

// take does what a message says.
func (s *stream) take(m *gwpb.ExecMessage) error {
	if m.ProcessID == "" {
		return status.Error(codes.InvalidArgument, "ProcessID required")
	}
	s.mu.Lock()
	p := s.processes[m.ProcessID]
	s.mu.Unlock()
	if init, ok := m.Input.(*gwpb.ExecMessage_Init); ok {
		if p != nil {
			return status.Errorf(codes.AlreadyExists, "Process %s already exists", short(m.ProcessID))
		}
		return s.start(m.ProcessID, init.Init)
	}
	if p == nil {
		return status.Errorf(codes.NotFound, "IO for process %s not found", short(m.ProcessID))
	}
	switch in := m.Input.(type) {
	case *gwpb.ExecMessage_File:
		if in.File.GetFd() != 0 || p.stdin == nil {
			return status.Errorf(codes.OutOfRange, "fd %d unavailable to write", in.File.GetFd())
		}
		p.stdin.add(in.File.GetData(), in.File.GetEOF())
	case *gwpb.ExecMessage_Resize:
		return p.tell(func(proc gw.ContainerProcess) error {
			return proc.Resize(s.ctx, gw.WinSize{Rows: in.Resize.GetRows(), Cols: in.Resize.GetCols()})
		})
	case *gwpb.ExecMessage_Signal:
		sig, ok := signal.SignalMap[strings.TrimPrefix(in.Signal.GetName(), "SIG")]
		if !ok {
			return status.Errorf(codes.InvalidArgument, "Unknown signal %s", short(in.Signal.GetName()))
		}
		return p.tell(func(proc gw.ContainerProcess) error { return proc.Signal(s.ctx, sig) })
	default:
		return status.Errorf(codes.InvalidArgument, "a client sends no %T", m.Input)
	}
	return nil
}

// send sends a message. One that cannot be sent ends the stream, which its caller sees.
func (s *stream) send(id string, m *gwpb.ExecMessage) error {
	m.ProcessID = id
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return s.srv.Send(m)
}

// start begins a process.
func (s *stream) start(id string, init *gwpb.InitMessage) error {
	if init.GetMeta() == nil {
		return status.Error(codes.InvalidArgument, "process meta is required")
	}
	if slices.Contains(init.Secretenv, nil) {
		return status.Error(codes.InvalidArgument, "invalid nil secret")
	}
	for _, fd := range init.Fds {
		if fd > 2 {
			return status.Errorf(codes.InvalidArgument, "a process has no fd %d: want 0, 1 or 2", fd)
		}
	}
	p := &process{id: id, stream: s, told: make(chan struct{})}
	if slices.Contains(init.Fds, 0) {
		p.stdin = newInput()
	}
	s.mu.Lock()
	full := len(s.processes) >= maxRemembered
	if !full {
		s.processes[id] = p
		s.b.calls.Add(1)
	}
	s.mu.Unlock()
	if full {
		return status.Errorf(codes.ResourceExhausted, "a stream has no more than %d processes", maxRemembered)
	}
	ctr, further, err := s.b.admit(init.ContainerID)
	p.further = further
	go func() {
		defer s.b.calls.Done()
		if err != nil { // of this process alone
			p.run(init, func(gw.StartRequest) (gw.ContainerProcess, error) { return nil, err })
			return
		}
		defer s.b.dismiss(ctr)
		p.run(init, func(req gw.StartRequest) (gw.ContainerProcess, error) { return ctr.Start(s.ctx, req) })
	}()
	return nil
}

// admit finds a container and counts one more process of it; further is one that is not the first.
func (b *Bridge) admit(id string) (ctr *held, further bool, err error) {
	ctr, err = b.container(id, codes.NotFound, "container %s previously released or not created")
	if err != nil {
		return nil, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctr.processes >= b.limits.Processes {
		return nil, false, status.Errorf(codes.ResourceExhausted, "the container has %d processes, which is as many as a client may start at the same time", ctr.processes)
	}
	ctr.processes++
	further, ctr.used = ctr.used, true
	return ctr, further, nil
}

func (b *Bridge) dismiss(ctr *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ctr.processes--
}

// process is one of a container.
type process struct {
	id      string
	stream  *stream
	stdin   *input        // nil: it has none
	told    chan struct{} // closed when the client knows that it has started: before, it is to see no output
	further bool          // another one was started in its container before

	mu      sync.Mutex
	proc    gw.ContainerProcess // from its start on, when nothing is left of pending
	pending []func(gw.ContainerProcess) error
	ended   bool
	killed  bool
}

// maxPending is how many signals and sizes may wait for the start of a process.
const maxPending = 1 << 10

// tell tells the process something, now or when it starts. One that has ended is told nothing.
func (p *process) tell(what func(gw.ContainerProcess) error) error {
	p.mu.Lock()
	proc := p.proc
	switch {
	case p.ended:
		proc = nil
	case proc == nil && len(p.pending) >= maxPending:
		p.mu.Unlock()
		return status.Errorf(codes.ResourceExhausted, "process %s has not started, and %d messages wait for that", short(p.id), maxPending)
	case proc == nil:
		p.pending = append(p.pending, what)
	}
	p.mu.Unlock()
	if proc == nil {
		return nil
	}
	return what(proc)
}

// begun notes that the process runs, and tells it what it is to be told.
func (p *process) begun(proc gw.ContainerProcess) {
	for {
		p.mu.Lock()
		if len(p.pending) == 0 {
			p.proc = proc
			killed := p.killed
			p.mu.Unlock()
			if killed {
				p.kill()
			}
			return
		}
		what := p.pending[0]
		p.pending = p.pending[1:]
		p.mu.Unlock()
		_ = what(proc) // it is as if it came too late
	}
}

// started is the process if it runs.
func (p *process) started() gw.ContainerProcess {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	return p.proc
}

// kill ends the process, now or when it starts.
func (p *process) kill() {
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	if proc := p.started(); proc != nil {
		go func() { _ = proc.Signal(context.WithoutCancel(p.stream.ctx), syscall.SIGKILL) }() // which waits for nobody but the process
	}
}

// run starts the process, waits for it and tells the client. Whatever happens, the client is told that it has started, how it
// has ended, and that this is all: BuildKit's own waits for these, and not for the end of the stream.
func (p *process) run(init *gwpb.InitMessage, start func(gw.StartRequest) (gw.ContainerProcess, error)) {
	s := p.stream
	req := gw.StartRequest{
		Args: init.Meta.Args, Env: init.Meta.Env, SecretEnv: init.Secretenv, User: init.Meta.User, Cwd: init.Meta.Cwd, Tty: init.Tty,
		SecurityMode: init.Security, RemoveMountStubsRecursive: init.Meta.RemoveMountStubsRecursive,
	}
	if p.stdin != nil {
		req.Stdin = p.stdin
		defer p.stdin.Close()
	}
	var outputs []uint32
	for fd, to := range map[uint32]*io.WriteCloser{1: &req.Stdout, 2: &req.Stderr} {
		if slices.Contains(init.Fds, fd) {
			*to = &output{p, fd}
			outputs = append(outputs, fd)
		}
	}
	// Of one that is not the first of its container the client is told at once, as by BuildKit: its own client reads no message
	// as long as nobody takes the output of a process, as when that goes to another one, whose start it waits for.
	if p.further {
		p.announce()
	}
	proc, err := start(req)
	if !p.further {
		p.announce()
	}
	if err == nil {
		p.begun(proc)
		err = proc.Wait()
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	slices.Sort(outputs)
	for _, fd := range outputs {
		_ = s.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: fd, EOF: true}}})
	}
	_ = s.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Exit{Exit: exitMessage(s.ctx, err)}})
	_ = s.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Done{Done: &gwpb.DoneMessage{}}})
}

// announce tells the client that the process has started.
func (p *process) announce() {
	_ = p.stream.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Started{Started: &gwpb.StartedMessage{}}}) // the stream's end is seen elsewhere
	close(p.told)
}

// exitMessage tells how a process ended.
func exitMessage(ctx context.Context, err error) *gwpb.ExitMessage {
	if err == nil {
		return &gwpb.ExitMessage{}
	}
	out := &gwpb.ExitMessage{Code: gwpb.UnknownExitStatus}
	var exit *gwpb.ExitError
	if errors.As(err, &exit) && exit.ExitCode != 0 {
		out.Code = exit.ExitCode
	}
	st, _ := status.FromError(grpcerrors.ToGRPC(ctx, err))
	out.Error = &spb.Status{Code: st.Proto().GetCode(), Message: st.Proto().GetMessage(), Details: st.Proto().GetDetails()}
	return out
}

// output sends what a process writes.
type output struct {
	p  *process
	fd uint32
}

// maxOutput is how much of it one message has.
const maxOutput = 1 << 20

func (o *output) Write(data []byte) (n int, err error) {
	select {
	case <-o.p.told:
	case <-o.p.stream.ctx.Done():
		return 0, context.Cause(o.p.stream.ctx)
	}
	for len(data) > 0 {
		part := data[:min(len(data), maxOutput)]
		if err := o.p.stream.send(o.p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: o.fd, Data: part}}}); err != nil {
			return n, err
		}
		n += len(part)
		data = data[len(part):]
	}
	return n, nil
}

// Close implements io.Closer. The end is told with that of the process.
func (o *output) Close() error { return nil }
