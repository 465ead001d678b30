package cli_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-build/slipway/hack/syscalls"
)

// calls MAX COMMAND... runs a command that is to make fewer system calls than that, with all that it starts.
func calls(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: calls MAX COMMAND...")
	}
	most, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	cmd := exec.Command(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[1]), args[2:]...)
	cmd.Args[0] = args[1]
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = scriptEnv(ts)
	n, err := syscalls.Run(cmd)
	if errors.Is(err, syscalls.ErrMissing) {
		ts.Logf("%v", err)
		return
	}
	ts.Check(err)
	ts.Logf("%d system calls", n)
	if n >= most {
		ts.Fatalf("%d system calls, want fewer than %d", n, most)
	}
}

// scriptEnv is the environment of a script's commands.
func scriptEnv(ts *testscript.TestScript) (env []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "SLIPWAY_ROOT", "SLIPWAY_CERTS_DIR"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}
