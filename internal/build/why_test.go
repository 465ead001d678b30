package build_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// told is what a display is told of why steps ran again: a line for each, with the instruction.
type told struct {
	mu    sync.Mutex
	names map[digest.Digest]string
	lines []string
}

func (w *told) Write(s *client.SolveStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.names == nil {
		w.names = map[digest.Digest]string{}
	}
	for _, v := range s.Vertexes {
		w.names[v.Digest] = v.Name
	}
	for _, st := range s.Statuses {
		if why, ok := strings.CutPrefix(st.ID, "ran again: "); ok {
			_, instruction, _ := strings.Cut(w.names[st.Vertex], "] ")
			w.lines = append(w.lines, instruction+": "+why)
		}
	}
}

// version is one build of a case: its Dockerfile, in which CASE stands for something that no other case has, its other files ("" is
// one that goes), and what else is asked for.
type version struct {
	dockerfile string
	files      map[string]string
	fails      bool
	also       func(h *harness, req *build.Request)
}

// whyCase is a build, another one after it, and what that tells.
type whyCase struct {
	name          string
	before, after version
	want          []string
}

func (h *harness) version(c string, v version) []string {
	h.t.Helper()
	dir := filepath.Join(h.context, digest.FromString(c).Encoded()[:8])
	write := func(name, content string) {
		h.t.Helper()
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && content == "" {
			err = os.Remove(path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		must(h.t, err)
	}
	if v.dockerfile != "" {
		write("Dockerfile", strings.ReplaceAll(v.dockerfile, "CASE", filepath.Base(dir)))
	}
	for name, content := range v.files {
		write(name, content)
	}
	req := build.Request{Context: dir}
	if v.also != nil {
		v.also(h, &req)
	}
	w := &told{}
	if _, err := h.builder.Build(context.Background(), req, w); (err != nil) != v.fails {
		h.t.Fatalf("building: %v", err)
	}
	slices.Sort(w.lines)
	for i, l := range w.lines {
		w.lines[i] = strings.ReplaceAll(l, filepath.Base(dir), "CASE")
	}
	return w.lines
}

func arg(args ...string) func(*harness, *build.Request) {
	return func(_ *harness, req *build.Request) {
		req.BuildArgs = map[string]string{}
		for _, a := range args {
			k, v, _ := strings.Cut(a, "=")
			req.BuildArgs[k] = v
		}
	}
}

func files(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

const (
	copyAll  = "FROM busybox\nCOPY src /CASE\nRUN echo CASE\n"
	withArgs = "FROM busybox\nARG VERSION=v0\nARG API_TOKEN OTHER\nRUN echo CASE\nRUN echo again\n"
)

// whyCases are kinds of changes.
func whyCases() []whyCase {
	three := files("src/a", "1", "src/b", "1", "src/d/c", "1")
	return []whyCase{
		{name: "nothing", before: version{dockerfile: copyAll, files: three}},
		{name: "a file", before: version{dockerfile: copyAll, files: three}, after: version{files: files("src/a", "2")},
			want: []string{"COPY src /CASE: 1 of 3 files changed: src/a"}},
		{name: "files", before: version{dockerfile: copyAll, files: three}, after: version{files: files("src/d/c", "2", "src/a", "2")},
			want: []string{"COPY src /CASE: 2 of 3 files changed: src/a, src/d/c"}},
		{name: "a file as it was, at another time", before: version{dockerfile: copyAll, files: three}, after: version{files: three}},
		{name: "a new file", before: version{dockerfile: copyAll, files: three}, after: version{files: files("src/d/new", "1")},
			want: []string{"COPY src /CASE: 1 of 4 files changed: src/d/new (new)"}},
		{name: "a new directory", before: version{dockerfile: copyAll, files: three}, after: version{files: files("src/e/f/new", "1")},
			want: []string{"COPY src /CASE: 1 of 4 files changed: src/e/f/new (new)"}},
		{name: "a file less", before: version{dockerfile: copyAll, files: three}, after: version{files: files("src/b", "")},
			want: []string{"COPY src /CASE: 1 of 2 files changed: src/b (removed)"}},
		{name: "another name", before: version{dockerfile: copyAll, files: three}, after: version{files: files("src/b", "", "src/z", "1")},
			want: []string{"COPY src /CASE: 2 of 3 files changed: src/z (new), src/b (removed)"}},
		{name: "a mode", before: version{dockerfile: copyAll, files: three}, after: version{also: func(_ *harness, req *build.Request) {
			_ = os.Chmod(filepath.Join(req.Context, "src/a"), 0o755)
		}}, want: []string{"COPY src /CASE: 1 of 3 files changed: src/a (mode or owner)"}},
		{name: "the mode of a directory", before: version{dockerfile: copyAll, files: three}, after: version{also: func(_ *harness, req *build.Request) {
			_ = os.Chmod(filepath.Join(req.Context, "src/d"), 0o700)
		}}, want: []string{"COPY src /CASE: 1 of 3 files changed: src/d/"}},
		{name: "a link", before: version{dockerfile: copyAll, files: three, also: func(_ *harness, req *build.Request) {
			_ = os.Symlink("a", filepath.Join(req.Context, "src/link"))
		}}, after: version{also: func(_ *harness, req *build.Request) {
			_ = os.Remove(filepath.Join(req.Context, "src/link"))
			_ = os.Symlink("b", filepath.Join(req.Context, "src/link"))
		}}, want: []string{"COPY src /CASE: 1 of 4 files changed: src/link"}},
		{name: "many files", before: version{dockerfile: copyAll, files: numbered(1500, "1")}, after: version{files: numbered(1201, "2")},
			want: []string{"COPY src /CASE: 1,201 of 1,500 files changed: src/0000, src/0001, src/0002, src/0003, src/0004, and 1,196 more"}},
		{name: "names with line breaks", before: version{dockerfile: copyAll, files: files("src/a\nb\x1b[1m", "1")}, after: version{files: files("src/a\nb\x1b[1m", "2")},
			want: []string{`COPY src /CASE: 1 of 1 file changed: src/a^Jb^[[1m`}},
		{name: "ignored files", before: version{dockerfile: copyAll, files: three}, after: version{files: files(".dockerignore", "src/d\n")},
			want: []string{"COPY src /CASE: 1 of 2 files changed: src/d/c (removed)"}},
		{name: "a single file", before: version{dockerfile: "FROM busybox\nCOPY a /CASE\n", files: files("a", "1")}, after: version{files: files("a", "2")},
			want: []string{"COPY a /CASE: 1 of 1 file changed: a"}},
		{name: "a wildcard", before: version{dockerfile: "FROM busybox\nCOPY *.x /CASE/\n", files: files("a.x", "1")}, after: version{files: files("b.x", "2", "c.y", "3")},
			want: []string{"COPY *.x /CASE/: 1 of 2 files changed: b.x (new)"}},
		{name: "files of a mount", before: version{dockerfile: "FROM busybox\nRUN --mount=type=bind,target=/m cat /m/a # CASE\n", files: files("a", "1", "b", "1")},
			after: version{files: files("b", "2")}, want: []string{"RUN --mount=type=bind,target=/m cat /m/a # CASE: 1 of 3 files changed: b"}},
		{name: "files of a stage, after what ran again there", before: version{dockerfile: "FROM busybox AS builder\nCOPY src /CASE\nFROM busybox\nCOPY --from=builder /CASE/a /a\nRUN cat /a\n", files: three},
			after: version{files: files("src/a", "2")}, want: []string{"COPY src /CASE: 1 of 3 files changed: src/a"}},
		{name: "the same files of a stage that ran again", before: version{dockerfile: "FROM busybox AS builder\nCOPY src /CASE\nFROM busybox\nCOPY --from=builder /CASE/a /a\nRUN cat /a\n", files: three},
			after: version{files: files("src/b", "2")}, want: []string{"COPY src /CASE: 1 of 3 files changed: src/b"}},
		{name: "other files of a stage that is cached", before: version{dockerfile: "FROM busybox AS one\nRUN echo 1 > /CASE\nFROM busybox AS two\nRUN echo 2 > /CASE\nFROM busybox\nCOPY --from=one /CASE /f\nCOPY --from=two /CASE /g\n"},
			after: version{dockerfile: "FROM busybox AS one\nRUN echo 1 > /CASE\nFROM busybox AS two\nRUN echo 2 > /CASE\nFROM busybox\nCOPY --from=two /CASE /f\nCOPY --from=two /CASE /g\n"},
			want:  []string{"COPY --from=two /CASE /f: instruction changed: COPY --from=one /CASE /f -> COPY --from=two /CASE /f"}},
		{name: "two chains", before: version{dockerfile: "FROM busybox AS one\nCOPY src/a /CASE\nFROM busybox\nCOPY src/b /CASE2\nCOPY --from=one /CASE /\n", files: three}, after: version{files: files("src/a", "2", "src/b", "2")},
			want: []string{"COPY src/a /CASE: 1 of 1 file changed: src/a", "COPY src/b /CASE2: 1 of 1 file changed: src/b"}},
		{name: "a named context", before: version{dockerfile: "FROM busybox\nCOPY --from=other . /CASE\n", files: files("other/f", "1"), also: otherContext}, after: version{files: files("other/f", "2"), also: otherContext},
			want: []string{"COPY --from=other . /CASE: 1 of 1 file changed: f"}},

		{name: "an argument", before: version{dockerfile: withArgs, also: arg("VERSION=v1")}, after: version{also: arg("VERSION=v2")},
			want: []string{"RUN echo CASE: build argument VERSION changed v1 -> v2"}},
		{name: "an argument that may be a secret", before: version{dockerfile: withArgs, also: arg("API_TOKEN=1", "OTHER=battery-staple")}, after: version{also: arg("API_TOKEN=2", "OTHER=hunter2")},
			want: []string{"RUN echo CASE: build argument API_TOKEN changed; build argument OTHER changed"}},
		{name: "a new argument", before: version{dockerfile: withArgs}, after: version{also: arg("OTHER=1.26-alpine3.20")},
			want: []string{"RUN echo CASE: build argument OTHER is new"}},
		{name: "an argument less", before: version{dockerfile: withArgs, also: arg("OTHER=1")}, after: version{}, want: []string{"RUN echo CASE: build argument OTHER is gone"}},
		{name: "the default of an argument", before: version{dockerfile: withArgs}, after: version{dockerfile: strings.Replace(withArgs, "v0", "v9", 1)},
			want: []string{"RUN echo CASE: environment variable VERSION changed v0 -> v9"}},
		{name: "an argument in a path", before: version{dockerfile: "FROM busybox\nARG D=1\nCOPY src /CASE$D\n", files: three}, after: version{also: arg("D=2")},
			want: []string{"COPY src /CASE2: instruction changed: COPY src /CASE1 -> COPY src /CASE2"}},
		{name: "the environment", before: version{dockerfile: "FROM busybox\nENV A=1\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nENV A=2\nRUN echo CASE\n"},
			want: []string{"RUN echo CASE: environment variable A changed 1 -> 2"}},
		{name: "more environment", before: version{dockerfile: "FROM busybox\nENV A=1\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nENV A=1 B=true\nRUN echo CASE\n"},
			want: []string{"RUN echo CASE: environment variable B is new: true"}},
		{name: "less environment", before: version{dockerfile: "FROM busybox\nENV A=1\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nRUN echo CASE\n"},
			want: []string{"RUN echo CASE: environment variable A is gone"}},

		{name: "an instruction", before: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN echo 2\n"}, after: version{dockerfile: "FROM busybox\nRUN echo CASE again\nRUN echo 2\n"},
			want: []string{"RUN echo CASE again: instruction changed: RUN echo CASE -> RUN echo CASE again"}},
		{name: "a here-document", before: version{dockerfile: "FROM busybox\nRUN <<EOF\necho CASE\necho 1\nEOF\n"}, after: version{dockerfile: "FROM busybox\nRUN <<EOF\necho CASE\necho 2\nEOF\n"},
			want: []string{"RUN <<EOF (echo CASE...): command changed: echo 1 -> echo 2"}},
		{name: "a shell", before: version{dockerfile: "FROM busybox\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo CASE\n"},
			want: []string{"RUN echo CASE: command changed: /bin/sh -c echo CASE -> /bin/sh -ec echo CASE"}},
		{name: "a user", before: version{dockerfile: "FROM busybox\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nUSER 1\nRUN echo CASE\n"},
			want: []string{`RUN echo CASE: user changed: "" -> 1`}},
		{name: "a working directory", before: version{dockerfile: "FROM busybox\nWORKDIR /CASE1\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nWORKDIR /CASE2\nRUN echo CASE\n"},
			want: []string{"WORKDIR /CASE2: instruction changed: WORKDIR /CASE1 -> WORKDIR /CASE2"}},
		{name: "a network", before: version{dockerfile: "FROM busybox\nRUN echo CASE\n"}, after: version{also: func(_ *harness, req *build.Request) { req.Network = "none" }},
			want: []string{"RUN echo CASE: network changed: UNSET -> NONE"}},
		{name: "a mount", before: version{dockerfile: "FROM busybox\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nRUN --mount=type=tmpfs,target=/m echo CASE\n"},
			want: []string{"RUN --mount=type=tmpfs,target=/m echo CASE: instruction changed: RUN echo CASE -> RUN --mount=type=tmpfs,target=/m echo CASE"}},
		{name: "an owner", before: version{dockerfile: "FROM busybox\nCOPY src /CASE\n", files: three}, after: version{dockerfile: "FROM busybox\nCOPY --chown=1 src /CASE\n"},
			want: []string{"COPY --chown=1 src /CASE: instruction changed: COPY src /CASE -> COPY --chown=1 src /CASE"}},
		{name: "an option", before: version{dockerfile: "FROM busybox\nRUN echo CASE\n"}, after: version{also: func(_ *harness, req *build.Request) { req.Attrs = map[string]string{"ulimit": "nofile=99:99"} }},
			want: []string{"RUN echo CASE: an option of the instruction changed"}},
		{name: "an inserted instruction", before: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN echo 2\n"}, after: version{dockerfile: "FROM busybox\nWORKDIR /CASE\nRUN echo CASE\nRUN echo 2\n"},
			want: []string{"RUN echo CASE: working directory changed: / -> /CASE; WORKDIR /CASE was inserted before it"}},
		{name: "a removed instruction", before: version{dockerfile: "FROM busybox\nWORKDIR /CASE\nRUN echo CASE\nRUN echo 2\n"}, after: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN echo 2\n"},
			want: []string{"RUN echo CASE: working directory changed: /CASE -> /; WORKDIR /CASE is not before it any more"}},
		{name: "an appended instruction", before: version{dockerfile: "FROM busybox\nRUN echo CASE\n"}, after: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN echo 2\n"}},
		{name: "another order", before: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN echo CASE 2\n"}, after: version{dockerfile: "FROM busybox\nRUN echo CASE 2\nRUN echo CASE\n"},
			want: []string{"RUN echo CASE 2: RUN echo CASE is not before it any more"}},
		{name: "another name of a stage", before: version{dockerfile: "FROM busybox AS one\nCOPY src /CASE\nRUN echo CASE\n", files: three}, after: version{dockerfile: "FROM busybox AS two\nCOPY src /CASE\nRUN echo CASE\n", files: files("src/a", "2")},
			want: []string{"COPY src /CASE: 1 of 3 files changed: src/a"}},
		{name: "another target", before: version{dockerfile: "FROM busybox AS one\nRUN echo CASE\nFROM busybox AS two\nRUN echo CASE 2\n", also: target("one")}, after: version{also: target("two")}},
		{name: "a platform of processes", before: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN echo 2\n", also: platform("linux/amd64")}, after: version{also: platform("linux/386")},
			want: []string{"RUN echo CASE: platform changed: linux/amd64 -> linux/386"}},
		{name: "a platform that files do not depend on", before: version{dockerfile: "FROM scratch\nCOPY src /CASE\nWORKDIR /CASE2\n", files: three, also: platform("linux/amd64")}, after: version{also: platform("linux/arm64")}},

		{name: "no cache", before: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN echo 2\n"}, after: version{also: func(_ *harness, req *build.Request) { req.NoCache = true }},
			want: []string{"RUN echo CASE: --no-cache"}},
		{name: "no cache, the first time", before: version{dockerfile: "FROM busybox\nRUN echo CASE\n", also: func(_ *harness, req *build.Request) { req.NoCache = true }}},
		{name: "no cache of a stage", before: version{dockerfile: "FROM busybox AS one\nRUN echo CASE\nFROM one\nRUN echo 2\n"}, after: version{also: func(_ *harness, req *build.Request) { req.Attrs = map[string]string{"no-cache": "one"} }},
			want: []string{"RUN echo CASE: --no-cache-filter"}},
		{name: "failed before", before: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN exit 1\nRUN echo 2\n", fails: true}, after: version{fails: true},
			want: []string{"RUN exit 1: it failed in the build before"}},
		{name: "mended", before: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN exit 1\nRUN echo 2\n", fails: true}, after: version{dockerfile: "FROM busybox\nRUN echo CASE\nRUN exit 0\nRUN echo 2\n"},
			want: []string{"RUN exit 0: instruction changed: RUN exit 1 -> RUN exit 0"}},
		{name: "a Dockerfile that could not be read in between", before: version{dockerfile: copyAll, files: three}, after: version{files: files("src/a", "2"), also: func(h *harness, req *build.Request) {
			h.version("a Dockerfile that could not be read in between", version{dockerfile: "FROM busybox\nNO\n", fails: true})
			_ = os.WriteFile(filepath.Join(req.Context, "Dockerfile"), []byte(strings.ReplaceAll(copyAll, "CASE", filepath.Base(req.Context))), 0o644)
		}}, want: []string{"COPY src /CASE: 1 of 3 files changed: src/a"}},
	}
}

func numbered(n int, content string) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("src/%04d", i)] = content
	}
	return m
}

func otherContext(_ *harness, req *build.Request) {
	req.Contexts = map[string]string{"other": filepath.Join(req.Context, "other")}
}

func target(name string) func(*harness, *build.Request) {
	return func(_ *harness, req *build.Request) { req.Target = name }
}

func platform(names ...string) func(*harness, *build.Request) {
	return func(_ *harness, req *build.Request) { req.Platforms = names }
}

// The first step of a chain that ran again has the right reason, and a build in which nothing changed tells nothing.
func TestWhy(t *testing.T) {
	if testing.Short() {
		t.Skip("long: three builds for each reason")
	}
	h := newHarness(t)
	for _, c := range whyCases() {
		t.Run(c.name, func(t *testing.T) {
			h := *h
			h.t = t
			if first := h.version(c.name, c.before); len(first) > 0 {
				t.Errorf("the first build tells %q", first)
			}
			if got := h.version(c.name, c.after); !slices.Equal(got, c.want) {
				t.Errorf("it tells\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
			c.after.files = nil
			if c.after.also == nil && !c.after.fails {
				if again := h.version(c.name, c.after); len(again) > 0 {
					t.Errorf("when nothing changed it tells %q", again)
				}
			}
		})
	}
}

// A build with the same arguments as one before is compared with that one, whatever was built since.
func TestWhySameArguments(t *testing.T) {
	h := newHarness(t)
	df := version{dockerfile: withArgs + "COPY a /CASE\n", files: files("a", "1"), also: arg("VERSION=v1")}
	h.version("arguments", df)
	df.also = arg("VERSION=v2")
	h.version("arguments", df)
	df.also, df.files = arg("VERSION=v1"), files("a", "2")
	if got := h.version("arguments", df); len(got) != 1 || got[0] != "COPY a /CASE: 1 of 1 file changed: a" {
		t.Errorf("it tells %q", got)
	}
}

// A base image that is another one now, by its name or by what the name stands for.
func TestWhyBaseImage(t *testing.T) {
	h := newHarness(t)
	push := func(ref, version string) digest.Digest {
		return h.reg.PushImage(ref, registrytest.Image{Layers: []registrytest.Layer{{"version": version}}}).Desc.Digest
	}
	one := push("library/base:1", "1")
	df := version{dockerfile: "FROM base:1\nCOPY a /CASE\nCOPY b /CASE2\n", files: files("a", "1", "b", "1")}
	h.version("base", df)
	two := push("library/base:1", "2")
	df.also = func(_ *harness, req *build.Request) { req.Pull = true }
	want := fmt.Sprintf("COPY a /CASE: base image base:1 moved from %s to %s", one, two)
	if got := h.version("base", df); len(got) != 1 || got[0] != want {
		t.Errorf("it tells %q, want %q", got, want)
	}
	push("library/base:2", "3")
	df.dockerfile = strings.Replace(df.dockerfile, "base:1", "base:2", 1)
	want = "COPY a /CASE: base image changed: base:1 -> base:2"
	if got := h.version("base", df); len(got) != 1 || got[0] != want {
		t.Errorf("it tells %q, want %q", got, want)
	}
}

// A file of a server that is another one.
func TestWhyHTTP(t *testing.T) {
	h := newHarness(t)
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, n.Load()) }))
	defer srv.Close()
	df := version{dockerfile: "FROM busybox\nADD " + srv.URL + "/f /CASE\nRUN cat /CASE\n"}
	h.version("http", df)
	n.Add(1)
	got := h.version("http", df)
	want := fmt.Sprintf("ADD %s/f /CASE: %s/f is another file: %s -> %s", srv.URL, srv.URL, digest.FromString("0"), digest.FromString("1"))
	if len(got) != 1 || got[0] != want {
		t.Errorf("it tells %q, want %q", got, want)
	}
}

