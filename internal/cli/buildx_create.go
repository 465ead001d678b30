package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/builders"
	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/kube"
)

// createFlags are those of `buildx create`.
type createFlags struct {
	name, driver, node, flags, config string
	platforms, driverOpts             []string
	appendNode, leave, use, bootstrap bool
}

func newBuilderCreateCmd(a *app) *cobra.Command {
	var opts createFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [CONTEXT|ENDPOINT]",
		Short: "Create a new builder instance",
		Long: `Create another name of the builder.

There is one builder on this machine, and all of its names share its cache. What would need another
builder, or a BuildKit daemon, is refused with what to do instead; what changes nothing is accepted, and shown by "ls" and "inspect".

A builder of the driver "kubernetes" is a namespace of a cluster: builds by its name are carried out there, as with "build --on".`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.createBuilder(cmd.Context(), &opts, strings.Join(args, ""))
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&opts.name, "name", "", "Builder instance name")
	f.StringVar(&opts.driver, "driver", "", `Driver to use: "docker-container" and "docker" are this program, "kubernetes" builds in a cluster`)
	f.StringVar(&opts.node, "node", "", "Name of the builder's node; of a builder that is there, to change what was said of it")
	f.StringArrayVar(&opts.platforms, "platform", nil, `Platforms to show first, with a star`)
	f.StringArrayVar(&opts.driverOpts, "driver-opt", nil, `Options for the driver (format: "KEY=VALUE"), as far as they change nothing`)
	f.StringVar(&opts.flags, "buildkitd-flags", "", "Flags of a BuildKit daemon, as far as they change nothing")
	f.StringVar(&opts.config, "buildkitd-config", "", "Configuration of a BuildKit daemon: what it says of registries and max-parallelism is kept for the builder, what changes nothing is accepted")
	f.StringVar(&opts.config, "config", "", "Former name of --buildkitd-config")
	f.BoolVar(&opts.bootstrap, "bootstrap", false, "See that the builder can work: its store can be opened")
	f.BoolVar(&opts.use, "use", false, "Set the current builder instance")
	f.BoolVar(&opts.appendNode, "append", false, "Refused: a builder has one node, this machine")
	f.BoolVar(&opts.leave, "leave", false, "Refused: a builder has one node, this machine")
	for _, name := range []string{"append", "leave", "config"} {
		f.Lookup(name).Hidden = true
	}
	statusTimeout(f)
	return cmd
}

