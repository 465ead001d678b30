package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/progress"
)

// TestOnRules: of each flag of build it is said what becomes of it in a cluster.
func TestOnRules(t *testing.T) {
	rules := onRules()
	newBuildCmd(&app{}).Flags().VisitAll(func(f *pflag.Flag) {
		if _, ok := rules[f.Name]; !ok {
			t.Errorf("nothing is said of --%s", f.Name)
		}
		delete(rules, f.Name)
	})
	for name := range rules {
		t.Errorf("there is no --%s", name)
	}
}

// TestParts: of several platforms each has Jobs on nodes of its own, which are told of the same builder's platform, and what begins with that runs there.
func TestParts(t *testing.T) {
	r := &remote{opts: &buildFlags{}, args: []string{"build"}, result: []string{"--push"}, where: []string{"--", "packed://x"}}
	r.opts.workers = 4
	r.dockerfile = []byte("FROM --platform=$BUILDPLATFORM a AS tools\nRUN x\nFROM --platform=$BUILDPLATFORM a AS cross\nARG TARGETARCH\nRUN y\n" +
		"FROM b\nRUN y\nCOPY --from=tools / /\nFROM b\nCOPY --from=2 / /\nCOPY --from=tools / /\nCOPY --from=cross / /")
	for _, name := range []string{"linux/amd64", "linux/arm64"} {
		p := platforms.MustParse(name)
		r.platforms, r.archs = append(r.platforms, p), append(r.archs, p.Architecture)
	}
	var got []string
	for _, b := range r.split() {
		var needs []string
		for _, n := range b.needs {
			needs = append(needs, n.label)
		}
		got = append(got, fmt.Sprintf("%s on %s after %q: %s", b.label, b.arch, needs, strings.Join(b.args, " ")))
	}
	const same = " --build-arg=BUILDPLATFORM=linux/amd64"
	part := func(target, arch, node, needs string) string {
		return fmt.Sprintf("%s linux/%s on %s after [%s]: build --target=%s --output=type=cacheonly%s --platform=linux/%[2]s -- packed://x", target, arch, node, needs, target, same)
	}
	want := []string{
		part("tools", "amd64", "amd64", ""), part("cross", "amd64", "amd64", ""), part("2", "amd64", "amd64", `"tools linux/amd64"`),
		part("cross", "arm64", "amd64", ""), part("2", "arm64", "arm64", `"tools linux/amd64"`),
		`result on amd64 after ["tools linux/amd64" "cross linux/amd64" "2 linux/amd64" "tools linux/amd64" "cross linux/arm64" "2 linux/arm64"]: build --push` + same + " -- packed://x",
	}
	if !slices.Equal(got, want) {
		t.Errorf("builds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestPartsNot: what several Jobs would do in another way is one.
func TestPartsNot(t *testing.T) {
	const two = "FROM x AS a\nRUN x\nFROM x AS b\nRUN x\nFROM x\nRUN y\nCOPY --from=a / /\nCOPY --from=b / /\n"
	for name, change := range map[string]func(r *remote){
		"--no-cache":                func(r *remote) { r.opts.noCache = true },
		"--no-cache-filter":         func(r *remote) { r.opts.noCacheFilter = []string{"a"} },
		"--verify-cache":            func(r *remote) { r.opts.verifyCache = "warn" },
		"a Dockerfile of elsewhere": func(r *remote) { r.dockerfile = nil },
		"TARGETSTAGE":               func(r *remote) { r.dockerfile = []byte(two + "ARG TARGETSTAGE") },
		"--build-arg BUILDPLATFORM": func(r *remote) { r.opts.buildArgs = []string{"BUILDPLATFORM=linux/arm64"} },
		"one worker":                func(r *remote) { r.opts.workers = 1 },
	} {
		r := &remote{opts: &buildFlags{}, dockerfile: []byte(two), step: progress.Start(progress.Discard, progress.Vertex{Digest: "x"})}
		r.opts.workers = 2
		if n := len(r.split()); n != 3 {
			t.Fatalf("%d Jobs", n)
		}
		if change(r); len(r.split()) != 1 {
			t.Errorf("%s: several Jobs", name)
		}
	}
}

// TestPushedName: what a pod says that it has pushed is believed of names alone that were asked for.
func TestPushedName(t *testing.T) {
	r := &remote{opts: &buildFlags{}, pushed: []string{"example.com/app:v1"}, meta: map[string]any{"image.name": "example.com/other:v1,example.com/app:v1"}}
	if err := r.bringHome(t.Context(), "quiet", "sha256:x"); err == nil || !strings.Contains(err.Error(), `"example.com/other:v1", for which nobody has asked`) {
		t.Error(err)
	}
	for other, same := range map[string]bool{"docker.io/library/a:latest": true, "a:v1": false, "b": false, "A!": false} {
		if sameName("a", other) != same {
			t.Errorf("a and %s", other)
		}
	}
}

// TestShared: what may be another thing each time that it is asked for is nobody else's.
func TestShared(t *testing.T) {
	for what, change := range map[string]func(r *remote){
		"--secret": func(r *remote) { r.opts.secrets = []string{"id=x"} }, "--pull": func(r *remote) { r.opts.pull = true },
		"--on-alone": func(r *remote) { r.opts.onAlone = true },
		"--no-cache": func(r *remote) { r.opts.noCache = true }, "--no-cache-filter": func(r *remote) { r.opts.noCacheFilter = []string{"a"} },
		"--verify-cache": func(r *remote) { r.opts.verifyCache = "warn" },
		"a URL": func(r *remote) {
			r.context = "https://example.com/app.git"
			if err := r.sendContexts(t.Context(), progress.Discard); err != nil {
				t.Error(err)
			}
		},
		"an image": func(r *remote) {
			r.opts.contexts = []string{"base=docker-image://busybox:latest"}
			_ = r.sendContexts(t.Context(), progress.Discard) // it has no context
		},
	} {
		r := &remote{app: &app{}, opts: &buildFlags{}}
		if !r.shared() {
			t.Fatal("nothing is shared")
		}
		if change(r); r.shared() {
			t.Errorf("with %s it is shared", what)
		}
	}
	if !hasDigest("docker-image://busybox@sha256:"+strings.Repeat("a", 64)) || hasDigest("docker-image://busybox:latest") || hasDigest("docker-image://!") {
		t.Error("digests of images")
	}
}

// TestNameImage: builds that join each other leave the image under the same name, and no others: one would overwrite another one's.
func TestNameImage(t *testing.T) {
	name := func(job, target string, alone bool) string {
		r := &remote{home: true, opts: &buildFlags{}, result: []string{"--target=" + target}, repo: cache.Packed{Repository: "example.com/cache"}}
		r.opts.onAlone = alone
		r.nameImage(job)
		return r.image
	}
	one := name("job", "a", false)
	if again := name("job", "a", false); again != one {
		t.Errorf("the same build leaves %s and %s", one, again)
	}
	for what, other := range map[string]string{"Job": name("other", "a", false), "target": name("job", "b", false), "--on-alone": name("job", "a", true)} {
		if other == one {
			t.Errorf("with another %s it leaves %s, too", what, one)
		}
	}
}

// TestNoProxiesOfJob: what a Secret of a Job says of proxies is nothing for its steps: who has joined the Job has not given it.
func TestNoProxiesOfJob(t *testing.T) {
	dir, old := t.TempDir(), dockerconfig.Dir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"proxies": {"default": {"httpProxy": "http://evil"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	dockerconfig.SetDir(dir)
	defer dockerconfig.SetDir(old)
	for where, want := range map[string]int{dir: 1, kube.Dir: 0} {
		t.Setenv("DOCKER_CONFIG", where)
		if got := withProxies(map[string]string{}); len(got) != want {
			t.Errorf("of %s: %q", where, got)
		}
	}
}
