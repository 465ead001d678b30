package bake

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/bake"
	buildx "github.com/docker/buildx/build"
	"github.com/moby/buildkit/client"
)

// Command is a target as the command line of `slipway build`, for who has it carried out elsewhere.
type Command struct {
	Name string
	// Args are flags, but for those of named contexts that are other targets.
	Args []string
	// Context is its argument.
	Context string
	// Dockerfile is what stands in the definition itself; "" where a flag names a file, or nothing does.
	Dockerfile string
	// Needs are the named contexts that are other targets: names of targets by those of contexts.
	Needs map[string]string
	// Linked says that only other targets need it.
	Linked bool
}

// Commands are the targets as command lines, ordered by their names. What cannot be said by one is an error.
func (d *Definition) Commands() (all []Command, err error) {
	if d.source.input != nil {
		return nil, errors.New("a definition that is not of this machine: fetch it, and bake there")
	}
	for _, name := range slices.Sorted(maps.Keys(d.options)) {
		options := d.options[name]
		c := Command{Name: name, Linked: options.Linked, Needs: map[string]string{}}
		if err := errors.Join(supported(&options), d.sayable(name), c.inputs(options.Inputs)); err != nil {
			return nil, fmt.Errorf("target %s: %w", name, err)
		}
		if err := c.flags(d.Targets[name], options); err != nil {
			return nil, fmt.Errorf("target %s: %w", name, err)
		}
		all = append(all, c)
	}
	return all, nil
}

// sayable refuses what a target has that no flag says.
func (d *Definition) sayable(name string) error {
	t, o := d.Targets[name], d.options[name]
	switch {
	case o.CallFunc != nil:
		return errors.New("call: ask here")
	case len(o.SSHSpecs) > 0:
		return errors.New("ssh: agents and keys of this machine do not go elsewhere: fetch with a token (secret)")
	case t.Resources != nil:
		return errors.New("resources: a build elsewhere has those that it is given there")
	}
	for _, s := range o.SecretSpecs {
		if _, ok := d.source.environment[s.Env]; ok && s.Env != "" {
			return fmt.Errorf("secret %s: its variable is of a file of the project: set it in the environment", s.ID)
		}
	}
	return nil
}

// inputs says what it reads.
func (c *Command) inputs(in buildx.Inputs) error {
	if in.ContextState != nil {
		return errors.New("a context that is part of a remote definition")
	}
	c.Context, c.Dockerfile = in.ContextPath, in.DockerfileInline
	if c.Dockerfile == "" && in.DockerfilePath != "" {
		c.add("file", in.DockerfilePath)
	}
	for _, name := range slices.Sorted(maps.Keys(in.NamedContexts)) {
		from := in.NamedContexts[name]
		if from.State != nil {
			return fmt.Errorf("context %s is part of a remote definition", name)
		}
		if target, ok := strings.CutPrefix(from.Path, "target:"); ok {
			c.Needs[name] = target
			continue
		}
		c.add("build-context", name+"="+from.Path)
	}
	return nil
}

func (c *Command) add(flag string, values ...string) {
	for _, v := range values {
		c.Args = append(c.Args, "--"+flag+"="+v)
	}
}

func (c *Command) pairs(flag string, of map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(of)) {
		c.add(flag, k+"="+of[k])
	}
}

// flags says the rest.
func (c *Command) flags(t *bake.Target, o buildx.Options) error {
	if o.Target != "" {
		c.add("target", o.Target)
	}
	if o.NetworkMode != "" {
		c.add("network", o.NetworkMode)
	}
	if o.ShmSize.Value() != 0 {
		c.add("shm-size", o.ShmSize.String())
	}
	if o.NoCache {
		c.add("no-cache", "true")
	}
	if t.Pull != nil && o.Pull {
		c.add("pull", "true")
	}
	c.add("tag", o.Tags...)
	c.pairs("label", o.Labels)
	c.pairs("build-arg", o.BuildArgs)
	c.add("add-host", o.ExtraHosts...)
	c.add("allow", o.Allow...)
	c.add("annotation", t.Annotations...)
	c.add("no-cache-filter", o.NoCacheFilter...)
	c.add("ulimit", t.Ulimits...)
	for _, p := range o.Platforms {
		c.add("platform", platforms.FormatAll(p))
	}
	for _, e := range t.CacheFrom {
		c.add("cache-from", e.String())
	}
	for _, e := range t.CacheTo {
		c.add("cache-to", e.String())
	}
	for _, s := range t.Secrets {
		c.add("secret", s.String())
	}
	for _, kind := range slices.Sorted(maps.Keys(o.Attests)) {
		if v := o.Attests[kind]; v != nil {
			c.add("attest", *v)
		} else {
			c.add("attest", "type="+kind+",disabled=true")
		}
	}
	return c.outputs(t, o.Exports)
}

// outputs says where the result goes. What a Docker that runs here is to get is --load.
func (c *Command) outputs(t *bake.Target, exports []client.ExportEntry) error {
	if len(exports) != len(t.Outputs) {
		return fmt.Errorf("%d outputs of %d", len(exports), len(t.Outputs))
	}
	for i, e := range t.Outputs {
		if exports[i].Type == "docker" && e.Destination == "" {
			c.add("load", "true")
			continue
		}
		c.add("output", e.String())
	}
	return nil
}
