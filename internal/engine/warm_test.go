package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// goCache is where Go keeps what it compiled, for a user without a home.
const goCache = "/.cache/go-build"

// compiler is a program that counts in its cache how often it ran, and is told what it has found.
type compiler struct {
	mu    sync.Mutex
	found []string // of each time: "cold", "empty" or "full"
	fails bool     // where there is a cache mount
}

func (c *compiler) run(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := "cold"
	for _, m := range spec.Mounts {
		if m.Dest != goCache {
			continue
		}
		if _, err := os.Stat(filepath.Join(m.Bind, "object")); err == nil {
			found = "full"
		} else if found = "empty"; os.WriteFile(filepath.Join(m.Bind, "object"), nil, 0o644) != nil {
			return errors.New("the cache cannot be written to")
		}
	}
	c.found = append(c.found, found)
	if c.fails && found != "cold" {
		return &sandbox.ExitError{Code: 1}
	}
	if out := filepath.Join(spec.Root.Upper, goCache); found == "cold" {
		if err := errors.Join(os.MkdirAll(out, 0o755), os.WriteFile(filepath.Join(out, "object"), []byte("object"), 0o644)); err != nil {
			return err
		}
	}
	out := filepath.Join(spec.Root.Upper, "out")
	return errors.Join(os.Mkdir(out, 0o755), os.WriteFile(filepath.Join(out, "app"), []byte("made"), 0o644))
}

// times gives what was found since the last question.
func (c *compiler) times() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Join(c.found, " ")
	c.found = nil
	return all
}

// sources are what stages begin with: others for each version.
func sources(version string) llb.State {
	return llb.Scratch().File(llb.Mkfile("/source", 0o644, []byte(version)))
}

func step(on llb.State, args ...string) llb.State { return on.Run(llb.Args(args)).Root() }

// copied is a stage that has a file or directory of another one.
func copied(from llb.State, path string) llb.State {
	return llb.Scratch().File(llb.Copy(from, path, "/copied"))
}

// toldWarm are the lines of a display.
type toldWarm struct {
	mu    sync.Mutex
	lines []string
}

func (t *toldWarm) Write(s *client.SolveStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range s.Vertexes {
		if strings.HasPrefix(v.Name, "--warm: ") && v.Completed == nil {
			t.lines = append(t.lines, v.Name)
		}
	}
}

var _ progress.Sink = (*toldWarm)(nil)

// built evaluates a state in a run of its own; "" is a run that is not warm.
func built(t *testing.T, e *Engine, project string, states ...llb.State) (*Run, []string) {
	t.Helper()
	opt, lines := RunOptions{}, &toldWarm{}
	if opt.Sink = lines; project != "" {
		opt.Warm = &Warm{Project: project}
	}
	r := e.NewRun(context.Background(), opt)
	for _, st := range states {
		_, err := r.Result(t.Context(), edgeOf(t, st))
		must(t, err)
	}
	must(t, r.Close())
	return r, lines.lines
}

func newCompiler(t *testing.T) (*Engine, *processes, *compiler) {
	c := &compiler{}
	e, p := newProcesses(t, map[string]program{"go": c.run})
	return e, p, c
}

func wantFound(t *testing.T, c *compiler, what, want string) {
	t.Helper()
	if got := c.times(); got != want {
		t.Errorf("%s: the compiler found %q, want %q", what, got, want)
	}
}

// What a step made warm is a hit for warm builds of the project, and for nobody else.
func TestWarmResultIsTheProjects(t *testing.T) {
	e, _, c := newCompiler(t)
	app := func(version string) llb.State { return copied(step(sources(version), "go"), "/out/app") }
	built(t, e, "mine", app("1"))
	wantFound(t, c, "the first build", "empty")
	built(t, e, "mine", app("1"))
	wantFound(t, c, "the same", "")
	built(t, e, "mine", app("2"))
	wantFound(t, c, "an edited one", "full")
	built(t, e, "yours", app("2"))
	wantFound(t, c, "another project", "empty")
	built(t, e, "", app("2"))
	wantFound(t, c, "a build that is not warm", "cold")
	built(t, e, "mine", app("2"))
	built(t, e, "third", app("2"))
	wantFound(t, c, "warm ones after it", "")
}

