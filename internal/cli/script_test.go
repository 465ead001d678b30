package cli_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/internal/cli"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// names are those that slipway has as a command of the scripts.
var names = []string{"slipway", "docker", "buildkitd", "buildctl", "executor"}

// TestMain makes this test binary the commands of the scripts, and the first process of their containers.
func TestMain(m *testing.M) {
	sandbox.Init()
	commands := map[string]func(){}
	for _, name := range names {
		commands[name] = func() { os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
	}
	testscript.Main(m, commands)
}

// TestScripts runs testdata/script/*.txtar. Each has a store of its own on a tmpfs, and a
// registry that serves busybox as docker.io/library/busybox (and alpine, by another tag of the
// same image); $REGISTRY is its host. Nothing else of docker.io can be reached. The commands are SLIPWAY_PROGRAM, which `make test`
// sets to what it built and which starts sooner, or this test binary.
//
// Besides testscript's own commands there are:
//
//	ran STEP...      the last command's progress shows that the steps ran; `! ran` that they did not
//	cached STEP...   it shows that they were taken from the cache
//	mtime FILE TIME  set a file's modification time (RFC 3339)
//	mode FILE MODE   check a file's permission bits (octal, with set-ID and sticky bits)
//	waitfor FILE [RE]  wait until a file exists, of which the name may be a pattern, and has a line that matches, or until a server (http://) answers with one
//	clean            no mount and no process of a container of this script is left
//	replace FILE OLD NEW
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	testscript.Run(t, scripts(t, "testdata/script"))
}

// scripts are those of a directory, as [TestScripts] runs them.
func scripts(t *testing.T, dir string) testscript.Params {
	reg := registrytest.Start(t)
	certs := serveBusybox(t, reg)
	programs := built(t)
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: false,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			root, err := os.MkdirTemp(tmpfs(), "slipway-script-")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(root) })
			env.Defer(func() { endMonitors(root) }) // of a script that failed
			if programs != "" {
				env.Setenv("PATH", programs+string(filepath.ListSeparator)+env.Getenv("PATH"))
			}
			env.Setenv("SLIPWAY_ROOT", filepath.Join(root, "store"))
			env.Setenv("UNIQUE", filepath.Base(root)) // for what is the machine's: another run of the tests may be beside
			env.Setenv("SLIPWAY_CERTS_DIR", certs)
			env.Setenv("SLIPWAY_VERIFY", "forms") // every planned layer is written both ways
			env.Setenv("REGISTRY", reg.Host)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", os.Getenv("GORACE")) // `make race` has suppressions there
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ran":     func(ts *testscript.TestScript, neg bool, args []string) { steps(ts, neg, args, "DONE") },
			"cached":  func(ts *testscript.TestScript, neg bool, args []string) { steps(ts, neg, args, "CACHED") },
			"mtime":   mtime,
			"mode":    mode,
			"waitfor": waitFor,
			"clean":   clean,
			"replace": replace,
			// In script_calls_test.go.
			"calls": calls,
			// In script_build_test.go.
			"registry": ownRegistry,
			// In script_daemon_test.go.
			"daemon": daemon,
			// In script_secret_test.go.
			"agenttool": agentTool, "nowhere": nowhere,
			// In script_server_test.go.
			"serve": serve,
			// In script_registry_test.go.
			"distribution": distribution,
			// In script_actions_test.go.
			"actions": actionsCache,
			// In script_bucket_test.go.
			"bucket": s3Bucket,
			// In script_cluster_test.go.
			"cluster": cluster,
			// In clients_test.go.
			"llb": definition, "frontend": frontendImage,
		},
	}
}

