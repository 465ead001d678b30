package environments

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Ground has what all environments need, below a directory. It is for root.
type Ground struct {
	dir      string
	slipway  string
	services services
	// Images is the directory in which hack/image.sh leaves slipway's own images; "" for none.
	Images string

	making sync.Mutex // images
}

// NewGround makes a ground in an empty directory on a filesystem that overlays can be made on. slipway is the static
// binary, registry has the base images.
func NewGround(dir, slipway string, registry http.Handler) (*Ground, error) {
	g := &Ground{dir: dir, slipway: slipway}
	g.services.registry = registry
	g.services.proxy = &proxy{dir: filepath.Join(dir, "proxy"), kept: map[string]*answer{}}
	// Users of the machine go through here.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(g.services.proxy.dir, 0o700)); err != nil {
		return nil, err
	}
	for _, program := range []string{"runc", "unshare", "setpriv", "newuidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: hack/deps.sh test installs it", err)
		}
	}
	return g, nil
}

// Program is the path of a static binary of slipway: SLIPWAY_PROGRAM, or what is made of the repository.
func Program(ctx context.Context, repo string) (string, error) {
	if program := os.Getenv("SLIPWAY_PROGRAM"); program != "" {
		return program, nil
	}
	// Tests of several packages may want it at the same time.
	if out, err := exec.CommandContext(ctx, "flock", filepath.Join(repo, "go.mod"), "make", "-C", repo, "build").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building slipway: %w\n%s", err, out)
	}
	return filepath.Join(repo, "bin", "slipway"), nil
}

// Close stops what listens. What the ground has on disk is the caller's to remove.
func (g *Ground) Close() { g.services.close() }

// Place is an environment in which commands are carried out one after the other.
type Place struct {
	Environment
	ground *Ground
	dir    string
	// Workspace is a directory of the machine that whoever runs commands may write; InWorkspace is its name there.
	Workspace, InWorkspace string
	// Home is a user's own directory.
	Home string
	// Shell is a shell there.
	Shell string
	// Vars are the environment of commands.
	Vars []string
	// Registry is the address of the registry of base images.
	Registry string
	// Proxy is the address of a proxy for packages, for http_proxy.
	Proxy string
}

// Open makes a place. Its name tells it from others of the same environment.
func (g *Ground) Open(env Environment, name string) (*Place, error) {
	p := &Place{Environment: env, ground: g, dir: filepath.Join(g.dir, name)}
	p.Workspace = filepath.Join(p.dir, "workspace")
	if err := errors.Join(os.Mkdir(p.dir, 0o755), os.Mkdir(p.Workspace, 0o755), unix.Chmod(p.Workspace, 0o777)); err != nil {
		return nil, err
	}
	if env.User != nil {
		return p, p.openUser()
	}
	return p, p.openContainer()
}

// Run carries out a command, and returns what it printed and its exit code. err is of what is around it.
func (p *Place) Run(ctx context.Context, args ...string) (output string, code int, err error) {
	var out strings.Builder
	code, err = p.Exec(ctx, &out, &out, args...)
	return out.String(), code, err
}

// Exec is Run for output that goes elsewhere.
func (p *Place) Exec(ctx context.Context, stdout, stderr io.Writer, args ...string) (code int, err error) {
	cmd, done, err := p.command(ctx, args)
	if err != nil {
		return 0, err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// It is killed when the thread ends that has started it: nobody else has that thread meanwhile, and ends it.
	runtime.LockOSThread()
	err = cmd.Run()
	runtime.UnlockOSThread()
	var exit *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &exit) && exit.Exited() {
		code, err = exit.ExitCode(), nil
	}
	return code, errors.Join(err, done(), ctx.Err())
}

// Give makes a tree on the machine that of whoever runs commands.
func (p *Place) Give(dir string) error {
	uid, gid := p.owner()
	return chownTree(dir, uid, gid)
}

func (p *Place) command(ctx context.Context, args []string) (*exec.Cmd, func() error, error) {
	if p.User != nil {
		return p.asUser(ctx, args), func() error { return nil }, nil
	}
	return p.inContainer(ctx, args)
}

// inNamespace is a command in a mount namespace of its own, after a script of sh, whose arguments follow the command's.
func inNamespace(ctx context.Context, script string, vars []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation", "slave", "sh", "-ec", script, "sh"}, args...)...)
	cmd.Env = vars
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// Time is how long a script of sh takes, without what comes before and after it in the place; it must succeed.
func (p *Place) Time(ctx context.Context, script string) (time.Duration, error) {
	w := &stopwatch{}
	code, err := p.Exec(ctx, w, w, p.Shell, "-ec", "echo "+beganLine+"; "+script+"; echo "+endedLine)
	if err == nil && (code != 0 || w.began.IsZero() || w.ended.IsZero()) {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		return 0, fmt.Errorf("running %s in %s: %w\n%s", script, p.Name, err, w.text.String())
	}
	return w.ended.Sub(w.began), nil
}

const beganLine, endedLine = "-- began --", "-- ended --"

// stopwatch notes when the two lines come.
type stopwatch struct {
	text         strings.Builder
	began, ended time.Time
}

func (w *stopwatch) Write(data []byte) (int, error) {
	w.text.Write(data)
	for line, at := range map[string]*time.Time{beganLine: &w.began, endedLine: &w.ended} {
		if at.IsZero() && strings.Contains(w.text.String(), line) {
			*at = time.Now()
		}
	}
	return len(data), nil
}
