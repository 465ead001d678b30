package gitsource

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/gitutil"
	"golang.org/x/sys/unix"
)

// Env is what one build brings along. Its zero value brings nothing.
type Env struct {
	// Secret returns the value of a secret; one that was not given is errdefs.ErrNotFound.
	Secret func(ctx context.Context, id string) ([]byte, error)
	// SSHSocket gives the socket of an SSH agent until release is called.
	SSHSocket func(ctx context.Context, id string) (path string, release func(), err error)
	// Log takes what git prints while it fetches; nil: nobody.
	Log io.Writer
}

// session is the use of git for one request.
type session struct {
	*gitutil.GitCLI
	release []func()
}

func (s *session) close() {
	for _, f := range s.release {
		f()
	}
}

// begin prepares git with everything that the request's remote asks for.
func begin(ctx context.Context, r *Request, env Env) (_ *session, err error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, errors.New("git repositories need the program git, which is not in PATH: install git")
	}
	s := &session{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	auth, err := r.authorization(ctx, env)
	if err != nil {
		return nil, err
	}
	opts := []gitutil.Option{
		gitutil.WithGitAdvice(r.Advice),
		gitutil.WithExec(func(ctx context.Context, cmd *exec.Cmd) error {
			cmd.Env = append(cmd.Env, auth...)
			return runWithUmask(ctx, cmd)
		}),
	}
	if env.Log != nil {
		opts = append(opts, gitutil.WithStreams(func(context.Context) (io.WriteCloser, io.WriteCloser, func()) {
			return writer{env.Log}, writer{env.Log}, func() {}
		}))
	}
	if r.SSHAgent != "" && env.SSHSocket != nil {
		sock, release, err := env.SSHSocket(ctx, r.SSHAgent)
		if err != nil {
			return nil, err
		}
		s.release = append(s.release, release)
		opts = append(opts, gitutil.WithSSHAuthSock(sock))
	}
	if r.KnownHosts != "" {
		file, release, err := knownHosts(r.KnownHosts)
		if err != nil {
			return nil, err
		}
		s.release = append(s.release, release)
		opts = append(opts, gitutil.WithSSHKnownHosts(file))
	}
	s.GitCLI = gitutil.NewGitCLI(opts...)
	return s, nil
}

func knownHosts(text string) (file string, release func(), err error) {
	f, err := os.CreateTemp("", "slipway-known-hosts-")
	if err != nil {
		return "", nil, fmt.Errorf("writing known hosts: %w", err)
	}
	release = func() { os.Remove(f.Name()) }
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		release()
		return "", nil, fmt.Errorf("writing known hosts: %w", err)
	}
	return f.Name(), release, nil
}

// authorization gives git the Authorization header of http remotes, in its environment: arguments
// can be read by everybody on the machine. Secrets for the host go before the others.
func (r *Request) authorization(ctx context.Context, env Env) ([]string, error) {
	u, err := url.Parse(r.Remote)
	if err != nil || env.Secret == nil || u.Host == "" {
		return nil, nil //nolint:nilerr // user@host:path is no URL, and has no header
	}
	for _, c := range []struct {
		id    string
		token bool
	}{
		{r.AuthHeaderSecret + "." + u.Host, false}, {r.AuthTokenSecret + "." + u.Host, true},
		{r.AuthHeaderSecret, false}, {r.AuthTokenSecret, true},
	} {
		if c.id == "" || strings.HasPrefix(c.id, ".") {
			continue
		}
		value, err := env.Secret(ctx, c.id)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		header := string(value)
		if c.token {
			header = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+header))
		}
		return []string{
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http." + tokenScope(r.Remote) + ".extraheader",
			"GIT_CONFIG_VALUE_0=Authorization: " + header,
		}, nil
	}
	return nil, nil
}

// tokenScope is what a token is sent to: the remote alone, but for github.com, where one token is
// for all that submodules name too.
func tokenScope(remote string) string {
	for _, prefix := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, prefix) {
			return prefix
		}
	}
	return remote
}

type writer struct{ io.Writer }

func (writer) Close() error { return nil }

// runWithUmask runs git with the umask 022, whatever slipway's is: git's modes are part of a layer.
func runWithUmask(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which has a umask of its own, ends here
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		unix.Umask(0o022)
		done <- runGroup(ctx, cmd)
	}()
	return <-done
}

// killAfter is how long git may take to end when it is told to.
const killAfter = 10 * time.Second

// runGroup runs a command as a process group of its own, which ends with ctx: git starts helpers
// that outlive it.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
		select {
		case <-over:
		case <-time.After(killAfter):
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
	})
	defer stop()
	defer close(over)
	return cmd.Wait()
}
