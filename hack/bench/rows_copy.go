package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// files and fileBytes are the large context: 20,000 files of 150 MB in 200 directories.
const (
	files     = 20_000
	perDir    = 100
	fileBytes = 150_000_000 / files
)

// largeContext makes the large context and the Dockerfile that copies it.
func (p *place) largeContext() (data string, err error) {
	data = p.path("context", "data")
	if err := writeFiles(data, files, perDir, fileBytes); err != nil {
		return "", err
	}
	return data, p.write("context", map[string]string{"Dockerfile": "FROM busybox\nCOPY data /data\n"})
}

// contextWhat names the large context.
var contextWhat = fmt.Sprintf("COPY %d files (%s) into the final stage", files, size(files*fileBytes))

// tarSum is the bound of writing a tree as a layer: reading and hashing it.
func tarSum(dir string) task {
	return commands("tar c | sha256sum of the tree", shell("tar c -C '%s' . | sha256sum", dir))
}

// contextColdRow copies the large context with an empty store, which knows nothing of its files.
func contextColdRow(_ context.Context, p *place) (contest, error) {
	data, err := p.largeContext()
	if err != nil {
		return contest{}, err
	}
	dir := p.path("context")
	return contest{
		what:    contextWhat + ", empty store",
		bound:   tarSum(data),
		slipway: task{before: p.emptyStores, run: func(int) []command { return []command{p.build(dir)} }},
		buildah: p.buildahTask(task{before: p.emptyStores, run: func(int) []command { return []command{p.bud(dir)} }}),
	}, nil
}

// contextRow copies the large context with no cache.
func contextRow(_ context.Context, p *place) (contest, error) {
	data, err := p.largeContext()
	if err != nil {
		return contest{}, err
	}
	return p.noCache(contextWhat+", no cache", tarSum(data)), nil
}

// contextEditedRow copies the large context after one file of it changed.
func contextEditedRow(_ context.Context, p *place) (contest, error) {
	data, err := p.largeContext()
	if err != nil {
		return contest{}, err
	}
	c := p.noCache(contextWhat+", one file edited", tarSum(data))
	edit := func(context.Context, int) error {
		return p.write("context", map[string]string{filepath.Join("data", dirName(0), fileName(0)): p.fresh()})
	}
	dir := p.path("context")
	c.slipway.before, c.slipway.run = edit, func(int) []command { return []command{p.build(dir)} }
	if c.buildah.why == "" {
		c.buildah.before, c.buildah.run = edit, func(int) []command { return []command{p.bud(dir)} }
	}
	return c, nil
}

// contextSameRow copies the large context when nothing in it has changed.
func contextSameRow(_ context.Context, p *place) (contest, error) {
	data, err := p.largeContext()
	if err != nil {
		return contest{}, err
	}
	c := p.noCache(contextWhat+", nothing changed",
		commands("find -printf over the tree", shell(`find '%s' -printf '%%p %%m %%U %%G %%s %%T@ %%i\n' > /dev/null`, data)))
	dir := p.path("context")
	c.slipway.run = func(int) []command { return []command{p.build(dir)} }
	if c.buildah.why == "" {
		c.buildah.run = func(int) []command { return []command{p.bud(dir)} }
	}
	return c, nil
}

// copyFinalRow copies a tool chain from a stage that ran into the last stage. Each time it goes
// to another place, so that the stage it comes from stays as it is.
func copyFinalRow(_ context.Context, p *place) (contest, error) {
	return p.copyFrom("into the final stage", "", tarSum(p.tree()))
}

// copyRunRow is the same with a RUN after it.
func copyRunRow(_ context.Context, p *place) (contest, error) {
	links := p.path("links")
	bound := task{
		what:   "cp -al of the tree",
		before: func(context.Context, int) error { return os.RemoveAll(links) },
		run:    func(int) []command { return []command{{args: []string{"cp", "-al", p.tree(), links}}} },
	}
	return p.copyFrom("into a stage that RUNs", "RUN [\"/bin/true\"]\n", bound)
}

func (p *place) copyFrom(where, more string, bound task) (contest, error) {
	dir := p.path("context")
	write := func(context.Context, int) error {
		p.next++
		return p.write("context", map[string]string{"Dockerfile": fmt.Sprintf(
			"FROM toolset AS builder\nRUN [\"/bin/true\"]\nFROM busybox\nCOPY --from=builder /usr/local/go /opt/go%d\n%s", p.next, more)})
	}
	timed := func(build func(string, ...string) command) task {
		return task{
			setup: func(ctx context.Context) error {
				if err := write(ctx, 0); err != nil {
					return err
				}
				return p.do(ctx, build(dir))
			},
			before: write,
			run:    func(int) []command { return []command{build(dir)} },
		}
	}
	return contest{
		what:  fmt.Sprintf("COPY --from of %d files (%s) %s", p.served.Tree.Files, size(p.served.Tree.Bytes), where),
		bound: bound, slipway: timed(p.build), buildah: p.buildahTask(timed(p.bud)),
	}, nil
}
