package warm

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/graph"
)

// dockerfile gives the graph of a Dockerfile whose images are all scratch.
func dockerfile(t testing.TB, text, target string) graph.Edge {
	t.Helper()
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	caps := pb.Caps.CapSet(pb.Caps.All())
	res, err := dockerfile2llb.Dockerfile2LLB(t.Context(), []byte(text), dockerfile2llb.ConvertOpt{
		Config: dockerui.Config{Target: target}, LLBCaps: &caps, TargetPlatform: &platform, SourceMap: llb.NewSourceMap(nil, "Dockerfile", "", []byte(text)),
	})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	def, err := res.State.Marshal(t.Context(), llb.Platform(platform))
	if err != nil {
		t.Fatal(err)
	}
	e, err := graph.Load(def.ToPB())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// steps are the processes of a graph, by their arguments.
func steps(e graph.Edge) map[string]digest.Digest {
	all := map[string]digest.Digest{}
	var walk func(v *graph.Vertex)
	walk = func(v *graph.Vertex) {
		if v == nil {
			return
		}
		if x := v.Op.GetExec(); x != nil {
			args := x.Meta.Args
			all[args[len(args)-1]] = v.Digest
		}
		for _, in := range v.Inputs {
			walk(in.Vertex)
		}
	}
	walk(e.Vertex)
	return all
}

const goBuild, goMod = "/root/.cache/go-build", "/go/pkg/mod"

func TestViewsOfDockerfiles(t *testing.T) {
	free := ""
	for _, c := range []struct {
		name, dockerfile, target string
		step                     string // which the test is about
		dir                      string
		want                     string // who sees it; "result" is the result, "" is nobody
	}{
		{"one stage", "FROM scratch\nRUN go", "", "go", goBuild, "result"},
		{"copied file", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /app /", "", "go", goBuild, free},
		{"target", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /app /", "b", "go", goBuild, "result"},
		{"the directory", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /root/.cache/go-build /x", "", "go", goBuild, "COPY --from=b /root/.cache/go-build /x at Dockerfile:4"},
		{"above it", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /root /x", "", "go", goBuild, "COPY --from=b /root /x at Dockerfile:4"},
		{"below it", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /root/.cache/go-build/x /x", "", "go", goBuild, "COPY --from=b /root/.cache/go-build/x /x at Dockerfile:4"},
		{"another one", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /root /x", "", "go", goMod, free},
		{"a name that begins like it", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /root/.cache/go-build2 /x", "", "go", goBuild, free},
		{"all", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b / /x", "", "go", goMod, "COPY --from=b / /x at Dockerfile:4"},
		{"dots", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /app/../root /x", "", "go", goBuild, "COPY --from=b /app/../root /x at Dockerfile:4"},
		{"pattern", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /app/*.txt /x/", "", "go", goBuild, free},
		{"pattern at the top", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /r*t/ /x/", "", "go", goBuild, "COPY --from=b /r*t/ /x/ at Dockerfile:4"},
		{"pattern with a class", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /[r]oot/ /x/", "", "go", goBuild, "COPY --from=b /[r]oot/ /x/ at Dockerfile:4"},
		{"parents", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b --parents /app/./x /y/", "", "go", goBuild, free},
		{"parents of it", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b --parents /root/./x /root/.cache /y/", "", "go", goBuild, "COPY --from=b --parents /root/./x /root/.cache /y/ at Dockerfile:4"},
		{"excluded all the same", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b --exclude=.cache /root /x", "", "go", goBuild, "COPY --from=b --exclude=.cache /root /x at Dockerfile:4"},
		{"link", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --link --from=b /app /", "", "go", goBuild, free},
		{"link of it", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --link --from=b /root /", "", "go", goBuild, "COPY --link --from=b /root / at Dockerfile:4"},
		{"on a linked copy", "FROM scratch AS b\nCOPY --link x /x\nRUN go\nFROM scratch\nCOPY --from=b /app /", "", "go", goBuild, free},
		{"before a linked copy into the result", "FROM scratch\nRUN go\nCOPY --link x /x", "", "go", goBuild, "result"},
		{"continued", "FROM scratch AS b\nRUN go\nFROM b\nRUN make", "", "go", goBuild, "result"},
		{"continued and copied", "FROM scratch AS a\nRUN go\nFROM a AS b\nRUN make\nFROM scratch\nCOPY --from=b /app /", "", "go", goBuild, free},
		{"continued, of which it is copied", "FROM scratch AS a\nRUN go\nFROM a AS b\nRUN make\nFROM scratch\nCOPY --from=b /root /", "", "go", goBuild, "COPY --from=b /root / at Dockerfile:6"},
		{"both, and the other one is free", "FROM scratch AS a\nRUN go\nFROM scratch AS b\nRUN make\nFROM a\nCOPY --from=b /app /", "", "make", goBuild, free},
		{"two copies, of which the last sees it", "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /app /\nCOPY --from=b /root /", "", "go", goBuild, "COPY --from=b /root / at Dockerfile:5"},
		{"mounted", "FROM scratch AS b\nRUN go\nFROM scratch\nRUN --mount=from=b,source=/app,target=/m cp", "", "go", goBuild, free},
		{"mounted whole", "FROM scratch AS b\nRUN go\nFROM scratch\nRUN --mount=from=b,target=/m cp", "", "go", goBuild, "RUN --mount=from=b,target=/m cp at Dockerfile:4"},
		{"mounted above it", "FROM scratch AS b\nRUN go\nFROM scratch\nRUN --mount=from=b,source=root,target=/m cp", "", "go", goBuild, "RUN --mount=from=b,source=root,target=/m cp at Dockerfile:4"},
		{"mounted to be written to", "FROM scratch AS b\nRUN go\nFROM scratch\nRUN --mount=from=b,source=/app,target=/m,rw cp", "", "go", goBuild, free},
		{"a cache begins with it", "FROM scratch AS b\nRUN go\nFROM scratch\nRUN --mount=type=cache,from=b,source=/go,target=/m cp", "", "go", goMod, "RUN --mount=type=cache,from=b,source=/go,target=/m cp at Dockerfile:4"},
		{"a copy of a copy", "FROM scratch AS a\nRUN go\nFROM scratch AS b\nCOPY --from=a /root /r\nFROM scratch\nCOPY --from=b /r/x /", "", "go", goBuild, "COPY --from=a /root /r at Dockerfile:4"},
		{"removed by the step", "FROM scratch AS b\nRUN go && rm -rf /root/.cache/*\nFROM scratch\nCOPY --from=b /app /", "", "go && rm -rf /root/.cache/*", goBuild, "RUN go && rm -rf /root/.cache/* at Dockerfile:2"},
		{"copied by a later step", "FROM scratch AS b\nRUN go\nRUN cp -a ~/.cache/go-build /m2\nFROM scratch\nCOPY --from=b /m2 /", "", "go", goBuild, "RUN cp -a ~/.cache/go-build /m2 at Dockerfile:3"},
		{"copied by an earlier step", "FROM scratch AS b\nRUN cp -a $HOME/.cache /m2\nRUN go\nFROM scratch\nCOPY --from=b /m2 /", "", "go", goBuild, free},
		{"of another home", "FROM scratch AS b\nENV HOME=/root/me\nRUN go\nRUN cp -a ${HOME}/.cache /m2\nFROM scratch\nCOPY --from=b /m2 /", "", "go", "/root/me/.cache/x", "RUN cp -a /root/me/.cache /m2 at Dockerfile:4"},
		{"one that the configuration has", "FROM scratch AS b\nRUN go > /root/.mine/x /mine/a/b\nFROM scratch\nCOPY --from=b /m2 /", "", "go > /root/.mine/x /mine/a/b", "/root/.mine", free},
		{"another one that it has", "FROM scratch AS b\nRUN go > /root/.mine/x /mine/a/b\nFROM scratch\nCOPY --from=b /m2 /", "", "go > /root/.mine/x /mine/a/b", "/mine/a", free},
		{"files that everybody names", "FROM scratch AS b\nRUN go > /root/log; rm -f /go /app/x /usr/local/bin/y\nFROM scratch\nCOPY --from=b /m2 /", "", "go > /root/log; rm -f /go /app/x /usr/local/bin/y", goMod, free},
		{"what a file that everybody names has in it", "FROM scratch AS b\nRUN go > /app/x\nFROM scratch\nCOPY --from=b /m2 /", "", "go > /app/x", "/app/x/cache", free},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := dockerfile(t, c.dockerfile, c.target)
			v := Views{Given: []string{"~/.mine", "/mine/a/"}}
			v.Add(e)
			step, ok := steps(e)[c.step]
			if !ok {
				t.Fatalf("there is no step %q", c.step)
			}
			s, seen := v.See(step, c.dir)
			got := s.By
			if seen && got == "" {
				got = "result"
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestViewsOfWhatWasNotAdded(t *testing.T) {
	e := dockerfile(t, "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /app /", "")
	var v Views
	if _, seen := v.See(steps(e)["go"], goBuild); !seen {
		t.Error("a vertex that nobody has added is seen by nobody")
	}
	v.Add(e)
	if s, seen := v.See(steps(e)["go"], goBuild); seen {
		t.Errorf("seen by %+v", s)
	}
	v.Add(dockerfile(t, "FROM scratch AS b\nRUN go\nFROM scratch\nCOPY --from=b /app /", "b"))
	if _, seen := v.See(steps(e)["go"], goBuild); !seen {
		t.Error("what a later question sees is seen by nobody")
	}
}

// exec is a vertex of LLB that no Dockerfile has.
func exec(arg string, inputs []graph.Edge, mounts ...*pb.Mount) *graph.Vertex {
	return &graph.Vertex{Digest: digest.FromString(arg), Meta: &pb.OpMetadata{}, Inputs: inputs, Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{arg}}, Mounts: mounts}}}}
}

func TestViewsOfMounts(t *testing.T) {
	for name, m := range map[string]*pb.Mount{
		"with an output":           {Dest: "/m", Input: 0, Output: 1, Selector: "/app"},
		"of which nothing is read": {Dest: "/m", Input: 0, Output: int64(pb.SkipOutput), Selector: "/app", ContentCache: pb.MountContentCache_OFF},
		"as the root, moved":       {Dest: "/", Input: 0, Output: 0, Selector: "/sub"},
	} {
		below := exec("below", nil, &pb.Mount{Dest: "/", Input: -1})
		top := exec("top", []graph.Edge{{Vertex: below}}, m)
		var v Views
		v.Add(graph.Edge{Vertex: top})
		if _, seen := v.See(below.Digest, goBuild); !seen {
			t.Errorf("a mount %s sees nothing", name)
		}
	}
}

// TestViewsOfMountsOfNothing: a mount may have no input, and a graph that nobody has checked may have one that is not there.
func TestViewsOfMountsOfNothing(t *testing.T) {
	below := exec("below", nil, &pb.Mount{Dest: "/", Input: -1})
	top := exec("top", []graph.Edge{{Vertex: below}}, &pb.Mount{Dest: "/m", Input: 1}, &pb.Mount{Dest: "/n", Input: -1}, &pb.Mount{Dest: "/o", Input: 0, Output: int64(pb.SkipOutput), Selector: "/app"})
	var v Views
	v.Add(graph.Edge{Vertex: top})
	if s, seen := v.See(below.Digest, goBuild); seen {
		t.Errorf("seen by %+v", s)
	}
	if _, seen := v.See(below.Digest, "/app/x"); !seen {
		t.Error("a mount of files is not seen behind mounts of nothing")
	}
}

// TestSelected: what a copy reads, of patterns the directory that they begin in.
func TestSelected(t *testing.T) {
	for _, c := range []struct {
		copies *pb.FileActionCopy
		want   string
	}{
		{&pb.FileActionCopy{Src: "a/b*c/d"}, "/a/b*c/d"},
		{&pb.FileActionCopy{Src: "a/b*c/d", AllowWildcard: true}, "/a"},
		{&pb.FileActionCopy{Src: "a/b*c/d", AllowEmptyWildcard: true}, "/a"},
		{&pb.FileActionCopy{Src: "/a", DirCopyContents: true}, "/a"},
		{&pb.FileActionCopy{Src: "/a", IncludePatterns: []string{"b"}}, "/a"},
		{&pb.FileActionCopy{Src: "/a", DirCopyContents: true, IncludePatterns: []string{"!x", "b/*", "../c"}}, "/a/b /c"},
	} {
		if got := strings.Join(selected(c.copies), " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.copies, got, c.want)
		}
	}
}

func TestViewsAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("FROM scratch AS b\nRUN go\nFROM scratch\n")
	for i := range 3 * maxSights {
		text.WriteString("COPY --from=b /app/" + strings.Repeat("x", i+1) + " /\n")
	}
	e := dockerfile(t, text.String(), "")
	var v Views
	v.Add(e)
	if n := len(v.of[steps(e)["go"]].sights); n > maxSights+1 {
		t.Errorf("it is seen in %d places", n)
	}
	if _, seen := v.See(steps(e)["go"], goBuild); !seen {
		t.Error("of what is seen in too many places not all is seen")
	}
}