// What stands on a warm step lacks the same files, whether or not it has a cache of its own.
func TestWarmResultIsInherited(t *testing.T) {
	e, p, c := newCompiler(t)
	next := func(st llb.State) llb.State {
		return step(st.File(llb.Mkfile("/more", 0o644, nil)), "next")
	}
	app := copied(next(step(sources("1"), "go")), "/out/app")
	r, _ := built(t, e, "mine", app)
	for _, rec := range r.Records() {
		if warm := slices.Contains(rec.Warm, goCache); warm == strings.Contains(rec.Name, "copy") || strings.Contains(rec.Name, "/source") {
			if warm {
				t.Errorf("the record of %s tells of %v", rec.Name, rec.Warm)
			}
		}
	}
	wantFound(t, c, "a warm build", "empty")
	built(t, e, "", next(step(sources("1"), "go")))
	wantFound(t, c, "its stage, cold", "cold")
	if n := p.times("next"); n != 2 {
		t.Errorf("what stands on it ran %d times", n)
	}
}

// What stands on a warm step has its caches too, whatever it runs: it finds what that step left there. Where they were dropped since, it runs cold,
// and so does what it stands on.
func TestWarmStepsHaveWhatTheyStandOn(t *testing.T) {
	e, p, c := newCompiler(t)
	var has []string
	p.programs["next"] = func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
		found := "nothing"
		for _, m := range spec.Mounts {
			if _, err := os.Stat(filepath.Join(m.Bind, "object")); err == nil && m.Dest == goCache {
				found = "mounted"
			}
		}
		for _, dir := range spec.Root.Lower {
			if _, err := os.Stat(filepath.Join(dir, goCache, "object")); err == nil {
				found = "in its layers"
			}
		}
		has = append(has, found)
		return nil
	}
	app := func(version, arg string) llb.State {
		return copied(step(step(sources(version), "go"), "next", arg), "/out/app")
	}
	r, _ := built(t, e, "mine", app("1", "a"))
	built(t, e, "mine", app("1", "b"))
	wantFound(t, c, "two builds", "empty")
	for _, m := range r.CacheMounts() {
		all, err := e.opt.Store.DropCache(m.ID)
		must(t, err)
		if !all {
			t.Errorf("%q was not dropped", m.ID)
		}
	}
	_, lines := built(t, e, "mine", app("1", "c"))
	wantFound(t, c, "one whose cache was dropped", "cold")
	if len(lines) != 1 || !strings.Contains(lines[0], "runs cold, with all that it stands on: it would not find what earlier steps have left in "+goCache) {
		t.Errorf("told %q", lines)
	}
	built(t, e, "mine", app("2", "c"))
	built(t, e, "mine", copied(step(step(sources("2"), "go").File(llb.Mkdir(goCache, 0o755, llb.WithParents(true)).Mkfile(goCache+"/mine", 0o644, nil)), "next"), "/out/app"))
	wantFound(t, c, "one that puts a file there", "empty cold")
	if got := strings.Join(has, ", "); got != "mounted, mounted, in its layers, mounted, in its layers" {
		t.Errorf("what stands on it found %s", got)
	}
}

// A step whose cache would be seen runs cold, whenever it turns out.
func TestWarmIsNotSeen(t *testing.T) {
	e, _, c := newCompiler(t)
	stage := step(sources("1"), "go")
	_, lines := built(t, e, "mine", stage)
	wantFound(t, c, "the result", "cold")
	if len(lines) == 0 || !strings.Contains(lines[0], "runs without the cache of Go: "+goCache+" would be missing in the result") {
		t.Errorf("told %q", lines)
	}
	stage = step(sources("2"), "go")
	_, lines = built(t, e, "mine", copied(stage, "/.cache"))
	wantFound(t, c, "a copy of the directory above", "cold")
	if len(lines) == 0 || !strings.Contains(lines[0], "copy /.cache /copied would see "+goCache) {
		t.Errorf("told %q", lines)
	}
	stage = step(sources("3"), "go")
	built(t, e, "mine", copied(stage, "/out"), stage)
	wantFound(t, c, "the result after a copy", "empty cold")
	stage = step(sources("4"), "go")
	built(t, e, "mine", stage, copied(stage, "/out"))
	wantFound(t, c, "a copy after the result", "cold")
}

