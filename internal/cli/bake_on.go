package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/bake"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/progress"
)

// remoteTarget is a target of a bake that is carried out in a cluster.
type remoteTarget struct {
	bake.Command
	remote
	task
	contexts map[string]*remoteTarget // that are others' images, by their names
	made     string                   // its image, by its digest in a registry; "" is none
	bringing bool                     // --load, that is
}

// bakeOn carries targets out in a cluster, each as a build in a Job of its own.
func (a *app) bakeOn(ctx context.Context, opts *bakeFlags, def *bake.Definition, display *openDisplay) error {
	targets, err := a.remoteTargets(opts, def)
	if err != nil {
		return err
	}
	if _, err := a.Store(); err != nil { // it is opened once, and not by each that is carried out
		return err
	}
	a.registry()
	var tasks []*task
	for _, t := range targets {
		t.do = func(ctx context.Context) error {
			if err := t.build(ctx, display); err != nil {
				return fmt.Errorf("target %s: %w", t.Name, err)
			}
			return nil
		}
		tasks = append(tasks, &t.task)
	}
	err = carryOut(ctx, tasks)
	warnings := display.Wait()
	if opts.progress != "quiet" && opts.progress != "none" && opts.progress != "rawjson" {
		a.printWarnings(warnings)
	}
	if err != nil {
		return a.failed(ctx, err)
	}
	return a.finishTargets(ctx, opts, targets, warnings)
}

// finishTargets does what is to be done here when all are built.
func (a *app) finishTargets(ctx context.Context, opts *bakeFlags, targets []*remoteTarget, warnings []client.VertexWarning) error {
	all := map[string]any{}
	for _, t := range targets {
		t.said.print(a)
		t.opts.load = t.bringing
		if err := t.finish(ctx, opts.progress, warnings); err != nil {
			return fmt.Errorf("target %s: %w", t.Name, err)
		}
		all[t.Name] = t.meta
	}
	if opts.metadataFile == "" {
		return nil
	}
	addWarnings(all, warnings)
	return writeMetadata(opts.metadataFile, all)
}

// remoteTargets are the targets, with what their builds are told. Those that say nothing of a repository for results and contexts have that of the first one that does.
func (a *app) remoteTargets(opts *bakeFlags, def *bake.Definition) (targets []*remoteTarget, err error) {
	if opts.Call != "build" {
		return nil, errors.New("--call and --on=kubernetes: ask here: it needs no cluster")
	}
	commands, err := def.Commands()
	if err != nil {
		return nil, err
	}
	b, err := opts.bounds(maxJobs)
	if err != nil {
		return nil, err
	}
	for _, c := range commands {
		t := &remoteTarget{Command: c, remote: remote{app: a, context: c.Context, bounds: b, files: map[string][]byte{}}}
		if err := t.parse(opts); err != nil {
			return nil, fmt.Errorf("target %s: %w", c.Name, err)
		}
		targets = append(targets, t)
	}
	common := commonRepository(targets)
	for _, t := range targets {
		if err := t.prepare(common); err != nil {
			return nil, fmt.Errorf("target %s: %w", t.Name, err)
		}
		if err := t.link(targets); err != nil {
			return nil, fmt.Errorf("target %s: %w", t.Name, err)
		}
	}
	cluster, err := kube.Open(opts.on) // one for all, and so are its connections
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		t.cluster = cluster
	}
	return targets, nil
}

// link finds the targets whose images are contexts of this one.
func (t *remoteTarget) link(all []*remoteTarget) error {
	t.contexts = map[string]*remoteTarget{}
	for _, name := range slices.Sorted(maps.Keys(t.Needs)) {
		i := slices.IndexFunc(all, func(o *remoteTarget) bool { return o.Name == t.Needs[name] })
		if i < 0 {
			return fmt.Errorf("context %s: there is no target %s", name, t.Needs[name])
		}
		t.contexts[name], t.needs = all[i], append(t.needs, &all[i].task)
	}
	return nil
}

// commonRepository is that of the first target that names one for results by their keys, or else the one that the first with a tag has.
func commonRepository(targets []*remoteTarget) cache.Packed {
	for _, tagged := range []bool{false, true} {
		for _, t := range targets {
			if repo, ok := t.repository(tagged); ok {
				return repo
			}
		}
	}
	return cache.Packed{}
}

// repository is the one that the target's caches name, or with tagged its first tag. What is wrong with it is said when it is planned.
func (t *remoteTarget) repository(tagged bool) (cache.Packed, bool) {
	one := remote{app: t.app, opts: &buildFlags{cacheFlags: t.opts.cacheFlags}}
	if tagged {
		one.opts.tags = t.opts.tags
	}
	err := one.planCaches()
	return one.repo, err == nil
}

// parse reads the target's command line, as that of a build.
func (t *remoteTarget) parse(opts *bakeFlags) error {
	t.opts, t.flags = &buildFlags{}, pflag.NewFlagSet("build", pflag.ContinueOnError)
	t.opts.add(t.flags)
	if err := t.flags.Parse(append(slices.Clone(t.Args), opts.given...)); err != nil {
		return err
	}
	if t.app.settings != nil {
		if err := set(t.flags, &t.app.settings.Build); err != nil {
			return err
		}
	}
	t.opts.on = opts.on
	if opts.builder == nil {
		return nil
	}
	err := t.opts.inCluster(*opts.builder, t.flags)
	if !t.Linked {
		t.opts.loadByDefault()
	}
	return err
}

// prepare plans the build. A target that others need leaves an image in the repository, as one that comes home does.
func (t *remoteTarget) prepare(common cache.Packed) error {
	t.bringing = t.opts.load
	if _, named := t.repository(false); !named && common.Repository != "" {
		entry := keysEntry(common)
		t.opts.cacheFrom, t.opts.cacheTo = append(t.opts.cacheFrom, entry), append(t.opts.cacheTo, entry+",ignore-error=true")
	}
	if t.Linked {
		t.opts.load, t.opts.outputs = true, nil
		if len(t.opts.tags) == 0 {
			t.opts.tags = []string{"linked:" + t.Name} // it is called so nowhere
		}
	}
	return t.plan()
}

// build builds the target, and finds out what it has made.
func (t *remoteTarget) build(ctx context.Context, display progress.Sink) error {
	for _, name := range slices.Sorted(maps.Keys(t.contexts)) {
		of := t.contexts[name]
		if of.made == "" {
			return fmt.Errorf("context %s: target %s has made no image", name, of.Name)
		}
		t.opts.contexts = append(t.opts.contexts, name+"=docker-image://"+of.made)
	}
	if t.Dockerfile != "" {
		dir, err := os.MkdirTemp("", "slipway-bake-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if t.opts.file, err = writeDockerfile(dir, []byte(t.Dockerfile)); err != nil {
			return err
		}
	}
	if err := t.run(ctx, progress.Apart(display, t.Name)); err != nil {
		return err
	}
	if _, err := t.readResult(); err != nil {
		return err
	}
	t.made = t.madeName()
	return nil
}

// madeName is the image in the registry.
func (t *remoteTarget) madeName() string {
	name, err := t.imageName()
	if err != nil { // it is pushed nowhere
		return ""
	}
	named, err := reference.ParseNormalizedNamed(name)
	text, _ := t.meta["containerimage.digest"].(string)
	if err != nil || digest.Digest(text).Validate() != nil { // who needs it has an error then
		return ""
	}
	return named.Name() + "@" + text
}
