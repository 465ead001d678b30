package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-build/slipway/hack/syscalls"
)

// limit is how long one command may take.
const limit = 5 * time.Minute

// otherTurns is how often buildah takes its turn at most: it is here for scale.
const otherTurns = 3

// command is one process to run.
type command struct {
	args []string
	env  []string // added to the environment
	dir  string
	long bool // it may take longer than the limit
}

// task is one contender of a row. Its functions get the repetition, from 0; setup and before
// are not timed.
type task struct {
	what   string // what is timed, for the notes
	why    string // set when the task cannot be run here
	setup  func(ctx context.Context) error
	before func(ctx context.Context, i int) error
	run    func(i int) []command                                   // one after the other; their total time counts
	timed  func(ctx context.Context, i int) (time.Duration, error) // instead of run, where it is known what counts
	memory func() (int64, error)                                   // of who does the work, where the commands only ask for it, in bytes; nil: the commands'
}

// missing is a task that cannot be run.
func missing(why string) task { return task{why: why} }

// commands is a task without preparations.
func commands(what string, c ...command) task {
	return task{what: what, run: func(int) []command { return c }}
}

// row is one line of the table.
type row struct {
	name    string // for -run
	n       int    // repetitions unless -n says otherwise
	goal    string // what slipway wants to reach, for the table; may be empty
	toolset bool   // uses the large image and its tree
	debian  bool   // uses the Debian base image
	client  bool   // goes through buildx: the other one is BuildKit's daemon
	warm    bool   // of warm builds: the bound is slipway without --warm, and the other one BuildKit's daemon
	make    func(ctx context.Context, p *place) (contest, error)
}

// contest is a row ready to be run.
type contest struct {
	what                    string // the first column
	bound, slipway, buildah task
	buildkit                task     // instead of buildah, in rows of clients and of warm builds
	counted                 *counted // may be nil
}

// counted is a command whose system calls are counted, which do not depend on the machine as times do.
type counted struct {
	what  string
	parts int // that the command has; the count is of each, in the mean
	run   command
	calls int64
}

// outcome is what a task came to.
type outcome struct {
	what  string
	why   string // why there are no times
	err   error  // the task failed: why has the short form
	times []time.Duration
	peak  int64 // bytes, of the largest process in any repetition
}

// best is the shortest time, and whether there is one.
func (o *outcome) best() (time.Duration, bool) {
	if len(o.times) == 0 {
		return 0, false
	}
	return slices.Min(o.times), true
}

// median is the middle time, the mean of the middle two when their number is even.
func (o *outcome) median() (time.Duration, bool) {
	n := len(o.times)
	if n == 0 {
		return 0, false
	}
	t := slices.Sorted(slices.Values(o.times))
	return (t[(n-1)/2] + t[n/2]) / 2, true
}

// result is a finished row.
type result struct {
	row                   row
	what                  string
	n                     int
	bound, slipway, other outcome // other: buildah, or in rows of clients and of warm builds BuildKit's daemon
	counted               *counted
}

// run runs a row: its tasks take turns, n times.
func (m *room) run(ctx context.Context, r row) (res result, err error) {
	p, err := m.place(r.name)
	if err != nil {
		return res, err
	}
	defer func() {
		if cerr := p.remove(); err == nil {
			err = cerr
		}
	}()
	c, err := r.make(ctx, p)
	if err != nil {
		return res, err
	}
	res = result{row: r, what: c.what, n: r.n}
	if m.settings.n > 0 {
		res.n = m.settings.n
	}
	other := &c.buildah
	if r.client || r.warm {
		other = &c.buildkit
	}
	if m.settings.noOther {
		*other = missing("left out")
	}
	tasks := []*task{&c.bound, &c.slipway, other}
	outs := []*outcome{&res.bound, &res.slipway, &res.other}
	for i, t := range tasks {
		*outs[i] = outcome{what: t.what, why: t.why}
		if t.why == "" && t.setup != nil {
			outs[i].fail(t.setup(ctx))
		}
	}
	for i := range res.n {
		for k, t := range tasks {
			if ctx.Err() != nil {
				return res, context.Cause(ctx)
			}
			if t == &c.buildah && i >= otherTurns { // it takes long
				continue
			}
			if outs[k].why == "" {
				outs[k].fail(m.repeat(ctx, t, outs[k], i))
			}
		}
	}
	if c.counted != nil {
		res.counted = c.counted
		c.counted.calls, err = m.count(ctx, c.counted.run)
	}
	return res, err
}

// count runs a command and counts its system calls.
func (m *room) count(ctx context.Context, c command) (int64, error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(append(environ(), "TMPDIR="+m.tmp), c.env...)
	return syscalls.Run(cmd)
}

// fail notes an error, if it is one.
func (o *outcome) fail(err error) {
	if err != nil {
		o.err, o.why, o.times = err, "failed", nil
	}
}

// repeat runs a task once and adds what it took to its outcome.
func (m *room) repeat(ctx context.Context, t *task, o *outcome, i int) error {
	if t.before != nil {
		if err := t.before(ctx, i); err != nil {
			return err
		}
	}
	if t.timed != nil {
		took, err := t.timed(ctx, i)
		o.times = append(o.times, took)
		return err
	}
	cmds := t.run(i)
	start := time.Now()
	for _, c := range cmds {
		peak, err := m.exec(ctx, c)
		if err != nil {
			return err
		}
		if t.memory == nil {
			o.peak = max(o.peak, peak)
		}
	}
	took := time.Since(start)
	if t.memory != nil {
		peak, err := t.memory()
		if err != nil {
			return err
		}
		o.peak = max(o.peak, peak)
	}
	o.times = append(o.times, took)
	return nil
}

// exec runs a command to its end and returns the peak memory of its largest process, in bytes.
// Nothing that it started is left behind, except what left its process group on purpose.
func (m *room) exec(ctx context.Context, c command) (peak int64, err error) {
	if !c.long {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if m.settings.verbose {
		fmt.Fprintln(os.Stderr, "  +", strings.Join(c.args, " "))
	}
	logPath := filepath.Join(m.dir, "log")
	log, err := os.Create(logPath)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = log, log // files: no copying by this process
	cmd.Env = append(environ(), "TMPDIR="+m.tmp)
	cmd.Env = append(cmd.Env, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	if err != nil {
		if cmd.Process != nil && ctx.Err() != nil {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return 0, fmt.Errorf("running %s: %w\n%s", strings.Join(c.args, " "), err, tail(logPath, 20))
	}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peak = u.Maxrss << 10
	}
	return peak, nil
}

// environ is the environment without what would change slipway's behaviour.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SLIPWAY_") && !strings.HasPrefix(kv, "BUILDKIT_") && !strings.HasPrefix(kv, "BUILDAH_") {
			env = append(env, kv)
		}
	}
	return env
}
