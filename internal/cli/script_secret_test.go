package cli_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// agentProgram is the program of testdata/agent, made once for all scripts; it is static, to run
// in containers too.
var agentProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "slipway-agent-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "agent")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./testdata/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// agentTool is the command `agenttool FILE`: it writes the program of testdata/agent.
func agentTool(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agenttool FILE")
	}
	program, err := agentProgram()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), program, 0o755))
}

// nowhere is the command `nowhere TEXT [PATH...]`: neither the files below the paths (the store
// without any), their names nor their targets have the text, nor does what the last command
// printed.
func nowhere(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: nowhere TEXT [PATH...]")
	}
	found := find(ts, args[0], append(args[1:], ts.Getenv("SLIPWAY_ROOT")))
	for _, stream := range []string{"stdout", "stderr"} {
		if containsText([]byte(ts.ReadFile(stream)), args[0]) {
			found = append(found, stream)
		}
	}
	if (len(found) > 0) != neg {
		ts.Fatalf("%q is in: %q", args[0], found)
	}
}

// find returns the files with the text in them, compressed ones included, in their names or their
// targets. It looks again where a file goes meanwhile: a server that lets its store go has what was in one be in another.
func find(ts *testscript.TestScript, text string, roots []string) []string {
	for {
		found, err := findOnce(ts, text, roots)
		if !errors.Is(err, fs.ErrNotExist) {
			ts.Check(err)
			return found
		}
	}
}

func findOnce(ts *testscript.TestScript, text string, roots []string) (found []string, err error) {
	for _, root := range roots {
		root = ts.MkAbs(root)
		if _, err := os.Lstat(root); err != nil {
			ts.Fatalf("%v", err)
		}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			data := []byte(path)
			switch {
			case d.Type().IsRegular():
				if data, err = os.ReadFile(path); err != nil {
					return err
				}
			case d.Type()&fs.ModeSymlink != 0:
				target, err := os.Readlink(path)
				if err != nil {
					return err
				}
				data = append(data, target...)
			}
			if containsText(data, text) || strings.Contains(path, text) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// containsText looks into data, and into what it is compressed from.
func containsText(data []byte, text string) bool {
	if bytes.Contains(data, []byte(text)) {
		return true
	}
	if r, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
		plain, err := io.ReadAll(r)
		return err == nil && bytes.Contains(plain, []byte(text))
	}
	return false
}