// built is a directory that has SLIPWAY_PROGRAM under the names of the commands, or "".
func built(t *testing.T) string {
	t.Helper()
	program := os.Getenv("SLIPWAY_PROGRAM")
	if program == "" {
		return ""
	}
	dir := filepath.Join(t.TempDir(), "bin") // as testscript's own
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// endMonitors ends containers of a store that run in the background.
func endMonitors(root string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(data), "container-monitor\x00") || !strings.Contains(string(data), root+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
}

// tmpfs is where stores of tests are.
func tmpfs() string {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

// serveBusybox fills the registry and returns a directory of hosts.toml files that makes it
// docker.io, without the public one behind it.
func serveBusybox(t *testing.T, reg *registrytest.Registry) string {
	t.Helper()
	base, err := baseimage.Busybox()
	if errors.Is(err, baseimage.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"library/busybox:latest", "library/alpine:latest", "library/golang:latest"} {
		ref, err := name.ParseReference(reg.Host + "/" + repo)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, base); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "docker.io")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = %q\n", reg.URL), 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(dir)
}

var stepLine = regexp.MustCompile(`^#(\d+) (.*)$`)

// steps checks how steps of the last build ended, by its plain progress on stderr.
func steps(ts *testscript.TestScript, neg bool, wanted []string, end string) {
	if len(wanted) == 0 {
		ts.Fatalf("usage: ran|cached STEP...")
	}
	names, ends := map[string][]string{}, map[string]string{}
	for _, line := range strings.Split(ts.ReadFile("stderr"), "\n") {
		m := stepLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		word, _, _ := strings.Cut(m[2], " ")
		switch word {
		case "DONE", "CACHED", "ERROR:", "CANCELED":
			ends[m[1]] = word
		default:
			names[m[1]] = append(names[m[1]], m[2])
		}
	}
	for _, want := range wanted {
		found := slices.Collect(func(yield func(string) bool) {
			for n, lines := range names {
				if ends[n] == end && strings.Contains(lines[0], want) && !yield(n) {
					return
				}
			}
		})
		if (len(found) > 0) == neg {
			ts.Fatalf("step %q: want it to end as %s: %v; the steps ended so: %v", want, end, !neg, ends)
		}
	}
}

func mtime(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mtime FILE TIME")
	}
	when, err := time.Parse(time.RFC3339, args[1])
	ts.Check(err)
	ts.Check(os.Chtimes(ts.MkAbs(args[0]), when, when))
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mode FILE MODE")
	}
	fi, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	got := uint32(fi.Mode().Perm())
	for bit, m := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if fi.Mode()&m != 0 {
			got |= bit
		}
	}
	if (fmt.Sprintf("%o", got) == args[1]) == neg {
		ts.Fatalf("%s has mode %o", args[0], got)
	}
}

func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: waitfor FILE|URL [RE]")
	}
	re := regexp.MustCompile("(?m)" + strings.Join(args[1:], ""))
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.HasPrefix(args[0], "http://") {
			if data, err := get(args[0]); err == nil && re.Match(data) {
				return
			}
			continue
		}
		files, err := filepath.Glob(ts.MkAbs(args[0]))
		ts.Check(err)
		for _, f := range files {
			if len(args) == 1 {
				return
			}
			if data, err := os.ReadFile(f); err == nil && re.Match(data) {
				return
			}
		}
	}
	there, _ := os.ReadFile(ts.MkAbs(args[0])) // a name that is one, and no pattern or address
	ts.Fatalf("%s does not appear\n%s", strings.Join(args, " with "), there)
}

// get returns what a server answers with status 200.
func get(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// clean looks for mounts of the script's store in all mount namespaces, as containers have their
// own: a process of a container that is left would show its mounts.
func clean(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: clean")
	}
	root := ts.Getenv("SLIPWAY_ROOT")
	var left []string
	for range 1500 { // a killed process takes a moment
		left = nil
		files, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err == nil && strings.Contains(string(data), root) {
				left = append(left, f)
			}
		}
		if len(left) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if len(left) > 0 {
		ts.Fatalf("mounts of %s are left: %v", root, left)
	}
	if runs, _ := filepath.Glob(filepath.Join(root, "run", "*")); len(runs) > 0 {
		ts.Fatalf("directories of containers are left: %v", runs)
	}
}

func replace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replace FILE OLD NEW")
	}
	file := ts.MkAbs(args[0])
	data, err := os.ReadFile(file)
	ts.Check(err)
	if !strings.Contains(string(data), args[1]) {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(file, []byte(strings.Replace(string(data), args[1], args[2], 1)), 0o644))
}
