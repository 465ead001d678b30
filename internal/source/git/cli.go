package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/moby/buildkit/util/gitutil"

	"github.com/slipway-build/slipway/internal/hostfiles"
	"github.com/slipway-build/slipway/internal/outbound"
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
	remote  string // of the request, without a password, where the server has it now
	release []func()
}

func (s *session) close() {
	for _, f := range s.release {
		f()
	}
}

// begin prepares git with everything that the request's remote asks for.
func (s *Source) begin(ctx context.Context, r *Request, env Env) (_ *session, err error) {
	done := hostfiles.Use() // git, and what it executes
	if _, err := exec.LookPath("git"); err != nil {
		done()
		return nil, errors.New("git repositories need the program git, which is not in PATH: install git")
	}
	use := &session{release: []func(){done}}
	defer func() {
		if err != nil {
			use.close()
		}
	}()
	a, err := r.authorize(ctx, env)
	if err != nil {
		return nil, err
	}
	a.follow(ctx)
	use.remote = a.remote
	opts := []gitutil.Option{
		gitutil.WithGitAdvice(r.Advice),
		gitutil.WithExec(func(ctx context.Context, cmd *exec.Cmd) error {
			if cmd.Dir == "" { // ls-remote: neither a directory that is gone, nor the configuration of a repository that is in it
				cmd.Dir = "/"
			}
			cmd.Env = append(cmd.Env, environment(ctx, a)...)
			out := &limited{w: cmd.Stdout, left: maxOutput}
			messages := &limited{w: outbound.CleanWriter(cmd.Stderr), left: maxMessages} // they have what the server said
			cmd.Stdout, cmd.Stderr = out, messages
			err := s.runWithUmask(ctx, cmd)
			if out.left < 0 || messages.left < 0 { // git has ended of it in its own way
				return errOutput
			}
			return err
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
		use.release = append(use.release, release)
		opts = append(opts, gitutil.WithSSHAuthSock(sock))
	}
	if r.KnownHosts != "" {
		file, release, err := knownHosts(r.KnownHosts)
		if err != nil {
			return nil, err
		}
		use.release = append(use.release, release)
		a.knownHosts = file
	}
	use.GitCLI = gitutil.NewGitCLI(opts...)
	return use, nil
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

// How many bytes git may print of what a server sent it.
const (
	maxOutput   = 64 << 20 // the list of a repository's references, a commit
	maxMessages = 4 << 20
)

var errOutput = fmt.Errorf("the server sends more references or messages than are read (%d MiB and %d MiB)", maxOutput>>20, maxMessages>>20)

// limited fails when more is written.
type limited struct {
	w    io.Writer
	left int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errOutput
	}
	return l.w.Write(p)
}

type writer struct{ io.Writer }

func (writer) Close() error { return nil }
