package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sandboxes are the tests that have a daemon of their own.
const sandboxes = `Integration`

// result is what became of a test.
type result struct {
	name   string // the program's own for it
	action string // pass, fail, skip, hang; "" when it did not end
	output strings.Builder

	since time.Time // it runs since then; zero when it waits for its turn
	again bool      // it ran while another one's daemon was ended: what becomes of it tells nothing
}

type results map[string]*result

// event is a line of test2json.
type event struct {
	Action, Test, Output string
}

// runAll runs the tests until each has had its turn: one that may not run beside others takes all that come after it
// along when it fails, and so does one that ends the program. Those that did not pass, and should have, get another one.
func (o *options) runAll(ctx context.Context, p *place, known list, out io.Writer) (results, error) {
	all := results{}
	r := runner{options: o, place: p, all: all, out: out}
	if err := r.rounds(ctx, ""); err != nil {
		return nil, err
	}
	second := results{}
	var names []string
	for unit, r := range all {
		if r.action == "fail" && known.reason(unit) == "" {
			names = append(names, exactly(unit))
			second[unit] = r
		}
	}
	const most = 40 // that so many failed by chance is not likely
	if len(names) == 0 || len(names) > most || o.record {
		return all, nil
	}
	for unit := range second {
		delete(all, unit)
	}
	slices.Sort(names)
	fmt.Fprintf(out, "once more: %d tests that failed\n", len(names))
	if err := r.rounds(ctx, strings.Join(names, "|")); err != nil {
		return nil, err
	}
	for unit, first := range second {
		if all[unit] == nil || all[unit].action == "" {
			all[unit] = first
		}
		if all[unit].action == "pass" {
			fmt.Fprintf(out, "passed the second time: %s\n", short(unit))
		}
	}
	return all, nil
}

// runner runs the program of a suite.
type runner struct {
	*options
	place *place
	all   results
	out   io.Writer
}

// rounds runs the program until nothing is left of what it should run: all of the part, or the tests of a pattern.
func (r *runner) rounds(ctx context.Context, pattern string) error {
	for {
		before := r.all.ended()
		if err := r.runOnce(ctx, pattern); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.all.ended() == before {
			return nil
		}
	}
}

// args are the program's: it runs what has not ended.
func (r *runner) args(pattern string) []string {
	part := ""
	if r.part != "" {
		part = "/slice=" + strings.Replace(r.part, "/", "-", 1)
	}
	if pattern == "" {
		name := ".*"
		if r.run != "" {
			name = "(" + r.run + ")" // "|" parts whole patterns
		}
		pattern = sandboxes + part + "/" + name + "/" + r.place.worker() + "$"
	}
	var skip []string
	if r.skip != "" {
		skip = append(skip, sandboxes+part+"/("+r.skip+")")
	}
	for _, result := range r.all {
		if result.action != "" {
			skip = append(skip, exactly(result.name))
		}
	}
	args := []string{"tool", "test2json", "-t", r.place.tests, "-test.v=test2json", "-test.timeout=0", "-test.run=" + pattern}
	if len(skip) > 0 {
		slices.Sort(skip)
		args = append(args, "-test.skip="+strings.Join(skip, "|"))
	}
	return args
}

