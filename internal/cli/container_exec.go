package cli

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// execFlags are those of exec.
type execFlags struct {
	detach, interactive, terminal, privileged bool
	env, envFiles                             []string
	user, cwd, keys                           string
}

func newExecCmd(a *app) *cobra.Command {
	var o execFlags
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  minArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.exec(cmd.Context(), &o, args[0], args[1:])
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.detach, "detach", "d", false, "Detached mode: run command in the background")
	f.StringVar(&o.keys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.StringArrayVarP(&o.env, "env", "e", nil, "Set environment variables")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "Read in a file of environment variables")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVar(&o.privileged, "privileged", false, "Give extended privileges to the command")
	f.BoolVarP(&o.terminal, "tty", "t", false, "Allocate a pseudo-TTY")
	f.StringVarP(&o.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringVarP(&o.cwd, "workdir", "w", "", "Working directory inside the container")
	return cmd
}

// exec runs one more process in a container that runs. Its exit code is the error's.
func (a *app) exec(ctx context.Context, o *execFlags, name string, command []string) error {
	m, c, err := a.container(ctx, name)
	if err != nil {
		return err
	}
	env, err := (&containerFlags{env: o.env, envFiles: o.envFiles}).environment()
	if err != nil {
		return err
	}
	if in, ok := a.stdin.(*os.File); o.terminal && o.interactive && !o.detach && (!ok || !isTTY(in)) {
		return errors.New("cannot attach stdin to a TTY-enabled container because stdin is not a terminal")
	}
	want := host.Streams{Stdin: o.interactive, Stdout: true, Stderr: !o.terminal}
	e, err := m.CreateExec(c, container.ExecOptions{
		Args: command, Env: env, Cwd: o.cwd, User: o.user, Terminal: o.terminal, Privileged: o.privileged, Want: want,
	})
	if err != nil {
		return err
	}
	s, err := m.RunExec(c, e.ID, o.detach, a.terminalSize(o.terminal))
	if err != nil {
		return execError(err)
	}
	if o.detach {
		return s.Close()
	}
	exit, err := a.session(ctx, m, s, sessionOptions{
		terminal: o.terminal, stdin: o.interactive, keys: o.keys, resize: func(size sandbox.WinSize) { _ = m.Resize(c, e.ID, size) },
	})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		a.warn("the session broke off, as the container's process was killed or this one was too slow: what the command has printed last, and its exit code, are missing here")
		exit, err = host.Exit{Code: 128 + int(unix.SIGKILL)}, nil
	}
	return exitCode(exit, err)
}

// execError is the error of a process that could not be started, with Docker's exit code.
func execError(err error) error {
	switch {
	case errors.Is(err, sandbox.ErrCommandNotFound):
		return &codeError{exitNotFound, err}
	case errors.Is(err, sandbox.ErrCommandNotExecutable):
		return &codeError{exitNotExecutable, err}
	}
	return err
}

// terminalSize is that of this process's terminal, if another one is to have one.
func (a *app) terminalSize(wanted bool) *sandbox.WinSize {
	out := terminalOf(a.stdout)
	if !wanted || out == nil {
		return nil
	}
	ws, err := unix.IoctlGetWinsize(int(out.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return nil
	}
	return &sandbox.WinSize{Rows: ws.Row, Cols: ws.Col}
}
