package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/hack/conformance"
	"github.com/slipway-build/slipway/hack/conformance/bake"
	"github.com/slipway-build/slipway/hack/conformance/daemon"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

func become(program string, args, env []string) error { return unix.Exec(program, args, env) }

type recorder struct {
	buildx, buildkitd, buildctl, out string
	projects, kept                   string
	dir                              string
	environ                          []string // of buildx and its tests
	builder, config, registry        string
	bases                            map[string]bool
	sources                          *bake.Sources
	seen                             map[string]bool
	questions                        []question
	record                           bake.Record
}

// others are modules with a bake file of their own.
var others = []string{"github.com/moby/buildkit", "github.com/docker/cli", "github.com/tonistiigi/fsutil", "github.com/tonistiigi/go-csvvalue"}

func (r *recorder) main() (err error) {
	if r.dir, err = os.MkdirTemp("/dev/shm", "bake-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	for _, p := range []*string{&r.buildx, &r.buildkitd, &r.buildctl} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	r.seen, r.record.Modules = map[string]bool{}, map[string]string{}
	for _, m := range append([]string{bake.Buildx}, others...) {
		if r.record.Modules[m], err = bake.Required(m); err != nil {
			return fmt.Errorf("finding which %s is required: %w", m, err)
		}
	}
	if r.sources, err = bake.NewSources(r.record.Modules); err != nil {
		return err
	}
	home := filepath.Join(r.dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	agent, closeAgent, err := bake.Agent(home)
	if err != nil {
		return err
	}
	defer closeAgent() //nolint:errcheck // nobody waits for it
	r.environ = []string{agent, "PATH=" + filepath.Join(r.dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + r.dir}
	stop, err := r.start()
	defer stop()
	if err != nil {
		return err
	}
	if err := r.build(); err != nil {
		return err
	}
	calls, err := r.calls()
	if err != nil {
		return err
	}
	for _, c := range calls {
		r.addCall(&c)
	}
	more, err := definitions(r.sources, r.record.Modules)
	if err != nil {
		return err
	}
	for _, c := range more {
		r.add(c, nil, true)
	}
	if err := r.askAll(); err != nil {
		return err
	}
	return r.record.Write(filepath.Join(r.out, "buildx.jsonl"))
}

// build lets buildx build the projects.
func (r *recorder) build() error {
	projects, err := bake.Projects(r.projects)
	if err != nil {
		return err
	}
	for _, p := range projects {
		scratch, err := os.MkdirTemp(r.dir, "project-")
		if err != nil {
			return err
		}
		built, err := p.Build(builder{r}, scratch, r.bases)
		if err != nil {
			return err
		}
		if err := built.Write(filepath.Join(r.out, p.Name+".json")); err != nil {
			return err
		}
	}
	return nil
}

// builder is buildx with the daemon. Attestations are those that a definition asks for (docs/differences.md).
type builder struct{ *recorder }

// Bake implements bake.Program.
func (b builder) Bake(dir string, env, args []string) (stdout, stderr []byte, exit int, err error) {
	return b.recorder.Bake(dir, append(env, "BUILDX_CONFIG="+b.config, "BUILDX_BUILDER="+b.builder, "BUILDX_NO_DEFAULT_ATTESTATIONS=1"), args)
}

// start starts a registry and a daemon, and makes a builder of it.
func (r *recorder) start() (stop func(), err error) {
	reg := registrytest.New()
	stop = reg.Close
	if r.bases, err = conformance.PushBases(reg.Host); err != nil {
		return stop, err
	}
	d := &daemon.Daemon{Buildctl: r.buildctl, Dir: filepath.Join(r.dir, "daemon")}
	if err := d.Start(r.buildkitd, reg.Host); err != nil {
		return stop, err
	}
	r.registry, r.builder = reg.Host, fmt.Sprintf("record-%d", os.Getpid())
	r.config = "/tmp/buildx-" + r.builder // as the tests want it
	stop = func() {
		d.Stop()
		reg.Close()
		os.RemoveAll(r.config) //nolint:errcheck // it has nothing but the builder's name
	}
	create := exec.Command(r.buildx, "create", "--name", r.builder, "--driver", "remote", d.Addr)
	create.Env = append(slices.Clone(r.environ), "BUILDX_CONFIG="+r.config)
	if out, err := create.CombinedOutput(); err != nil {
		return stop, fmt.Errorf("creating a builder: %w: %s", err, out)
	}
	return stop, nil
}

// calls lets buildx' tests run.
func (r *recorder) calls() ([]call, error) {
	if r.kept != "" {
		functions, err := readCalls(filepath.Join(r.kept, "bake.calls"))
		if err != nil {
			return nil, err
		}
		commands, err := readCalls(filepath.Join(r.kept, "tests.calls"))
		return append(functions, commands...), err
	}
	s := &suite{dir: filepath.Join(r.dir, "buildx"), scratch: r.dir, environ: r.environ}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	if err := s.prepare(r.sources.Dir(bake.Buildx)); err != nil {
		return nil, err
	}
	functions, err := s.run("bake", ".")
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(r.dir, "bin"), 0o755); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(self, filepath.Join(r.dir, "bin", "buildx")); err != nil {
		return nil, err
	}
	commands, err := s.run("tests", "TestCapture", "CAPTURE_BUILDX="+r.buildx, "CAPTURE_BUILDER="+r.builder, "CAPTURE_REGISTRY="+r.registry)
	return append(functions, commands...), err
}

// Bake implements bake.Program.
func (r *recorder) Bake(dir string, env, args []string) (stdout, stderr []byte, exit int, err error) {
	cmd := exec.Command(r.buildx, append([]string{"bake"}, args...)...)
	cmd.Dir, cmd.Env = dir, slices.Concat(r.environ, env)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var status *exec.ExitError
	if errors.As(err, &status) {
		err = nil
	}
	return out.Bytes(), errs.Bytes(), cmd.ProcessState.ExitCode(), err
}

var scratch = regexp.MustCompile(`/dev/shm/bake-\d+/`)

// elsewhere is what a machine may have or not.
var elsewhere = regexp.MustCompile(`stat /(root|tmp)/`)

// question is a case and what is asked about it.
type question struct {
	*bake.Case
	args []string
	all  bool // about all targets by their names, and about lists too
}

func (r *recorder) addCall(call *call) {
	c, args := call.asCase(r.sources, r.environ)
	if c == nil {
		return
	}
	if call.Function == "ReadTargets" {
		args = append(args, call.Targets...)
	} else if call.Function != "buildx" {
		r.add(c, args, true)
		return
	}
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--list") || a == "--print" }) {
		args = append(args, "--print")
	}
	r.add(c, args, false)
}

// add notes a question that was not there before.
func (r *recorder) add(c *bake.Case, args []string, all bool) {
	gone := slices.ContainsFunc(args, scratch.MatchString)
	for _, f := range c.Files {
		gone = gone || f.Plain != nil && scratch.MatchString(*f.Plain) || slices.ContainsFunc(f.Args, scratch.MatchString)
	}
	if gone {
		fmt.Printf("%s: is about a file that is gone, left out\n", c.Name)
		return
	}
	key, err := json.Marshal([]any{c.Files, c.Env, args, all})
	if err != nil {
		panic(err) // there is nothing in it that JSON has not
	}
	if !r.seen[string(key)] {
		r.seen[string(key)] = true
		r.questions = append(r.questions, question{c, args, all})
	}
}

// askAll asks buildx all questions.
func (r *recorder) askAll() error {
	var g errgroup.Group
	g.SetLimit(4)
	for _, q := range r.questions {
		g.Go(func() error { return r.ask(q) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, q := range r.questions {
		if len(q.Runs) > 0 {
			r.record.Cases = append(r.record.Cases, q.Case)
		}
	}
	return nil
}

func (r *recorder) ask(q question) error {
	dir, err := os.MkdirTemp(r.dir, "case-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := q.Unpack(r.sources, dir); err != nil {
		return err
	}
	with := func(more ...string) []string { return slices.Concat(q.args, more) }
	lines := [][]string{q.args}
	if q.all {
		list, err := q.Run(r, dir, with("--list=type=targets,format=json"))
		if err != nil {
			return err
		}
		var targets []struct{ Name string }
		json.Unmarshal([]byte(list.Out()), &targets) //nolint:errcheck // where it is none, there are no names
		print := with("--print")
		for _, t := range targets {
			print = append(print, t.Name)
		}
		lines = [][]string{print, with("--list=targets"), with("--list=type=variables,format=json")}
	}
	for _, line := range lines {
		run, err := q.Run(r, dir, line)
		if err != nil {
			return err
		}
		same, err := r.again(q, dir, run)
		if err != nil {
			return err
		}
		if elsewhere.MatchString(run.Stderr) {
			fmt.Printf("%s: %q depends on the machine, left out: %s\n", q.Name, line, run.Stderr)
			continue
		}
		if !same || strings.Contains(run.Out(), time.Now().UTC().Format(time.DateOnly)) {
			fmt.Printf("%s: %q does not say the same twice, left out: %s\n", q.Name, line, run.Stderr)
			continue
		}
		q.Runs = append(q.Runs, *run)
	}
	return nil
}

// again asks again, whether the answer is the same, or the same in another order. The order of the targets of a matrix is
// any, and so is which of several errors is the first.
func (r *recorder) again(q question, dir string, run *bake.Run) (same bool, err error) {
	times := 1
	if run.Exit != 0 {
		times = 8
	}
	for _, f := range q.Files {
		if text, err := r.sources.Read(f.Text); err == nil && strings.Contains(text, "matrix") {
			times = 8
		}
	}
	for range times {
		again, err := q.Run(r, dir, run.Args)
		if err != nil {
			return false, err
		}
		if again.Sorted() != run.Sorted() || again.Stderr != run.Stderr {
			return false, nil
		}
		run.Unordered = run.Unordered || again.Out() != run.Out()
	}
	return true, nil
}
