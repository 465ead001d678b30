package gitsource

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/util/gitutil"
	"golang.org/x/sys/unix"
)

// Checkout fetches a commit and writes its files into dir. scratch is another directory of the same
// filesystem. Both are empty before, and what is in scratch afterwards is of no use; when Checkout
// fails so is what is in dir.
func (s *Source) Checkout(ctx context.Context, r *Request, c *Commit, dir, scratch string, env Env) error {
	return s.use(ctx, r, c, env, func(p *repository) error {
		for _, d := range []string{dir, scratch} { // of an attempt before
			if err := empty(d); err != nil {
				return err
			}
		}
		return p.checkout(ctx, dir, scratch)
	})
}

func (p *repository) checkout(ctx context.Context, dir, scratch string) error {
	subdir := strings.TrimPrefix(path.Join("/", p.r.Subdir), "/")
	tree, gitDir := dir, p.dir
	if subdir != "" {
		tree = scratch
	}
	var err error
	if p.r.KeepGitDir && subdir == "" {
		gitDir = filepath.Join(dir, ".git")
		err = p.clone(ctx, dir, gitDir)
	} else {
		err = p.files(ctx, tree)
	}
	if err != nil {
		return err
	}
	git := p.New(gitutil.WithWorkTree(tree), gitutil.WithGitDir(gitDir))
	if !p.r.SkipSubmodules {
		if _, err := git.Run(ctx, "submodule", "update", "--init", "--recursive", "--depth=1"); err != nil {
			return fmt.Errorf("failed to update submodules for %s: %w", p.r, err)
		}
		if gitDir == p.dir {
			if err := dropGitFiles(tree); err != nil {
				return err
			}
		}
	}
	if subdir != "" {
		if err := moveSubdir(tree, subdir, dir); err != nil {
			return err
		}
	}
	if p.r.CommitTime {
		return p.setTimes(ctx, dir)
	}
	return nil
}

// files writes the commit's files without .git. The repository's index is about another checkout.
func (p *repository) files(ctx context.Context, tree string) error {
	if err := os.RemoveAll(filepath.Join(p.dir, "index.lock")); err != nil {
		return fmt.Errorf("failed to checkout remote %s: %w", p.r, err)
	}
	git := p.New(gitutil.WithWorkTree(tree))
	if _, err := git.Run(ctx, "checkout", "--no-overlay", p.wanted(), "--", "."); err != nil {
		return fmt.Errorf("failed to checkout remote %s: %w", p.r, err)
	}
	return nil
}

// clone makes a repository of its own with the one commit, as `git clone --depth=1` would.
func (p *repository) clone(ctx context.Context, tree, gitDir string) error {
	git := p.quiet.New(gitutil.WithWorkTree(tree), gitutil.WithGitDir(gitDir))
	args := []string{"-c", "init.defaultBranch=master", "init", "--quiet"}
	if len(p.c.Object) == 64 {
		args = append(args, "--object-format=sha256")
	}
	if _, err := git.Run(ctx, args...); err != nil {
		return err
	}
	// By the file protocol git takes no shortcuts through the host's filesystem.
	if _, err := git.Run(ctx, "remote", "add", "origin", "file://"+p.dir); err != nil {
		return err
	}
	ref, err := p.pullRef(ctx)
	if err != nil {
		return err
	}
	local := context.WithValue(ctx, protocolsKey{}, "file") // nothing else is fetched here
	for _, args := range [][]string{
		{"fetch", "-u", "--depth=1", "--", "origin", ref},
		{"checkout", "FETCH_HEAD"},
		{"remote", "set-url", "origin", p.r.String()},
		{"reflog", "expire", "--all", "--expire=now"},
	} {
		if _, err := git.Run(local, args...); err != nil {
			return fmt.Errorf("failed to checkout remote %s: %w", p.r, err)
		}
	}
	if err := os.Remove(filepath.Join(gitDir, "FETCH_HEAD")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("failed to remove FETCH_HEAD for remote %s: %w", p.r, err)
	}
	return nil
}

// pullRef says which reference of the bare repository becomes which one of the clone.
func (p *repository) pullRef(ctx context.Context) (string, error) {
	ref, want := p.c.asked, p.wanted()
	kind, err := p.quiet.Run(ctx, "cat-file", "-t", want)
	if err != nil {
		return "", err
	}
	switch {
	case strings.TrimSpace(string(kind)) == "tag":
		if strings.HasPrefix(ref, "refs/tags/") {
			return ref + ":" + ref, nil
		}
		return ref + ":refs/tags/" + ref, nil
	case ref != want:
		return want + ":" + ref, nil
	case gitutil.IsCommitSHA(ref):
		name := "refs/slipway/" + strings.ToLower(rand.Text())
		_, err := p.quiet.Run(ctx, "update-ref", name, ref)
		return name, err
	}
	return ref + ":" + ref, nil
}

// dropGitFiles removes the .git files of submodules. They name directories of the bare repository,
// which nobody who has the files can reach, and which differ between machines.
func dropGitFiles(tree string) error {
	if _, err := os.Lstat(filepath.Join(tree, ".gitmodules")); err != nil {
		return nil // there are no submodules
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fmt.Errorf("opening checkout: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != ".git" || !d.Type().IsRegular() {
			return err
		}
		return root.Remove(name)
	})
}

// moveSubdir moves what is in tree/subdir to dir. Symbolic links are not followed.
func moveSubdir(tree, subdir, dir string) error {
	at := tree
	for part := range strings.SplitSeq(subdir, "/") {
		at = filepath.Join(at, part)
		fi, err := os.Lstat(at)
		if err != nil {
			return fmt.Errorf("invalid subdir %v: %w", subdir, err)
		}
		if !fi.IsDir() {
			rel, _ := filepath.Rel(tree, at) // at is below tree
			return fmt.Errorf("invalid subdir %v: git subpath %q contains non-directory %q", subdir, subdir, rel)
		}
	}
	list, err := os.ReadDir(at)
	if err != nil {
		return fmt.Errorf("failed to open subdir %v: %w", subdir, err)
	}
	for _, e := range list {
		if err := os.Rename(filepath.Join(at, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("moving subdir %v: %w", subdir, err)
		}
	}
	return nil
}

// setTimes gives all files the commit's time.
func (p *repository) setTimes(ctx context.Context, dir string) error {
	out, err := p.quiet.Run(ctx, "log", "-1", "--format=%ct", p.wanted()+"^{commit}")
	if err != nil {
		return fmt.Errorf("failed to get commit time for %s: %w", p.r, err)
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return fmt.Errorf("failed to parse commit timestamp %q", out)
	}
	when, err := unix.TimeToTimespec(time.Unix(sec, 0))
	if err != nil {
		return fmt.Errorf("failed to parse commit timestamp %q: %w", out, err)
	}
	var all []string
	err = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		all = append(all, name)
		return err
	})
	for _, name := range slices.Backward(all) { // directories after what is in them
		err = errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW))
	}
	if err != nil {
		return fmt.Errorf("failed to normalize mtimes for %s: %w", p.r, err)
	}
	return nil
}
