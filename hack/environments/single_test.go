package environments

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// single is one place for what has no place in the table.
func single(t *testing.T, env Environment) (*Place, http.Handler) {
	if os.Geteuid() != 0 {
		t.Skip("runc needs root")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program, err := Program(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	g, library := smallGround(t, program)
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	g.services.registry = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/library/") {
			library.ServeHTTP(w, r)
			return
		}
		images.ServeHTTP(w, r)
	})
	p, err := g.Open(env, env.Name)
	if err != nil {
		t.Fatal(err)
	}
	return p, images
}

// build builds a Dockerfile in the place, and returns what was printed.
func (p *Place) build(t *testing.T, dockerfile string, flags ...string) (string, int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.Workspace, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	output, code, err := p.Run(t.Context(), append([]string{"slipway", "build", "--progress=plain"}, append(flags, ".")...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return output, code
}

// TestFullMemory: where what steps change is in memory, a step that writes too much is told so and ends the build with a sentence that says what
// helps. What was made before stays, and the next build goes on.
func TestFullMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("long: fills the memory of a container")
	}
	p, _ := single(t, Environment{Name: "full", Change: all(unconfined, memory(700<<20))})
	const first = "FROM busybox\nRUN echo kept > /kept\n"
	output, code := p.build(t, first+"RUN dd if=/dev/zero of=/big bs=1M count=380\n", "--isolation=userns")
	for _, want := range []string{
		"what a step changes is in memory until it ends, up to 3", "No space left on device", "exit code: 1; the memory for what the step changes is full (3",
		"put the store on a volume (--root), or have steps run in place (--isolation=none)",
	} {
		if code == 0 || !strings.Contains(output, want) {
			t.Errorf("exit code %d, and %q is missing in:\n%s", code, want, output)
		}
	}
	output, code = p.build(t, first+"RUN cat /kept && dd if=/dev/zero of=/small bs=1M count=20\n", "--isolation=userns")
	if code != 0 || !strings.Contains(output, "CACHED") {
		t.Errorf("the next build: exit code %d\n%s", code, output)
	}
	output, code = p.build(t, first+"RUN dd if=/dev/zero of=/big bs=1M count=20\n")
	if code != 0 || !strings.Contains(output, "Isolation: none: the store /var/lib/slipway is on an overlay") {
		t.Errorf("what is chosen: exit code %d\n%s", code, output)
	}
}

// TestNamesOfContainer: the container's own files are copied once when they are put aside, however many names they have: those of this one would take
// half a gigabyte otherwise.
func TestNamesOfContainer(t *testing.T) {
	if testing.Short() {
		t.Skip("long: fills the memory of a container")
	}
	docker, _ := Find("docker")
	docker.Change = memory(300 << 20) // its root is in memory
	p, _ := single(t, docker)
	if output, code := p.build(t, "FROM busybox\nRUN true\n"); code != 0 {
		t.Fatalf("exit code %d\n%s", code, output)
	}
	if output, code, err := p.Run(t.Context(), "sh", "-c", "stat -c %h /bin/sh && ls -l /bin/ls"); err != nil || code != 0 {
		t.Errorf("exit code %d, %v\n%s", code, err, output)
	}
}

// warmly is a Dockerfile with a stand-in for Go, which keeps what it made, as root and as a user whose home is empty.
const warmly = `FROM busybox AS build
COPY --chmod=755 <<"GO" /bin/go
#!/bin/sh
set -e
c=$HOME/.cache/go-build
mkdir -p $c
if test -e $c/object; then echo reused by $(id -u); else echo compiled by $(id -u); echo object > $c/object; fi
cp $c/object $1
GO
RUN echo VERSION && go /first
RUN mkdir -p /home/me /out && chown 1000:1000 /home/me /out
ENV HOME=/home/me
USER 1000:1000
RUN echo VERSION && go /out/second && stat -c %u:%g /out/second > /out/owner
FROM busybox
COPY --from=build /first /out/second /out/owner /
`

// TestWarm: steps find the caches of their tools wherever they run, in place as well, and the image is that of a cold build.
func TestWarm(t *testing.T) {
	if testing.Short() {
		t.Skip("long: three builds in each of five environments")
	}
	for _, name := range []string{"docker", "restricted", "openshift", "user", "user-one"} {
		t.Run(name, func(t *testing.T) {
			env, ok := Find(name)
			if !ok {
				t.Fatal("there is no such environment")
			}
			p, _ := single(t, env)
			flags := []string{"--warm", "--build-arg=SOURCE_DATE_EPOCH=1", "--iidfile=" + p.InWorkspace + "/id"}
			id := func() string {
				data, err := os.ReadFile(filepath.Join(p.Workspace, "id"))
				if err != nil {
					t.Fatal(err)
				}
				return string(data)
			}
			output, code := p.build(t, strings.ReplaceAll(warmly, "VERSION", "1"), flags...)
			if code != 0 || strings.Count(output, "compiled by ") != 2 || strings.Contains(output, "--warm: ") {
				t.Fatalf("the first build: exit code %d\n%s", code, output)
			}
			output, code = p.build(t, strings.ReplaceAll(warmly, "VERSION", "2"), flags...)
			if code != 0 || strings.Count(output, "reused by ") != 2 || strings.Contains(output, "--warm: ") {
				t.Errorf("an edited one: exit code %d\n%s", code, output)
			}
			warm := id()
			output, code = p.build(t, strings.ReplaceAll(warmly, "VERSION", "2"), append(flags[1:], "--no-cache")...)
			if code != 0 || strings.Count(output, "compiled by ") != 2 || id() != warm {
				t.Errorf("a cold one: exit code %d, image %s, and %s was warm\n%s", code, id(), warm, output)
			}
		})
	}
}