// Each platform has a chain of its own.
func TestWhyPlatforms(t *testing.T) {
	h := newHarness(t)
	df := version{dockerfile: "FROM scratch\nARG TARGETARCH\nCOPY src /CASE-$TARGETARCH\nWORKDIR /w\n", files: files("src/a", "1"), also: platform("linux/amd64", "linux/arm64")}
	h.version("platforms", df)
	df.files = files("src/a", "2")
	got := h.version("platforms", df)
	want := []string{"COPY src /CASE-amd64: 1 of 1 file changed: src/a", "COPY src /CASE-arm64: 1 of 1 file changed: src/a"}
	if !slices.Equal(got, want) {
		t.Errorf("it tells %q, want %q", got, want)
	}
}

// Another way to isolate steps, whose results are others.
func TestWhyMode(t *testing.T) {
	h := newHarness(t)
	df := version{dockerfile: "FROM busybox\nRUN echo CASE\n"}
	h.version("mode", df)
	runner, err := sandbox.New(sandbox.Options{StateDir: t.TempDir()})
	must(t, err)
	h.builder = h.with(build.Options{Runner: runner, Fidelity: "in place"})
	got := h.version("mode", df)
	if want := "RUN echo CASE: steps are isolated in another way: as root -> in place"; len(got) != 1 || got[0] != want {
		t.Errorf("it tells %q, want %q", got, want)
	}
}