// A link that leads to the cache is found when it is read, also where it is not there because the cache is mounted.
func TestWarmIsNotSeenByLinks(t *testing.T) {
	for name, target := range map[string]string{"it": goCache, "above it": "/.cache", "in it": goCache + "/object"} {
		c := &compiler{}
		e, _ := newProcesses(t, map[string]program{"go": func(ctx context.Context, spec *sandbox.Spec, out io.Writer) error {
			return errors.Join(c.run(ctx, spec, out), os.Symlink(target, filepath.Join(spec.Root.Upper, "out", "link")))
		}})
		_, lines := built(t, e, "mine", llb.Scratch().File(llb.Copy(step(sources("1"), "go"), "/out/link", "/copied", &llb.CopyInfo{FollowSymlinks: true})))
		wantFound(t, c, name, "empty cold")
		if len(lines) != 1 || !strings.Contains(lines[0], "by a symbolic link") {
			t.Errorf("%s: told %q", name, lines)
		}
		_, _ = built(t, e, "mine", copied(step(sources("2"), "go"), "/out/link"))
		wantFound(t, c, name+", as a link", "full")
	}
}

// A step that fails warm runs once more cold, with what it stands on; the caches go if that helps.
func TestWarmStepFails(t *testing.T) {
	e, p, c := newCompiler(t)
	p.programs["pip"] = func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
		if len(spec.Mounts) > 0 {
			return &sandbox.ExitError{Code: 3}
		}
		return nil
	}
	app := func(version string) llb.State { return copied(step(step(sources(version), "go"), "pip"), "/out/app") }
	_, lines := built(t, e, "mine", app("1"))
	wantFound(t, c, "what the step stands on", "empty cold")
	if n := p.times("pip"); n != 2 {
		t.Errorf("the step ran %d times", n)
	}
	if len(lines) != 2 || !strings.Contains(lines[0], "runs once more") || !strings.Contains(lines[1], "did not fail") {
		t.Errorf("told %q", lines)
	}
	built(t, e, "", app("1"))
	wantFound(t, c, "a cold build after it", "")
	p.programs["pip"] = func(context.Context, *sandbox.Spec, io.Writer) error { return &sandbox.ExitError{Code: 4} }
	r := starts(t, e, RunOptions{Warm: &Warm{Project: "mine"}})
	_, err := r.Result(t.Context(), edgeOf(t, app("2")))
	if err == nil || !strings.Contains(err.Error(), "exit code: 4") {
		t.Errorf("error is %v", err)
	}
	wantFound(t, c, "what a step stands on that fails cold too", "full cold")
}

// A damaged cache is dropped when a step did not fail without it.
func TestDamagedWarmCacheIsDropped(t *testing.T) {
	e, _, c := newCompiler(t)
	app := func(version string) llb.State { return copied(step(sources(version), "go"), "/out/app") }
	built(t, e, "mine", app("1"))
	c.fails = true
	built(t, e, "mine", app("2"))
	c.fails = false
	built(t, e, "mine", app("3"))
	wantFound(t, c, "three builds", "empty full cold empty")
}

// A step that fails warm again and again runs cold at once for a while, with what it stands on.
func TestWarmStepFailsAgain(t *testing.T) {
	e, p, c := newCompiler(t)
	p.programs["pip"] = func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
		if len(spec.Mounts) > 0 {
			return &sandbox.ExitError{Code: 3}
		}
		return nil
	}
	for _, version := range []string{"1", "2"} {
		built(t, e, "mine", copied(step(step(sources(version), "go"), "pip"), "/out/app"))
	}
	wantFound(t, c, "two builds", "empty cold full cold")
	_, lines := built(t, e, "mine", copied(step(step(sources("3"), "go"), "pip"), "/out/app"))
	wantFound(t, c, "the third", "cold")
	if len(lines) != 1 || !strings.Contains(lines[0], "runs cold, with all that it stands on") {
		t.Errorf("told %q", lines)
	}
	built(t, e, "yours", copied(step(step(sources("4"), "go"), "pip"), "/out/app"))
	wantFound(t, c, "another project", "empty cold")
}

