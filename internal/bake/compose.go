package bake

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	composecli "github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/buildx/bake"
)

// Compose is what a command line of docker compose says of a project, and of building it.
type Compose struct {
	Options
	Files, Profiles, EnvFiles []string
	Name, Directory           string
	BuildArgs, SSH            []string
	Memory                    string
	WithDependencies          bool
}

// ErrNothing is that none of a project's services is built.
var ErrNothing = errors.New("no services to build")

// Resolve reads a project, and makes a definition of the services that are built, those that are named or
// all. Other than in bake, images have names anyway, profiles hold, x-bake does not, and files may be
// anywhere: who writes a compose file of a project is who runs it.
func (c *Compose) Resolve(ctx context.Context, services []string) (*Definition, error) {
	project, err := c.project(ctx)
	if err != nil {
		return nil, err
	}
	selected, err := c.selected(project, services)
	if err != nil {
		return nil, err
	}
	if len(selected) == 0 {
		return nil, ErrNothing
	}
	c.overrideServices(project, selected)
	src, err := composeSource(project)
	if err != nil {
		return nil, err
	}
	return c.Options.Resolve(ctx, src, slices.Sorted(maps.Keys(selected)))
}

// project reads the files, in the order in which docker compose looks for what is not named.
func (c *Compose) project(ctx context.Context) (*types.Project, error) {
	opts, err := composecli.NewProjectOptions(c.Files,
		composecli.WithWorkingDirectory(c.Directory),
		composecli.WithOsEnv,
		composecli.WithEnvFiles(c.EnvFiles...),
		composecli.WithDotEnv,
		composecli.WithConfigFileEnv,
		composecli.WithDefaultConfigPath,
		composecli.WithEnvFiles(c.EnvFiles...), // the project's directory may be another one
		composecli.WithDotEnv,
		composecli.WithDefaultProfiles(c.Profiles...),
		composecli.WithName(c.Name))
	if err != nil {
		return nil, fmt.Errorf("reading the compose file: %w", err)
	}
	p, err := opts.LoadProject(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the compose file: %w", err)
	}
	return p, setPlatforms(p)
}

// setPlatforms says which platforms services are built for, as docker compose does: those of the build, or else the one that
// the service, or DOCKER_DEFAULT_PLATFORM in the environment or the project's environment file, is to run on.
// That one has to be among those of the build.
func setPlatforms(p *types.Project) error {
	usual := p.Environment["DOCKER_DEFAULT_PLATFORM"]
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		s := p.Services[name]
		runs := cmp.Or(s.Platform, usual)
		if s.Build == nil || runs == "" {
			continue
		}
		switch {
		case len(s.Build.Platforms) == 0:
			s.Build.Platforms = []string{runs}
		case slices.Contains(s.Build.Platforms, runs):
		default: // a platform that the service says was compared when it was read
			return fmt.Errorf("service %q build.platforms does not support value set by DOCKER_DEFAULT_PLATFORM: %s: add it there, or give the service a platform", name, runs)
		}
	}
	return nil
}

// selected are the services to build, by the names of their targets.
func (c *Compose) selected(project *types.Project, names []string) (map[string]types.ServiceConfig, error) {
	how := types.IgnoreDependencies
	if c.WithDependencies {
		how = types.IncludeDependencies
	}
	part, err := project.WithSelectedServices(names, how)
	if err != nil {
		return nil, err
	}
	all := map[string]types.ServiceConfig{}
	for name, s := range part.Services {
		if s.Build != nil {
			all[targetName(name)] = s
		}
	}
	return all, nil
}

// targetName is what buildx calls a service, whose name may have dots.
func targetName(service string) string { return strings.ReplaceAll(service, ".", "_") }

// overrideServices adds what flags, and what bake does not read of a service, change.
func (c *Compose) overrideServices(project *types.Project, selected map[string]types.ServiceConfig) {
	add := func(format string, args ...any) { c.Overrides = append(c.Overrides, fmt.Sprintf(format, args...)) }
	for name, s := range selected {
		if c.Push && s.Image != "" { // a name that nobody gave is of no registry
			add("%s.push=true", name)
		}
	}
	c.Push = false
	for name, s := range project.Services {
		if s.Build == nil {
			continue
		}
		target := targetName(name)
		if s.Build.Privileged {
			add("%s.entitlements=security.insecure", target)
		}
		for _, e := range s.Build.Entitlements {
			add("%s.entitlements=%s", target, e)
		}
		for _, arg := range c.BuildArgs {
			add("%s.args.%s", target, arg)
		}
		for _, v := range c.SSH {
			add("%s.ssh+=%s", target, v)
		}
		if c.Memory != "" {
			add("%s.resources.memory=%s", target, c.Memory)
		}
	}
}

// composeSource writes a project that was read as one file for buildx' parser: what is decided already,
// variables and paths, stays as it is.
func composeSource(project *types.Project) (*Source, error) {
	services, environment := types.Services{}, map[string]string{}
	for name, s := range project.Services {
		if s.Build == nil {
			continue
		}
		build := *s.Build
		build.Extensions = nil
		image := s.Image
		if image == "" {
			image = project.Name + "-" + name
		}
		build.Tags = append([]string{image}, build.Tags...)
		services[name] = types.ServiceConfig{Name: name, Image: image, Build: &build}
		for _, use := range build.Secrets {
			// Of an environment file, which buildx does not read.
			env := project.Secrets[use.Source].Environment
			if v, ok := project.Environment[env]; ok && env != "" {
				environment[env] = v
			}
		}
	}
	part := types.Project{Name: project.Name, Services: services, Secrets: project.Secrets}
	text, err := part.MarshalYAML()
	if err != nil {
		return nil, fmt.Errorf("reading the compose file: %w", err)
	}
	text = bytes.ReplaceAll(text, []byte("$"), []byte("$$"))
	return &Source{Files: []bake.File{{Name: "compose.yaml", Data: text}}, environment: environment}, nil
}
