package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/util/gitutil"
)

// repository is the bare repository of a remote while a request uses it.
type repository struct {
	*gitutil.GitCLI
	quiet *gitutil.GitCLI // for what only asks, or says nothing to a user
	r     *Request
	c     *Commit
	dir   string

	remote string // see session
}

// use calls fn with the remote's repository, in which the commit is. A repository that was kept and
// is no good any more, or in which references changed in a way that git refuses to follow, is made
// anew, and fn called again.
func (s *Source) use(ctx context.Context, r *Request, c *Commit, env Env, fn func(*repository) error) error {
	git, err := s.begin(ctx, r, env)
	if err != nil {
		return err
	}
	defer git.close()
	dir, release, err := s.open(ctx, r.plain())
	if err != nil {
		return err
	}
	defer release()
	repo := &repository{GitCLI: git.New(gitutil.WithGitDir(dir)), r: r, c: c, dir: dir, remote: git.remote}
	repo.quiet = repo.New(gitutil.WithStreams(nil))
	kept, err := repo.prepare(ctx)
	if err != nil {
		return err
	}
	try := func() error {
		if err := repo.fetch(ctx); err != nil {
			return err
		}
		return fn(repo)
	}
	err = try()
	if err == nil || !kept || ctx.Err() != nil || !refused(err) && !repo.damaged(ctx) {
		return err
	}
	if err := empty(dir); err != nil {
		return err
	}
	if _, err := repo.prepare(ctx); err != nil {
		return err
	}
	return try()
}

// prepare makes the repository unless it is there.
func (p *repository) prepare(ctx context.Context) (kept bool, err error) {
	if _, err := os.Lstat(filepath.Join(p.dir, "HEAD")); err == nil {
		url, err := p.quiet.Run(ctx, "config", "--get", "remote.origin.url") // the last thing that was made
		if err == nil && strings.TrimSuffix(string(url), "\n") == p.remote {
			return true, nil
		}
	}
	if err := empty(p.dir); err != nil {
		return false, err
	}
	// Naming the branch spares the user git's hint about its name.
	args := []string{"-c", "init.defaultBranch=master", "init", "--quiet", "--bare"}
	if len(p.c.Object) == 64 {
		args = append(args, "--object-format=sha256")
	}
	if _, err := p.quiet.Run(ctx, args...); err != nil {
		return false, fmt.Errorf("failed to init repo at %s: %w", p.dir, err)
	}
	if _, err := p.quiet.Run(ctx, "remote", "add", "origin", p.remote); err != nil {
		return false, fmt.Errorf("failed add origin repo at %s: %w", p.dir, err)
	}
	return false, nil
}

// empty removes what is in a directory.
func empty(dir string) error {
	list, err := os.ReadDir(dir)
	for _, e := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		return fmt.Errorf("emptying repository: %w", err)
	}
	return nil
}

// refused reports whether git did not want to change references: a tag that is another commit now, or
// a branch whose name was a directory of branches.
func refused(err error) bool {
	text := err.Error()
	if strings.Contains(text, "rejected") && strings.Contains(text, "(would clobber existing tag)") {
		return true
	}
	return strings.Contains(text, "some local refs could not be updated;") &&
		(strings.Contains(text, "(unable to update local ref)") || strings.Contains(text, "refname conflict"))
}

// damaged looks for what a killed git or a bad disk leaves in a repository.
func (p *repository) damaged(ctx context.Context) bool {
	locked := false
	_ = filepath.WalkDir(p.dir, func(path string, _ fs.DirEntry, err error) error { // what cannot be read, fsck tells
		if err == nil && strings.HasSuffix(path, ".lock") {
			locked = true
			return filepath.SkipAll
		}
		return nil
	})
	if locked {
		return true
	}
	_, err := p.quiet.Run(ctx, "fsck", "--connectivity-only")
	return err != nil && ctx.Err() == nil
}

// wanted is what is fetched: a reference, or a commit's hash.
func (p *repository) wanted() string {
	if p.r.FetchByCommit && p.r.Checksum != "" {
		return p.r.Checksum
	}
	return p.c.asked
}