// What imported caches do not have.
func TestWhyImported(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	df := version{dockerfile: copyAll, files: files("src/a", "1"), also: func(_ *harness, req *build.Request) {
		req.CacheTo = []cache.Entry{{Type: "local", Attrs: map[string]string{"dest": dir, "mode": "max"}}}
	}}
	h.version("imported", df)
	imports := func(_ *harness, req *build.Request) {
		req.CacheFrom = []cache.Entry{{Type: "local", Attrs: map[string]string{"src": dir}}}
	}
	for _, tt := range []struct {
		name string
		v    version
		want []string
	}{
		{"the same", version{dockerfile: copyAll, files: files("src/a", "1")}, nil},
		{"other files", version{dockerfile: copyAll, files: files("src/a", "2")}, []string{"COPY src /CASE: not in the cache local: files changed"}},
		{"another instruction", version{dockerfile: copyAll + "RUN echo more\n", files: files("src/a", "1")}, []string{"RUN echo more: the cache local does not have it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			tt.v.also = imports
			got := h.version("imported", tt.v)
			for i := range got {
				got[i] = strings.ReplaceAll(got[i], "local:"+dir, "local")
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("it tells %q, want %q", got, tt.want)
			}
		})
	}
}

// Builds that are carried out together have their own reasons.
func TestWhyMany(t *testing.T) {
	h := newHarness(t)
	h.write("one/Dockerfile", "FROM busybox\nARG N\nRUN echo many $N\nCOPY a /\n")
	h.write("one/a", "1")
	run := func(n ...string) []string {
		var all []build.Named
		for _, v := range n {
			req := build.Request{Context: filepath.Join(h.context, "one")}
			arg("N="+v)(h, &req)
			all = append(all, build.Named{Name: "target" + v[:1], Request: req})
		}
		w := &told{}
		_, err := h.builder.BuildAll(context.Background(), all, progress.SinkFunc(w.Write))
		must(t, err)
		slices.Sort(w.lines)
		return w.lines
	}
	run("1", "2")
	if got := run("1", "2"); len(got) > 0 {
		t.Errorf("when nothing changed they tell %q", got)
	}
	if got := run("1", "23"); len(got) != 1 || got[0] != "RUN echo many 23: build argument N changed 2 -> 23" {
		t.Errorf("with another argument they tell %q", got)
	}
}

// with is a builder of the harness with other options.
func (h *harness) with(opt build.Options) *build.Builder {
	h.t.Helper()
	opt.Store, opt.Images = h.store, h.images
	return build.New(opt)
}