// createBuilder gives the builder a name.
func (a *app) createBuilder(ctx context.Context, opts *createFlags, endpoint string) error {
	there, err := a.builderList()
	if err != nil {
		return err
	}
	b, err := opts.builder(endpoint, there.Find(opts.name))
	if err != nil {
		return err
	}
	maxRuns, files, err := daemonConfig(opts.config)
	if err != nil {
		return err
	}
	if opts.bootstrap {
		if err := a.bootBuilder(ctx, b); err != nil {
			return err
		}
	}
	err = a.changeBuilders(func(l *builders.List) error {
		if err := opts.place(l, &b, endpoint); err != nil {
			return err
		}
		if opts.config != "" {
			b.MaxRuns = maxRuns
			if err := setBuilderFiles(&b, files); err != nil {
				return err
			}
		}
		l.Put(b)
		if opts.use {
			l.Current = b.Name
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, b.Name)
	return err
}

// builder is what the flags say of one, whose names may still be missing. What they say and cannot be held is an error.
// There may be one of that name already, which is changed then.
func (o *createFlags) builder(endpoint string, old *builders.Builder) (b builders.Builder, err error) {
	b = builders.Builder{Name: o.name, Driver: o.driver, Node: o.node}
	if old != nil && b.Driver == "" {
		b.Driver = old.Driver
	}
	switch {
	case o.name == builders.Default:
		return b, errors.New("default is a reserved name and cannot be used to identify builder instance")
	case o.leave:
		return b, errors.New("--leave: can not leave last node, do you want to rm instance instead?")
	case o.appendNode:
		return b, errors.New("--append: a builder has one node, this machine: run slipway on each of the machines, and put the images together with imagetools create")
	}
	for _, name := range []string{b.Name, b.Node} {
		if name != "" {
			err = errors.Join(err, builders.CheckName(name))
		}
	}
	if err = errors.Join(err, checkDriver(b.Driver, endpoint)); err != nil {
		return b, err
	}
	if b.Platforms, err = builderPlatforms(o.platforms); err != nil {
		return b, err
	}
	if b.Driver == kube.Scheme {
		err = o.cluster(&b, endpoint, old)
	} else {
		b.DriverOpts, err = driverOptions(o.driverOpts)
	}
	if err != nil {
		return b, err
	}
	b.Flags, err = daemonFlags(o.flags)
	return b, err
}

// place finds the names of a builder, in a list that it is not in, or in which it may be changed.
func (o *createFlags) place(l *builders.List, b *builders.Builder, endpoint string) error {
	if endpoint != "" && b.Driver != kube.Scheme && !thisMachine(endpoint) && !slices.Contains(l.Contexts, endpoint) {
		return fmt.Errorf("failed to parse endpoint %s: no Docker context has that name, and the builder is on this machine: to build on another one, run slipway there", endpoint)
	}
	if slices.Contains(l.Contexts, b.Name) {
		return fmt.Errorf("instance name %q already exists as context builder", b.Name)
	}
	for try := 0; b.Name == ""; try++ {
		if name := container.RandomName(try); l.Find(name) == nil {
			b.Name = name
		}
	}
	if b.Node == "" {
		b.Node = b.Name + "0"
	}
	old := l.Find(b.Name)
	if old == nil {
		if b.Driver == "" {
			b.Driver = "docker-container"
		}
		return nil
	}
	switch {
	case o.node == "":
		return fmt.Errorf("existing instance for %q but no append mode, specify the node name to make changes for existing instances", b.Name)
	case b.Driver != "" && b.Driver != old.Driver:
		return fmt.Errorf("existing instance for %q but has mismatched driver %q", b.Name, old.Driver)
	case o.node != old.Node:
		return fmt.Errorf("node %s not found, the node of %s is %s", o.node, old.Name, old.Node)
	}
	changed := *old
	if len(b.Platforms) > 0 {
		changed.Platforms = b.Platforms
	}
	if b.DriverOpts != nil {
		changed.DriverOpts = b.DriverOpts
	}
	if b.Flags != nil {
		changed.Flags = b.Flags
	}
	if b.Endpoint != "" {
		changed.Endpoint = b.Endpoint
	}
	*b = changed
	return nil
}

// thisMachine reports whether an endpoint is where the builder is: the default context, or a Docker engine's usual socket,
// for which the builder stands in.
func thisMachine(endpoint string) bool {
	return endpoint == builders.Default || endpoint == "unix:///var/run/docker.sock" || endpoint == "unix:///run/docker.sock"
}

// checkDriver refuses drivers, and endpoints of other machines.
func checkDriver(driver, endpoint string) error {
	switch driver {
	case kube.Scheme:
		return nil
	case "", "docker", "docker-container":
	case "remote":
		return fmt.Errorf("--driver remote: there is no BuildKit daemon that would be asked to build: to build on another machine, run slipway there; here, leave out --driver")
	default:
		return fmt.Errorf("failed to find driver %q", driver)
	}
	if strings.Contains(endpoint, "://") && !thisMachine(endpoint) {
		return fmt.Errorf("endpoint %s: the builder is on this machine: to build on another one, run slipway there", endpoint)
	}
	return nil
}

// builderPlatforms reads values of --platform, and names each as it is listed.
func builderPlatforms(values []string) ([]string, error) {
	all, err := platformList(values)
	if err != nil {
		return nil, err
	}
	for i, name := range all {
		p, err := parsePlatform(name)
		if err != nil {
			return nil, err
		}
		all[i] = platforms.Format(*p)
	}
	return all, nil
}
