package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mobySuite is the name of moby's integration tests, of the packages that ask for what slipway has, in a release that the Go of go.mod compiles.
// Tests that start a dockerd of their own are in the list: they are about that.
const (
	mobySuite   = "moby"
	mobyModule  = "github.com/moby/moby/v2"
	mobyVersion = "v2.0.0-beta.24"
)

var mobyPackages = []string{"build", "container", "image", "network", "system", "volume"}

// mobyImages are names of the image busybox by which the tests ask for other images.
var mobyImages = []string{"busybox:glibc", "hello-world:frozen", "hello-world:latest", "hello-world:amd64", "hello-world:arm64", "debian:trixie-slim"}

// mobyMost is how long the tests of a package may take.
const mobyMost = 15 * time.Minute

// moby runs moby's tests against slipway. Results are by PACKAGE.TEST.
func (o *options) moby(ctx context.Context, p *place, out io.Writer) (results, error) {
	module, err := p.mobySources(ctx)
	if err != nil {
		return nil, err
	}
	address, stop, err := o.engine(ctx, p)
	if err != nil {
		return nil, err
	}
	defer stop()
	all := results{}
	for _, pkg := range mobyPackages {
		tests, err := p.mobyTests(ctx, module, pkg)
		if err != nil {
			return nil, err
		}
		// One that panics takes those after it along.
		for before := -1; before != len(all) && ctx.Err() == nil; {
			before = len(all)
			if err := o.mobyOnce(ctx, filepath.Join(module, "integration", pkg), tests, address, pkg, all, out); err != nil {
				return nil, err
			}
		}
	}
	return all, ctx.Err()
}

// mobySources finds the sources.
func (p *place) mobySources(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", mobyModule+"@"+mobyVersion)
	cmd.Dir = p.dir // in no module
	data, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", mobyModule, err)
	}
	var m struct{ Dir string }
	return m.Dir, errors.Join(json.Unmarshal(data, &m))
}

// mobyTests compiles a package's tests, or takes what an earlier run compiled.
func (p *place) mobyTests(ctx context.Context, module, pkg string) (string, error) {
	tests := filepath.Join(p.kept, "moby-"+pkg+"-"+mobyVersion+"-"+runtime.Version()+".test")
	if _, err := os.Stat(tests); err == nil {
		return tests, nil
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(module, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(p.dir, file), data, 0o600)
		}
		if err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(p.kept, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-buildvcs=false", "-mod=mod", "-modfile="+filepath.Join(p.dir, "go.mod"), "-o", tests+".new", "./integration/"+pkg)
	cmd.Dir, cmd.Stderr, cmd.Env = module, os.Stderr, append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("compiling moby's tests of %s: %w", pkg, err)
	}
	return tests, os.Rename(tests+".new", tests)
}

// engine starts slipway with the images.
func (o *options) engine(ctx context.Context, p *place) (address string, stop func(), err error) {
	socket := filepath.Join(p.dir, "d")
	address = "unix://" + socket
	env := append(os.Environ(), "SLIPWAY_ROOT="+filepath.Join(p.dir, "store"))
	for _, args := range append([][]string{{"pull", "-q", "busybox"}}, tags()...) {
		cmd := exec.CommandContext(ctx, o.dockerd, args...)
		cmd.Env = env
		if said, err := cmd.CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("slipway %s: %w\n%s", strings.Join(args, " "), err, said)
		}
	}
	cmd := exec.CommandContext(ctx, o.dockerd, "serve", "--addr", "unix://"+filepath.Join(p.dir, "b"), "--docker-addr", address,
		"--allow-insecure-entitlement", "network.host", "--allow-insecure-entitlement", "security.insecure")
	var said bytes.Buffer
	cmd.Env, cmd.Stderr = env, &said
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close() //nolint:errcheck // nothing was sent
			break
		}
		select {
		case err := <-ended:
			return "", nil, fmt.Errorf("slipway serve: %w\n%s", err, said.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return address, func() {
		cmd.Process.Signal(unix.SIGTERM) //nolint:errcheck // it may have ended
		<-ended
	}, nil
}

// tags are the commands that give the image its other names.
func tags() (all [][]string) {
	for _, name := range mobyImages {
		all = append(all, []string{"tag", "busybox", name})
	}
	return all
}

// mobyOnce runs the tests of a package that have not ended.
func (o *options) mobyOnce(ctx context.Context, dir, tests, address, pkg string, all results, out io.Writer) error {
	args := []string{"tool", "test2json", "-t", tests, "-test.v=test2json", "-test.timeout=" + mobyMost.String()}
	if o.run != "" {
		args = append(args, "-test.run="+o.run)
	}
	var skip []string
	for unit := range all {
		if p, test, _ := strings.Cut(short(unit), "."); p == pkg {
			skip = append(skip, exactly(test))
		}
	}
	if o.skip != "" {
		skip = append(skip, o.skip)
	}
	if len(skip) > 0 {
		slices.Sort(skip)
		args = append(args, "-test.skip="+strings.Join(skip, "|"))
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "DOCKER_HOST="+address, "TMPDIR="+filepath.Dir(strings.TrimPrefix(address, "unix://")))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	running := results{}
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil && e.Test != "" {
			running.takeMoby(e, pkg, all, out)
		}
		if err != nil {
			break
		}
	}
	cmd.Wait() //nolint:errcheck // tests fail: which, the events tell
	for unit, r := range running {
		if strings.Contains(r.output.String(), "panic: ") { // the others waited for it
			r.action = "fail"
			all[unit] = r
			fmt.Fprintf(out, "panic %s\n", short(unit))
		}
	}
	return nil
}

// takeMoby notes an event of a test that has not ended.
func (running results) takeMoby(e event, pkg string, all results, out io.Writer) {
	test, _, part := strings.Cut(e.Test, "/")
	unit := mobySuite + "/" + pkg + "." + test
	r := running[unit]
	if r == nil {
		r = &result{name: test}
		running[unit] = r
	}
	switch e.Action {
	case "output":
		r.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		if !part {
			r.action = e.Action
			all[unit] = r
			delete(running, unit)
			fmt.Fprintf(out, "%s %s\n", r.action, short(unit))
		}
	}
}
