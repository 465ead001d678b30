package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/containerd/console"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// binary executes bundles with an OCI runtime that has runc's command line.
type binary struct{ path string }

// run implements runner.execute.
func (r *binary) run(ctx context.Context, b *bundle, streams IO) error {
	if b.oci.Linux.CgroupsPath == "" {
		// Runtimes make a cgroup in any case; below a name of ours it can be recognized.
		b.oci.Linux.CgroupsPath = filepath.Join("/slipway", b.spec.ID)
	}
	config, err := json.Marshal(b.oci)
	if err != nil {
		return fmt.Errorf("encoding the bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), config, 0o600); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	cmd := r.command(b, "--log", r.log(b), "--log-format", "json", "run", "--bundle", b.dir, b.spec.ID)
	w, err := wireCommand(b.spec.Terminal, streams, cmd)
	if err != nil {
		return err
	}
	defer w.close()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the OCI runtime: %w", err)
	}
	w.started(true)
	stop := forward(ctx, streams, w, func(sig unix.Signal) { r.signal(b, cmd.Process, sig) })
	werr := cmd.Wait()
	stop()
	// A runtime that was killed left everything as it was; otherwise there is nothing to delete.
	if _, err := os.Stat(filepath.Join(b.dir, "state", b.spec.ID)); err == nil {
		werr = errors.Join(werr, r.command(b, "delete", "--force", b.spec.ID).Run())
	}
	w.drain(ctx)
	return r.result(b, werr)
}

// command is a call of the runtime that dies with the calling thread.
func (r *binary) command(b *bundle, args ...string) *exec.Cmd {
	cmd := exec.Command(r.path, append([]string{"--root", filepath.Join(b.dir, "state")}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	return cmd
}

func (r *binary) log(b *bundle) string { return filepath.Join(b.dir, "runtime.log") }

// signal delivers a signal through the runtime, which passes on all but SIGKILL. That one goes
// to the container's first process; before there is one, to the runtime.
func (r *binary) signal(b *bundle, runtime *os.Process, sig unix.Signal) {
	if sig != unix.SIGKILL {
		_ = runtime.Signal(sig) // it may have ended just now
		return
	}
	var state struct {
		Pid int `json:"init_process_pid"`
	}
	text, err := os.ReadFile(filepath.Join(b.dir, "state", b.spec.ID, "state.json"))
	if err == nil && json.Unmarshal(text, &state) == nil && state.Pid > 0 {
		_ = unix.Kill(state.Pid, unix.SIGKILL) // likewise
		return
	}
	_ = runtime.Kill()
}

// result tells an exit code of the process from a failure of the runtime: only after a failure
// there are errors in its log.
func (r *binary) result(b *bundle, err error) error {
	var exit *exec.ExitError
	if err == nil {
		return nil
	}
	if !errors.As(err, &exit) {
		return fmt.Errorf("waiting for the OCI runtime: %w", err)
	}
	if text := r.failure(b); text != "" {
		return startError(b.spec.Args[0], errors.New(text))
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Errorf("running the OCI runtime: it was killed by signal %d", ws.Signal())
	}
	return &ExitError{Code: exit.ExitCode()}
}

// failure is the last error in the runtime's log.
func (r *binary) failure(b *bundle) (text string) {
	log, err := os.ReadFile(r.log(b))
	if err != nil {
		return ""
	}
	lines := bufio.NewScanner(bytes.NewReader(log))
	for lines.Scan() {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Level == "error" {
			text = entry.Msg
		}
	}
	return text
}

// wireCommand connects a command's streams. With a terminal, the command gets one that it
// controls, and joins the container's own to it.
func wireCommand(terminal bool, streams IO, cmd *exec.Cmd) (*wires, error) {
	if !terminal {
		var p libcontainer.Process
		w, err := wire(false, streams, &p)
		if err != nil {
			return nil, err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
		return w, nil
	}
	w := &wires{streams: streams}
	master, name, err := console.NewPty()
	if err != nil {
		return nil, fmt.Errorf("making a terminal: %w", err)
	}
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a terminal: %w", err), master.Close())
	}
	w.theirs = append(w.theirs, slave)
	w.console = master
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = false, true, true
	w.attach(master)
	return w, nil
}
