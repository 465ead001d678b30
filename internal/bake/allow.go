package bake

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/docker/buildx/bake"
	buildx "github.com/docker/buildx/build"
	"github.com/docker/buildx/util/buildflags"
	"github.com/moby/buildkit/client/llb"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/secrets"
)

// allowed is what --allow gives, with the files below the working directory.
func (o *Options) allowed() (bake.EntitlementConf, error) {
	ent, err := bake.ParseEntitlements(o.Allow)
	if err != nil {
		return ent, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return ent, fmt.Errorf("finding the working directory: %w", err)
	}
	ent.FSRead = append(ent.FSRead, wd)
	ent.FSWrite = append(ent.FSWrite, wd)
	return ent, nil
}

// Authorize asks for what the targets want and --allow does not give: on out, and with an answer from
// the terminal where there is one.
func (d *Definition) Authorize(ctx context.Context, out io.Writer) error {
	opened, err := d.opened(ctx)
	if err != nil {
		return err
	}
	wanted, err := d.entitlement.Validate(opened)
	if err != nil {
		return err
	}
	return wanted.Prompt(ctx, d.source.input != nil, out)
}

// opened are the options for buildx' check, with each path of this machine that a build opens, as the kernel
// finds it. What the check finds by itself is less: it takes no image layout for a path, no secret's ID for a file's
// name, no Dockerfile that is outside of a remote context, no directory that is named as a URL, and it applies ".."
// before symbolic links.
func (d *Definition) opened(ctx context.Context) (map[string]buildx.Options, error) {
	all := map[string]buildx.Options{}
	for name, o := range d.options {
		var r build.Request
		if err := d.setInputs(ctx, &r, o.Inputs); err != nil {
			return nil, fmt.Errorf("target %s: %w", name, err)
		}
		read, write, agents := paths(&r, &o)
		checked := buildx.Options{
			Allow: o.Allow, Exports: o.Exports, SSHSpecs: agents,
			// With a state, only named contexts are looked at.
			Inputs: buildx.Inputs{ContextState: &llb.State{}, NamedContexts: map[string]buildx.NamedContext{}},
		}
		for _, p := range read {
			real, err := realPath(p)
			if err != nil {
				return nil, fmt.Errorf("target %s: %w", name, err)
			}
			checked.Inputs.NamedContexts[p] = buildx.NamedContext{Path: real}
		}
		for _, p := range write {
			real, err := realPath(p)
			if err != nil {
				return nil, fmt.Errorf("target %s: %w", name, err)
			}
			checked.ExportsLocalPathsTemporary = append(checked.ExportsLocalPathsTemporary, real)
		}
		all[name] = checked
	}
	return all, nil
}

// paths are those of this machine that a build opens, and the agents that are not of files. The request has the inputs.
func paths(r *build.Request, o *buildx.Options) (read, write []string, agents []*buildflags.SSH) {
	read = r.Reads()
	for _, s := range o.SecretSpecs {
		if file, ok := secrets.File(secrets.Source{ID: s.ID, FilePath: s.FilePath, Env: s.Env}); ok {
			read = append(read, file)
		}
	}
	for _, s := range o.SSHSpecs {
		files := slices.DeleteFunc(slices.Clone(s.Paths), func(p string) bool { return p == "" })
		read = append(read, files...)
		if len(files) < max(len(s.Paths), 1) {
			agents = append(agents, &buildflags.SSH{ID: s.ID}) // the one of the environment
		}
	}
	for _, c := range o.CacheFrom {
		if c.Type == cache.TypeLocal {
			read = append(read, c.Attrs["src"])
		}
	}
	for _, c := range o.CacheTo {
		if c.Type == cache.TypeLocal {
			write = append(write, c.Attrs["dest"])
		}
	}
	return read, append(write, o.ExportsLocalPathsTemporary...), agents
}

// realPath is a path without symbolic links. What is not there yet is taken for a directory.
func realPath(path string) (string, error) {
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("finding the working directory: %w", err)
		}
		path = wd + "/" + path // not filepath.Join, for which "link/.." is nothing
	}
	real, err := securejoin.SecureJoin("/", path)
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", path, err)
	}
	return real, nil
}
