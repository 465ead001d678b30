package environments

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/runtime-spec/specs-go"
	"sigs.k8s.io/yaml"
)

// example is a block of YAML in docs/ci.md, as what a container is told.
type example struct {
	name, image, cwd string
	args             []string // of a program; empty: script
	script           string
	vars             map[string]string
	// What Kubernetes says of rights.
	hostUsers *bool
	security  securityContext
	docker    bool   // it is Docker that starts the container,
	options   string // with these options
	mounts    []string
}

type securityContext struct {
	RunAsUser                *int64
	AllowPrivilegeEscalation *bool
	Capabilities             struct{ Add, Drop []string }
	SeccompProfile           struct{ Type string }
}

type container struct {
	Image           string
	Command, Args   []string
	WorkingDir      string
	Env             []struct{ Name, Value string }
	SecurityContext securityContext
	VolumeMounts    []struct{ Name, MountPath string }
}

// document has of each kind of YAML what is needed.
type document struct {
	Kind string
	Spec struct {
		Template  struct{ Spec podSpec }
		Steps     []container
		Templates []struct{ Container container }
	}
	Jobs map[string]struct {
		Steps []struct {
			Uses string
			Run  string
			With struct{ Args string }
		}
		Container struct {
			Image, Options string
			Volumes        []string
		}
	}
	Build struct {
		Image  struct{ Name string }
		Script []string
	}
}

type podSpec struct {
	HostUsers  *bool
	Containers []container
}

var yamlBlock = regexp.MustCompile("(?s)\n```yaml\n(.*?)\n```\n")

// examples reads docs/ci.md.
func examples(t *testing.T) (all []example) {
	page, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range yamlBlock.FindAllSubmatch(page, -1) {
		var d document
		if err := yaml.Unmarshal(block[1], &d); err != nil {
			t.Fatalf("%v:\n%s", err, block[1])
		}
		e, ok := d.example()
		if !ok {
			t.Logf("not tried here:\n%s", block[1])
			continue
		}
		tag := regexp.MustCompile(`team/([a-z]+):v1|_IMAGE:([a-z]+)`).FindStringSubmatch(string(block[1]))
		e.name = "tekton"
		if tag != nil {
			e.name = tag[1] + tag[2]
		}
		all = append(all, e)
	}
	return all
}

func (d *document) example() (example, bool) {
	switch {
	case d.Kind == "Job":
		pod := d.Spec.Template.Spec
		e := pod.Containers[0].example()
		e.hostUsers = pod.HostUsers
		return e, true
	case d.Kind == "Task":
		return d.Spec.Steps[0].example(), true
	case d.Kind == "Workflow":
		return d.Spec.Templates[0].Container.example(), true
	case len(d.Build.Script) > 0:
		return example{image: d.Build.Image.Name, script: strings.Join(d.Build.Script, "\n"), docker: true, cwd: "/builds/team/app", vars: map[string]string{
			"CI_PROJECT_DIR": "/builds/team/app", "CI_REGISTRY_IMAGE": "registry.example.com/team", "CI_REGISTRY": "registry.example.com", "CI_REGISTRY_USER": "a", "CI_REGISTRY_PASSWORD": "b",
		}}, true
	}
	for _, job := range d.Jobs {
		for _, step := range job.Steps {
			if image, ok := strings.CutPrefix(step.Uses, "docker://"); ok {
				return example{image: image, args: strings.Fields(step.With.Args), docker: true, cwd: "/github/workspace", vars: map[string]string{"HOME": "/github/home"}}, true
			}
			if c := job.Container; step.Run != "" {
				return example{image: c.Image, script: step.Run, docker: true, options: c.Options, mounts: c.Volumes, cwd: "/__w/app/app", vars: map[string]string{"HOME": "/github/home"}}, true
			}
		}
	}
	return example{}, false
}

func (c *container) example() example {
	e := example{image: c.Image, security: c.SecurityContext, cwd: c.WorkingDir, vars: map[string]string{}}
	values := strings.NewReplacer("$(params.DOCKERFILE)", "./Dockerfile", "$(params.IMAGE)", "registry.example.com/team/tekton:v1",
		"$(workspaces.source.path)", "/workspace/source", "$(results.IMAGE_DIGEST.path)", "/tekton/results/IMAGE_DIGEST")
	for _, arg := range c.Args {
		e.args = append(e.args, values.Replace(arg))
	}
	e.cwd = values.Replace(e.cwd)
	if e.cwd != "" {
		e.mounts = append(e.mounts, "/tekton/results")
	}
	for _, v := range c.Env {
		e.vars[v.Name] = v.Value
	}
	for _, m := range c.VolumeMounts {
		if m.Name != "source" {
			e.mounts = append(e.mounts, m.MountPath)
		}
	}
	return e
}

