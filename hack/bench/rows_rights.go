package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-build/slipway/hack/environments"
)

// ground makes a place of hack/environments for the row; what it has on disk goes with the row.
func (p *place) ground() (*environments.Ground, error) {
	registry, err := url.Parse("http://" + p.served.Addr)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(p.room.dir, 0o755), os.MkdirAll(p.path("ground"), 0o755)); err != nil { // MkdirTemp keeps users out
		return nil, err
	}
	var handler http.Handler = httputil.NewSingleHostReverseProxy(registry)
	g, err := environments.NewGround(p.path("ground"), p.settings.slipway, handler)
	if err == nil {
		p.atEnd(func() error { g.Close(); return nil })
	}
	return g, err
}

// openPlace makes a place with contexts in its workspace, by directory and name of a file.
func openPlace(g *environments.Ground, env, name string, files map[string]string) (*environments.Place, error) {
	e, ok := environments.Find(env)
	if !ok {
		return nil, fmt.Errorf("no environment %s", env)
	}
	at, err := g.Open(e, name)
	if err != nil {
		return nil, err
	}
	for name, content := range files {
		path := filepath.Join(at.Workspace, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			return nil, err
		}
	}
	return at, at.Give(at.Workspace)
}

// inPlaceOf is a task that builds a context in an environment with nothing but the base image there.
func inPlaceOf(g *environments.Ground, env, what string, files map[string]string, flags ...string) task {
	var at *environments.Place
	build := func(ctx context.Context) (time.Duration, error) {
		return at.Time(ctx, "slipway "+strings.Join(append(flags, "build -q --no-cache -t"), " ")+" "+imageName+" "+at.InWorkspace+"/context > /dev/null")
	}
	return task{
		what: what,
		setup: func(ctx context.Context) (err error) {
			if at, err = openPlace(g, env, env, files); err == nil {
				_, err = build(ctx)
			}
			return err
		},
		timed: func(ctx context.Context, _ int) (time.Duration, error) { return build(ctx) },
	}
}

// runs is a Dockerfile of so many steps that do nothing.
func runs(base string, n int) string {
	return "FROM " + base + "\n" + strings.Repeat("RUN [\"/bin/true\"]\n", n)
}

// ownNetwork has steps have the network that they have where nobody says otherwise, as environments do.
const ownNetwork = "--worker-net=bridge"

// userRunRow is run30 as a user with subordinate IDs, bound by root's.
func userRunRow(_ context.Context, p *place) (contest, error) {
	g, err := p.ground()
	if err != nil {
		return contest{}, err
	}
	files := map[string]string{"context/Dockerfile": runs("busybox", 30)}
	return contest{
		what:    "30 RUN /bin/true, no cache, as a user",
		bound:   inPlaceOf(g, "root", "the same as root", files, ownNetwork),
		slipway: inPlaceOf(g, "user", "", files, ownNetwork),
		buildah: missing("-"),
	}, nil
}

// inPlaceRunRow is run30 in a container without rights, bound by that of one with all.
func inPlaceRunRow(_ context.Context, p *place) (contest, error) {
	g, err := p.ground()
	if err != nil {
		return contest{}, err
	}
	files := map[string]string{"context/Dockerfile": runs("busybox", 30)}
	return contest{
		what:    "30 RUN /bin/true, no cache, in place",
		bound:   inPlaceOf(g, "privileged", "the same in a container with all rights", files),
		slipway: inPlaceOf(g, "docker", "", files),
		buildah: missing("-"),
	}, nil
}

// inPlaceLargeRow is what a step costs in a root filesystem of 17,000 files: the difference of ten more of them.
func inPlaceLargeRow(ctx context.Context, p *place) (contest, error) {
	const more = 10
	g, err := p.ground()
	if err != nil {
		return contest{}, err
	}
	files := map[string]string{"one/Dockerfile": runs("golang", 1), "more/Dockerfile": runs("golang", 1+more)}
	each := func(build func(ctx context.Context, i int, dir string) (time.Duration, error)) func(context.Context, int) (time.Duration, error) {
		return func(ctx context.Context, i int) (time.Duration, error) {
			one, err := build(ctx, i, "one")
			if err != nil {
				return 0, err
			}
			all, err := build(ctx, i, "more")
			return (all - one) / more, err
		}
	}
	slipway := func(env string) task {
		var at *environments.Place
		build := func(ctx context.Context, _ int, dir string) (time.Duration, error) {
			return at.Time(ctx, "slipway build -q --no-cache -t "+imageName+" "+at.InWorkspace+"/"+dir+" > /dev/null")
		}
		return task{
			what: "the same in a container with all rights",
			setup: func(ctx context.Context) (err error) {
				if at, err = openPlace(g, env, env, files); err == nil {
					_, err = build(ctx, 0, "one")
				}
				return err
			},
			timed: each(build),
		}
	}
	return contest{
		what:    fmt.Sprintf("one RUN /bin/true in place on a Go tool chain (of %d, no cache); beside kaniko with full snapshots", more),
		bound:   slipway("privileged"),
		slipway: slipway("docker"),
		buildah: p.kaniko(ctx, g, files, each),
	}, nil
}

// kaniko is the task of building with kaniko. Each time it has a new container, as it leaves the image's files in its own.
func (p *place) kaniko(ctx context.Context, g *environments.Ground, files map[string]string,
	each func(func(context.Context, int, string) (time.Duration, error)) func(context.Context, int) (time.Duration, error)) task {
	if p.settings.noOther {
		return missing("left out")
	}
	program := filepath.Join(p.settings.buildkit, "kaniko")
	if err := p.do(ctx, command{args: []string{filepath.Join(p.repo, "hack", "kaniko.sh"), program}, dir: p.repo, long: true}); err != nil {
		return missing("not compiled")
	}
	return task{timed: each(func(ctx context.Context, i int, dir string) (time.Duration, error) {
		at, err := openPlace(g, "docker", fmt.Sprintf("kaniko-%s-%d", dir, i), files)
		if err != nil {
			return 0, err
		}
		if _, err := copyFile(program, filepath.Join(at.Workspace, "executor")); err != nil {
			return 0, err
		}
		return at.Time(ctx, at.InWorkspace+"/executor --force --no-push --snapshot-mode=full --registry-mirror="+at.Registry+
			" --insecure-registry="+at.Registry+" --insecure-pull --skip-default-registry-fallback --context="+at.InWorkspace+"/"+dir)
	})}
}