// looks are commands that come after a build of app, in this order, and what each prints.
var looks = []struct{ command, want string }{
	{"images", "app "},
	{"info", "Isolation: "},
	{"history app", "RUN /bin/sh -c echo kept"},
	{"history ls", "Completed"},
	{"history inspect", "Build Steps:"},
	{"history logs", "echo kept"},
	{"image inspect app", "sha256:"},
	{"image size app", "Instructions"},
	{"tag app other", ""},
	{"image diff app other", ""},
	{"save -o OUT/app.tar app", ""},
	{"rmi other", "Untagged: other"},
	{"load -i OUT/app.tar", "Loaded image: app"},
	{"run --rm app cat /kept", "kept"},
	{"run --name one app rm /kept", ""},
	{"diff one", "D /kept"},
	{"commit one changed", "sha256:"},
	{"cp one:/bin/sh OUT/sh", ""},
	{"rm one", "one"},
	{"run -d --name two app sh -c echo${IFS}begun;exec${IFS}sleep${IFS}1000", ""},
	{"ps", "two"},
	{"exec two cat /kept", "kept"},
	{"logs two", "begun"},
	{"top two", "sleep 1000"},
	{"kill two", "two"},
	{"wait two", "137"},
	{"start two", "two"},
	{"rm -f two", "two"},
	{"system df", "Images "},
	{"system check", "0 findings"},
	{"history rm --all", ""},
}

// TestLooks: commands that need no namespace see what those made that did, the others work on it, and what comes after them still does.
func TestLooks(t *testing.T) {
	names := []string{"user", "user-one", "restricted"}
	if testing.Short() {
		names = names[:1]
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			env, ok := Find(name)
			if !ok {
				t.Fatal("there is no such environment")
			}
			p, _ := single(t, env)
			const dockerfile = "FROM busybox\nRUN echo kept > /kept\n"
			if output, code := p.build(t, dockerfile, "-t", "app"); code != 0 {
				t.Fatalf("exit code %d\n%s", code, output)
			}
			var script strings.Builder // one: what runs in a container ends with what it was started by
			for _, l := range looks {
				command := strings.ReplaceAll(l.command, "OUT", p.InWorkspace)
				fmt.Fprintf(&script, "slipway '%s' </dev/null 2>&1; echo \"=== $?\"\n", strings.Join(strings.Fields(command), "' '"))
			}
			output, _, err := p.Run(t.Context(), "sh", "-c", script.String())
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range looks {
				printed, rest, _ := strings.Cut(output, "=== ")
				code, rest, _ := strings.Cut(rest, "\n")
				if output = rest; code != "0" || !strings.Contains(printed, l.want) {
					t.Errorf("%s: exit code %s, and %q is missing in\n%s", l.command, code, l.want, printed)
				}
			}
			if output, code := p.build(t, dockerfile, "-t", "app"); code != 0 || !strings.Contains(output, "CACHED") {
				t.Errorf("the next build: exit code %d\n%s", code, output)
			}
		})
	}
}

// pushFrontend gives a registry the frontend of tests, as test/frontend:1.
func pushFrontend(t *testing.T, images http.Handler) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "frontend")
	command(t, "../..", []string{"CGO_ENABLED=0"}, "go", "build", "-buildvcs=false", "-trimpath", "-o", program, "./internal/serve/bridge/testdata/frontend")
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	files := registrytest.Layer{"bin/frontend": string(data)}.Tar()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/bin/frontend"}, Labels: map[string]string{"moby.buildkit.frontend.caps": "moby.buildkit.frontend.inputs"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(images)
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/test/frontend:1", name.Insecure)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestFrontendInPlace: a frontend that is an image has its own root filesystem, while steps have the container's.
func TestFrontendInPlace(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a frontend in each of its ways")
	}
	docker, _ := Find("docker")
	p, images := single(t, docker)
	pushFrontend(t, images)
	for _, mode := range []string{"", "failing", "container", "nested"} {
		output, code := p.build(t, "# syntax=test/frontend:1\nFROM busybox\nRUN echo made by a Dockerfile for x > /made\n", "--no-cache", "--build-arg=mode="+mode, "--build-arg=name=x",
			"--output="+p.InWorkspace+"/out")
		made, err := os.ReadFile(filepath.Join(p.Workspace, "out", "made"))
		if code != 0 || !strings.Contains(string(made), "for x") || !strings.Contains(output, "the frontend speaks") {
			t.Errorf("mode %q: exit code %d, %q, %v\n%s", mode, code, made, err, output)
		}
	}
	if output, code := p.build(t, "# syntax=test/frontend:1\n", "--build-arg=mode=exit"); code == 0 || !strings.Contains(output, "exit code: 3") {
		t.Errorf("one that fails: exit code %d\n%s", code, output)
	}
}

// TestFrontendWithoutChroot: who may not change a root directory is told what is missing.
func TestFrontendWithoutChroot(t *testing.T) {
	if testing.Short() {
		t.Skip("long: makes an image of a frontend")
	}
	restricted, _ := Find("restricted")
	p, images := single(t, restricted)
	pushFrontend(t, images)
	if output, code := p.build(t, "# syntax=test/frontend:1\n", "--build-arg=name=x"); code == 0 || !strings.Contains(output, "for which it needs CAP_SYS_CHROOT") {
		t.Errorf("exit code %d\n%s", code, output)
	}
}
