package build_test

import (
	"context"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	gw "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
)

// Caches that whoever evaluates asks for are imported, by builds that ask; what is a path of this machine is none of them.
func TestCachesAskedFor(t *testing.T) {
	h := newHarness(t)
	def, err := llb.Image("docker.io/library/busybox:latest").Run(llb.Shlex(`sh -c "echo made > /made"`), llb.WithCustomName("RUN")).
		Run(llb.Shlex("cp /made /copy"), llb.WithCustomName("RUN")).Root().Marshal(t.Context())
	must(t, err)
	asks := func(entries ...gw.CacheOptionsEntry) build.Request {
		return build.Request{
			Outputs: []build.Output{{Type: build.OutputCacheOnly}},
			Evaluate: func(ctx context.Context, c gw.Client) (*gw.Result, error) {
				if _, err := c.Solve(ctx, gw.SolveRequest{Definition: def.ToPB()}); err != nil { // the graph was known before
					return nil, err
				}
				return c.Solve(ctx, gw.SolveRequest{Definition: def.ToPB(), CacheImports: entries})
			},
		}
	}
	ref, dir := h.reg.Host+"/cache:1", t.TempDir()
	made := asks()
	made.CacheTo = []cache.Entry{
		{Type: "registry", Attrs: map[string]string{"ref": ref, "mode": "max"}}, {Type: "local", Attrs: map[string]string{"dest": dir, "mode": "max"}},
	}
	h.build(made)

	registry := gw.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}}
	local := gw.CacheOptionsEntry{Type: "local", Attrs: map[string]string{"src": dir}}
	other := newHarness(t)
	_, ev := other.build(asks(registry, registry))
	if ev.ranStep("RUN") {
		t.Errorf("%q ran", ev.ran)
	}
	if n := strings.Count(strings.Join(ev.ran, "\n"), "importing cache manifest from "); n != 1 {
		t.Errorf("%d caches were imported: %q", n, ev.ran)
	}
	if _, ev := other.build(asks()); !ev.ranStep("RUN") {
		t.Error("a build has what a cache said that it does not import")
	}

	another := newHarness(t)
	req := asks(registry)
	req.CacheFrom = []cache.Entry{{Type: "registry", Attrs: registry.Attrs}}
	if _, ev := another.build(req); ev.ranStep("RUN") || strings.Count(strings.Join(ev.ran, "\n"), "importing cache manifest from ") != 1 {
		t.Errorf("%q ran", ev.ran)
	}
	var many []gw.CacheOptionsEntry
	for range 100 {
		many = append(many, gw.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": "nonsense " + strings.Repeat("x", len(many))}})
	}
	for name, entries := range map[string][]gw.CacheOptionsEntry{"local": {local}, "gha": {{Type: "gha"}}, "none": {{}}, "many": many} {
		last := newHarness(t)
		_, ev := last.build(asks(entries...))
		if n := strings.Count(strings.Join(ev.ran, "\n"), "importing cache manifest from "); !ev.ranStep("RUN") || n != min(len(entries), 65) {
			t.Errorf("%s: %d caches were imported, %q ran", name, n, ev.ran)
		}
	}
}
