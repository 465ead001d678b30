package build_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/secrets"
)

// shown is what a display was told of several builds: how often each vertex started, and all output.
type shown struct {
	mu      sync.Mutex
	started map[string]int
	ended   map[string]int
	digests map[string]map[string]bool // of each name
	log     strings.Builder
}

func (s *shown) Write(ev *client.SolveStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range ev.Vertexes {
		if v.Completed != nil {
			s.ended[v.Name]++
			continue
		}
		s.started[v.Name]++
		if s.digests[v.Digest.String()] == nil {
			s.digests[v.Digest.String()] = map[string]bool{}
		}
		s.digests[v.Digest.String()][v.Name] = true
	}
	for _, l := range ev.Logs {
		s.log.Write(l.Data)
	}
}

// count is how often steps with a part of a name started.
func (s *shown) count(part string) (n int) {
	for name, times := range s.started {
		if strings.Contains(name, part) {
			n += times
		}
	}
	return n
}

func (s *shown) names() string { return strings.Join(slices.Sorted(maps.Keys(s.started)), "\n") }

// all builds several requests at once.
func (h *harness) all(requests ...build.Named) ([]*build.Result, *shown, error) {
	h.t.Helper()
	s := &shown{started: map[string]int{}, ended: map[string]int{}, digests: map[string]map[string]bool{}}
	for i := range requests {
		if requests[i].Request.Context == "" {
			requests[i].Request.Context = h.context
		}
	}
	res, err := h.builder.BuildAll(context.Background(), requests, progress.SinkFunc(s.Write))
	for name, n := range s.started {
		if s.ended[name] != n {
			h.t.Errorf("%q started %d times and ended %d times", name, n, s.ended[name])
		}
	}
	for d, names := range s.digests {
		if len(names) > 1 {
			h.t.Errorf("the vertex %s has the names %q", d, slices.Sorted(maps.Keys(names)))
		}
	}
	return res, s, err
}

func (h *harness) buildAll(requests ...build.Named) ([]*build.Result, *shown) {
	h.t.Helper()
	res, s, err := h.all(requests...)
	if err != nil {
		h.t.Fatalf("building: %v\n%s\n%s", err, s.names(), s.log.String())
	}
	return res, s
}

func to(dir string) []build.Output { return []build.Output{{Type: build.OutputLocal, Dest: dir}} }

