// Package gitsource evaluates git:// sources: the files of a commit of a repository.
//
// # Structure
//
// [Parse] reads an operation. [Source.Resolve] asks the remote which commit the operation names;
// [Source.Checkout] fetches it into a bare repository, which is kept per remote, and writes its files
// into a directory. cli.go runs the program git, which does the work.
//
// # Caveats
//
// The rules are those of BuildKit's source/git, step by step: what a reference may be, what is
// fetched how deep, what stays in a kept .git directory, what is part of the identity. Repositories
// are not trusted: git runs without the user's and the system's configuration, asks nobody anything,
// and takes no submodules from the host's filesystem.
package gitsource

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/moby/buildkit/util/urlutil"
)

// Request is what a git source asks for.
type Request struct {
	Remote   string // a URL, or user@host:path
	Ref      string // a branch, a tag, a commit or any other reference; "": the remote's default branch
	Checksum string // the beginning of the commit's hash that is wanted; "": whatever Ref is
	Subdir   string
	// KeepGitDir keeps .git beside the files.
	KeepGitDir     bool
	SkipSubmodules bool
	// CommitTime gives the files the commit's time; otherwise they have that of the checkout.
	CommitTime bool
	// FetchByCommit takes Checksum for the commit, whatever Ref is.
	FetchByCommit bool
	Advice        bool // git's hints are shown
	// AuthHeaderSecret and AuthTokenSecret name secrets that are sent to http(s) remotes.
	AuthHeaderSecret, AuthTokenSecret string
	// SSHAgent is the ID of the agent for ssh remotes, and KnownHosts who they are.
	SSHAgent, KnownHosts string
	Signature            Signature
}

var hexadecimal = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^[a-fA-F0-9]+$") })

// Parse reads an operation.
func Parse(op *pb.SourceOp) (*Request, error) {
	r, err := parseIdentifier(strings.TrimPrefix(op.Identifier, "git://"))
	if err != nil {
		return nil, fmt.Errorf("reading git source %s: %w", urlutil.RedactCredentials(op.Identifier), err)
	}
	named := r.Remote
	for k, v := range op.Attrs {
		if err := r.set(k, v); err != nil {
			return nil, fmt.Errorf("reading attribute %s of %s: %w", k, r, err)
		}
	}
	if !sameRepository(named, r.Remote) {
		return nil, fmt.Errorf("reading git source %s: git.fullurl does not match source identifier", urlutil.RedactCredentials(op.Identifier))
	}
	return r, r.check()
}

// sameRepository reports whether two remotes have the same host and path. What a policy has decided about is what is fetched.
func sameRepository(a, b string) bool {
	x, err := gitutil.ParseURL(a)
	if err != nil {
		return false
	}
	y, err := gitutil.ParseURL(b)
	if err != nil {
		return false
	}
	repository := func(p string) string { return strings.TrimSuffix(path.Join("/", p), ".git") }
	return strings.EqualFold(x.Host, y.Host) && repository(x.Path) == repository(y.Path)
}

func parseIdentifier(remote string) (*Request, error) {
	if !gitutil.IsGitTransport(remote) {
		remote = "https://" + remote
	}
	u, err := gitutil.ParseURL(remote)
	if err != nil {
		return nil, err
	}
	r := &Request{Remote: u.Remote}
	if u.Opts != nil {
		r.Ref, r.Subdir = u.Opts.Ref, u.Opts.Subdir
	}
	return r, nil
}

func (r *Request) set(key, value string) error {
	switch key {
	case pb.AttrKeepGitDir:
		r.KeepGitDir = value == "true"
	case pb.AttrFullRemoteURL:
		if !gitutil.IsGitTransport(value) {
			value = "https://" + value
		}
		r.Remote = value
	case pb.AttrAuthHeaderSecret:
		r.AuthHeaderSecret = value
	case pb.AttrAuthTokenSecret:
		r.AuthTokenSecret = value
	case pb.AttrKnownSSHHosts:
		r.KnownHosts = value
	case pb.AttrMountSSHSock:
		r.SSHAgent = value
	case pb.AttrGitChecksum:
		r.Checksum = value
	case pb.AttrGitSkipSubmodules:
		r.SkipSubmodules = value == "true"
	case pb.AttrGitMTime:
		r.CommitTime = value == "commit"
	case pb.AttrGitAdvice:
		r.Advice = value == "true"
	case pb.AttrGitFetchByCommit:
		r.FetchByCommit = value == "true"
	case pb.AttrGitBundle, pb.AttrGitCheckoutBundle:
		return errors.New("git bundles are not supported: name the repository")
	case pb.AttrGitSignatureVerifyPubKey:
		r.Signature.given, r.Signature.keys = true, value
	case pb.AttrGitSignatureVerifyRejectExpired:
		r.Signature.given, r.Signature.rejectExpired = true, value == "true"
	case pb.AttrGitSignatureVerifyRequireSignedTag:
		r.Signature.given, r.Signature.requireTag = true, value == "true"
	case pb.AttrGitSignatureVerifyIgnoreSignedTag:
		r.Signature.given, r.Signature.ignoreTag = true, value == "true"
	}
	return nil
}

// check has BuildKit's words.
func (r *Request) check() error {
	switch {
	case strings.HasPrefix(r.Ref, "-"):
		return fmt.Errorf("invalid git ref %q", r.Ref)
	case strings.HasPrefix(r.Remote, "-"):
		return fmt.Errorf("invalid git remote %q", r.Remote)
	case r.Checksum != "" && !hexadecimal().MatchString(r.Checksum):
		return fmt.Errorf("invalid checksum %s for Git URL, expected hex commit hash", r.Checksum)
	case r.FetchByCommit && r.Checksum == "" && !gitutil.IsCommitSHA(r.Ref):
		return errors.New("fetch-by-commit requires a checksum or a commit SHA ref")
	case r.FetchByCommit && r.Checksum != "" && !gitutil.IsCommitSHA(r.Checksum):
		return fmt.Errorf("fetch-by-commit requires a full commit SHA checksum, got %q", r.Checksum)
	}
	return nil
}

// String is the remote without credentials.
func (r *Request) String() string { return urlutil.RedactCredentials(r.Remote) }
