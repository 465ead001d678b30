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
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/console"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// external executes bundles with an OCI runtime that has runc's command line. All signals go to the
// runtime, which passes them on; SIGKILL kills it together with the container, because it is the
// first process of a pid namespace.
type external struct{ path string }

// guard implements runner.guard: runtimes put each container into a cgroup with the rules that are
// in the bundle.
func (r *external) guard(spec *Spec) (leave func() error, ok bool) {
	return func() error { return nil }, !spec.Insecure && devicesCgroup() != ""
}

// run implements runner.execute.
func (r *external) run(ctx context.Context, b *bundle, streams IO) error {
	if err := plainDev(b.rootfs); err != nil {
		return err
	}
	if err := b.uncover(); err != nil {
		return err
	}
	if b.oci.Linux.CgroupsPath == "" {
		// Runtimes make a cgroup in any case; this one is found if they leave it.
		b.oci.Linux.CgroupsPath = "/" + b.spec.ID
	}
	config, err := json.Marshal(b.oci)
	if err != nil {
		return fmt.Errorf("encoding the bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.scratch, "config.json"), config, 0o600); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	cmd := initproc.RuntimeCommand(r.path, r.args(b, "--log", r.log(b), "--log-format", "json", "run", "--bundle", b.scratch, b.spec.ID)...)
	w, err := wireCommand(b.spec.Terminal, streams, cmd)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.give(b.ids); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the OCI runtime: %w", err)
	}
	w.started()
	if b.oci.Process.ConsoleSize != nil {
		w.resize(b.spec.Size)
	}
	if streams.Started != nil {
		streams.Started() // the runtime does not tell when it has executed the program
	}
	killed := false
	stop := forward(ctx, streams, w, func(sig unix.Signal) {
		killed = killed || sig == unix.SIGKILL
		_ = cmd.Process.Signal(sig) // it may have ended just now
	})
	werr := cmd.Wait()
	stop()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		streams.used(cmd.Process.Pid, &unix.Rusage{Utime: unix.Timeval(u.Utime), Stime: unix.Timeval(u.Stime), Maxrss: u.Maxrss, Inblock: u.Inblock, Oublock: u.Oublock})
	}
	w.drain(ctx)
	// A runtime that is killed leaves the cgroups, and runc those that are not empty after 0.3 s.
	err = r.result(b, werr, killed)
	if cerr := removeCgroups(b.oci.Linux.CgroupsPath); err == nil && cerr != nil {
		err = fmt.Errorf("cleaning up after the OCI runtime: %w", cerr)
	}
	return err
}

// exec implements runner.exec.
func (r *external) exec(context.Context, string, *Process, IO) error {
	return errors.New("running one more process in a container: only the runtime that is linked in does it: leave --runtime out")
}

// plainDev refuses a root filesystem in which /dev is a symbolic link: runc before 1.2 makes its links and
// /dev/ptmx where that leads to on the host.
func plainDev(rootfs string) error {
	root, err := openRoot(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	dev, err := openResolved(root, "dev", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("the root filesystem's /dev is not a directory, which an OCI runtime may follow out of it: %w", err)
	}
	return dev.Close()
}

// args are the arguments for any call of the runtime.
func (r *external) args(b *bundle, args ...string) []string {
	return append([]string{"--root", b.stateDir()}, args...)
}

func (r *external) log(b *bundle) string { return filepath.Join(b.scratch, "runtime.log") }

// result tells an exit code of the process from a failure of the runtime: only after a failure
// there are errors in its log.
func (r *external) result(b *bundle, err error, killed bool) error {
	var exit *exec.ExitError
	if err == nil {
		return nil
	}
	if !errors.As(err, &exit) {
		return fmt.Errorf("waiting for the OCI runtime: %w", err)
	}
	if killed {
		return &ExitError{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL)}
	}
	if text := r.failure(b); text != "" {
		return runtimeError(b.spec, errors.New(text))
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Errorf("running the OCI runtime: it was killed by signal %d", ws.Signal())
	}
	return &ExitError{Code: exit.ExitCode()}
}

// failure is the last error in the runtime's log.
func (r *external) failure(b *bundle) (text string) {
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
		w, err := wire(false, streams, false)
		if err != nil {
			return nil, err
		}
		for i, stream := range []func(*os.File){func(f *os.File) { cmd.Stdin = f }, func(f *os.File) { cmd.Stdout = f }, func(f *os.File) { cmd.Stderr = f }} {
			if w.ends[i] == nil {
				continue
			}
			f, err := w.ends[i].file()
			if err != nil {
				w.close()
				return nil, err
			}
			w.theirs = append(w.theirs, f)
			stream(f)
		}
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

// runtimeError makes one sentence of the reasons of a runtime, which come as text from another
// process.
func runtimeError(spec *Spec, err error) error {
	text, command := err.Error(), spec.Args[0]
	switch {
	case spec.hasCgroup() && strings.Contains(text, "cgroup"):
		return fmt.Errorf("limiting the container's resources: %w (limits and --cgroup-parent need cgroups that can be written to)", errors.New(trimPrefixes(text)))
	case strings.Contains(text, "executable file not found"),
		strings.Contains(text, "exec") && strings.Contains(text, "no such file or directory") && !strings.Contains(text, "mount"):
		return fmt.Errorf("starting %q: %w in the root filesystem", command, ErrCommandNotFound)
	case strings.Contains(text, "permission denied") && strings.Contains(text, "exec"),
		strings.Contains(text, "exec format error"), strings.Contains(text, "is a directory"):
		return fmt.Errorf("starting %q: %w: %s", command, ErrCommandNotExecutable, lastClause(text))
	}
	return fmt.Errorf("starting the container: %w", errors.New(trimPrefixes(text)))
}

// trimPrefixes removes the layers of wrapping that say nothing to a user.
func trimPrefixes(text string) string {
	prefixes := []string{"unable to start container process: ", "error during container init: "}
	for slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(text, p) }) {
		for _, p := range prefixes {
			text = strings.TrimPrefix(text, p)
		}
	}
	return text
}

func lastClause(text string) string {
	parts := strings.Split(text, ": ")
	return parts[len(parts)-1]
}
