package environments

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/hack/bases/library"
	"github.com/slipway-build/slipway/hack/conformance"
)

// table is the ground of a run of the test and what it compares with.
type table struct {
	ground     *Ground
	repo, tool string
	names      []string // of Dockerfiles
	references map[string]Outcome
}

// TestTable builds Dockerfiles in environments and compares with what root of the machine makes of them, and with the table in
// expected_test.go. SLIPWAY_ENVIRONMENTS=NAME,... chooses environments, SLIPWAY_DOCKERFILES=NAME,... Dockerfiles; =all are all of them, those
// among them that take long. SLIPWAY_PROGRAM is the binary, which is built unless it is given.
func TestTable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("runc needs root")
	}
	tb := newTable(t)
	catalogue := Catalogue()
	tb.references = tb.build(t, catalogue[0])
	for _, name := range tb.names {
		if o := tb.references[name]; !o.Built || o.Left != "" {
			t.Fatalf("root did not build %s:\n%s\n%s", name, o.Log, o.Left)
		}
	}
	var chosen []string
	if testing.Short() {
		chosen = []string{"user", "user-one", "unconfined", "docker"} // one of each mode
	}
	chosen = list("SLIPWAY_ENVIRONMENTS", chosen)
	for _, env := range catalogue[1:] {
		if len(chosen) > 0 && !slices.Contains(chosen, env.Name) {
			continue
		}
		t.Run(env.Name, func(t *testing.T) {
			t.Parallel()
			outcomes := tb.build(t, env)
			for _, name := range tb.names {
				t.Run(name, func(t *testing.T) { tb.judge(t, env.Name, name, outcomes[name]) })
			}
		})
	}
}

func isLarge(dockerfile string) bool { return strings.HasPrefix(dockerfile, "large-") }

// isLong tells Dockerfiles that are built when all are, or by name: the large ones, and thirty steps of what run and layers show with few.
func isLong(dockerfile string) bool { return isLarge(dockerfile) || dockerfile == "run30" }

func list(variable string, otherwise []string) []string {
	if v := os.Getenv(variable); v != "" {
		return strings.Split(v, ",")
	}
	return otherwise
}

func newTable(t *testing.T) *table {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "slipway-environments-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if os.Getenv("SLIPWAY_KEEP") == "" {
			os.RemoveAll(dir)
		}
	})
	names, err := Dockerfiles()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("SLIPWAY_DOCKERFILES") != "all" {
		names = list("SLIPWAY_DOCKERFILES", slices.DeleteFunc(names, isLong))
	}
	tb := &table{repo: repo, names: names, tool: filepath.Join(dir, "tool")}
	program, err := Program(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	command(t, repo, []string{"CGO_ENABLED=0"}, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", tb.tool, "./hack/environments/tool")
	bases, kinds := filepath.Join(dir, "bases"), []string{"busybox"}
	if slices.ContainsFunc(tb.names, isLarge) {
		bases, kinds = filepath.Join(repo, "build", "bases"), library.Kinds
	}
	l, err := library.Open(bases)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if _, err := l.Make(t.Context(), kind); errors.Is(err, baseimage.ErrMissing) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	ground := filepath.Join(dir, "ground")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(ground, 0o755)); err != nil {
		t.Fatal(err)
	}
	tb.ground, err = NewGround(ground, program, l.Handler())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tb.ground.Close)
	return tb
}

func command(t *testing.T, dir string, vars []string, args ...string) {
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), vars...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// build builds all Dockerfiles of the table in an environment.
func (tb *table) build(t *testing.T, env Environment) map[string]Outcome {
	most := 10 * time.Minute
	if slices.ContainsFunc(tb.names, isLarge) {
		most = time.Hour
	}
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	p, err := tb.ground.Open(env, env.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Prepare(tb.names, tb.repo, tb.tool); err != nil {
		t.Fatal(err)
	}
	before := tb.files(t, p)
	output, code, err := p.Run(ctx, p.Command()...)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	after := tb.files(t, p)
	if expected[env.Name].remade {
		before, after = owners.ReplaceAllString(before, "$1"), owners.ReplaceAllString(after, "$1")
	}
	if changed := conformance.Diff(before, after); len(changed) > 0 {
		t.Errorf("the container's root filesystem is not what it was:\n%s", last(strings.Join(changed, "\n"), 30))
	}
	if mode := p.Mode(); mode != expected[env.Name].mode {
		t.Errorf("the isolation is %q, and was to be %q", mode, expected[env.Name].mode)
	}
	all := map[string]Outcome{}
	for _, name := range tb.names {
		o, err := p.Outcome(name)
		if err != nil {
			t.Fatalf("%s: %v\n(exit code %d) %s", name, err, code, output)
		}
		all[name] = o
	}
	return all
}

// owners are those in the lines about directories.
var owners = regexp.MustCompile(`(?m)( d \d+) \d+:\d+$`)

// files lists a container's root filesystem.
func (tb *table) files(t *testing.T, p *Place) string {
	if p.User != nil {
		return ""
	}
	// What the runtime makes, where it mounts, is there from the first container on.
	if output, code, err := p.Run(t.Context(), p.Shell, "-c", ":"); err != nil || code != 0 {
		t.Fatalf("running nothing: %v, exit code %d\n%s", err, code, output)
	}
	lines, err := p.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// judge compares an outcome with root's and with what the table says.
func (tb *table) judge(t *testing.T, env, name string, o Outcome) {
	if o.Left != "" {
		t.Errorf("these processes outlived the build:\n%s", o.Left)
	}
	want := expect(env, name)
	switch {
	case want.notYet && !o.Built:
	case !o.Built && want.fails == "":
		t.Errorf("it is not built:\n%s", last(o.Log, 12))
	case !o.Built && !strings.Contains(o.Log, want.fails):
		t.Errorf("it is to fail with %q:\n%s", want.fails, last(o.Log, 12))
	case o.Built && want.notYet && o.Digest == tb.references[name].Digest:
		t.Log("it is built as it is to be: change expected_test.go")
	case o.Built && want.fails != "":
		t.Errorf("it is built, and was to fail with %q: change expected_test.go", want.fails)
		if o.Digest != tb.references[name].Digest {
			t.Logf("and the image differs from root's:\n%s", difference(t, tb.references[name].Image, o.Image))
		}
	case o.Built && o.Digest == tb.references[name].Digest && want.differs && !want.notYet:
		t.Error("the image is root's, and was to differ: change expected_test.go")
	case o.Built && o.Digest != tb.references[name].Digest && !want.differs:
		t.Errorf("the image differs from root's:\n%s", difference(t, tb.references[name].Image, o.Image))
	}
	became := "as root's"
	switch {
	case !o.Built:
		became = "failed: " + last(o.Log, 1)
	case o.Digest != tb.references[name].Digest:
		became = "another image"
	}
	t.Logf("%.2f s, %s", o.Took.Seconds(), became)
}

func last(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// difference is in which entries and settings two images differ.
func difference(t *testing.T, want, got string) string {
	var a, b conformance.Record
	if err := errors.Join(a.ReadOCI(want, true, nil), b.ReadOCI(got, true, nil)); err != nil {
		t.Fatal(err)
	}
	lines := conformance.Diff(a.JSON(), b.JSON())
	if n := len(lines); n > 40 {
		lines = append(lines[:40], fmt.Sprintf("... and %d lines more", n-40))
	}
	return strings.Join(lines, "\n")
}
