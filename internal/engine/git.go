package engine

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/gitutil"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
	"github.com/slipway-build/slipway/internal/store"
)

// private keeps a repository from the other users of the machine: who knows the remote's name could
// find it.
func private(dir string) error { return os.Chmod(dir, 0o700) }

// newGit makes the source of git repositories. The bare ones are kept like cache mounts, under
// names apart from those that a Dockerfile can give.
func newGit(s *store.Store) *gitsource.Source {
	return gitsource.New(func(ctx context.Context, remote string) (string, func(), error) {
		c, err := s.Cache(ctx, store.GitCache(remote), store.SharingLocked, private)
		if err != nil {
			return "", nil, err
		}
		return c.Dir, c.Release, nil
	})
}

// gitSource writes the key of a commit. The rule is BuildKit's: the remote is no part of it, so that
// a repository is the same by ssh and by https. But a kept .git names its remote.
func (r *Run) gitSource(ctx context.Context, n *node, op *pb.SourceOp) (keyLines, error) {
	req, err := gitsource.Parse(op)
	if err != nil {
		return nil, err
	}
	c, err := r.gitCommit(ctx, n, req)
	if err != nil {
		return nil, err
	}
	if req.Signature.Wanted() {
		if _, err := r.gitObjects(ctx, req, c); err != nil {
			return nil, err
		}
	}
	var k keyLines
	k.add("operation", "git")
	k.add("commit", c.Hash())
	if req.KeepGitDir {
		k.add("keep .git of", req.String())
		if !gitutil.IsCommitSHA(c.Ref) {
			k.add("reference", c.Ref)
		}
	}
	if req.Subdir != "" {
		k.add("directory", req.Subdir)
	}
	if req.SkipSubmodules {
		k.add("submodules", "no")
	}
	if req.CommitTime {
		k.add("times", "commit")
	}
	return k, nil
}

// gitCommit asks which commit a request names, once for all runs and request. n may be nil.
func (r *Run) gitCommit(ctx context.Context, n *node, req *gitsource.Request) (*gitsource.Commit, error) {
	granted := r.granted(req.Secrets(), req.Agents())
	asked := *req // but for what is done with the commit
	asked.Subdir, asked.SkipSubmodules, asked.CommitTime, asked.Advice, asked.Signature = "", false, false, false, gitsource.Signature{}
	if granted == "" { // what there is none of is not sent, whatever it is called
		asked.AuthHeaderSecret, asked.AuthTokenSecret = "", ""
	}
	name := fmt.Sprintf("%#v\n%s", asked, granted)
	p := pool(r, r.gitCommits, name, true)
	return answer(ctx, r, p, n, func(ctx context.Context) (*gitsource.Commit, error) {
		a := p.asking()
		c, err := r.git.Resolve(ctx, req, r.gitEnv(nil))
		a.done(ctx.Err() != nil, err)
		return c, err
	})
}

// gitObjects gives what git stores of a commit, whose signature is the one that is wanted.
func (r *Run) gitObjects(ctx context.Context, req *gitsource.Request, c *gitsource.Commit) (*gitsource.Objects, error) {
	o, err := r.git.Objects(ctx, req, c, r.gitEnv(nil))
	if err == nil && req.Signature.Wanted() {
		err = req.Signature.Verify(c, o)
	}
	return o, err
}

// fetchGit checks the commit out into a layer.
func (r *Run) fetchGit(ctx context.Context, n *node, op *pb.SourceOp, step *progress.Step) (Value, error) {
	req, err := gitsource.Parse(op)
	if err != nil {
		return Value{}, err
	}
	c, err := r.gitCommit(ctx, n, req)
	if err != nil {
		return Value{}, err
	}
	draft, err := r.Engine.opt.Store.NewLayer()
	if err != nil {
		return Value{}, err
	}
	defer draft.Abort()
	if err := r.git.Checkout(ctx, req, c, draft.FS, draft.Work, r.gitEnv(step)); err != nil {
		return Value{}, err
	}
	id, err := draft.Commit(ctx)
	return Value{Snapshot: layer.Snapshot{id}}, err
}

// gitEnv is what the build gives git. step may be nil.
func (r *Run) gitEnv(step *progress.Step) gitsource.Env {
	env := gitsource.Env{Secret: r.opt.Secrets.Secret, SSHSocket: r.sshSocket}
	if step != nil {
		env.Log = step.Stderr()
	}
	return env
}

// sshSocket serves an SSH agent of the build on a socket.
func (r *Run) sshSocket(ctx context.Context, id string) (path string, release func(), err error) {
	if err := r.opt.SSH.Check(id); err != nil {
		return "", nil, err
	}
	// Not in the store: the path of a socket must be short.
	dir, err := os.MkdirTemp("", "slipway-ssh-")
	if err != nil {
		return "", nil, fmt.Errorf("making socket of SSH agent %q: %w", id, err)
	}
	path = filepath.Join(dir, "agent")
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("making socket of SSH agent %q: %w", id, err)
	}
	release = func() {
		l.Close()
		os.RemoveAll(dir)
	}
	if err := r.opt.SSH.Serve(ctx, id, l); err != nil {
		release()
		return "", nil, err
	}
	return path, release, nil
}