// fetch brings the commit into the repository, as shallow as the server allows.
func (p *repository) fetch(ctx context.Context) error {
	want := p.wanted()
	if gitutil.IsCommitSHA(want) {
		if _, err := p.quiet.Run(ctx, "cat-file", "-e", "--", want+"^{commit}"); err == nil {
			return nil
		}
	}
	if err := os.RemoveAll(filepath.Join(p.dir, "shallow.lock")); err != nil {
		return fmt.Errorf("fetching %s: %w", p.r, err)
	}
	args := []string{"fetch"}
	if p.r.FetchByCommit || !gitutil.IsCommitSHA(want) {
		args = append(args, "--depth=1", "--no-tags")
	} else {
		// Few servers give any commit that is asked for: all of the history may be needed to find it.
		args = append(args, "--tags")
		args = p.unshallow(args)
	}
	args = append(args, "origin")
	// What was fetched gets a reference, so that the next fetch can tell the server that it is here.
	if gitutil.IsCommitSHA(p.c.asked) {
		args = append(args, p.c.asked)
	} else {
		args = append(args, "--force", "--", want+":"+p.target())
	}
	if _, err := p.Run(ctx, args...); err != nil {
		return fmt.Errorf("failed to fetch remote %s: %w", p.r, err)
	}
	got, err := p.quiet.Run(ctx, "rev-parse", want)
	if err != nil {
		return fmt.Errorf("looking for %s of %s: %w", want, p.r, err)
	}
	if strings.TrimSpace(string(got)) != p.c.Object {
		return p.moved(ctx)
	}
	return nil
}

// target is the reference under which what is fetched is kept.
func (p *repository) target() string {
	if strings.HasPrefix(p.c.asked, "refs/tags/") {
		return p.c.asked
	}
	return "tags/" + p.c.asked
}

func (p *repository) unshallow(args []string) []string {
	if _, err := os.Lstat(filepath.Join(p.dir, "shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	return args
}

// moved finds the commit that Resolve saw when the remote's reference changed in the meantime.
func (p *repository) moved(ctx context.Context) error {
	has := func() bool {
		_, err := p.quiet.Run(ctx, "cat-file", "-e", p.c.Object)
		return err == nil
	}
	if !has() {
		args := append(p.unshallow([]string{"fetch", "--tags"}), "origin", p.c.Object)
		if _, err := p.Run(ctx, args...); err != nil {
			return fmt.Errorf("failed to fetch remote %s: %w", p.r, err)
		}
		if _, err := p.quiet.Run(ctx, "reflog", "expire", "--all", "--expire=now"); err != nil {
			return fmt.Errorf("failed to expire reflog for remote %s: %w", p.r, err)
		}
		if !has() {
			return fmt.Errorf("fetched ref %s does not match expected commit %s and commit can not be found in the repository", p.c.asked, p.c.Object)
		}
	}
	target := p.target()
	if !strings.HasPrefix(target, "refs/") {
		target = "refs/" + target
	}
	_, err := p.quiet.Run(ctx, "update-ref", target, p.c.Object, "--no-deref")
	return err
}

// Objects are a commit, and the annotated tag that was asked for, as git stores them.
type Objects struct {
	Commit, Tag []byte
	Peeled      string // hash of the commit when there is a tag
}

// Objects fetches a commit and returns what git stores of it.
func (s *Source) Objects(ctx context.Context, r *Request, c *Commit, env Env) (*Objects, error) {
	o := &Objects{}
	env.Log = nil
	err := s.use(ctx, r, c, env, func(p *repository) error {
		kind, err := p.quiet.Run(ctx, "cat-file", "-t", c.Object)
		if err != nil {
			return err
		}
		commit := c.Object
		switch strings.TrimSpace(string(kind)) {
		case "commit":
		case "tag":
			hash, err := p.quiet.Run(ctx, "rev-parse", c.Object+"^{commit}")
			if err != nil {
				return err
			}
			o.Peeled = strings.TrimSpace(string(hash))
			commit = o.Peeled
			if o.Tag, err = p.quiet.Run(ctx, "cat-file", "tag", c.Object); err != nil {
				return err
			}
		default:
			return fmt.Errorf("expected commit or tag object, got %s", strings.TrimSpace(string(kind)))
		}
		o.Commit, err = p.quiet.Run(ctx, "cat-file", "commit", commit)
		return err
	})
	return o, err
}
