package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bkdaemon "github.com/slipway-build/slipway/hack/conformance/daemon"
)

// daemon is a server of BuildKit's API that a row has for itself, and the builder by which buildx knows it.
type daemon struct {
	place *place
	name  string
	addr  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has
}

// tool is one of BuildKit's programs.
func (m *room) tool(name string) string { return filepath.Join(m.settings.buildkit, name) }

// compileTools compiles them where they are not there.
func (m *room) compileTools(ctx context.Context) error {
	return m.do(ctx, command{args: []string{filepath.Join(m.repo, "hack", "buildkit.sh"), m.settings.buildkit}, dir: m.repo, long: true})
}

// slipwayDaemon serves the row's store.
func (p *place) slipwayDaemon() *daemon {
	d := &daemon{place: p, name: "slipway"}
	d.cmd = exec.Command(p.settings.slipway, "--root", p.path("slipway"), "--certs-dir", p.certs, "serve", "--addr", d.listen())
	return d
}

// buildkitDaemon is BuildKit's own.
func (p *place) buildkitDaemon() (*daemon, error) {
	d := &daemon{place: p, name: "buildkitd"}
	config := p.path("buildkitd.toml")
	d.cmd = exec.Command(p.tool("buildkitd"), "--config", config)
	return d, os.WriteFile(config, bkdaemon.Config(p.path("buildkit"), d.listen(), p.served.Addr), 0o600)
}

func (d *daemon) listen() string {
	d.addr = "unix://" + d.place.path(d.name+".sock")
	return d.addr
}

// start starts the server, waits until it answers, and tells buildx of it. The end of the row ends it.
func (d *daemon) start(ctx context.Context) error {
	logPath := d.place.path(d.name + ".log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.Env = append(environ(), "TMPDIR="+d.place.tmp)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	d.ended = make(chan struct{})
	go func() {
		d.cmd.Wait() //nolint:errcheck // it is ended by a signal, or its log tells
		close(d.ended)
	}()
	d.place.atEnd(d.stop)
	for ask := d.buildctl("debug", "workers"); ; {
		_, err := d.place.exec(ctx, ask)
		if err == nil {
			break
		}
		select {
		case <-d.ended:
			return fmt.Errorf("starting %s: it ended:\n%s", d.name, tail(logPath, 20))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return d.place.do(ctx, d.buildx("create", "--name", d.name, "--driver", "remote", d.addr))
}

// stop ends the server, and waits for it.
func (d *daemon) stop() error {
	d.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // then it has ended
	select {
	case <-d.ended:
		return nil
	case <-time.After(20 * time.Second):
		d.cmd.Process.Kill() //nolint:errcheck // then it has ended
		<-d.ended
		return fmt.Errorf("%s did not end", d.name)
	}
}

// buildctl is a command line of buildctl.
func (d *daemon) buildctl(args ...string) command {
	return command{args: append([]string{d.place.tool("buildctl"), "--addr", d.addr}, args...)}
}

// buildx is a command line of buildx, which has nothing but what rows tell it.
func (d *daemon) buildx(args ...string) command {
	return command{
		args: append([]string{d.place.tool("buildx")}, args...),
		env:  []string{"BUILDX_CONFIG=" + d.place.path("buildx"), "BUILDX_BUILDER=" + d.name, "DOCKER_CONFIG=" + d.place.path("docker")},
	}
}

// build builds the context dir of the row, by which the server gets the result into its cache: that is buildx' default.
func (d *daemon) build(dir string, flags ...string) command {
	return d.buildx(append(append([]string{"build", "--progress=quiet"}, flags...), dir)...)
}

// empty removes all that the server has of builds.
func (d *daemon) empty(ctx context.Context) error {
	return d.place.do(ctx, d.buildctl("prune", "--all"))
}

// memory is what the server has of it, or had at most ("VmHWM"), in bytes.
func (d *daemon) memory(field string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return statusField(string(data), field)
}

// statusField is a size of a process' status, in bytes.
func statusField(status, field string) (int64, error) {
	for line := range strings.Lines(status) {
		var kb int64
		if _, err := fmt.Sscanf(line, field+": %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, errors.New("the process' status has no " + field)
}
