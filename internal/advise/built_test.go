package advise

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// files are a layer: paths with "" for a file, "white", "opaque", or the target of a link. Directories above them are there.
type layerFiles map[string]string

func (f layerFiles) Lstat(name string) (*layer.Entry, error) {
	what, is := f[name]
	e := &layer.Entry{Path: name, Mode: unix.S_IFDIR | 0o755}
	switch {
	case is && what == "white":
		e.Whiteout = true
	case is && what == "opaque":
		e.Opaque = true
	case is && what == "":
		e.Mode = unix.S_IFREG | 0o644
	case is:
		e.Mode, e.Link = unix.S_IFLNK|0o777, what
	case name != "." && !slices.ContainsFunc(slices.Collect(maps.Keys(f)), func(n string) bool { return strings.HasPrefix(n, name+"/") }):
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

func (f layerFiles) ReadDir(dir string) (all []*layer.Entry, err error) {
	names := map[string]bool{}
	for name := range f {
		for ; name != "."; name = path.Dir(name) {
			if path.Dir(name) == dir {
				names[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		e, err := f.Lstat(name)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// project is a Dockerfile with what its builds have left: a step for each line.
type project struct {
	dockerfile []string
	steps      []reasons.Vertex
	opened     map[int][]string // by line: "o /path", "d /path"
	partly     map[int]bool     // by line: something was lost
	layers     map[int]layerFiles
	rootOnly   bool // mounts were not traced
	runs       int
	list       *reasons.List // of the context
	other      *reasons.List // of the stage that the second one copies from
	shared     bool
	gone       bool // the files of the context are
	contents   map[string]string
	ignore     string
}

const contextFiles = ".env Dockerfile README.md docs/a docs/b lib/x.go main.go package-lock.json package.json"

func vertex(line int, name string, inputs []int, lines ...string) reasons.Vertex {
	return reasons.Vertex{Name: fmt.Sprintf("[stage-0 %d/9] %s", line, name), Line: line, Key: fmt.Sprint("k", line), Inputs: inputs, Lines: lines}
}

// listOf is the list of some files.
func listOf(names string) *reasons.List {
	var all reasons.ListMaker
	dirs := map[string]bool{}
	for name := range strings.FieldsSeq(names) {
		if dir := path.Dir(name); dir != "." && !dirs[dir] {
			dirs[dir] = true
			all.Add(dir, true, nil, nil)
		}
		all.Add(name, false, []byte(digest.FromString(name).Encoded()), nil)
	}
	return all.List()
}

// npmProject is one whose image has all, or with a second stage what that copies alone.
func npmProject(second bool) *project {
	exec := func(line int, name string, input int) reasons.Vertex {
		return vertex(line, name, []int{input}, "operation exec", "command /bin/sh -c "+name, "user ", "mount / BIND from input 0 ")
	}
	p := &project{
		dockerfile: []string{"FROM base", "COPY . /app", "RUN npm ci", "RUN make"},
		steps: []reasons.Vertex{
			vertex(1, "FROM base", nil, "operation image"), {Name: contextName},
			vertex(2, "COPY . /app", []int{0, 1}, "operation file", "action copy / to /app", "files of input 1 "+listDigest),
			exec(3, "RUN npm ci", 2), exec(4, "RUN make", 3),
		},
		opened: map[int][]string{3: {"o /app/package.json", "o /app/package-lock.json", "o /bin/sh", "d /bin", "o /root/.npm/x"}, 4: {"o /app/main.go", "o /app/.env", "d /app", "d /app/lib", "o /app/lib/x.go"}},
		partly: map[int]bool{}, runs: 3, contents: map[string]string{"package.json": "{}"},
		layers: map[int]layerFiles{2: {}, 3: {"app/node_modules/a": "", "root/.npm/x": ""}, 4: {"app/out": ""}},
	}
	for name := range strings.FieldsSeq(contextFiles) {
		p.layers[2]["app/"+name] = ""
	}
	if second {
		p.dockerfile = append(p.dockerfile, "FROM scratch", "COPY --from=0 /app/out /out")
		p.steps = append(p.steps, vertex(6, "COPY --from=0 /app/out /out", []int{-1, 4}, "operation file", "action copy /app/out to /out", "files of input 1 sha256:other"))
	}
	p.list = listOf(contextFiles)
	return p
}

// between puts an instruction, which may be a step, behind the COPY.
func (p *project) between(text, action string) {
	p.dockerfile = slices.Insert(p.dockerfile, 2, text)
	for line := 4; line >= 3; line-- {
		p.opened[line+1], p.layers[line+1] = p.opened[line], p.layers[line]
	}
	for i := range p.steps {
		if v := &p.steps[i]; v.Line >= 3 {
			v.Line++
			v.Key = fmt.Sprint("k", v.Line)
			if action != "" {
				v.Inputs = []int{v.Inputs[0] + 1}
			}
		}
	}
	if action != "" {
		p.steps = slices.Insert(p.steps, 3, vertex(3, text, []int{2}, "operation file", action))
	}
}

const listDigest = "sha256:list"

func (p *project) input(t *testing.T) Input {
	t.Helper()
	report := &imagesize.Report{}
	from := 0
	for i, l := range p.dockerfile {
		if strings.HasPrefix(l, "FROM") && l != "FROM x" { // which is a stage here
			from = i
		}
	}
	for _, l := range p.dockerfile[from+1:] {
		if l != "" && !strings.HasPrefix(l, "#") && l != "FROM x" {
			report.Instructions = append(report.Instructions, imagesize.Instruction{CreatedBy: l})
		}
	}
	line := func(key string) (n int) {
		_, _ = fmt.Sscanf(key, "k%d", &n)
		return n
	}
	return Input{
		Name: "Dockerfile", Text: strings.Join(p.dockerfile, "\n") + "\n", Report: report, Tree: layerFiles{}, Ignore: IgnoreFile{Name: ".dockerignore", Text: p.ignore, New: p.ignore == ""},
		Built: &Built{
			Graph: &reasons.Build{Vertices: p.steps}, Lists: reasons.Lists{listDigest: p.list, "sha256:other": p.other}, Shared: p.shared,
			Opened: func(key string, each func(filetrace.Kind, string) error) (*filetrace.Summary, error) {
				if p.opened[line(key)] == nil {
					return nil, nil
				}
				for _, e := range p.opened[line(key)] {
					if err := each(filetrace.Kind(e[0]), e[2:]); err != nil {
						return nil, err
					}
				}
				sum := &filetrace.Summary{Mounts: !p.rootOnly}
				if p.partly[line(key)] {
					sum.Lost = 1
				}
				return sum, nil
			},
			Layer: func(key string) (layer.Tree, error) {
				if p.layers[line(key)] == nil {
					return nil, fs.ErrNotExist
				}
				return p.layers[line(key)], nil
			},
			Runs: func(step string) []time.Duration { return slices.Repeat([]time.Duration{time.Second}, p.runs) },
			Content: func(name string) ([]byte, error) {
				if text, is := p.contents[name]; is {
					return []byte(text), nil
				}
				return nil, fs.ErrNotExist
			},
			Size: func(name string) (int64, bool) {
				return 100_000, !p.gone && slices.Contains(strings.Fields(contextFiles), name)
			},
		},
	}
}

// found are the findings of a rule.
func (p *project) found(t *testing.T, rule string) (all []Finding) {
	t.Helper()
	findings, err := Advise(p.input(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Rule == rule {
			all = append(all, f)
		}
	}
	return all
}

// cases have each change take a finding away.
func without(t *testing.T, rule string, second bool, changes map[string]func(*project)) {
	t.Helper()
	if got := npmProject(second).found(t, rule); len(got) != 1 {
		t.Fatalf("%+v is found", got)
	}
	for name, change := range changes {
		p := npmProject(second)
		change(p)
		if got := p.found(t, rule); len(got) > 0 {
			t.Errorf("%s: %+v is found", name, got)
		}
	}
}

func TestCopyBeforeDownload(t *testing.T) {
	f := npmProject(false).found(t, "copy-before-download")[0]
	want := `--- a/Dockerfile
+++ b/Dockerfile
@@ -1,4 +1,5 @@
 FROM base
-COPY . /app
+COPY package-lock.json package.json /app/
 RUN npm ci
+COPY . /app
 RUN make
`
	if f.Line != 3 || f.Seconds != 2 || f.Patch != want || !strings.Contains(f.What, "line 2 copies 9 files before this, which needs 2 of them (package-lock.json, package.json)") || !strings.Contains(f.What, "3 times") {
		t.Errorf("found is %+v\n%s", f, f.Patch)
	}
	step := func(line int, edit func(*reasons.Vertex)) func(*project) {
		return func(p *project) {
			for i := range p.steps {
				if p.steps[i].Line == line {
					edit(&p.steps[i])
				}
			}
		}
	}
	run := func(p *project, command string) {
		p.dockerfile[2] = "RUN " + command
		step(3, func(v *reasons.Vertex) { v.Name = "[3/4] RUN " + command })(p)
	}
	without(t, "copy-before-download", false, map[string]func(*project){
		"not traced":     func(p *project) { delete(p.opened, 3) },
		"something lost": func(p *project) { p.partly[3] = true },
		"listed by apt": func(p *project) {
			run(p, "apt-get install x")
			p.opened[3] = append(p.opened[3], "d /app")
		},
		"listed below":       func(p *project) { p.opened[3] = append(p.opened[3], "d /app/docs") },
		"all opened":         func(p *project) { p.opened[3] = append(p.opened[3], openedAll()...) },
		"layer gone":         func(p *project) { delete(p.layers, 3) },
		"layer of COPY gone": func(p *project) { delete(p.layers, 2) },
		"changed":            func(p *project) { p.layers[3]["app/package-lock.json"] = "" },
		"deleted":            func(p *project) { p.layers[3]["app/docs"] = "white" },
		"all deleted":        func(p *project) { p.layers[3]["app"] = "white" },
		"made anew":          func(p *project) { p.layers[3]["app"] = "opaque" },
		"replaced by dir":    func(p *project) { p.layers[3]["app/main.go/x"] = "" },
		"a link to it":       func(p *project) { p.layers[2]["app/docs/a"] = "../package.json" },
		"a link above it":    func(p *project) { p.layers[2]["app/docs/a"] = "/app/docs/.." },
		"elsewhere":          func(p *project) { delete(p.layers[2], "app/docs/a") },
		"a mount":            step(3, func(v *reasons.Vertex) { v.Lines = append(v.Lines, "mount /x BIND from input 0 ") }),
		"a mount in a mount of it": step(3, func(v *reasons.Vertex) {
			v.Lines = append(v.Lines, "mount /app BIND from input 0 ", "mount /app TMPFS from input -1 ")
		}),
		"a mount that was not traced": func(p *project) {
			step(3, func(v *reasons.Vertex) {
				v.Inputs, v.Lines = append(v.Inputs, 0), append(v.Lines, "mount /x BIND from input 1 ")
			})(p)
			p.rootOnly = true
		},
		"unreadable mount":     step(3, func(v *reasons.Vertex) { v.Lines = append(v.Lines, "mount nonsense") }),
		"no download":          func(p *project) { run(p, "npm test") },
		"written beside":       func(p *project) { p.layers[3]["app/docs/new"] = "" },
		"gone into":            func(p *project) { run(p, "cd app/docs && npm ci") },
		"gone into in a stage": func(p *project) { run(p, "cd /app/docs && npm ci") },
		"another stage": func(p *project) {
			p.between("FROM x", "")
			p.dockerfile[0] = "FROM base AS x"
		},
		"another COPY between": func(p *project) { p.between("COPY x /y", "action copy /x to /y") },
		"another directory between": func(p *project) {
			p.between("WORKDIR /app/docs/a", "action mkdir /app/docs/a")
		},
		"one that the COPY makes": func(p *project) {
			p.between("WORKDIR /app", "action mkdir /app")
			p.dockerfile[3] = "RUN apt-get install x"
			step(4, func(v *reasons.Vertex) { v.Name = "[3/4] RUN apt-get install x" })(p)
			p.opened[4] = []string{"o /bin/sh"}
		},
		"used twice":      func(p *project) { p.steps = append(p.steps, vertex(9, "RUN x", []int{2}, "operation exec")) },
		"two platforms":   func(p *project) { p.steps = append(p.steps, p.steps[2]) },
		"no list":         func(p *project) { p.list = nil },
		"damaged list":    func(p *project) { p.list.Data = p.list.Data[:len(p.list.Data)-3] },
		"another text":    step(3, func(v *reasons.Vertex) { v.Name = "[3/4] RUN npm install" }),
		"no graph":        func(p *project) { p.steps = nil },
		"a hostile graph": step(3, func(v *reasons.Vertex) { v.Inputs = []int{7} }),
		"several copies":  step(2, func(v *reasons.Vertex) { v.Lines = append(v.Lines, "action copy /x to /y") }),
		"another option": func(p *project) {
			p.dockerfile[1] = "COPY --exclude=x . /app"
			step(2, func(v *reasons.Vertex) { v.Name = "[2/4] COPY --exclude=x . /app" })(p)
		},
		"a variable": func(p *project) {
			p.dockerfile[1] = "COPY . $x"
			step(2, func(v *reasons.Vertex) { v.Name = "[2/4] COPY . /app" })(p)
		},
	})
	for name, c := range map[string]struct {
		change func(*project)
		what   string // in the patch, or in words where there is none
	}{
		"what the step has made itself": {func(p *project) {
			p.opened[3] = append(p.opened[3], "d /app/node_modules", "d /", "o /app/node_modules/a", "o /app/not-there", "o /application/x")
		}, "+COPY . /app"},
		"no steps between": {func(p *project) {
			p.between("ENV A=b", "")
			p.between("LABEL a=b", "")
		}, "+COPY . /app"},
		"a directory":   {func(p *project) { p.between("WORKDIR /app", "action mkdir /app") }, "+COPY . /app"},
		"a new one":     {func(p *project) { p.between("WORKDIR /app/new", "action mkdir /app/new") }, "+COPY . /app"},
		"another one":   {func(p *project) { p.relative(); p.between("WORKDIR /x", "action mkdir /x") }, "+COPY . /app/\n"},
		"the same one":  {func(p *project) { p.relative() }, "+COPY . .\n"},
		"listed by npm": {func(p *project) { p.opened[3] = append(p.opened[3], "d /app") }, "+COPY . /app"},
		"gone into":     {func(p *project) { run(p, "cd /app && npm ci && cd /tmp && npm ci") }, "+COPY . /app"},
		"looked at": {func(p *project) {
			run(p, "go mod download")
			p.opened[3] = []string{"o /app/lib/x.go"} // stands for a go.mod
			p.list = listOf(contextFiles + " lib/go.sum lib/package.json")
			p.layers[2]["app/lib/go.sum"], p.layers[2]["app/lib/package.json"] = "", ""
		}, "+COPY lib/go.sum lib/x.go /app/lib/"},
		"another mount": {func(p *project) {
			step(3, func(v *reasons.Vertex) {
				v.Inputs, v.Lines = append(v.Inputs, 0), append(v.Lines, "mount /app/x BIND from input 1 ")
			})(p)
			p.opened[3] = append(p.opened[3], "o /app/x/main.go")
		}, "+COPY . /app"},
		"a script":           {func(p *project) { p.contents["package.json"] = `{"scripts": {"test": "x", "prepare": "husky"}}` }, "npm runs the script prepare of package.json with it"},
		"unknown scripts":    {func(p *project) { delete(p.contents, "package.json") }, "npm may run scripts of package.json"},
		"damaged":            {func(p *project) { p.contents["package.json"] = `[` }, "npm may run scripts of package.json"},
		"no scripts are run": {func(p *project) { run(p, "npm ci --ignore-scripts"); p.contents = nil }, "+COPY . /app"},
		"a project": {func(p *project) {
			run(p, "pip install .")
			p.opened[3] = []string{"o /app/setup.py"}
			p.list = listOf(contextFiles + " setup.py")
			p.layers[2]["app/setup.py"] = ""
		}, "pip builds or installs the project with it (setup.py)"},
	} {
		p := npmProject(false)
		c.change(p)
		if got := p.found(t, "copy-before-download"); len(got) != 1 || !strings.Contains(got[0].Patch+"\n"+got[0].Change, c.what) || (got[0].Patch != "") != strings.HasPrefix(c.what, "+") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// relative has the COPY be one to the working directory.
func (p *project) relative() {
	p.dockerfile[1] = "COPY . ."
	p.steps[2].Name = "[stage-0 2/9] COPY . ."
}

func openedAll() (all []string) {
	for name := range strings.FieldsSeq(contextFiles) {
		all = append(all, "o /app/"+name)
	}
	return all
}

func TestSentForNothing(t *testing.T) {
	f := npmProject(true).found(t, "unused-context")[0]
	want := "--- /dev/null\n+++ b/.dockerignore\n@@ -0,0 +1,2 @@\n+docs\n+README.md\n"
	if f.Line != 2 || f.Bytes != 300_000 || !f.Context || f.Patch != want {
		t.Errorf("found is %+v\n%s", f, f.Patch)
	}
	from := func(path string) func(*project) {
		return func(p *project) { p.steps[5].Lines[1] = "action copy " + path + " to /out" }
	}
	without(t, "unused-context", true, map[string]func(*project){
		"not traced":     func(p *project) { delete(p.opened, 4) },
		"something lost": func(p *project) { p.partly[3] = true },
		"copied on":      from("/app"),
		"copied by /":    from("/"),
		"copied by a link": func(p *project) {
			var m reasons.ListMaker
			for _, name := range []string{"app/README.md", "app/docs/a", "app/docs/b"} {
				m.Add(name, false, nil, nil)
			}
			p.other = m.List()
		},
		"a pattern":        from("/app/*"),
		"two readings":     from("/a to /b"),
		"all opened":       func(p *project) { p.opened[4] = append(p.opened[4], openedAll()...) },
		"all renamed":      func(p *project) { p.layers[4]["app"] = "white" },
		"mounted":          func(p *project) { p.steps = append(p.steps, vertex(7, "RUN x", []int{-1, 4}, "operation exec")) },
		"context mounted":  func(p *project) { p.steps = append(p.steps, vertex(7, "RUN x", []int{-1, 1}, "operation exec")) },
		"merged":           func(p *project) { p.steps = append(p.steps, vertex(7, "x", []int{4, 5}, "operation merge")) },
		"other targets":    func(p *project) { p.dockerfile = append([]string{"FROM x AS y", "COPY docs /"}, p.dockerfile...) },
		"not there now":    func(p *project) { p.gone = true },
		"the final image":  func(p *project) { p.steps = p.steps[:5] },
		"layer is gone":    func(p *project) { delete(p.layers, 4) },
		"unknown context":  func(p *project) { p.list = nil },
		"damaged contents": func(p *project) { p.list.Data = p.list.Data[:3] },
	})
	p := npmProject(true)
	p.opened[4] = append(p.opened[4], "o /app/docs/a")
	p.ignore = "x"
	if f := p.found(t, "unused-context")[0]; f.Patch != "--- a/.dockerignore\n+++ b/.dockerignore\n@@ -1,1 +1,3 @@\n-x\n\\ No newline at end of file\n+x\n+README.md\n+docs/b\n" {
		t.Errorf("the patch is\n%s", f.Patch)
	}
	if p.shared = true; p.found(t, "unused-context")[0].Patch != "" {
		t.Error("others' file is changed")
	}
}

// What is mounted is opened at the paths of its mount.
func TestMounted(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*project, *reasons.Vertex)
		want   string
	}{
		"mounts":                 {func(*project, *reasons.Vertex) {}, "README.md docs/b"},
		"nothing opened in one":  {func(p *project, _ *reasons.Vertex) { p.opened[7] = []string{"o /ctx/.env"} }, ""},
		"or in that of context":  {func(p *project, _ *reasons.Vertex) { p.opened[7] = []string{"o /in/docs/a"} }, ""},
		"not traced":             {func(p *project, _ *reasons.Vertex) { p.rootOnly = true }, ""},
		"a link in the selector": {func(p *project, _ *reasons.Vertex) { p.other = listOf("app/docs/a app/docs/b elsewhere") }, ""},
		"unknown files":          {func(p *project, _ *reasons.Vertex) { p.other = nil }, ""},
		"one over the other":     {func(_ *project, v *reasons.Vertex) { v.Lines = append(v.Lines, "mount /in/docs TMPFS from input -1 ") }, "docs README.md"},
		"a cache filled with it": {func(_ *project, v *reasons.Vertex) { v.Lines[3] = "mount /in CACHE from input 2 /app" }, ""},
		"another selector":       {func(_ *project, v *reasons.Vertex) { v.Lines[3] = "mount /in/docs BIND from input 2 /app/docs" }, "README.md docs/b"},
		"an unreadable mount":    {func(_ *project, v *reasons.Vertex) { v.Lines[2] = "mount nonsense" }, ""},
	} {
		p := npmProject(true)
		p.steps = append(p.steps, vertex(7, "RUN x", []int{0, 1, 4}, "operation exec", "mount / BIND from input 0 ", "mount /ctx BIND from input 1 ", "mount /in BIND from input 2 /app",
			"files of input 1 "+listDigest, "files of input 2 sha256:other"))
		p.steps[5].Lines[2] = "files of input 1 sha256:none"
		p.other = listOf("app/docs/a app/docs/b")
		p.opened[7] = []string{"o /ctx/.env", "o /in/docs/a", "d /in", "o /app/docs/b", "d /ctx/docs"}
		c.change(p, &p.steps[6])
		var all []string
		for _, f := range p.found(t, "unused-context") {
			for l := range strings.Lines(f.Patch) {
				if strings.HasPrefix(l, "+") && !strings.HasPrefix(l, "+++") {
					all = append(all, strings.TrimSpace(l[1:]))
				}
			}
		}
		if got := strings.Join(all, " "); got != c.want {
			t.Errorf("%s: %q is unused, want %q", name, got, c.want)
		}
	}
}

func TestCacheMount(t *testing.T) {
	f := npmProject(true).found(t, "cache-mount")[0]
	if f.Line != 3 || f.Seconds != 2 || !strings.Contains(f.Patch, "\n+RUN --mount=type=cache,target=/root/.npm npm ci\n") || strings.Count(f.Patch, "\n+") != 1+1 {
		t.Errorf("found is %+v\n%s", f, f.Patch)
	}
	without(t, "cache-mount", true, map[string]func(*project){
		"it ran once":   func(p *project) { p.runs = 1 },
		"not traced":    func(p *project) { delete(p.opened, 3) },
		"not used":      func(p *project) { p.opened[3] = p.opened[3][:4] },
		"hostile names": func(p *project) { p.opened[3] = append(p.opened[3][:4], "o /x,target=/etc/.npm/x", "o /x y/.npm/z") },
	})
	for name, change := range map[string]func(*project){
		"another user":    func(p *project) { p.steps[3].Lines[2] = "user node" },
		"copied out":      func(p *project) { p.steps[5].Lines[1] = "action copy /root/.npm to /out" },
		"copied with all": func(p *project) { p.steps[5].Lines[1] = "action copy / to /out" },
		"copied into":     func(p *project) { p.steps[2].Lines[1] = "action copy / to /root/.npm/x" },
		"not all known":   func(p *project) { p.partly[4] = true },
	} {
		p := npmProject(true)
		change(p)
		if got := p.found(t, "cache-mount"); len(got) != 1 || got[0].Patch != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	p := npmProject(true)
	p.opened[4] = append(p.opened[4], "o /root/.npm/x")
	if f := p.found(t, "cache-mount")[0]; !strings.Contains(f.Patch, "\n+RUN --mount=type=cache,target=/root/.npm make\n") {
		t.Errorf("who else needs it does not get it:\n%s", f.Patch)
	}
}
