package warm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/hack/bases/library"
	"github.com/slipway-build/slipway/hack/environments"
)

// TestProjects builds the models warm and cold: each version's image is the same one, warm builds download nothing again, and find the caches that
// the models say. SLIPWAY_WARM=NAME,... chooses models, =all are all of them; otherwise those are built that are short.
// SLIPWAY_WARM_ROOT is a store that is kept, so that tools are installed once; SLIPWAY_PROGRAM is the binary, which is built unless it is given.
func TestProjects(t *testing.T) {
	if testing.Short() {
		t.Skip("long: compiles the models of projects, warm and cold")
	}
	if os.Geteuid() != 0 {
		t.Skip("steps run as root here")
	}
	all, err := Load("projects")
	if err != nil {
		t.Fatal(err)
	}
	chosen := os.Getenv("SLIPWAY_WARM")
	all = slices.DeleteFunc(all, func(p *Project) bool {
		if chosen == "" || chosen == "all" {
			return chosen == "" && p.Setting("short") == nil
		}
		return !slices.Contains(strings.Split(chosen, ","), p.Name)
	})
	if len(all) == 0 {
		t.Fatalf("there is no project %s", chosen)
	}
	b := newBuilder(t, all)
	for _, p := range all {
		t.Run(p.Name, func(t *testing.T) { b.prove(t, p) })
	}
}

// builder builds with one store.
type builder struct {
	program, root string
	env           []string
}