// environment is what the container may do.
func (e *example) environment() Environment {
	env := Environment{Name: e.name, Image: OwnImage, UserNamespace: e.hostUsers != nil && !*e.hostUsers}
	switch _, tag, _ := strings.Cut(e.image, ":"); tag {
	case "debug":
		env.Image = DebugImage
	case "daemon":
		env.Image = DaemonImage
	}
	env.Change = func(s *specs.Spec) {
		if e.cwd != "" {
			s.Process.Cwd = e.cwd
		}
		e.rights(s)
	}
	return env
}

// rights makes of Docker's specification what the YAML says.
func (e *example) rights(s *specs.Spec) {
	if strings.Contains(e.options, "seccomp=unconfined") {
		unconfined(s)
	}
	if e.docker {
		return
	}
	if t := e.security.SeccompProfile.Type; t != "RuntimeDefault" {
		unconfined(s)
	}
	names := slices.Clone(s.Process.Capabilities.Bounding)
	if slices.Contains(e.security.Capabilities.Drop, "ALL") {
		names = nil
	}
	for _, name := range e.security.Capabilities.Add {
		names = append(names, "CAP_"+name)
	}
	if u := e.security.RunAsUser; u != nil && *u != 0 {
		s.Process.User = specs.User{UID: uint32(*u)}
	}
	setCapabilities(s, names...)
	if a := e.security.AllowPrivilegeEscalation; a != nil && !*a {
		s.Process.NoNewPrivileges = true
	}
}

// TestExamples carries out the YAML of docs/ci.md, with slipway's own images that hack/image.sh left in SLIPWAY_IMAGES (see make image-test).
func TestExamples(t *testing.T) {
	g, library := ownGround(t)
	pushed := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	g.services.registry = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/library/") {
			library.ServeHTTP(w, r)
			return
		}
		pushed.ServeHTTP(w, r)
	})
	chosen := list("SLIPWAY_ENVIRONMENTS", nil)
	for _, e := range examples(t) {
		if len(chosen) > 0 && !slices.Contains(chosen, e.name) {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			err := e.try(t, g)
			path := "/v2/team/" + e.name + "/manifests/v1"
			if e.name == "gitlab" {
				path = "/v2/team/manifests/" + e.name
			}
			w := httptest.NewRecorder()
			pushed.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if err == nil && w.Code != http.StatusOK {
				err = fmt.Errorf("%s is not in the registry: %d", path, w.Code)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func (e *example) try(t *testing.T, g *Ground) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	env := e.environment()
	change := env.Change
	var volumes []specs.Mount
	env.Change = func(s *specs.Spec) {
		change(s)
		s.Mounts = append(s.Mounts, volumes...)
	}
	p, err := g.Open(env, "example-"+e.name)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.WriteFile(filepath.Join(p.Workspace, "Dockerfile"), []byte(kanikosDockerfile), 0o644),
		os.Mkdir(filepath.Join(p.Workspace, "certs.d", "registry.example.com"), 0o755),
		os.WriteFile(filepath.Join(p.Workspace, "certs.d", "registry.example.com", "hosts.toml"), fmt.Appendf(nil, "server = \"http://127.0.0.1:%d\"\n", registryPort), 0o644))
	for _, at := range e.mounts { // as an emptyDir is
		dir := p.path("volumes", at)
		err = errors.Join(err, os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o777))
		if env.UserNamespace {
			err = errors.Join(err, os.Chown(dir, shift, shift))
		}
		volumes = append(volumes, bind(dir, at, "rw"))
	}
	if e.cwd != "" {
		volumes = append(volumes, bind(p.Workspace, e.cwd, "rw"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range e.vars {
		p.Vars = append(p.Vars, name+"="+value)
	}
	args := append([]string{"/kaniko/executor"}, e.args...)
	if e.script != "" {
		args = []string{p.Shell, "-ec", e.script}
	}
	if output, code, err := p.Run(ctx, args...); err != nil || code != 0 {
		return fmt.Errorf("%v, exit code %d:\n%s", err, code, output)
	}
	return nil
}
