package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/containerd/console"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// Exit codes of run that are not the process's.
const (
	exitFailed        = 125 // the container could not be run
	exitNotExecutable = 126
	exitNotFound      = 127
)

func newRunCmd(a *app) *cobra.Command {
	var opts containerFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.createContainer(cmd, &opts, args)
			if err != nil {
				return failed(err)
			}
			if opts.detach {
				return a.runDetached(cmd.Context(), c)
			}
			return a.runContainer(cmd.Context(), c, true)
		},
	}
	if a.calls(cmd) {
		opts.add(cmd.Flags())
		cmd.Flags().BoolVarP(&opts.detach, "detach", "d", false, "Run container in background and print container ID")
	}
	return cmd
}

// failed gives an error the exit code of a container that could not be run.
func failed(err error) error {
	var code *codeError
	if err == nil || errors.As(err, &code) {
		return err
	}
	return &codeError{exitFailed, err}
}

// runContainer runs a container in the foreground. The error carries the process's exit code.
func (a *app) runContainer(ctx context.Context, c store.Container, stdin bool) error {
	signals, stop := forwardSignals(ctx)
	defer stop()
	return a.runWith(ctx, c, stdin, signals)
}

// runWith is runContainer with the signals that go to the process. A container that was made with
// --rm is removed then, also after an interrupt.
func (a *app) runWith(ctx context.Context, c store.Container, stdin bool, signals <-chan int) error {
	m, err := a.containers()
	if err != nil {
		return failed(err)
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return failed(err)
	}
	return a.runChanged(ctx, m, c, config, container.Given{}, stdin, signals)
}

// runChanged is runWith with another config than that of the container, and with what a failed step is given.
func (a *app) runChanged(ctx context.Context, m *container.Manager, c store.Container, config *container.Config, given container.Given, stdin bool, signals <-chan int) error {
	err := a.runConfig(ctx, m, c, config, given, stdin, signals)
	if errors.Is(err, container.ErrRunning) || !config.AutoRemove && !letGo(ctx, m, config, c.ID) {
		return err
	}
	if rerr := m.RemoveEnded(context.WithoutCancel(ctx), c); err == nil {
		err = failed(rerr)
	}
	return err
}

// letGo reports whether a newer build has replaced a failed step while it ran.
func letGo(ctx context.Context, m *container.Manager, config *container.Config, id string) bool {
	if config.Step == nil {
		return false
	}
	c, err := m.Store.Container(context.WithoutCancel(ctx), id)
	if err != nil {
		return false // it is gone
	}
	now, err := container.ReadConfig(c)
	return err == nil && now.AutoRemove
}

func (a *app) runConfig(ctx context.Context, m *container.Manager, c store.Container, config *container.Config, given container.Given, stdin bool, signals <-chan int) (err error) {
	if m.Runner, err = a.Runner(); err != nil {
		return failed(err)
	}
	// What a container prints reaches the terminal as it is, as Docker has it: it may be a program for one.
	streams := sandbox.IO{Stdout: raw(a.stdout), Stderr: raw(a.stderr), Signals: signals, Notice: func(text string) {
		fmt.Fprintf(a.stderr, "WARNING: %s\n", text)
	}}
	if sameFile(a.stdout, a.stderr) {
		streams.Stderr = streams.Stdout // one stream keeps the order of what is written
	}
	if stdin && config.OpenStdin {
		streams.Stdin = a.stdin
	}
	if config.Terminal {
		restore, err := a.attachTerminal(config, &streams)
		if err != nil {
			return failed(err)
		}
		defer restore()
	}
	return exitOf(m.RunAs(ctx, c, config, given, streams))
}

// sameFile reports whether two streams go to the same file, terminal or pipe.
func sameFile(a, b io.Writer) bool {
	fa, fb := fileOf(a), fileOf(b)
	if fa == nil || fb == nil {
		return false
	}
	sa, err := fa.Stat()
	if err != nil {
		return false
	}
	sb, err := fb.Stat()
	return err == nil && os.SameFile(sa, sb)
}

// exitOf turns the end of a process into an error with its exit code.
func exitOf(err error) error {
	var exit *sandbox.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return &codeError{code: exit.Code}
	case errors.Is(err, sandbox.ErrCommandNotFound):
		return &codeError{exitNotFound, err}
	case errors.Is(err, sandbox.ErrCommandNotExecutable):
		return &codeError{exitNotExecutable, err}
	}
	return &codeError{exitFailed, err}
}

// attachTerminal puts this process's terminal into raw mode, for the container's terminal to do
// what is to be done, and passes its size on.
func (a *app) attachTerminal(config *container.Config, streams *sandbox.IO) (restore func(), err error) {
	restore = func() {}
	streams.Stderr = nil // a terminal has one stream
	out := terminalOf(a.stdout)
	if config.OpenStdin {
		in, ok := a.stdin.(*os.File)
		if !ok || !isTTY(in) {
			return restore, errors.New("the input is not a terminal: leave -t away")
		}
		c, err := console.ConsoleFromFile(in)
		if err != nil {
			return restore, fmt.Errorf("attaching the terminal: %w", err)
		}
		if err := c.SetRaw(); err != nil {
			return restore, fmt.Errorf("attaching the terminal: %w", err)
		}
		restore = func() { c.Reset() }
		if out == nil {
			out = in
		}
	}
	if out == nil {
		return restore, nil
	}
	var stop func()
	streams.Resize, stop = watchSize(out)
	reset := restore
	return func() { stop(); reset() }, nil
}

// watchSize sends the size of a terminal, now and whenever it changes.
func watchSize(tty *os.File) (<-chan sandbox.WinSize, func()) {
	sizes := make(chan sandbox.WinSize, 1)
	changed := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(changed, unix.SIGWINCH)
	changed <- unix.SIGWINCH
	go func() {
		for {
			select {
			case <-done:
				return
			case <-changed:
			}
			ws, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ)
			if err != nil {
				continue
			}
			select {
			case sizes <- sandbox.WinSize{Rows: ws.Row, Cols: ws.Col}:
			case <-done:
				return
			}
		}
	}()
	return sizes, func() { signal.Stop(changed); close(done) }
}
