package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	dockerconfig "github.com/docker/cli/cli/config"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/isolation"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	"github.com/slipway-build/slipway/internal/serve/bridge"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// Runner makes the sandbox.
func (a *app) Runner() (sandbox.Runner, error) {
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	return a.runnerOn(s), nil
}

// runnerOn makes the sandbox of a store.
func (a *app) runnerOn(s *store.Store) sandbox.Runner {
	notice := ""
	if a.mode != nil && a.mode.Mode == isolation.None {
		notice = placeNotice
	}
	return &lazyRunner{notice: notice, slots: make(chan struct{}, a.maxRuns), open: func() (sandbox.Runner, error) {
		if a.mode != nil && a.mode.Err != nil {
			return nil, a.mode.Err
		}
		dir, err := s.TempDir() // of the lease: what a killed process leaves in it is swept
		if err != nil {
			return nil, err
		}
		return sandbox.New(sandbox.Options{
			StateDir: dir, RuntimeBinary: a.runtime, Network: sandbox.WorkerNetwork(a.workerNet),
			FilterFile: filepath.Join(s.Root(), "seccomp"), InPlace: a.inPlace(s),
		})
	}}
}

// inPlace says how steps run without isolation; nil is that they do not.
func (a *app) inPlace(s *store.Store) *sandbox.InPlace {
	if a.mode == nil || a.mode.Mode != isolation.None {
		return nil
	}
	return &sandbox.InPlace{Pinned: slices.Concat([]string{s.Root(), dockerconfig.Dir()}, a.certsDirs(), a.reads)}
}

// willRead notes what builds read of this machine while steps run.
func (a *app) willRead(reqs ...*build.Request) {
	for _, req := range reqs {
		paths := req.Reads()
		for _, s := range req.Secrets {
			if file, ok := secrets.File(s); ok {
				paths = append(paths, file)
			}
		}
		for _, path := range paths {
			if abs, err := filepath.Abs(path); err == nil {
				a.reads = append(a.reads, abs)
			}
		}
	}
}

// lazyRunner makes its runner when something is to be run, which a cached build does not.
type lazyRunner struct {
	open   func() (sandbox.Runner, error)
	notice string        // what is told of each process; "" is nothing
	slots  chan struct{} // of those that run; without capacity any number may

	mu     sync.Mutex
	runner sandbox.Runner // once it could be made: there may have been no space for it
}

func (l *lazyRunner) get() (r sandbox.Runner, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runner == nil {
		l.runner, err = l.open()
	}
	return l.runner, err
}

// Run implements sandbox.Runner.
func (l *lazyRunner) Run(ctx context.Context, spec *sandbox.Spec, streams sandbox.IO) error {
	r, err := l.get()
	if err != nil {
		return err
	}
	if l.notice != "" && streams.Notice != nil {
		streams.Notice(l.notice)
	}
	if cap(l.slots) > 0 && !spec.Waits {
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return r.Run(ctx, spec, streams)
}

// Exec implements sandbox.Runner. The container has a place already.
func (l *lazyRunner) Exec(ctx context.Context, id string, p *sandbox.Process, streams sandbox.IO) error {
	r, err := l.get()
	if err != nil {
		return err
	}
	return r.Exec(ctx, id, p, streams)
}

// Images makes the source of images.
func (a *app) Images() (*imagesource.Source, error) {
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	return imagesource.New(s, a.registry()), nil
}

// registry makes the client of registries, once: it remembers tokens.
func (a *app) registry() *registry.Client {
	if a.openRegistry == nil {
		opts := a.registries
		opts.CertsDirs, opts.UserAgent = a.certsDirs(), "slipway/"+version()
		a.openRegistry = registry.New(opts)
	}
	return a.openRegistry
}

// Builder makes what builds. dumpKey is given every key's lines; it may be nil.
func (a *app) Builder(dumpKey func(vertex string, lines []string)) (*build.Builder, error) {
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	return a.builderOn(s, dumpKey), nil
}

// builderOn makes what builds with a store.
func (a *app) builderOn(s *store.Store, dumpKey func(vertex string, lines []string)) *build.Builder {
	return build.New(build.Options{
		Store: s, Images: imagesource.New(s, a.registry()), Runner: a.runnerOn(s), DumpKey: dumpKey, Fidelity: a.fidelity(), Registry: a.registry(), Serve: bridge.Serve, Unrecorded: a.unrecorded(),
	})
}

// containers makes what manages containers, without what runs them.
func (a *app) containers() (*container.Manager, error) {
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	return &container.Manager{Store: s, Command: a.monitorCommand}, nil
}

// openImage finds the image of a container: by name or ID in the store, otherwise from its
// registry, which is told on stderr. pull is "missing", "always" or "never".
func (a *app) openImage(ctx context.Context, name, platform, pull string) (*container.Image, error) {
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	switch pull {
	case "missing", "always", "never":
	default:
		return nil, fmt.Errorf("--pull %q: want always, missing or never", pull)
	}
	if pull != "always" {
		img, err := localImage(ctx, s, name, platform)
		if err == nil {
			return container.OpenImage(ctx, s, name, img.Manifest.Digest)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	if pull == "never" {
		return nil, &view.NotFoundError{Message: "No such image: " + name, Err: store.ErrNotFound}
	}
	mode := imagesource.ResolvePull
	if pull != "always" {
		fmt.Fprintf(a.stderr, "Unable to find image '%s' locally\n", view.Familiar(name))
		mode = imagesource.ResolveDefault
	}
	return a.pullImage(ctx, s, name, platform, mode, newTransferDisplay(a.stderr, false))
}
