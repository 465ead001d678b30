package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// startRow starts slipway for nothing, beside a program of Go that is nothing.
func startRow(_ context.Context, p *place) (contest, error) {
	dir := p.path("empty")
	err := p.write("empty", map[string]string{"go.mod": "module empty\n", "main.go": "package main\n\nfunc main() {}\n"})
	if err != nil {
		return contest{}, err
	}
	build := command{args: []string{"go", "build", "-ldflags", "-s -w", "-o", "empty", "."}, dir: dir, env: []string{"CGO_ENABLED=0"}}
	return contest{
		what: "slipway version",
		bound: task{
			what:  "an empty static Go program",
			setup: func(ctx context.Context) error { return p.do(ctx, build) },
			run:   func(int) []command { return []command{{args: []string{filepath.Join(dir, "empty")}}} },
		},
		slipway: commands("slipway version", p.version()),
		buildah: missing("-"),
	}, nil
}

// cachedRow builds the multi-stage example when nothing has changed.
func cachedRow(ctx context.Context, p *place) (contest, error) {
	dir := filepath.Join(p.repo, "examples", "multi-stage")
	return contest{
		what:  "multi-stage example, nothing changed",
		bound: commands("slipway version", p.version()),
		slipway: task{
			setup: func(ctx context.Context) error { return p.do(ctx, p.build(dir)) },
			run:   func(int) []command { return []command{p.build(dir)} },
		},
		buildah: p.buildahTask(task{
			setup: func(ctx context.Context) error { return p.do(ctx, p.bud(dir)) },
			run:   func(int) []command { return []command{p.bud(dir)} },
		}),
	}, nil
}

// twoStages copies one source file, and makes something of it.
const twoStages = `FROM busybox AS builder
WORKDIR /src
COPY main.txt .
RUN cp main.txt /artifact
FROM busybox
COPY --from=builder /artifact /artifact
`

// editedRow changes the one source file of a two-stage build each time.
func editedRow(ctx context.Context, p *place) (contest, error) {
	dir := p.path("context")
	edit := func(context.Context, int) error {
		return p.write("context", map[string]string{"main.txt": p.fresh()})
	}
	err := p.write("context", map[string]string{"main.txt": p.fresh(), "Dockerfile": twoStages})
	if err != nil {
		return contest{}, err
	}
	bound := missing("runc not installed")
	if cmds, err := p.runc(ctx, 1); err == nil {
		bound = commands("slipway version; runc run /bin/true", append([]command{p.version()}, cmds...)...)
	}
	return contest{
		what:  "two stages, a source file edited, RUN cp",
		bound: bound,
		slipway: task{
			setup:  func(ctx context.Context) error { return p.do(ctx, p.build(dir)) },
			before: edit,
			run:    func(int) []command { return []command{p.build(dir)} },
		},
		buildah: p.buildahTask(task{
			setup:  func(ctx context.Context) error { return p.do(ctx, p.bud(dir)) },
			before: edit,
			run:    func(int) []command { return []command{p.bud(dir)} },
		}),
	}, nil
}

// runRow runs thirty steps that do nothing, one after the other.
func runRow(ctx context.Context, p *place) (contest, error) {
	const steps = 30
	var text strings.Builder
	text.WriteString("FROM busybox\n")
	for range steps {
		text.WriteString("RUN [\"/bin/true\"]\n")
	}
	if err := p.write("context", map[string]string{"Dockerfile": text.String()}); err != nil {
		return contest{}, err
	}
	bound := missing("runc not installed")
	if cmds, err := p.runc(ctx, steps); err == nil {
		bound = commands(fmt.Sprintf("%d x runc run /bin/true in busybox", steps), cmds...)
	}
	var echo strings.Builder
	echo.WriteString("FROM busybox\n")
	for i := range steps {
		fmt.Fprintf(&echo, "RUN echo %d > /f%d\n", i, i)
	}
	if err := p.write("counted", map[string]string{"Dockerfile": echo.String()}); err != nil {
		return contest{}, err
	}
	c := p.noCache(fmt.Sprintf("%d RUN /bin/true, no cache", steps), bound)
	c.counted = &counted{what: fmt.Sprintf("%d RUN echo N > /fN, no cache", steps), parts: steps, run: p.build(p.path("counted"), "--no-cache")}
	return c, nil
}

// noCache is a contest of building the row's context with nothing but the base image there.
func (p *place) noCache(what string, bound task, budFlags ...string) contest {
	dir := p.path("context")
	return contest{
		what:  what,
		bound: bound,
		slipway: task{
			setup: func(ctx context.Context) error { return p.do(ctx, p.build(dir)) },
			run:   func(int) []command { return []command{p.build(dir, "--no-cache")} },
		},
		buildah: p.buildahTask(task{
			setup: func(ctx context.Context) error { return p.do(ctx, p.bud(dir, budFlags...)) },
			run: func(int) []command {
				return []command{p.bud(dir, append([]string{"--no-cache"}, budFlags...)...)}
			},
		}),
	}
}

// parallelRow has six stages that wait, which need nothing of each other.
func parallelRow(_ context.Context, p *place) (contest, error) {
	const stages = 6
	var text, last strings.Builder
	last.WriteString("FROM busybox\n")
	for i := range stages {
		fmt.Fprintf(&text, "FROM busybox AS s%d\nRUN sleep 1 && echo %d > /done\n", i, i)
		fmt.Fprintf(&last, "COPY --from=s%d /done /done%d\n", i, i)
	}
	err := p.write("context", map[string]string{"Dockerfile": text.String() + last.String()})
	if err != nil {
		return contest{}, err
	}
	bound := commands("sleep 1", command{args: []string{"sleep", "1"}})
	return p.noCache(fmt.Sprintf("%d stages of RUN sleep 1, no cache", stages), bound, fmt.Sprintf("--jobs=%d", stages)), nil
}

// importRow builds the multi-stage example on a machine that has nothing but a cache: the bound is the
// same build without one.
func importRow(_ context.Context, p *place) (contest, error) {
	dir, cache := filepath.Join(p.repo, "examples", "multi-stage"), p.path("cache")
	return contest{
		what:  "multi-stage example, empty store, with the cache of another machine",
		bound: task{what: "the same without the cache", before: p.emptyStores, run: func(int) []command { return []command{p.build(dir)} }},
		slipway: task{
			setup: func(ctx context.Context) error {
				return p.do(ctx, p.build(dir, "--cache-to", "type=local,mode=max,dest="+cache))
			},
			before: p.emptyStores,
			run:    func(int) []command { return []command{p.build(dir, "--cache-from", "type=local,src="+cache)} },
		},
		buildah: missing("its caches are in registries"),
	}, nil
}
