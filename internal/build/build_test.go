package build_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/buildkit/client"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/sandbox"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

// harness is a builder with a store on a tmpfs and a registry on loopback with one base image.
type harness struct {
	t       *testing.T
	store   *store.Store
	images  *imagesource.Source
	builder *build.Builder
	options build.Options // of the builder
	reg     *registrytest.Registry
	context string
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-build-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	reg := registrytest.Start(t)
	base, err := baseimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(reg.Host + "/library/busybox:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, base); err != nil {
		t.Fatal(err)
	}
	certs := filepath.Join(dir, "certs.d")
	if err := registrytest.WriteCertsD(certs, map[string][]string{"docker.io": {reg.URL}}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(dir, "store"), store.VerifyForms())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	runner, err := sandbox.New(sandbox.Options{StateDir: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	images := imagesource.New(s, registry.New(registry.Options{CertsDirs: []string{certs}}))
	h := &harness{t: t, store: s, images: images, reg: reg, context: filepath.Join(dir, "context")}
	h.options = build.Options{Store: s, Images: images, Runner: runner}
	h.builder = build.New(h.options)
	if err := os.Mkdir(h.context, 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// write puts a file into the context.
func (h *harness) write(name, content string) {
	h.t.Helper()
	p := filepath.Join(h.context, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// events are the names of the vertices of a build, by what became of them, and the log.
type events struct {
	ran, cached []string
	log         strings.Builder
}

func (e *events) Write(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		if v.Completed == nil || strings.HasPrefix(v.Name, "[internal]") {
			continue
		}
		if v.Cached {
			e.cached = append(e.cached, v.Name)
		} else {
			e.ran = append(e.ran, v.Name)
		}
	}
	for _, l := range s.Logs {
		e.log.Write(l.Data)
	}
}

// build builds and fails the test when the build fails.
func (h *harness) build(req build.Request) (*build.Result, *events) {
	h.t.Helper()
	res, ev, err := h.try(req)
	if err != nil {
		h.t.Fatalf("building: %v\n%s", err, ev.log.String())
	}
	return res, ev
}

func (h *harness) try(req build.Request) (*build.Result, *events, error) {
	h.t.Helper()
	if req.Context == "" {
		req.Context = h.context
	}
	ev := &events{}
	q := make(chan *client.SolveStatus, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range q {
			ev.Write(s)
		}
	}()
	res, err := h.builder.Build(context.Background(), req, progress.SinkFunc(func(s *client.SolveStatus) { q <- s }))
	close(q)
	<-done
	return res, ev, err
}

func (e *events) ranStep(part string) bool {
	for _, n := range e.ran {
		if strings.Contains(n, part) {
			return true
		}
	}
	return false
}

const multiStage = `
FROM busybox AS builder
WORKDIR /src
COPY main.txt other.txt ./
RUN echo building && grep -v comment main.txt > artifact
FROM busybox
RUN echo second stage
COPY --from=builder /src/artifact /artifact
RUN cat /artifact && echo done > /done
`

func TestCache(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", multiStage)
	h.write("main.txt", "hello\n# comment\n")
	h.write("other.txt", "1")
	first, ev := h.build(build.Request{Tags: []string{"app:v1"}})
	if !strings.Contains(ev.log.String(), "building") || !strings.Contains(ev.log.String(), "hello") {
		t.Fatalf("log is %q", ev.log.String())
	}

	second, ev := h.build(build.Request{Tags: []string{"app:v1"}})
	if ev.ranStep("RUN") || ev.ranStep("COPY") || ev.ranStep("WORKDIR") {
		t.Errorf("an identical build ran %q", ev.ran)
	}
	if second.ImageID != first.ImageID || first.ImageID == "" {
		t.Errorf("an identical build gave %s, want %s", second.ImageID, first.ImageID)
	}

	// A builder stage that gives the same artifact stops the change.
	h.write("main.txt", "hello\n# another comment\n")
	third, ev := h.build(build.Request{Tags: []string{"app:v1"}})
	if !ev.ranStep("grep") {
		t.Error("the builder stage did not run with changed input")
	}
	if ev.ranStep("cat /artifact") || ev.ranStep("COPY --from") {
		t.Errorf("steps after an unchanged artifact ran: %q", ev.ran)
	}
	if third.ImageID != first.ImageID {
		t.Errorf("an unchanged artifact gave image %s, want %s", third.ImageID, first.ImageID)
	}

	h.write("main.txt", "bye\n")
	fourth, ev := h.build(build.Request{Tags: []string{"app:v1"}})
	if !ev.ranStep("cat /artifact") || ev.ranStep("second stage") {
		t.Errorf("with another artifact these ran: %q", ev.ran)
	}
	if fourth.ImageID == first.ImageID {
		t.Error("another artifact gave the same image")
	}

	_, ev = h.build(build.Request{Tags: []string{"app:v1"}, NoCache: true})
	for _, want := range []string{"WORKDIR", "COPY main", "grep", "second stage", "COPY --from", "cat /artifact"} {
		if !ev.ranStep(want) {
			t.Errorf("with no cache %q did not run: %q", want, ev.ran)
		}
	}
}

// TestDamage: whatever is damaged in the store is made or fetched again.
func TestDamage(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN echo one > /one\nCOPY Dockerfile /\n")
	want, _ := h.build(build.Request{})

	damage := map[string]func(path string) error{
		"removed":   os.RemoveAll,
		"truncated": func(p string) error { return os.Truncate(p, 100) },
		"changed": func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("damage"), 50)
			return err
		},
	}
	for name, harm := range damage {
		blobs, err := filepath.Glob(filepath.Join(h.store.Root(), "blobs/sha256/*"))
		if err != nil || len(blobs) < 4 {
			t.Fatalf("blobs are %q, %v", blobs, err)
		}
		for _, b := range blobs {
			if err := harm(b); err != nil {
				t.Fatal(err)
			}
		}
		dirs, err := filepath.Glob(filepath.Join(h.store.Root(), "layers/*/fs"))
		if err != nil || len(dirs) < 2 {
			t.Fatalf("layer directories are %q, %v", dirs, err)
		}
		for _, d := range dirs {
			if err := os.RemoveAll(d); err != nil {
				t.Fatal(err)
			}
		}
		// Reading every blob of the image finds what is damaged.
		res, ev := h.build(build.Request{Outputs: []build.Output{
			{Type: build.OutputImage}, {Type: build.OutputOCI, Dest: filepath.Join(t.TempDir(), "out.tar")},
		}})
		if !ev.ranStep("echo one") {
			t.Errorf("%s: ran %q, want the RUN step among them", name, ev.ran)
		}
		if res.ImageID == want.ImageID {
			t.Errorf("%s: the image has the creation time of a layer that is gone", name)
		}
	}
}
