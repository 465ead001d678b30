package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// ground is what all rounds share: a registry, contexts of builds, and what each has to give.
type ground struct {
	settings
	dir       string
	reg       *registrytest.Registry
	truths    map[string]truth // by name of what is built
	stockroom string           // a store with all images and their cache, which rounds begin with
	bareroom  string           // one with the base image
	journal   *journal
	slot      string // the name of the step that the failing build keeps
	left      string // what lookKept prints in it
}

// truth is what a build has to give, always.
type truth struct {
	id   string
	tree string // what the check command in a container prints; "" of an image without a shell
}

// recipes are what is built. All share a base, the first two a stage; each layer's bytes are the same in each
// build (SOURCE_DATE_EPOCH).
var recipes = map[string]string{
	"app": tools + `
FROM busybox AS gen
RUN --mount=type=cache,target=/cache echo once >> /cache/log && grep -q once /cache/log && echo generated > /gen
FROM busybox
WORKDIR /app
COPY src src
COPY --from=tools /out tools
COPY --from=gen /gen gen
RUN cat src/* > all && chmod 700 all && rm src/b && ln all hard && echo $((6*7)) > answer
ENV APP=1
CMD ["cat", "/app/all"]
`,
	"lib": tools + `
FROM scratch
COPY --from=tools /out/t1 /out/t2 /lib/
COPY src/a /lib/a
LABEL lib=1
`,
	"chain": `
FROM busybox
RUN mkdir -p /app/d && echo 1 > /app/1
RUN echo 2 > /app/2 && echo x > /app/d/x
RUN rm -r /app/d && mkdir /app/d && echo y > /app/d/y
COPY --chown=7:8 src /app/src
RUN mv /app/1 /app/one && chown 5:6 /app/2
`,
}

const tools = `FROM busybox AS tools
RUN mkdir /out && for i in 1 2 3; do echo "tool $i" > /out/t$i; done && ln -s t1 /out/link
RUN head -c 300000 /dev/zero | tr '\0' x > /out/big
`

// look prints all that a RUN could have made wrong.
const look = `find /app | sort | xargs stat -c '%n %F %a %u %g %h %s' | sed 's,^\(/app[^ ]* directory .*\) .* .*,\1,'; find /app /bin/busybox -type f | sort | xargs sha256sum`

func newGround(ctx context.Context, s settings) (_ *ground, err error) {
	dir, err := os.MkdirTemp(s.tmpfs, "slipway-torture-")
	if err != nil {
		return nil, err
	}
	g := &ground{settings: s, dir: dir, reg: registrytest.New(), truths: map[string]truth{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if err := g.serve(); err != nil {
		return nil, err
	}
	if err := g.writeContexts(); err != nil {
		return nil, err
	}
	if err := g.inPeace(ctx); err != nil {
		return nil, fmt.Errorf("before anything is tortured: %w", err)
	}
	return g, nil
}

// serve fills the registry with the base image, and makes it docker.io.
func (g *ground) serve() error {
	base, err := baseimage.Busybox()
	if err != nil {
		return err
	}
	ref, err := name.ParseReference(g.reg.Host + "/library/busybox:latest")
	if err != nil {
		return err
	}
	if err := remote.Write(ref, base); err != nil {
		return err
	}
	return registrytest.WriteCertsD(g.path("certs.d"), map[string][]string{"docker.io": {g.reg.URL}})
}

func (g *ground) path(elem ...string) string {
	return filepath.Join(append([]string{g.dir}, elem...)...)
}

// writeContexts makes the directories that are built, whose files are old, so that slipway remembers their digests.
func (g *ground) writeContexts() error {
	old := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	all := maps.Clone(recipes)
	all["failing"] = failing
	for name, text := range all {
		src := g.path("contexts", name, "src")
		if err := os.MkdirAll(src, 0o755); err != nil {
			return err
		}
		files := map[string]string{"../Dockerfile": text, "a": strings.Repeat("a\n", 50_000), "b": "b\n", "c": "c of " + name + "\n"}
		for file, content := range files {
			path := filepath.Join(src, file)
			if err := errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, old, old)); err != nil {
				return err
			}
		}
	}
	return nil
}

// inPeace finds out what everything has to give, by doing it in a new store, twice.
func (g *ground) inPeace(ctx context.Context) error {
	dir := g.path("peace")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	r := &round{ground: g, kind: kind{name: "peace"}, rng: rand.New(rand.NewPCG(1, 1)), dir: dir, count: new(atomic.Int64)}
	s := r.store(filepath.Join(dir, "store"))
	if _, err := s.must(ctx, "pull", busybox); err != nil {
		return err
	}
	g.bareroom = g.path("bare")
	if err := storeAway(s.root, g.bareroom); err != nil {
		return err
	}
	for name := range recipes {
		id, err := s.must(ctx, "build", "-q", "-t", name, g.path("contexts", name))
		if err != nil {
			return err
		}
		t := truth{id: strings.TrimSpace(id)}
		if name != "lib" {
			if t.tree, err = s.must(ctx, "run", "--rm", "--network", "none", name, "sh", "-c", look); err != nil {
				return err
			}
		}
		g.truths[name] = t
	}
	if err := g.keepInPeace(ctx, s); err != nil {
		return err
	}
	if _, err := s.must(ctx, "save", "-o", g.path("app.tar"), "app"); err != nil {
		return err
	}
	g.stockroom = g.path("stock")
	if err := storeAway(s.root, g.stockroom); err != nil {
		return err
	}
	for name := range recipes {
		s.names[name] = only(g.truths[name].id)
	}
	if err := s.check(ctx); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// storeAway copies a store, but not its reserve, of which cp would make a hole.
func storeAway(root, to string) error {
	return errors.Join(copyTree(root, to), os.Remove(filepath.Join(to, "reserve")))
}

// close ends the registry and removes everything, but what is to be kept.
func (g *ground) close() error {
	g.reg.Close()
	if failed, err := filepath.Glob(g.path("*-[0-9]*")); err != nil || g.keep && len(failed) > 0 {
		fmt.Fprintln(os.Stderr, "kept:", failed)
		return err
	}
	return removeAll(g.dir)
}
