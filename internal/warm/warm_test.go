package warm

import (
	"slices"
	"strings"
	"testing"
)

func TestPaths(t *testing.T) {
	shell := func(text string) []string { return []string{"/bin/sh", "-c", text} }
	has := func(names ...string) func(string) bool {
		return func(name string) bool { return slices.Contains(names, name) }
	}
	for _, c := range []struct {
		name string
		step Step
		want string // "TOOL DIR", or "TOOL DIR locked"
	}{
		{"no tool", Step{Args: shell("echo hello"), Home: "/root"}, ""},
		{"the shell is none", Step{Args: shell("true"), Home: "/root", Has: has("/usr/bin/go")}, ""},
		{"go", Step{Args: shell("go build ./..."), Home: "/root"}, "Go /root/.cache/go-build, Go /root/go/pkg/mod"},
		{"without a shell", Step{Args: []string{"/usr/local/go/bin/go", "build"}, Home: "/root"}, "Go /root/.cache/go-build, Go /root/go/pkg/mod"},
		{"in a list", Step{Args: shell("cd x&&CGO_ENABLED=0 go build"), Home: "/root"}, "Go /root/.cache/go-build, Go /root/go/pkg/mod"},
		{"a longer word", Step{Args: shell("gopher mygo go.mod"), Home: "/root"}, ""},
		{"GOPATH", Step{Args: shell("go build"), Env: []string{"GOPATH=/go:/other"}, Home: "/root"}, "Go /go/pkg/mod, Go /root/.cache/go-build"},
		{"GOMODCACHE", Step{Args: shell("go build"), Env: []string{"GOPATH=/go", "GOMODCACHE=/m/", "GOCACHE=/c/go"}, Home: "/root"}, "Go /c/go"},
		{"GOCACHE=off", Step{Args: shell("go build"), Env: []string{"GOCACHE=off", "GOMODCACHE=/c/mod"}}, "Go /c/mod"},
		{"HOME", Step{Args: shell("go build"), Env: []string{"HOME=/home/me", "GOMODCACHE=off"}, Home: "/root"}, "Go /home/me/.cache/go-build"},
		{"XDG_CACHE_HOME", Step{Args: shell("pip3.12 install x"), Env: []string{"XDG_CACHE_HOME=/c/x"}, Home: "/root"}, "pip /c/x/pip"},
		{"a module of Python", Step{Args: shell("python3 -m pip install x"), Home: "/root"}, "pip /root/.cache/pip"},
		{"npm", Step{Args: shell("npm ci"), Home: "/root"}, "npm /root/.npm/_cacache"},
		{"npm_config_cache", Step{Args: shell("npm ci"), Env: []string{"npm_config_cache=/c/npm"}, Home: "/root"}, "npm /c/npm/_cacache"},
		{"cargo", Step{Args: shell("cargo build"), Env: []string{"CARGO_HOME=/usr/local/cargo"}}, "cargo /usr/local/cargo/git/db locked, cargo /usr/local/cargo/registry locked"},
		{"apt", Step{Args: shell("apt-get update && apt-get install -y x")}, "apt /var/cache/apt/archives locked, apt /var/lib/apt/lists locked"},
		{"apt of a user", Step{Args: shell("apt-get update"), UID: 1}, ""},
		{"bazel", Step{Args: shell("bazel build //..."), User: "me", Home: "/home/me"}, "Bazel /home/me/.cache/bazel/_bazel_me/cache"},
		{"poetry keeps its environments", Step{Args: shell("poetry install"), Home: "/r"}, "Poetry /r/.cache/pypoetry/artifacts, Poetry /r/.cache/pypoetry/cache"},
		{"make, and go is there", Step{Args: shell("make"), Home: "/root", Has: has("/usr/bin/go"), Env: []string{"GOMODCACHE=off"}}, "Go /root/.cache/go-build"},
		{"make, and go is in PATH", Step{Args: shell("make"), Home: "/root", Has: has("/opt/go"), Env: []string{"PATH=relative:/opt", "GOMODCACHE=off"}}, "Go /root/.cache/go-build"},
		{"make, and go is elsewhere", Step{Args: shell("make"), Home: "/root", Has: has("/usr/bin/go"), Env: []string{"PATH=/opt"}}, ""},
		{"a script", Step{Args: shell("./build.sh"), Home: "/root", Has: has("/bin/mvn")}, "Maven /root/.m2/repository locked"},
		{"a here-document", Step{Args: []string{"/dev/pipes/EOF"}, Home: "/root", Has: has("/bin/mvn")}, "Maven /root/.m2/repository locked"},
		{"what Maven is asked to make", Step{Args: shell("mvn -q clean install"), Home: "/root"}, ""},
		{"what Maven downloads", Step{Args: shell("mvn -q package"), Home: "/root"}, "Maven /root/.m2/repository locked"},
		{"of the configuration", Step{Args: shell("true"), Home: "/root", More: []string{"~/.mine", "/c/x/../y"}}, "a path of the configuration /c/y, a path of the configuration /root/.mine"},
		{"the root", Step{Args: shell("true"), Home: "/", More: []string{"~", "/", "/..", "/usr"}}, ""},
		{"one in another", Step{Args: shell("go build"), Env: []string{"GOCACHE=/c/x/build", "GOMODCACHE=/c/x"}}, "Go /c/x"},
		{"a place that is no place", Step{Args: shell("go build"), Env: []string{"GOCACHE=a/b/c", "GOMODCACHE=/c/a\x00/b"}}, ""},
		{"no home", Step{Args: shell("npm ci")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range Paths(c.step) {
				s := p.Tool + " " + p.Dir
				if p.Locked {
					s += " locked"
				}
				got = append(got, s)
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("got %q\nwant %q", s, c.want)
			}
		})
	}
}

// TestOutermost: a directory has what those in it have been said to be.
func TestOutermost(t *testing.T) {
	got := outermost([]Path{{"b", "/c/b", true, false}, {"x", "/d/x", false, false}, {"a", "/c", false, false}, {"c", "/c/c", false, true}, {"y", "/d/x/y", false, true}})
	want := []Path{{"a", "/c", true, true}, {"x", "/d/x", false, true}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"/", "/x", true}, {"/a", "/a", true}, {"/a", "/a/b", true}, {"/a/b", "/a", true}, {"/a", "/ab", false}, {"/ab", "/a", false}, {"/a/b", "/a/c", false},
	} {
		if got := Overlap(c.a, c.b); got != c.want {
			t.Errorf("Overlap(%q, %q) = %t", c.a, c.b, got)
		}
	}
}

// What was built of sources is told from what was downloaded: it is of a base image.
func TestBuilt(t *testing.T) {
	var built []string
	for _, words := range []string{"go build", "pip install x", "uv sync", "poetry install", "npm ci", "pnpm install", "cargo build", "mvn package"} {
		for _, p := range Paths(Step{Args: []string{"sh", "-c", words}, Home: "/r", More: []string{"/mine/x"}}) {
			if p.Built && !slices.Contains(built, p.Dir) {
				built = append(built, p.Dir)
			}
		}
	}
	slices.Sort(built)
	want := []string{"/mine/x", "/r/.cache/go-build", "/r/.cache/pip", "/r/.cache/pypoetry/artifacts", "/r/.cache/uv", "/r/.local/share/pnpm/store"}
	if !slices.Equal(built, want) {
		t.Errorf("got %q\nwant %q", built, want)
	}
}
