package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/bake"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/progress"
)

// maxJobs is how many targets are carried out at the same time.
const maxJobs = 16

// remoteTarget is a target of a bake that is carried out in a cluster. It begins when those that it needs are done: no pod waits for another one.
type remoteTarget struct {
	bake.Command
	remote
	done     chan struct{} // closed when it has made its image
	made     string        // that image, by its digest in a registry; "" is none
	bringing bool          // --load, that is
}

// bakeOn carries targets out in a cluster, each as a build in a Job of its own.
func (a *app) bakeOn(ctx context.Context, opts *bakeFlags, def *bake.Definition, display *openDisplay) error {
	targets, err := a.remoteTargets(opts, def)
	if err != nil {
		return err
	}
	g, building := errgroup.WithContext(ctx)
	jobs := make(chan struct{}, maxJobs)
	for _, t := range targets {
		g.Go(func() error {
			if err := t.carryOut(building, targets, jobs, display); err != nil {
				return fmt.Errorf("target %s: %w", t.Name, err)
			}
			return nil
		})
	}
	err = g.Wait()
	warnings := display.Wait()
	if opts.progress != "quiet" && opts.progress != "none" && opts.progress != "rawjson" {
		a.printWarnings(warnings)
	}
	var failed *failedTarget
	if errors.As(err, &failed) {
		failed.said.print(a)
		return &codeError{failed.out.ExitCode, err}
	}
	if err != nil {
		return err
	}
	return a.finishTargets(ctx, opts, targets, warnings)
}

// failedTarget is that a build has failed, as its words and its exit code tell.
type failedTarget struct{ *remoteTarget }

func (f *failedTarget) Error() string {
	return fmt.Sprintf("the build in the cluster failed with exit code %d", f.out.ExitCode)
}

// finishTargets does what is to be done here when all are built.
func (a *app) finishTargets(ctx context.Context, opts *bakeFlags, targets []*remoteTarget, warnings []client.VertexWarning) error {
	all := map[string]any{}
	for _, t := range targets {
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
	for _, c := range commands {
		t := &remoteTarget{Command: c, done: make(chan struct{}), remote: remote{app: a, context: c.Context, files: map[string][]byte{}}}
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
	}
	return targets, nil
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
	return nil
}

// prepare plans the build. A target that others need leaves an image in the repository, as one that comes home does.
func (t *remoteTarget) prepare(common cache.Packed) (err error) {
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
	if err := t.plan(); err != nil {
		return err
	}
	t.cluster, err = kube.Open(t.opts.on)
	return err
}

// carryOut builds the target when those that it needs are done.
func (t *remoteTarget) carryOut(ctx context.Context, all []*remoteTarget, jobs chan struct{}, display progress.Sink) error {
	for _, name := range slices.Sorted(maps.Keys(t.Needs)) {
		i := slices.IndexFunc(all, func(o *remoteTarget) bool { return o.Name == t.Needs[name] })
		if i < 0 {
			return fmt.Errorf("context %s: there is no target %s", name, t.Needs[name])
		}
		if err := receive(ctx, all[i].done); err != nil {
			return err
		}
		if all[i].made == "" {
			return fmt.Errorf("context %s: target %s has made no image", name, t.Needs[name])
		}
		t.opts.contexts = append(t.opts.contexts, name+"=docker-image://"+all[i].made)
	}
	if err := enter(ctx, jobs); err != nil {
		return err
	}
	defer func() { <-jobs }()
	if t.Dockerfile != "" {
		dir, err := os.MkdirTemp("", "slipway-bake-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		t.opts.file = filepath.Join(dir, "Dockerfile")
		if err := os.WriteFile(t.opts.file, []byte(t.Dockerfile), 0o600); err != nil {
			return err
		}
	}
	if err := t.run(ctx, progress.Apart(display, t.Name)); err != nil {
		return err
	}
	if t.out.ExitCode != 0 {
		return &failedTarget{t}
	}
	if _, err := t.readResult(); err != nil {
		return err
	}
	t.made = t.madeName()
	close(t.done)
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