// That a step fails by its own fault is proved by a cold run a few times, and believed then, until a cold run did not fail.
func TestWarmStepFailsByItself(t *testing.T) {
	e, p, c := newCompiler(t)
	always := func(context.Context, *sandbox.Spec, io.Writer) error { return &sandbox.ExitError{Code: 4} }
	p.programs["pip"] = always
	args := []string{"pip"}
	fails := func(version string, opt RunOptions) error {
		opt.Warm = &Warm{Project: "mine"}
		r := starts(t, e, opt)
		_, err := r.Result(t.Context(), edgeOf(t, copied(step(step(sources(version), "go"), args...), "/out/app")))
		if err == nil || !strings.Contains(err.Error(), "exit code: 4") {
			t.Errorf("version %s: error is %v", version, err)
		}
		return err
	}
	fails("1", RunOptions{})
	fails("2", RunOptions{})
	wantFound(t, c, "two errors", "empty cold full cold")
	if err := fails("3", RunOptions{}); !strings.Contains(err.Error(), "it found warm caches") || !errors.As(err, new(*Failure)) {
		t.Errorf("error is %v", err)
	}
	wantFound(t, c, "the third", "full")
	fails("4", RunOptions{KeepFailed: true})
	wantFound(t, c, "one that is kept", "full cold")
	r := starts(t, e, RunOptions{Warm: &Warm{Project: "mine"}})
	if _, err := r.Result(t.Context(), edgeOf(t, copied(step(step(sources("5"), "go"), "pip"), "/out/app"))); err == nil {
		t.Error("no error")
	}
	if recs := r.Records(); !slices.ContainsFunc(recs, func(rec StepRecord) bool { return strings.Contains(rec.Error, "exit code: 4") }) {
		t.Errorf("the records tell nothing of the error: %+v", recs)
	}
	fails("6", RunOptions{})
	fails("7", RunOptions{})
	wantFound(t, c, "three that are believed", "full full full")
	fails("8", RunOptions{})
	wantFound(t, c, "the one after them", "full cold")
	fails("9", RunOptions{})
	wantFound(t, c, "one after that", "full")
	args = []string{"pip", "other"}
	fails("10", RunOptions{})
	wantFound(t, c, "another step", "full cold")
	args = []string{"pip"}
	p.programs["pip"] = func(context.Context, *sandbox.Spec, io.Writer) error { return errors.New("exit code: 4, says nobody") }
	fails("11", RunOptions{})
	wantFound(t, c, "what is no end of a process", "full cold")
}

