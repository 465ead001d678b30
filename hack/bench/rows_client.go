package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// clientRow is a row through buildx: against a server of slipway's, and against BuildKit's daemon. prepare makes what is built; the
// task is what one server is asked to do.
func clientRow(what string, prepare func(p *place) error, ask func(p *place, d *daemon) task) func(context.Context, *place) (contest, error) {
	return func(_ context.Context, p *place) (contest, error) {
		if err := prepare(p); err != nil {
			return contest{}, err
		}
		other, err := p.buildkitDaemon()
		if err != nil {
			return contest{}, err
		}
		return contest{what: what, bound: missing("-"), slipway: forServer(p, p.slipwayDaemon(), ask), buildkit: forServer(p, other, ask)}, nil
	}
}

// forServer is a task of a server that is started for it.
func forServer(p *place, d *daemon, ask func(*place, *daemon) task) task {
	t := ask(p, d)
	setup := t.setup
	t.setup = func(ctx context.Context) error {
		if err := d.start(ctx); err != nil || setup == nil {
			return err
		}
		return setup(ctx)
	}
	if t.memory == nil {
		t.memory = func() (int64, error) { return d.memory("VmHWM") }
	}
	return t
}

// builds is a task that builds a directory of the row, after it has done so once.
func builds(dir string, before func(p *place) error) func(*place, *daemon) task {
	return func(p *place, d *daemon) task {
		if !filepath.IsAbs(dir) {
			dir = p.path(dir)
		}
		return task{
			setup: func(ctx context.Context) error { return p.do(ctx, d.build(dir)) },
			before: func(context.Context, int) error {
				if before == nil {
					return nil
				}
				return before(p)
			},
			run: func(int) []command { return []command{d.build(dir)} },
		}
	}
}

// clientCachedRow builds the multi-stage example when nothing has changed.
func clientCachedRow(ctx context.Context, p *place) (contest, error) {
	dir := filepath.Join(p.repo, "examples", "multi-stage")
	return clientRow("multi-stage example, nothing changed", func(*place) error { return nil }, builds(dir, nil))(ctx, p)
}

// clientEditedRow changes the one source file of a two-stage build each time.
func clientEditedRow(ctx context.Context, p *place) (contest, error) {
	edit := func(p *place) error { return p.write("context", map[string]string{"main.txt": p.fresh()}) }
	return clientRow("two stages, a source file edited, RUN cp", func(p *place) error {
		if err := edit(p); err != nil {
			return err
		}
		return p.write("context", map[string]string{"Dockerfile": twoStages})
	}, builds("context", edit))(ctx, p)
}

// bakeTargets is how many a bake has.
const bakeTargets = 8

// clientBakeRow builds targets with a common stage, the one source file of which is edited each time.
func clientBakeRow(ctx context.Context, p *place) (contest, error) {
	edit := func(p *place) error { return p.write("context", map[string]string{"main.txt": p.fresh()}) }
	return clientRow(fmt.Sprintf("bake of %d targets with a common stage, its source file edited", bakeTargets), func(p *place) error {
		var dockerfile, bake, names strings.Builder
		dockerfile.WriteString("FROM busybox AS common\nWORKDIR /src\nCOPY main.txt .\nRUN cp main.txt /artifact\n")
		for i := range bakeTargets {
			fmt.Fprintf(&dockerfile, "FROM busybox AS t%d\nCOPY --from=common /artifact /artifact\nRUN echo %[1]d >> /artifact\n", i)
			fmt.Fprintf(&bake, "target \"t%d\" {\n  target = \"t%[1]d\"\n}\n", i)
			fmt.Fprintf(&names, "%q,", fmt.Sprintf("t%d", i))
		}
		fmt.Fprintf(&bake, "group \"default\" {\n  targets = [%s]\n}\n", strings.TrimSuffix(names.String(), ","))
		if err := edit(p); err != nil {
			return err
		}
		return p.write("context", map[string]string{"Dockerfile": dockerfile.String(), "docker-bake.hcl": bake.String()})
	}, func(p *place, d *daemon) task {
		bake := d.buildx("bake", "--progress=quiet")
		bake.dir = p.path("context")
		return task{
			setup:  func(ctx context.Context) error { return p.do(ctx, bake) },
			before: func(context.Context, int) error { return edit(p) },
			run:    func(int) []command { return []command{bake} },
		}
	})(ctx, p)
}

// clientContext makes the large context for a build that has no other base.
func clientContext(p *place) error {
	if _, err := p.largeContext(); err != nil {
		return err
	}
	return p.write("context", map[string]string{"Dockerfile": "FROM scratch\nCOPY data /data\n"})
}

// clientContextRow sends the large context to a server that has nothing of it.
func clientContextRow(ctx context.Context, p *place) (contest, error) {
	return clientRow(contextWhat+", for the first time", clientContext, func(p *place, d *daemon) task {
		return task{
			before: func(ctx context.Context, _ int) error { return d.empty(ctx) },
			run:    func(int) []command { return []command{d.build(p.path("context"))} },
		}
	})(ctx, p)
}

// clientContextSameRow sends it when nothing in it has changed.
func clientContextSameRow(ctx context.Context, p *place) (contest, error) {
	return clientRow(contextWhat+", nothing changed", clientContext, builds("context", nil))(ctx, p)
}

// clientContextEditedRow sends it after one file changed.
func clientContextEditedRow(ctx context.Context, p *place) (contest, error) {
	return clientRow(contextWhat+", one file edited", clientContext, builds("context", func(p *place) error {
		return p.write("context", map[string]string{filepath.Join("data", dirName(0), fileName(0)): p.fresh()})
	}))(ctx, p)
}

// atOnce is how many builds a server has at the same time.
const atOnce = 16

// clientAtOnceRow lets clients build at the same time.
func clientAtOnceRow(ctx context.Context, p *place) (contest, error) {
	return clientRow(fmt.Sprintf("%d builds at the same time, each with a RUN and a context of its own", atOnce), func(p *place) error {
		for i := range atOnce {
			if err := p.write(fmt.Sprint("context", i), map[string]string{"main.txt": p.fresh(), "Dockerfile": twoStages}); err != nil {
				return err
			}
		}
		return nil
	}, func(p *place, d *daemon) task {
		var script strings.Builder
		var env []string
		for i := range atOnce {
			c := d.build(p.path(fmt.Sprint("context", i)))
			env = c.env
			fmt.Fprintf(&script, "'%s' & p%d=$!\n", strings.Join(c.args, "' '"), i)
		}
		for i := range atOnce {
			fmt.Fprintf(&script, "wait $p%d\n", i)
		}
		all := shell("%s", script.String())
		all.env = env
		return task{
			before: func(context.Context, int) error {
				for i := range atOnce {
					if err := p.write(fmt.Sprint("context", i), map[string]string{"main.txt": p.fresh()}); err != nil {
						return err
					}
				}
				return nil
			},
			run: func(int) []command { return []command{all} },
		}
	})(ctx, p)
}

// serveIdleRow asks a server that has nothing to do, after a build, what it is.
func serveIdleRow(ctx context.Context, p *place) (contest, error) {
	return clientRow("buildctl debug workers, of a server that has built something", func(p *place) error {
		return p.write("context", map[string]string{"main.txt": p.fresh(), "Dockerfile": twoStages})
	}, func(p *place, d *daemon) task {
		t := builds("context", nil)(p, d)
		t.run = func(int) []command { return []command{d.buildctl("debug", "workers")} }
		t.memory = func() (int64, error) { return d.memory("VmRSS") }
		return t
	})(ctx, p)
}
