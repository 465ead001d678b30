package bake

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/cli"
	"github.com/slipway-build/slipway/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	if os.Getenv(ownProcess) != "" {
		os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// ownProcess makes the test's program slipway.
const ownProcess = "SLIPWAY_BAKE_TEST"

// slipway is slipway's command line with a store of its own. It runs in this process: only one at a time.
type slipway struct {
	root string
	base []string // the environment without that of a case
}

// Bake implements Program.
func (s *slipway) Bake(dir string, env, args []string) (stdout, stderr []byte, exit int, err error) {
	args = append([]string{"slipway", "--root", s.root, "bake"}, args...)
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP=") }) {
		return s.ownProcess(dir, env, args) // buildx looks at it once in a process
	}
	os.Clearenv()
	for _, e := range slices.Concat(s.base, env) {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, nil, 0, err
		}
	}
	if err := os.Chdir(dir); err != nil {
		return nil, nil, 0, err
	}
	var out, errs bytes.Buffer
	exit = cli.Main(args, strings.NewReader(""), &out, &errs)
	return out.Bytes(), errs.Bytes(), exit, nil
}

func (s *slipway) ownProcess(dir string, env, args []string) (stdout, stderr []byte, exit int, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, 0, err
	}
	var out, errs bytes.Buffer
	cmd := exec.Cmd{Path: self, Args: args, Dir: dir, Env: slices.Concat(s.base, env, []string{ownProcess + "=1"}), Stdout: &out, Stderr: &errs}
	if err := cmd.Run(); cmd.ProcessState == nil {
		return nil, nil, 0, err
	}
	return out.Bytes(), errs.Bytes(), cmd.ProcessState.ExitCode(), nil
}

// newSlipway changes the environment and the working directory until the test ends.
func newSlipway(t *testing.T) *slipway {
	env := os.Environ()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Clearenv()
		for _, e := range env {
			name, value, _ := strings.Cut(e, "=")
			os.Setenv(name, value) //nolint:errcheck // it was set before
		}
		os.Chdir(wd) //nolint:errcheck // the next test would tell
	})
	root := t.TempDir()
	agent, closeAgent, err := Agent(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAgent() }) //nolint:errcheck // nobody waits for it
	return &slipway{root: filepath.Join(root, "store"), base: []string{agent, "PATH=" + os.Getenv("PATH"), "HOME=" + root, "TMPDIR=" + root}}
}

// ask asks until the answer is the same: where the library walks a map, which error comes first is any, and so is the order
// of some lists. What differs does so each time.
func (s *slipway) ask(c *Case, dir string, want *Run) (diff string, err error) {
	for range 50 {
		got, err := c.Run(s, dir, want.Args)
		if err != nil {
			return "", err
		}
		if diff = Compare(want, got); diff == "" {
			break
		}
	}
	return diff, nil
}

// TestPrintEqualsBuildx gives slipway the definitions and command lines that buildx was given.
func TestPrintEqualsBuildx(t *testing.T) {
	if testing.Short() {
		t.Skip("long: 1785 command lines")
	}
	record, err := ReadRecord(filepath.Join("testdata", "buildx.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for module, recorded := range record.Modules {
		if version, err := Required(module); err != nil || version != recorded {
			t.Fatalf("the record is of %s %s, go.mod has %s (%v): make conformance makes it anew", module, recorded, version, err)
		}
	}
	sources, err := NewSources(record.Modules)
	if err != nil {
		t.Fatal(err)
	}
	s := newSlipway(t)
	for _, c := range record.Cases {
		dir := t.TempDir()
		if err := c.Unpack(sources, dir); err != nil {
			t.Fatal(err)
		}
		for i := range c.Runs {
			want := &c.Runs[i]
			diff, err := s.ask(c, dir, want)
			if err != nil {
				t.Fatal(err)
			}
			if diff != "" {
				t.Errorf("%s: bake %q, with %v:\n%s", c.Name, want.Args, c.Env, diff)
			}
		}
	}
}