// Many builds of a project at once have one cache, and each step runs once.
func TestWarmBuildsAtOnce(t *testing.T) {
	e, _, c := newCompiler(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			r := e.NewRun(context.Background(), RunOptions{Warm: &Warm{Project: "mine"}})
			_, err := r.Result(context.Background(), edgeOf(t, copied(step(sources("1"), "go"), "/out/app")))
			if err = errors.Join(err, r.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	wantFound(t, c, "eight builds", "empty")
}

// Builds of a project at once that are not the same have one cache too.
func TestUnlikeWarmBuildsAtOnce(t *testing.T) {
	e, _, c := newCompiler(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			r := e.NewRun(context.Background(), RunOptions{Warm: &Warm{Project: "mine"}})
			_, err := r.Result(context.Background(), edgeOf(t, copied(step(sources(strings.Repeat("x", i)), "go"), "/out/app")))
			if err = errors.Join(err, r.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	wantFound(t, c, "eight builds", "empty full full full full full full full")
}

// Nothing is warm where the sandbox or the Dockerfile mounts something, also where links lead: whatever a Dockerfile sets the variables of tools to.
func TestWarmWhereSomethingIsMounted(t *testing.T) {
	var mounted []string
	e, p := newProcesses(t, nil)
	p.programs = map[string]program{"go": func(_ context.Context, spec *sandbox.Spec, _ io.Writer) error {
		for _, m := range spec.Mounts {
			if m.Bind != "" {
				mounted = append(mounted, m.Dest)
			}
		}
		return nil
	}}
	links := llb.Scratch().Dir("/").File(llb.Mkdir("/a", 0o755).Mkdir("/c", 0o755))
	links = links.File(llb.Symlink("/proc", "/kernel")).File(llb.Symlink("/a", "/b"))
	for name, c := range map[string]struct {
		cache, mount string
		want         []string
	}{
		"nothing":              {"/a/go", "", []string{"/a/go"}},
		"the root":             {"/", "", nil},
		"a directory of it":    {"/etc", "", nil},
		"above the root":       {"/a/../../..", "", nil},
		"processes":            {"/proc/self/go", "", nil},
		"processes by a link":  {"/kernel/go", "", nil},
		"processes by dots":    {"/a/../proc/go", "", nil},
		"shared memory":        {"/dev/shm/go", "", nil},
		"the kernel's":         {"/sys/fs/cgroup", "", nil},
		"names of hosts":       {"/etc/hosts", "", nil},
		"a mount":              {"/a/go", "/a/go", nil},
		"in a mount":           {"/a/go/x", "/a/go", nil},
		"above a mount":        {"/a/go", "/a/go/x", nil},
		"beside a mount":       {"/a/go", "/a/other", []string{"/a/go"}},
		"a mount by a link":    {"/a/go", "/b/go/x", nil},
		"by a link to a mount": {"/b/go", "/a/go/x", nil},
	} {
		opts := []llb.RunOption{llb.Args([]string{"go", name}), llb.AddEnv("GOCACHE", c.cache), llb.AddEnv("GOMODCACHE", "off")}
		if c.mount != "" {
			opts = append(opts, llb.AddMount(c.mount, llb.Scratch(), llb.Tmpfs()))
		}
		mounted = nil
		built(t, e, "mine", copied(links.Run(opts...).Root(), "/c"))
		if !slices.Equal(mounted, c.want) {
			t.Errorf("%s: mounted is %q, want %q", name, mounted, c.want)
		}
	}
}

// The names of caches that are none of a graph's are none that a graph can have.
func TestCachesOfGraphs(t *testing.T) {
	e, _, c := newCompiler(t)
	r := starts(t, e, RunOptions{})
	for _, id := range []string{"git repository\x00https://example.com/x", "warm\x00Go\x00/\x000:0 linux/amd64\x00mine"} {
		st := sources("1").Run(llb.Args([]string{"go"}), llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir(id, llb.CacheMountShared))).Root()
		if _, err := r.Result(t.Context(), edgeOf(t, st)); err == nil || !strings.Contains(err.Error(), "invalid id") {
			t.Errorf("%q: error is %v", id, err)
		}
	}
	wantFound(t, c, "refused ones", "")
}

// Of a build that is not warm, the step is found that took longest and could have been.
func TestChilled(t *testing.T) {
	e, _, _ := newCompiler(t)
	r := starts(t, e, RunOptions{})
	stage := step(sources("1"), "go")
	app, all := edgeOf(t, copied(step(stage, "echo"), "/out/app")), edgeOf(t, copied(stage, "/"))
	for _, e := range []graph.Edge{app, all} {
		_, err := r.Result(t.Context(), e)
		must(t, err)
	}
	for _, c := range []struct {
		name  string
		least time.Duration
		edges []graph.Edge
		want  string
	}{
		{"a copied stage", 0, []graph.Edge{app}, "Go"},
		{"one of which the cache is seen", 0, []graph.Edge{all}, ""},
		{"one of which another result sees it", 0, []graph.Edge{app, all}, ""},
		{"one that was short", time.Hour, []graph.Edge{app}, ""},
	} {
		got, err := r.Chilled(t.Context(), c.least, c.edges...)
		must(t, err)
		tool := ""
		if got != nil {
			tool = got.Tool
		}
		if tool != c.want {
			t.Errorf("%s: got %q, want %q", c.name, tool, c.want)
		}
	}
}

// What a container of a frontend shows is seen, whatever a result needs of it; and what will be read later is made so that it can be.
func TestWarmIsNotShown(t *testing.T) {
	e, _, c := newCompiler(t)
	warm := RunOptions{Warm: &Warm{Project: "mine"}}
	for _, first := range []bool{false, true} {
		stage := step(sources(fmt.Sprint("shown ", first)), "go")
		r := e.NewRun(context.Background(), warm)
		want := "empty cold"
		if first {
			r.WillRead(edgeOf(t, copied(stage, "/")))
			want = "cold"
		}
		_, err := r.Result(t.Context(), edgeOf(t, copied(stage, "/out/app")))
		must(t, err)
		ctr, err := r.NewContainer(t.Context(), ContainerOptions{Mounts: []ContainerMount{{Mount: &pb.Mount{Dest: pb.RootMount}, Edge: edgeOf(t, stage)}}})
		must(t, err)
		must(t, ctr.Close())
		must(t, r.Close())
		wantFound(t, c, "a stage that is shown", want)
	}
}

// A key that was made of a stage's files while it was warm finds no result of the cold ones, which the stage has since somebody came to see it.
func TestKeyOfWarmFiles(t *testing.T) {
	e, _, c := newCompiler(t)
	stage := step(sources("1"), "go")
	copied := edgeOf(t, copied(stage, "/out/app"))
	r := e.NewRun(context.Background(), RunOptions{Warm: &Warm{Project: "mine"}})
	r.seen(copied)
	ctx, end := r.begin(t.Context())
	n := r.node(copied.Vertex)
	id, err := n.identity(ctx)
	must(t, err)
	r.seen(edgeOf(t, stage))
	_, err = r.value(ctx, edge{n, copied.Index})
	must(t, err)
	end()
	must(t, r.Close())
	wantFound(t, c, "the stage", "empty cold")
	if _, found, _, err := e.opt.Store.Result(t.Context(), string(id.key)); err != nil || found {
		t.Errorf("the result of cold files has the key of warm ones: %v, %v", found, err)
	}
}