func newBuilder(t *testing.T, projects []*Project) *builder {
	t.Helper()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{root: os.Getenv("SLIPWAY_WARM_ROOT")}
	if b.program, err = environments.Program(t.Context(), repo); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if b.root == "" {
		b.root = filepath.Join(dir, "store")
	}
	var tools []string
	for _, p := range projects {
		tools = append(tools, p.Setting("tools")...)
	}
	slices.Sort(tools)
	kinds := []string{"busybox", "golang"}
	if tools != nil {
		kinds = append(kinds, "debian")
	}
	l, err := library.Open(filepath.Join(repo, "build", "bases"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if _, err := l.Make(t.Context(), kind); errors.Is(err, baseimage.ErrMissing) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	certs := filepath.Join(dir, "certs.d")
	server, err := l.Serve("127.0.0.1:0", certs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	b.env = append(os.Environ(), "SLIPWAY_CERTS_DIR="+certs, "SOURCE_DATE_EPOCH=1700000000")
	for _, stage := range slices.Compact(tools) {
		b.slipway(t, "build", "--network=host", "--target", stage, "-t", "warm-"+stage, "tools")
	}
	return b
}

// slipway runs a command of it, and returns what it printed.
func (b *builder) slipway(t *testing.T, args ...string) string {
	t.Helper()
	return b.in(t, "", args...)
}

// in runs one in a directory.
func (b *builder) in(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), b.program, append([]string{"--root", b.root}, args...)...)
	cmd.Dir, cmd.Env = dir, b.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("slipway %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// made is what a build came to.
type made struct {
	digests map[string]string // by target
	asked   []string          // of the registries
	took    time.Duration
	log     string
}

// scene is a project that is built in a directory.
type scene struct {
	*builder
	p   *Project
	reg *Registries
	dir string
}

// prove builds all versions warm, and then all of them cold, or the last one where the test is to be short.
func (b *builder) prove(t *testing.T, p *Project) {
	reg, err := Serve(p.files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Close)
	dir := t.TempDir()
	s := &scene{b, p, reg, filepath.Join(dir, "project")}
	warm := map[string]made{}
	for _, v := range Versions {
		warm[v] = s.build(t, v, "warm")
		s.runs(t, v)
	}
	s.found(t)
	versions := Versions
	if os.Getenv("SLIPWAY_WARM") == "" {
		versions = versions[len(versions)-1:] // a cold build takes long
	}
	for _, v := range versions {
		cold := s.build(t, v, "cold")
		if v != Versions[0] {
			s.downloads(t, v, warm[v].asked, cold.asked)
		}
		for target, want := range cold.digests {
			if got := warm[v].digests[target]; got != want {
				t.Errorf("%s %s: built warm it is %s, cold %s:\n%s", v, target, got, want, s.slipway(t, "image", "diff", s.name(v, "cold", target), s.name(v, "warm", target)))
			}
		}
		t.Logf("%s: %.1f s warm with %d downloads, %.1f s cold with %d", v, warm[v].took.Seconds(), len(warm[v].asked), cold.took.Seconds(), len(cold.asked))
	}
	if a, b := warm["first"].digests, warm["source"].digests; fmt.Sprint(a) == fmt.Sprint(b) {
		t.Error("the change of a source file changed nothing")
	}
	if a, b := warm["source"].digests, warm["dependency"].digests; fmt.Sprint(a) == fmt.Sprint(b) {
		t.Error("the change of a dependency changed nothing")
	}
}

// name is that of an image; the target is "" where there is no bake file.
func (s *scene) name(version, how, target string) string {
	name := fmt.Sprintf("warm-%s-%s-%s", s.p.Name, version, how)
	if target != "" {
		name += "-" + target
	}
	return name
}

// build makes a version the project's and builds it, "warm" or "cold".
func (s *scene) build(t *testing.T, version, how string) made {
	t.Helper()
	if err := errors.Join(os.RemoveAll(s.dir), s.p.Write(s.dir, version)); err != nil {
		t.Fatal(err)
	}
	args := map[string]string{
		"GOPROXY": "http://" + s.reg.Addrs["go"], "npm_config_registry": "http://" + s.reg.Addrs["npm"],
		"PIP_INDEX_URL": "http://" + s.reg.Addrs["pypi"] + "/simple/", "CRATES": "http://" + s.reg.Addrs["crates"],
		"FRESH": s.reg.Addrs["go"], // another one in each run, for what downloads nothing
		"GEMS":  "http://" + s.reg.Addrs["gems"], "MAVEN": "http://" + s.reg.Addrs["maven"], "PACKAGES": "http://" + s.reg.Addrs["php"],
	}
	meta := filepath.Join(t.TempDir(), "metadata")
	cmd := []string{"build", "--network=host", "-t", s.name(version, how, "")}
	flag, declared := "--build-arg", "ARG %s\n"
	if s.p.Bake() {
		args["NAME"] = s.name(version, how, "")
		cmd, flag, declared = []string{"bake", "--allow=network.host"}, "--var", "variable %q"
	}
	for k, v := range args {
		if strings.Contains(s.p.files["first/Dockerfile"]+s.p.files["first/docker-bake.hcl"], fmt.Sprintf(declared, k)) {
			cmd = append(cmd, flag, k+"="+v)
		}
	}
	cmd = append(cmd, "--progress=plain", "--metadata-file", meta, map[string]string{"warm": "--warm", "cold": "--no-cache"}[how])
	if !s.p.Bake() {
		cmd = append(cmd, ".")
	}
	s.reg.Asked()
	start := time.Now()
	log := s.in(t, s.dir, cmd...)
	m := made{map[string]string{}, s.reg.Asked(), time.Since(start), log}
	if how == "warm" && strings.Contains(log, "--warm: ") {
		t.Errorf("%s: some of it is not warm:\n%s", version, log)
	}
	for _, line := range s.p.Setting("logs") {
		if v, want, _ := strings.Cut(line, " "); how == "warm" && v == version && !strings.Contains(log, want) {
			t.Errorf("%s: it does not print %q:\n%s", version, want, log)
		}
	}
	data, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	m.digests, err = s.digests(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// digests reads those of a build's metadata, by target.
func (s *scene) digests(data []byte) (map[string]string, error) {
	type image struct {
		Digest string `json:"containerimage.digest"`
	}
	all := map[string]string{}
	if !s.p.Bake() {
		var one image
		err := json.Unmarshal(data, &one)
		all[""] = one.Digest
		return all, err
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	for _, target := range s.p.Setting("target") {
		var one image
		if err := json.Unmarshal(raw[target], &one); err != nil {
			return nil, fmt.Errorf("target %s: %w", target, err)
		}
		all[target] = one.Digest
	}
	return all, nil
}

// runs runs what a warm build made.
func (s *scene) runs(t *testing.T, version string) {
	t.Helper()
	target := ""
	if s.p.Bake() {
		target = s.p.Setting("target")[0]
	}
	for _, line := range s.p.Setting("runs") {
		if v, want, _ := strings.Cut(line, " "); v == version {
			if got := s.slipway(t, "run", "--rm", s.name(version, "warm", target)); !strings.Contains(got, want) {
				t.Errorf("%s: it prints %q, want %q", version, got, want)
			}
		}
	}
}

// downloads sees that a warm build of a version downloaded what it may, and a cold one more than that.
func (s *scene) downloads(t *testing.T, version string, warm, cold []string) {
	t.Helper()
	may, err := s.p.Downloads(version)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range warm {
		if !slices.ContainsFunc(may, func(re *regexp.Regexp) bool { return re.MatchString(name) }) {
			t.Errorf("%s: the warm build downloaded %s", version, name)
		}
	}
	if len(warm) >= len(cold) && len(cold) > 0 {
		t.Errorf("%s: the warm build downloaded %q, the cold one %q", version, warm, cold)
	}
}

// found sees that steps of the project have found the caches that it is to find.
func (s *scene) found(t *testing.T) {
	t.Helper()
	real, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	shown := s.slipway(t, "builder", "du", "--verbose")
	for _, cache := range s.p.Setting("cache") {
		if !strings.Contains(shown, "warm "+cache+" in "+real) {
			t.Errorf("no step found %s:\n%s", cache, shown)
		}
	}
}
