package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/docker/buildx/bake"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/util/gitutil"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/secrets"
)

// Remote evaluates LLB that fetches something, with the secrets and agents of a request, and gives read
// its files.
type Remote func(ctx context.Context, st llb.State, use build.Request, read func(layer.Tree) error) error

// maxDefinition is buildx' bound for a definition from a URL, in bytes; here it holds for each file
// that is not of this machine.
const maxDefinition = 2 << 20

// readRemote reads a definition from a git repository, from an archive at a URL, or the definition
// itself from there.
func readRemote(ctx context.Context, remote Remote, url string, names []string) (*Source, error) {
	keepGitDir := false
	st, isGit, err := dockerui.DetectGitContext(url, &keepGitDir)
	src := &Source{}
	if isGit {
		if err != nil {
			return nil, err
		}
		src.input = &bake.Input{State: st, URL: url}
		return src, remote(ctx, *st, gitAccess(url), src.collect(names))
	}
	st, file, ok := dockerui.DetectHTTPContext(url)
	if !ok {
		return nil, errors.New("not url context")
	}
	var single []byte
	if err := remote(ctx, *st, build.Request{}, func(t layer.Tree) (err error) {
		single, err = readDefinition(t, file)
		return err
	}); err != nil {
		return nil, err
	}
	if single != nil {
		src.input = &bake.Input{}
		src.Files = []bake.File{{Name: url, Data: single}}
		return src, nil
	}
	unpacked := llb.Scratch().File(llb.Copy(*st, file, "/", &llb.CopyInfo{AttemptUnpack: true}))
	src.input = &bake.Input{State: &unpacked}
	return src, remote(ctx, unpacked, build.Request{}, src.collect(names))
}

// collect takes the files of a definition out of a tree: those with default names that are there, for
// no names.
func (src *Source) collect(names []string) func(layer.Tree) error {
	return func(t layer.Tree) error {
		optional := len(names) == 0
		if optional {
			names = defaultFiles()
		}
		for _, name := range names {
			f, err := layer.Open(t, strings.TrimPrefix(path.Join("/", name), "/"))
			if optional && errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("reading the bake definition %s: %w", name, err)
			}
			data, err := readBounded(f, name)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			src.Files = append(src.Files, bake.File{Name: name, Data: data})
		}
		return nil
	}
}

// readDefinition reads a file that was fetched; nil if it is an archive.
func readDefinition(t layer.Tree, name string) ([]byte, error) {
	f, err := layer.Open(t, name)
	if err != nil {
		return nil, fmt.Errorf("reading the bake definition: %w", err)
	}
	defer f.Close()
	head := make([]byte, build.ArchiveHeader)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("reading the bake definition: %w", err)
	}
	if head = head[:n]; build.IsArchive(head) {
		return nil, nil
	}
	rest, err := readBounded(f, "at the URL")
	return append(head, rest...), err
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDefinition+1))
	if err != nil {
		return nil, fmt.Errorf("reading the bake definition %s: %w", name, err)
	}
	if len(data) > maxDefinition {
		return nil, fmt.Errorf("bake definition %s is bigger than the maximum allowed size (%s)", name, units.HumanSize(maxDefinition))
	}
	return data, nil
}

// gitAccess is what a repository with a definition is fetched with: an agent, and credentials of the
// environment for the repository's server. What is not there is not needed either.
func gitAccess(url string) build.Request {
	var use build.Request
	agent := secrets.Agent{ID: secrets.DefaultAgent, Paths: strings.Split(os.Getenv("BUILDX_BAKE_GIT_SSH"), ",")}
	if _, err := secrets.NewAgents([]secrets.Agent{agent}); err == nil {
		use.SSH = []secrets.Agent{agent}
	}
	u, err := gitutil.ParseURL(url)
	if err != nil || u.Host == "" {
		return use
	}
	for _, s := range []struct{ id, env string }{
		{llb.GitAuthTokenKey, "BUILDX_BAKE_GIT_AUTH_TOKEN"}, {llb.GitAuthHeaderKey, "BUILDX_BAKE_GIT_AUTH_HEADER"},
	} {
		for _, env := range os.Environ() {
			if name, _, _ := strings.Cut(env, "="); strings.EqualFold(name, s.env) {
				use.Secrets = append(use.Secrets, secrets.Source{ID: s.id + "." + u.Host, Env: name})
				break
			}
		}
	}
	return use
}
