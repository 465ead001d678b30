package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// sandboxes are the tests that have a daemon of their own.
const sandboxes = `Integration`

// result is what became of a test.
type result struct {
	action string // pass, fail, skip; "" when it did not end
	output strings.Builder
}

type results map[string]*result

// event is a line of test2json.
type event struct {
	Action, Test, Output string
}

// runAll runs the tests until each has had its turn: one that may not run beside others takes all that come after it
// along when it fails, and so does one that ends the program.
func (o *options) runAll(ctx context.Context, p *place, out io.Writer) (results, error) {
	all := results{}
	for {
		before := all.ended()
		failed, err := o.runOnce(ctx, p, all, out)
		if err != nil || ctx.Err() != nil {
			return all, err
		}
		if !failed || all.ended() == before {
			return all, nil
		}
	}
}

// runOnce runs the tests that have not ended, and reports whether some may have been left.
func (o *options) runOnce(ctx context.Context, p *place, all results, out io.Writer) (failed bool, err error) {
	name := ".*"
	if o.run != "" {
		name = "(" + o.run + ")" // "|" parts whole patterns
	}
	args := []string{"tool", "test2json", "-t", p.tests, "-test.v=test2json", "-test.timeout=0", "-test.run=" + sandboxes + "/" + name + "/worker=oci$"}
	var skip []string
	if o.skip != "" {
		skip = append(skip, sandboxes+"/("+o.skip+")")
	}
	for test, r := range all {
		if r.action != "" {
			skip = append(skip, exactly(test))
		}
	}
	if len(skip) > 0 {
		slices.Sort(skip)
		args = append(args, "-test.skip="+strings.Join(skip, "|"))
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = p.sources, p.env()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil {
			all.take(e, out)
			failed = failed || e.Action == "fail"
		}
		if err != nil {
			break
		}
	}
	cmd.Wait() //nolint:errcheck // tests fail: which, the events tell
	return failed, nil
}

// exactly is a pattern for one test; slashes part what is matched by itself.
func exactly(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// matrix are the parts of a test's name after its own: "worker=oci", "frontend=client".
var matrix = regexp.MustCompile(`^[a-z.]+=[^/]*$`)

// unit is the test with a daemon of its own that a test is, or is a part of; "" is none.
func unit(test string) string {
	parts := strings.Split(test, "/")
	if len(parts) < 3 || parts[2] != "worker=oci" {
		return ""
	}
	end := 3
	for end < len(parts) && matrix.MatchString(parts[end]) {
		end++
	}
	return strings.Join(parts[:end], "/")
}

// take notes an event.
func (all results) take(e event, out io.Writer) {
	u := unit(e.Test)
	if u == "" {
		return
	}
	r := all[u]
	if r == nil {
		r = &result{}
		all[u] = r
	}
	switch e.Action {
	case "output":
		r.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == u {
			r.action = e.Action
			fmt.Fprintf(out, "%s %s\n", e.Action, short(u))
		}
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
	return strings.Replace(name, "/worker=oci", "", 1)
}
