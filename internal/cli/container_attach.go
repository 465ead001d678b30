package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/containerd/console"
	"github.com/moby/term"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// detachKeys is what has a terminal let go of a container, unless other keys are given.
const detachKeys = "ctrl-p,ctrl-q"

func newAttachCmd(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var keys string
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach local standard input, output, and error streams to a running container",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, c, err := a.container(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.attach(cmd.Context(), m, c, !noStdin, sigProxy, keys)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	f.BoolVar(&sigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	f.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

// container is one that the user names, with what manages it.
func (a *app) container(ctx context.Context, name string) (m *container.Manager, c store.Container, err error) {
	if m, err = a.containers(); err != nil {
		return nil, c, err
	}
	c, err = view.FindContainer(ctx, m.Store, name)
	return m, c, err
}

// attach has this process get the streams of a container that runs, until it ends: its exit code is the error's.
func (a *app) attach(ctx context.Context, m *container.Manager, c store.Container, stdin, sigProxy bool, keys string) error {
	config, err := container.ReadConfig(c)
	if err != nil {
		return err
	}
	if !m.State(c.ID).Running {
		return errors.New("you cannot attach to a stopped container, start it first")
	}
	stdin = stdin && config.OpenStdin
	s, err := m.Attach(ctx, c, host.Streams{Stdin: stdin, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	o := sessionOptions{terminal: config.Terminal, stdin: stdin, keys: keys, resize: func(size sandbox.WinSize) { _ = m.Resize(c, "", size) }}
	if sigProxy && !config.Terminal {
		o.signal = func(sig syscall.Signal) { _ = m.Kill(ctx, c, sig) }
	}
	exit, err := a.session(ctx, m, s, o)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		a.warn("what the container has printed last may be missing here: slipway logs has it")
		exit, err = host.Exit{Code: m.State(c.ID).Code()}, nil
	}
	return exitCode(exit, err)
}

// exitCode is the error of how a process has ended.
func exitCode(exit host.Exit, err error) error {
	switch {
	case err != nil:
		return err
	case exit.Error != "":
		return &codeError{exit.Code, errors.New(exit.Error)}
	case exit.Code != 0:
		return &codeError{code: exit.Code}
	}
	return nil
}

// sessionOptions say how streams are joined to those of this process.
type sessionOptions struct {
	terminal, stdin bool
	keys            string                // that let go; "" are [detachKeys]
	resize          func(sandbox.WinSize) // of the terminal
	signal          func(syscall.Signal)  // is told of signals; nil: they end this process
}

// errDetached says that the user has let go.
var errDetached = errors.New("read escape sequence")

// session joins the streams of a process that runs elsewhere to those of this one. Nothing else is held meanwhile.
func (a *app) session(ctx context.Context, m *container.Manager, s *host.Session, o sessionOptions) (exit host.Exit, err error) {
	defer s.Close()
	resume, err := m.Store.Yield()
	if err != nil {
		return exit, err
	}
	defer func() {
		if rerr := resume(); err == nil {
			err = rerr
		}
	}()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if o.signal != nil {
		signals, end := forwardSignals(ctx)
		defer end()
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case sig := <-signals:
					o.signal(syscall.Signal(sig))
				}
			}
		}()
	}
	restore, err := a.joinTerminal(o)
	if err != nil {
		return exit, err
	}
	defer restore()
	detached := make(chan struct{})
	if o.stdin {
		go a.sessionInput(s, o, detached)
	} else {
		go s.Input(eof{})
	}
	exit, err = s.Output(raw(a.stdout), raw(a.stderr))
	select {
	case <-detached:
		return host.Exit{}, errDetached
	default:
	}
	if ctx.Err() != nil {
		return exit, context.Cause(ctx)
	}
	return exit, err
}

// eof is an input that has ended.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// sessionInput sends what is typed.
func (a *app) sessionInput(s *host.Session, o sessionOptions, detached chan struct{}) {
	in := a.stdin
	if o.terminal {
		keys := o.keys
		if keys == "" {
			keys = detachKeys
		}
		if sequence, err := term.ToBytes(keys); err == nil {
			in = &detaching{term.NewEscapeProxy(in, sequence), detached, s}
		}
	}
	s.Input(in)
}

// detaching ends a session when the keys for that are typed.
type detaching struct {
	io.Reader
	detached chan struct{}
	s        *host.Session
}

// Read implements io.Reader.
func (d *detaching) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	var escape term.EscapeError
	if errors.As(err, &escape) {
		close(d.detached)
		d.s.Close()
	}
	return n, err
}

// joinTerminal puts this process's terminal into raw mode, if it has one and the other process too, and passes its size on.
func (a *app) joinTerminal(o sessionOptions) (restore func(), err error) {
	restore = func() {}
	if !o.terminal {
		return restore, nil
	}
	out := terminalOf(a.stdout)
	if in, ok := a.stdin.(*os.File); ok && o.stdin && isTTY(in) {
		c, err := console.ConsoleFromFile(in)
		if err == nil {
			err = c.SetRaw()
		}
		if err != nil {
			return restore, fmt.Errorf("attaching the terminal: %w", err)
		}
		restore = func() { c.Reset() }
	}
	if out == nil || o.resize == nil {
		return restore, nil
	}
	sizes, stop := watchSize(out)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case size := <-sizes:
				o.resize(size)
			}
		}
	}()
	reset := restore
	return func() { close(done); stop(); reset() }, nil
}