// TestManyShare: what two builds have in common runs once and is shown once, under the name of one of them; each has its
// own record, with a log.
func TestManyShare(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", `
FROM busybox AS base
COPY main.txt /
RUN echo base-ran
FROM base AS a
RUN echo a-ran
FROM base AS b
RUN echo b-ran
`)
	h.write("main.txt", "x")
	requests := []build.Named{
		{Name: "one", Request: build.Request{Target: "a", Tags: []string{"one"}}},
		{Name: "two", Request: build.Request{Target: "b", Tags: []string{"two", "three"}}},
	}
	res, s := h.buildAll(requests...)
	for what, want := range map[string]int{
		"load build definition": 1, "load metadata": 1, "COPY main.txt": 1, "RUN echo base-ran": 1, "RUN echo a-ran": 1, "RUN echo b-ran": 1,
		"load build context": 1, "exporting to image": 2, "FROM": 1,
	} {
		if got := s.count(what); got != want {
			t.Errorf("%q was shown %d times, want %d:\n%s", what, got, want, s.names())
		}
	}
	for name := range s.started {
		if !strings.HasPrefix(name, "[one") && !strings.HasPrefix(name, "[two") {
			t.Errorf("%q is of neither build", name)
		}
	}
	if s.count("[one a 1/1] RUN echo a-ran") != 1 || s.count("[two b 1/1] RUN echo b-ran") != 1 || s.count("[one] exporting to image") != 1 {
		t.Errorf("the steps are\n%s", s.names())
	}
	if res[0].ImageID == res[1].ImageID || res[0].ID == res[1].ID || len(res[1].Names) != 2 {
		t.Errorf("the results are %+v and %+v", res[0], res[1])
	}
	shared := 0
	for i, r := range res {
		log, err := os.ReadFile(filepath.Join(h.store.Root(), "builds", r.ID, "log"))
		must(t, err)
		for _, want := range []string{"RUN echo base-ran", "RUN echo " + string("ab"[i]) + "-ran", "exporting to image", "load metadata", "load build definition"} {
			if !strings.Contains(string(log), want) {
				t.Errorf("the log of build %d has no %q:\n%s", i, want, log)
			}
		}
		if strings.Contains(string(log), "RUN echo "+string("ba"[i])+"-ran") || strings.Contains(string(log), "[one") {
			t.Errorf("the log of build %d is\n%s", i, log)
		}
		record, err := os.ReadFile(filepath.Join(h.store.Root(), "builds", r.ID, "record.json"))
		must(t, err)
		shared += strings.Count(string(record), `"shared"`)
	}
	if shared == 0 {
		t.Error("no record tells of a step that another build ran")
	}
	images, err := h.store.Images(context.Background())
	if err != nil || len(images) != 3 {
		t.Errorf("images are %v, %v", images, err)
	}
	again, s := h.buildAll(requests...)
	if s.count("RUN echo base-ran") != 1 || s.log.Len() != 0 || again[0].ImageID != res[0].ImageID {
		t.Errorf("again: %s\n%s", s.names(), s.log.String())
	}
	if _, ev := h.build(build.Request{Target: "b"}); ev.ranStep("RUN") {
		t.Errorf("one of them alone ran %q", ev.ran)
	}
}

// TestManyShareByContent: steps of two Dockerfiles in two directories whose keys are the same run once.
func TestManyShareByContent(t *testing.T) {
	h := newHarness(t)
	for _, dir := range []string{"a", "b"} {
		h.write(dir+"/Dockerfile", "FROM busybox\nCOPY same.txt /\nRUN echo shared-ran\nCOPY own.txt /\n")
		h.write(dir+"/same.txt", "same")
		h.write(dir+"/own.txt", "of "+dir)
	}
	out := t.TempDir()
	_, s := h.buildAll(
		build.Named{Name: "a", Request: build.Request{Context: h.context + "/a", Outputs: to(out + "/a")}},
		build.Named{Name: "b", Request: build.Request{Context: h.context + "/b", Outputs: to(out + "/b")}},
	)
	if n := strings.Count(s.log.String(), "shared-ran"); n != 1 {
		t.Errorf("the step ran %d times", n)
	}
	wantFile(t, out+"/a/own.txt", "of a")
	wantFile(t, out+"/b/own.txt", "of b")
}

// TestManyAlone: one build of the call is shown as any build is.
func TestManyAlone(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN exit 3\n")
	_, s, err := h.all(build.Named{Name: "app"})
	if err == nil || strings.Contains(err.Error(), "target") || s.count("[app") != 0 || s.count("[2/2] RUN") != 1 {
		t.Errorf("error %v, steps\n%s", err, s.names())
	}
}

// TestManyLinked: a build's result is another one's context, with its image's configuration and without being exported.
func TestManyLinked(t *testing.T) {
	h := newHarness(t)
	h.write("base/Dockerfile", "FROM busybox\nENV GREETING=hello\nWORKDIR /srv\nCOPY file.txt .\nRUN echo base-ran > ran\n")
	h.write("base/file.txt", "of the base")
	h.write("app/Dockerfile", "FROM start\nRUN echo $GREETING $PWD > said; cat ran\nCOPY --from=start /srv/file.txt /copied\nCOPY file.txt /own\n")
	h.write("app/file.txt", "of the app")
	out := t.TempDir()
	app := build.Request{Context: h.context + "/app", Contexts: map[string]string{"start": "target:base"}, Outputs: to(out)}
	base := build.Request{Context: h.context + "/base", Outputs: []build.Output{{Type: build.OutputCacheOnly}}}
	_, s := h.buildAll(build.Named{Name: "app", Request: app}, build.Named{Name: "base", Request: base})
	wantFile(t, out+"/srv/said", "hello /srv\n")
	wantFile(t, out+"/srv/ran", "base-ran\n")
	wantFile(t, out+"/copied", "of the base")
	wantFile(t, out+"/own", "of the app")
	if s.count("[base 4/4] RUN echo base-ran") != 1 || s.count("RUN echo base-ran") != 1 {
		t.Errorf("steps are\n%s", s.names())
	}
	for _, b := range h.tars() {
		t.Errorf("%s was packed for a context", b)
	}
	if _, s = h.buildAll(build.Named{Name: "app", Request: app}, build.Named{Name: "base", Request: base}); s.log.Len() != 0 {
		t.Errorf("again it ran: %s", s.log.String())
	}
	h.write("base/file.txt", "changed")
	h.buildAll(build.Named{Name: "app", Request: app}, build.Named{Name: "base", Request: base})
	wantFile(t, out+"/copied", "changed")
}

// TestManyLinkedPlatforms: for each platform the context is that platform's result.
func TestManyLinkedPlatforms(t *testing.T) {
	h := newHarness(t)
	h.write("base/Dockerfile", "FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\nCOPY $TARGETARCH /arch\n")
	h.write("base/amd64", "amd64")
	h.write("base/arm64", "arm64")
	h.write("app/Dockerfile", "FROM start\nLABEL of=$ARCH\nCOPY Dockerfile /\n")
	out, both := t.TempDir(), []string{"linux/amd64", "linux/arm64"}
	h.buildAll(
		build.Named{Name: "app", Request: build.Request{Context: h.context + "/app", Platforms: both, Contexts: map[string]string{"start": "target:base"}, Outputs: to(out)}},
		build.Named{Name: "base", Request: build.Request{Context: h.context + "/base", Platforms: both, Outputs: []build.Output{{Type: build.OutputCacheOnly}}}},
	)
	wantFile(t, out+"/linux_amd64/arch", "amd64")
	wantFile(t, out+"/linux_arm64/arch", "arm64")
}

// TestManyLinkedIsTheOthers: what a linked build may use is its own, and nothing of it comes to the one that links it.
func TestManyLinkedIsTheOthers(t *testing.T) {
	h := newHarness(t)
	h.write("base/Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=key,required wc -c < /run/secrets/key > /length\n")
	h.write("app/Dockerfile", "FROM start\nRUN --mount=type=secret,id=key [ ! -e /run/secrets/key ] && echo none > /none\n")
	h.write("key", "12345")
	out := t.TempDir()
	h.buildAll(
		build.Named{Name: "app", Request: build.Request{Context: h.context + "/app", Contexts: map[string]string{"start": "target:base"}, Outputs: to(out)}},
		build.Named{Name: "base", Request: build.Request{Context: h.context + "/base", Outputs: []build.Output{{Type: build.OutputCacheOnly}},
			Secrets: []secrets.Source{{ID: "key", FilePath: h.context + "/key"}}}},
	)
	wantFile(t, out+"/length", "5\n")
	wantFile(t, out+"/none", "none\n")
}

func TestManyThatCannotBe(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\n")
	with := func(name, target string) build.Named {
		return build.Named{Name: name, Request: build.Request{Contexts: map[string]string{"x": "target:" + target}}}
	}
	for _, tt := range []struct {
		want string
		all  []build.Named
	}{
		{"target a: failed to find target c for context x", []build.Named{with("a", "c"), {Name: "b"}}},
		{"target a is a context of itself", []build.Named{with("a", "b"), with("b", "a")}},
		{"target a is a context of itself", []build.Named{with("a", "a"), {Name: "b"}}},
		{`two builds are named "a"`, []build.Named{{Name: "a"}, {Name: "a"}}},
		{"target b: network mode", []build.Named{{Name: "a"}, {Name: "b", Request: build.Request{Network: "odd"}}}},
	} {
		if _, s, err := h.all(tt.all...); err == nil || !strings.HasPrefix(err.Error(), tt.want) || len(s.started) != 0 {
			t.Errorf("error is %v, want %s; shown is %s", err, tt.want, s.names())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(h.store.Root(), "builds", "*")); len(left) != 0 {
		t.Errorf("records %q are left", left)
	}
}

// TestManySecrets: a step that two builds have in common runs for each with its own secrets, unless they are the same.
func TestManySecrets(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", `
FROM busybox AS base
RUN echo no-secrets-ran
FROM base
RUN --mount=type=secret,id=key echo with-ran; cp /run/secrets/key /got 2>/dev/null || echo none > /got
RUN cat /got > /after
`)
	h.write("one", "of one")
	h.write("two", "of two")
	key := func(file string) []secrets.Source {
		return []secrets.Source{{ID: "key", FilePath: filepath.Join(h.context, file)}}
	}
	out := t.TempDir()
	request := func(name string, s []secrets.Source) build.Named {
		return build.Named{Name: name, Request: build.Request{Secrets: s, Outputs: to(filepath.Join(out, name)), NoCache: true}}
	}
	_, s := h.buildAll(request("a", key("one")), request("b", key("two")), request("c", nil), request("d", key("one")))
	for name, want := range map[string]string{"a": "of one", "b": "of two", "c": "none\n", "d": "of one"} {
		wantFile(t, filepath.Join(out, name, "got"), want)
		wantFile(t, filepath.Join(out, name, "after"), want)
	}
	if n := strings.Count(s.log.String(), "no-secrets-ran"); n != 1 {
		t.Errorf("the step without secrets ran %d times", n)
	}
	if n := strings.Count(s.log.String(), "with-ran"); n != 3 {
		t.Errorf("the step with secrets ran %d times, want 3", n)
	}
}

// TestManyPermissions: what one build is allowed another one is not.
func TestManyPermissions(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN --security=insecure echo insecure-ran\n")
	_, _, err := h.all(
		build.Named{Name: "may", Request: build.Request{Allow: []string{"security.insecure"}}},
		build.Named{Name: "maynot"},
	)
	if err == nil || !strings.HasPrefix(err.Error(), "target maynot: ") || !strings.Contains(err.Error(), "security.insecure is not allowed") {
		t.Errorf("error is %v", err)
	}
}

// TestManyFailure: the first that fails ends the others, says which it was, and leaves what was done.
func TestManyFailure(t *testing.T) {
	h := newHarness(t)
	h.write("a/Dockerfile", "FROM busybox\n"+await("a", "b")+"RUN exit 3\n")
	h.write("b/Dockerfile", "FROM busybox\n"+await("b", "a")+"RUN sleep 600\n")
	h.write("c/Dockerfile", "FROM start\nRUN echo c-ran\n")
	res, s, err := h.all(
		build.Named{Name: "a", Request: build.Request{Context: h.context + "/a", Tags: []string{"a"}}},
		build.Named{Name: "b", Request: build.Request{Context: h.context + "/b", Tags: []string{"b"}}},
		build.Named{Name: "c", Request: build.Request{Context: h.context + "/c", Tags: []string{"c"}, Contexts: map[string]string{"start": "target:b"}}},
	)
	if err == nil || !strings.HasPrefix(err.Error(), `target a: process "/bin/sh -c exit 3" did not complete successfully`) || place(err) != 3 {
		t.Errorf("error is %v, at line %d", err, place(err))
	}
	if slices.ContainsFunc(res, func(r *build.Result) bool { return r != nil }) || strings.Contains(s.log.String(), "c-ran") {
		t.Errorf("results are %v", res)
	}
	images, err := h.store.Images(context.Background())
	if err != nil || len(images) != 0 {
		t.Errorf("images are %v, %v", images, err)
	}
	records, _ := filepath.Glob(filepath.Join(h.store.Root(), "builds", "*", "record.json"))
	var errs []string
	for _, r := range records {
		data, err := os.ReadFile(r)
		must(t, err)
		errs = append(errs, fmt.Sprint(strings.Contains(string(data), "context canceled: target a failed"), strings.Contains(string(data), "exit code: 3")))
	}
	slices.Sort(errs)
	if want := []string{"false true", "true false", "true false"}; !slices.Equal(errs, want) {
		t.Errorf("the records tell %q, want %q", errs, want)
	}
	if left, _ := filepath.Glob(filepath.Join(h.store.Root(), "tmp", "*", "*")); len(left) != 0 {
		t.Errorf("%q is left", left)
	}
}

// TestManyFailedExport: what cannot be written is a failure of its build.
func TestManyFailedExport(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\n")
	h.write("slow/Dockerfile", "FROM busybox\nRUN sleep 600\n")
	_, _, err := h.all(
		build.Named{Name: "slow", Request: build.Request{Context: h.context + "/slow"}},
		build.Named{Name: "bad", Request: build.Request{Outputs: []build.Output{{Type: build.OutputOCI, Dest: "/nonexistent/x.tar"}}}},
	)
	if err == nil || !strings.HasPrefix(err.Error(), "target bad: writing output: ") {
		t.Errorf("error is %v", err)
	}
}

// TestManyInterrupted: the end of the context ends all, and is no build's fault.
func TestManyInterrupted(t *testing.T) {
	h := newHarness(t)
	h.write("a/Dockerfile", "FROM busybox\n"+await("a", "b")+"RUN echo here && sleep 600\n")
	h.write("b/Dockerfile", "FROM busybox\n"+await("b", "a")+"RUN echo here && sleep 600\n")
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	_, err := h.builder.BuildAll(ctx, []build.Named{
		{Name: "a", Request: build.Request{Context: h.context + "/a"}}, {Name: "b", Request: build.Request{Context: h.context + "/b"}},
	}, progress.SinkFunc(func(s *client.SolveStatus) {
		for _, l := range s.Logs {
			if strings.Contains(string(l.Data), "here") {
				cancel(stop)
			}
		}
	}))
	if !errors.Is(err, stop) || strings.Contains(err.Error(), "target") {
		t.Errorf("error is %v", err)
	}
	records, _ := filepath.Glob(filepath.Join(h.store.Root(), "builds", "*", "record.json"))
	for _, r := range records {
		if data, err := os.ReadFile(r); err != nil || strings.Contains(string(data), "failed") || !strings.Contains(string(data), "enough") {
			t.Errorf("a record is %s, %v", data, err)
		}
	}
	if len(records) != 2 {
		t.Errorf("records are %q", records)
	}
}

// TestManyCaches: an imported cache is believed by the builds that import it, and by no other one of the call.
func TestManyCaches(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN echo first-ran > /first\nRUN echo second-ran; cat /first > /second\n")
	dir := t.TempDir()
	entry := []cache.Entry{{Type: "local", Attrs: map[string]string{"dest": dir, "mode": "max"}}}
	h.build(build.Request{CacheTo: entry, Outputs: []build.Output{{Type: build.OutputCacheOnly}}})

	other := newHarness(t)
	other.write("Dockerfile", "FROM busybox\nRUN echo first-ran > /first\nRUN echo second-ran; cat /first > /second\n")
	from := []cache.Entry{{Type: "local", Attrs: map[string]string{"src": dir}}}
	out := t.TempDir()
	_, s := other.buildAll(
		build.Named{Name: "believes", Request: build.Request{CacheFrom: from, Outputs: to(out + "/believes")}},
		build.Named{Name: "too", Request: build.Request{CacheFrom: from, Outputs: to(out + "/too")}},
		build.Named{Name: "not", Request: build.Request{Outputs: to(out + "/not")}},
	)
	if n := s.count("importing cache manifest"); n != 1 {
		t.Errorf("the cache was imported %d times", n)
	}
	for _, name := range []string{"believes", "too", "not"} {
		wantFile(t, out+"/"+name+"/second", "first-ran\n")
	}
	if n := s.count("[not 2/3] RUN"); n != 1 {
		t.Errorf("the build without a cache showed its step %d times:\n%s", n, s.names())
	}
	if !strings.Contains(s.log.String(), "second-ran") {
		t.Error("the build without a cache did not run its step")
	}
	if _, ev := other.build(build.Request{}); ev.ranStep("RUN") {
		t.Errorf("what the build without a cache made is not found: %q ran", ev.ran)
	}
}

// TestManyOutputs: builds that write to one place write one after the other, and each its own otherwise.
func TestManyOutputs(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nARG WHO\nRUN echo $WHO > /who\n")
	out := t.TempDir()
	var all []build.Named
	for _, who := range []string{"a", "b", "c"} {
		all = append(all, build.Named{Name: who, Request: build.Request{
			BuildArgs: map[string]string{"WHO": who}, Tags: []string{"same", who}, Labels: map[string]string{"who": who},
			Outputs: []build.Output{{Type: build.OutputImage}, {Type: build.OutputOCI, Dest: out + "/same.tar"}, {Type: build.OutputLocal, Dest: out + "/" + who}},
		}})
	}
	res, _ := h.buildAll(all...)
	for i, who := range []string{"a", "b", "c"} {
		wantFile(t, out+"/"+who+"/who", who+"\n")
		img, err := h.store.Image(context.Background(), "docker.io/library/"+who+":latest")
		if err != nil || img.ID != res[i].ImageID {
			t.Errorf("the image %s is %v, %v, want %s", who, img.ID, err, res[i].ImageID)
		}
	}
	if files, err := os.ReadDir(out); err != nil || len(files) != 4 {
		t.Errorf("files are %v, %v", files, err)
	}
	tool(t, "tar", "-tf", out+"/same.tar")
}

// TestManyCalls: builds may ask the frontend something, and be contexts of others all the same.
func TestManyCalls(t *testing.T) {
	h := newHarness(t)
	h.write("base/Dockerfile", "FROM busybox\nARG version=1\nENV HOME_OF=base\n")
	h.write("app/Dockerfile", "FROM start AS last\nWORKDIR /$HOME_OF\n")
	res, s := h.buildAll(
		build.Named{Name: "app", Request: build.Request{Context: h.context + "/app", Call: "frontend.lint", Contexts: map[string]string{"start": "target:base"}}},
		build.Named{Name: "base", Request: build.Request{Context: h.context + "/base", Call: "frontend.outline"}},
	)
	if lint := string(res[0].Answer["result.json"]); !strings.Contains(lint, `"warnings"`) || strings.Contains(lint, "UndefinedVar") || !strings.Contains(string(res[1].Answer["result.json"]), `"version"`) {
		t.Errorf("answers are %s and %s; shown %s", lint, res[1].Answer["result.json"], s.names())
	}
}

// TestManyCachesStandApart: what stands on what a cache said is for those who import it, also while it is made.
func TestManyCachesStandApart(t *testing.T) {
	const meet = "--mount=type=cache,id=meet,target=/meet "
	start := "FROM busybox\nRUN " + meet + "until [ -e /meet/second ]; do usleep 10000; done; cat /proc/sys/kernel/random/uuid > /first\n"
	second := start + "RUN " + meet + "cp /first /second; touch /meet/second\n"
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN "+meet+"touch /meet/second\n")
	h.build(build.Request{})
	h.write("Dockerfile", start)
	dir := t.TempDir()
	h.build(build.Request{CacheTo: []cache.Entry{{Type: "local", Attrs: map[string]string{"dest": dir, "mode": "max"}}}, Outputs: []build.Output{{Type: build.OutputCacheOnly}}})

	// The build that does not import the cache begins when the other one has used it, and its first step ends when
	// the other one's second has begun.
	other, used := newHarness(t), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-used:
		case <-r.Context().Done():
		}
		_, _ = w.Write([]byte(second))
	}))
	defer server.Close()
	other.write("Dockerfile", second)
	out := t.TempDir()
	once := sync.OnceFunc(func() { close(used) })
	_, err := other.builder.BuildAll(t.Context(), []build.Named{
		{Name: "believes", Request: build.Request{Context: other.context, Outputs: to(out + "/believes"), CacheFrom: []cache.Entry{{Type: "local", Attrs: map[string]string{"src": dir}}}}},
		{Name: "not", Request: build.Request{Context: other.context, Dockerfile: server.URL + "/Dockerfile", Outputs: to(out + "/not")}},
	}, progress.SinkFunc(func(s *client.SolveStatus) {
		for _, v := range s.Vertexes {
			if v.Cached && strings.HasPrefix(v.Name, "[believes") && strings.Contains(v.Name, " 2/3] RUN") {
				once()
			}
		}
	}))
	must(t, err)
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(out, name))
		must(t, err)
		return string(data)
	}
	if read("believes/first") != read("believes/second") || read("not/first") != read("not/second") {
		t.Error("a step does not stand on its build's own")
	}
	if read("not/first") == read("believes/first") {
		t.Error("a build has what a cache said that it does not import")
	}
}

// TestManyCallsWithCaches: who asks something loads no cache, and nobody waits for it.
func TestManyCallsWithCaches(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN true\n")
	from := []cache.Entry{{Type: "local", Attrs: map[string]string{"src": t.TempDir()}}}
	h.buildAll(
		build.Named{Name: "asks", Request: build.Request{CacheFrom: from, Call: "frontend.outline"}},
		build.Named{Name: "builds", Request: build.Request{CacheFrom: from}},
	)
}