// runOnce runs the program once. A test that takes too long loses its daemon, and when that does not end it, the program is killed.
func (r *runner) runOnce(ctx context.Context, pattern string) error {
	cmd := exec.CommandContext(ctx, "go", r.args(pattern)...)
	cmd.Dir, cmd.Env = r.place.sources, r.place.env()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	events := make(chan event)
	go func() {
		defer close(events)
		lines := bufio.NewReader(stdout)
		for {
			line, err := lines.ReadBytes('\n')
			var e event
			if json.Unmarshal(line, &e) == nil {
				events <- e
			}
			if err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var killed time.Time // when daemons were
	for {
		select {
		case e, ok := <-events:
			if !ok {
				cmd.Wait() //nolint:errcheck // tests fail: which, the events tell
				end(0)     // what it left
				return nil
			}
			r.all.take(e, r.out)
			continue
		case <-tick.C:
		}
		reap(cmd.Process.Pid)
		switch {
		case ctx.Err() != nil:
			end(cmd.Process.Pid)
		case !r.all.overdue(r.timeout):
			killed = time.Time{}
		case killed.IsZero():
			killed = time.Now()
			quit()
		case time.Since(killed) > time.Minute:
			r.all.giveUp(r.timeout, r.out)
			end(cmd.Process.Pid)
			cmd.Process.Kill() //nolint:errcheck // it may have ended
		}
	}
}

// quit ends the daemons so that they tell where they are. SIGQUIT would let them end in order, which takes as long as what they wait for.
func quit() {
	for _, p := range descendants() {
		if p.name == "buildkitd" || p.name == engineName {
			unix.Kill(p.pid, unix.SIGABRT) //nolint:errcheck // it may have ended
		}
	}
}

// overdue reports whether a test runs longer than it may, and notes which ran beside it.
func (all results) overdue(most time.Duration) bool {
	if !slices.ContainsFunc(slices.Collect(maps.Values(all)), func(r *result) bool { return r.late(most) }) {
		return false
	}
	for _, r := range all {
		r.again = r.again || !r.since.IsZero() && !r.late(most)
	}
	return true
}

func (r *result) late(most time.Duration) bool {
	return r.action == "" && !r.since.IsZero() && time.Since(r.since) > most
}

// giveUp notes those that did not even end without their daemons.
func (all results) giveUp(most time.Duration, out io.Writer) {
	for unit, r := range all {
		if r.late(most) {
			r.action = "hang"
			fmt.Fprintf(out, "hang %s\n", short(unit))
		}
		r.since = time.Time{}
	}
}

// workers are the daemons as tests' names have them: BuildKit's, and Docker's with the images of containerd.
var workers = []string{"worker=oci", "worker=dockerd-containerd"}

func (p *place) worker() string {
	if p.engine {
		return workers[1]
	}
	return workers[0]
}

// exactly is a pattern for one test; slashes part what is matched by itself.
func exactly(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// matrix are the parts of a test's name after its own. Others of this form are parts of the test.
var matrix = regexp.MustCompile(`^(env|frontend|history|netmode|network\.host|secmode|security\.insecure)=[^/]*$`)

// unit is the test with a daemon of its own that a test is, or is a part of; "" is none. name is that of the test itself,
// which has the part of the suite in it.
func unit(test string) (unit, name string) {
	parts := strings.Split(test, "/")
	from := 1
	if len(parts) > 1 && strings.HasPrefix(parts[1], "slice=") {
		from = 2
	}
	if len(parts) < from+2 || !slices.Contains(workers, parts[from+1]) {
		return "", ""
	}
	end := from + 2
	for end < len(parts) && matrix.MatchString(parts[end]) {
		end++
	}
	return parts[0] + "/" + strings.Join(parts[from:end], "/"), strings.Join(parts[:end], "/")
}

// take notes an event.
func (all results) take(e event, out io.Writer) {
	u, name := unit(e.Test)
	if u == "" {
		return
	}
	r := all[u]
	if r == nil {
		r = &result{}
		all[u] = r
	}
	r.name = name
	if r.action != "" { // it was given up
		return
	}
	if e.Action == "output" {
		r.output.WriteString(e.Output)
		return
	}
	if e.Test != name {
		return
	}
	switch e.Action {
	case "run", "cont":
		r.since = time.Now()
	case "pause":
		r.since = time.Time{}
	case "pass", "fail", "skip":
		if r.again {
			*r = result{name: name}
			return
		}
		r.action = e.Action
		fmt.Fprintf(out, "%s %s %.1f s\n", r.action, short(u), time.Since(r.since).Seconds())
		r.since = time.Time{}
	}
}

// ended counts the tests that did.
func (all results) ended() (n int) {
	for _, r := range all {
		if r.action != "" {
			n++
		}
	}
	return n
}

// short is a test's name in lists: without what all have.
func short(unit string) string {
	_, name, _ := strings.Cut(unit, "/")
	for _, w := range workers {
		name = strings.Replace(name, "/"+w, "", 1)
	}
	return name
}
