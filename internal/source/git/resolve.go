package gitsource

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/moby/buildkit/util/gitutil"
)

// Source evaluates git sources. It is safe for concurrent use.
type Source struct {
	open OpenFunc
	idle idle
}

// OpenFunc opens the directory that is kept for a remote, empty when it is new. Nobody else, in this
// process or in another one, has it until release is called.
type OpenFunc func(ctx context.Context, remote string) (dir string, release func(), err error)

// New returns a source that keeps repositories where open says.
func New(open OpenFunc) *Source { return &Source{open: open, idle: defaultIdle} }

// Commit is what a request names.
type Commit struct {
	Ref    string // as the remote has it: "refs/heads/main"; or the hash, when that was asked for
	Object string // hash of what Ref is: of a commit, or of an annotated tag
	Peeled string // hash of the commit that an annotated tag is of; "" without one, and with .git
	asked  string // the reference as it was asked for, or the default branch's name
}

// Hash is the commit that is part of the identity: that of an annotated tag is its commit's, so that
// more requests are the same, unless the tag itself is kept in .git.
func (c *Commit) Hash() string {
	if c.Peeled != "" {
		return c.Peeled
	}
	return c.Object
}

// Resolve asks the remote which commit a request names. A request for a commit is answered without.
func (s *Source) Resolve(ctx context.Context, r *Request, env Env) (*Commit, error) {
	if gitutil.IsCommitSHA(r.Ref) {
		if r.Checksum != "" && !strings.HasPrefix(r.Ref, r.Checksum) {
			return nil, fmt.Errorf("expected checksum to match %s, got %s", r.Checksum, r.Ref)
		}
		return &Commit{Ref: r.Ref, Object: r.Ref, asked: r.Ref}, nil
	}
	if r.FetchByCommit {
		ref := r.Ref
		switch {
		case ref == "":
			ref = r.Checksum
		case !strings.HasPrefix(ref, "refs/"):
			ref = "refs/heads/" + ref
		}
		return &Commit{Ref: ref, Object: r.Checksum, asked: ref}, nil
	}
	env.Log = nil
	git, err := s.begin(ctx, r, env)
	if err != nil {
		return nil, err
	}
	defer git.close()
	asked := r.Ref
	if asked == "" {
		if asked, err = defaultBranch(ctx, git, r); err != nil {
			return nil, err
		}
	}
	out, err := git.Run(ctx, "ls-remote", "--", git.remote, asked, asked+"^{}")
	if err != nil {
		return nil, fmt.Errorf("failed to fetch remote %s: %w", r, err)
	}
	return r.choose(asked, string(out))
}

var defaultBranchLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`refs/heads/(\S+)`) })

func defaultBranch(ctx context.Context, git *session, r *Request) (string, error) {
	out, err := git.Run(ctx, "ls-remote", "--symref", "--", git.remote, "HEAD")
	if err != nil {
		return "", fmt.Errorf("error fetching default branch for repository %s: %w", r, err)
	}
	m := defaultBranchLine().FindStringSubmatch(string(out))
	if m == nil {
		return "", fmt.Errorf("could not find default branch for repository: %s", r)
	}
	if strings.HasPrefix(m[1], "-") {
		return "", fmt.Errorf("invalid git ref %q", m[1])
	}
	return m[1], nil
}

// choose takes one of the references that the remote has of the name that was asked for: as git
// checkout does, a branch before a tag.
func (r *Request) choose(asked, listing string) (*Commit, error) {
	full := "refs/" + strings.TrimPrefix(asked, "refs/")
	head := "refs/heads/" + strings.TrimPrefix(asked, "refs/heads/")
	tag := "refs/tags/" + strings.TrimPrefix(asked, "refs/tags/")
	refs := map[string]string{}
	for line := range strings.Lines(listing) {
		hash, ref, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		refs[ref] = hash
	}
	c := &Commit{asked: asked}
	for _, ref := range []string{full, head, tag} {
		if refs[ref] != "" {
			c.Ref, c.Object = ref, refs[ref]
			break
		}
	}
	peeled := ""
	if c.Ref == tag {
		peeled = refs[tag+"^{}"]
	}
	switch {
	case c.Object == "":
		return nil, fmt.Errorf("repository does not contain ref %s, output: %q", asked, listing)
	case !gitutil.IsCommitSHA(c.Object):
		return nil, fmt.Errorf("invalid commit sha %q", c.Object)
	case peeled != "" && !gitutil.IsCommitSHA(peeled):
		return nil, fmt.Errorf("invalid commit sha %q", peeled)
	case !strings.HasPrefix(c.Object, r.Checksum) && (peeled == "" || !strings.HasPrefix(peeled, r.Checksum)):
		got := c.Object
		if peeled != "" {
			got += " or " + peeled
		}
		return nil, fmt.Errorf("expected checksum to match %s, got %s", r.Checksum, got)
	}
	if !r.KeepGitDir {
		c.Peeled = peeled
	}
	return c, nil
}
