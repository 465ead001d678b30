package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/sandbox"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
)

// How a process is run is that of the build that waits for it, also where keys do not tell: another one's limits, caches and
// addresses are not its.
func TestRunsShareNoWays(t *testing.T) {
	host := func(ip string) llb.State {
		return llb.Scratch().Run(llb.Args([]string{"step"}), llb.AddExtraHost("host", net.ParseIP(ip))).Root()
	}
	cached := func(id string) llb.State {
		return llb.Scratch().Run(llb.Args([]string{"step"}), llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir(id, llb.CacheMountShared))).Root()
	}
	memory := func(n int64) func(*graph.Vertex) {
		return func(v *graph.Vertex) { v.Meta = &pb.OpMetadata{LinuxResources: &pb.LinuxResources{Memory: n}} }
	}
	same := func(*graph.Vertex) {}
	for _, tt := range []struct {
		name     string
		one, two llb.State
		change   [2]func(*graph.Vertex)
		opt      [2]RunOptions
		times    int
	}{
		{"the same", host("10.0.0.1"), host("10.0.0.1"), [2]func(*graph.Vertex){same, same}, [2]RunOptions{}, 1},
		{"addresses", host("10.0.0.1"), host("10.0.0.2"), [2]func(*graph.Vertex){same, same}, [2]RunOptions{}, 2},
		{"caches", cached("one"), cached("two"), [2]func(*graph.Vertex){same, same}, [2]RunOptions{}, 2},
		{"memory", runs("step"), runs("step"), [2]func(*graph.Vertex){memory(1 << 20), memory(0)}, [2]RunOptions{}, 2},
		{"processes", runs("step"), runs("step"), [2]func(*graph.Vertex){same, same}, [2]RunOptions{{MaxProcesses: 1}, {}}, 2},
		{"user namespaces", runs("step"), runs("step"), [2]func(*graph.Vertex){same, same}, [2]RunOptions{{UserNS: true}, {}}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, p := newProcesses(t, nil)
			a := starts(t, e, tt.opt[0])
			for i, st := range []llb.State{tt.one, tt.two} {
				opt := tt.opt[i]
				opt.NoCache, opt.Since = true, a.since
				edge := edgeOf(t, st)
				tt.change[i](edge.Vertex)
				must(t, <-evaluated(t.Context(), starts(t, e, opt), edge))
			}
			if n := p.times("step"); n != tt.times {
				t.Errorf("it ran %d times, want %d", n, tt.times)
			}
		})
	}
}

// What is planned of a build's upload is not another one's: the file goes with the build.
func TestRunsShareNoUploads(t *testing.T) {
	e, _ := newProcesses(t, nil)
	content := []byte("the same")
	path := filepath.Join(shm(t), "upload")
	must(t, os.WriteFile(path, content, 0o600))
	st := llb.Scratch().File(llb.Copy(llb.HTTP("http://"+httpsource.UploadHost+"/file"), "/file", "/copy"))
	upload := func(path string) RunOptions {
		return RunOptions{Uploads: httpsource.UploadedFiles{"file": {Path: path, Digest: digest.FromBytes(content), Size: int64(len(content))}}}
	}
	a := e.NewRun(t.Context(), upload(path))
	_, err := a.Result(t.Context(), edgeOf(t, st))
	must(t, err)
	other := path + "-other"
	must(t, os.WriteFile(other, content, 0o600))
	b := starts(t, e, upload(other))
	v, err := b.Result(t.Context(), edgeOf(t, st))
	must(t, err)
	must(t, a.Close())
	must(t, os.Remove(path))
	tree, err := b.Tree(t.Context(), Value{Snapshot: v.Snapshot}, 0)
	must(t, err)
	if data, err := layer.ReadFile(tree, "copy"); err != nil || string(data) != string(content) {
		t.Errorf("the file is %q, %v", data, err)
	}
}

// Of a process that failed a build that waited for it has what it gave to it itself: nothing of the other one's directory.
func TestRunsShareNoInputsOfFailures(t *testing.T) {
	began, goOn := make(signal), make(signal)
	e, p := newProcesses(t, map[string]program{"fail": func(_ context.Context, spec *sandbox.Spec, out io.Writer) error {
		must(t, os.WriteFile(filepath.Join(spec.Root.Upper, "left"), []byte("left"), 0o644))
		fmt.Fprintln(out, "began")
		close(began)
		<-goOn
		return &sandbox.ExitError{Code: 3}
	}})
	context := func(name string) RunOptions {
		dir := shm(t)
		must(t, os.Mkdir(filepath.Join(dir, "shown"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
		return RunOptions{Name: name, KeepFailed: true, Contexts: local.Named{"context": local.NewDir(dir, "")}}
	}
	st := llb.Scratch().Run(llb.Args([]string{"fail"}), llb.AddMount("/in", llb.Local("context"), llb.SourcePath("/shown"), llb.Readonly)).Root()
	two := newView()
	opt := context("two")
	opt.Sink = two
	a, b := starts(t, e, context("one")), starts(t, e, opt)
	first := evaluated(t.Context(), a, edgeOf(t, st))
	<-began
	second := evaluated(t.Context(), b, edgeOf(t, st))
	two.hears("began")
	close(goOn)
	var mine, theirs *ExecError
	if !errors.As(<-first, &mine) || !errors.As(<-second, &theirs) || p.times("fail") != 1 {
		t.Fatalf("errors are %v and %v, after %d times", mine, theirs, p.times("fail"))
	}
	has := func(tree layer.Tree, name string) bool {
		_, err := tree.Lstat(name)
		return err == nil
	}
	for _, tt := range []struct {
		who, own, other string
		failed          *ExecError
	}{{"who ran it", "one", "two", mine}, {"who waited", "two", "one", theirs}} {
		if len(tt.failed.Inputs) != 1 || len(tt.failed.Mounts) != 2 {
			t.Fatalf("%s has %+v", tt.who, tt.failed)
		}
		if in := tt.failed.Inputs[0].tree; !has(in, tt.own) || has(in, tt.other) {
			t.Errorf("%s sees the other's directory as an input", tt.who)
		}
		if !has(tt.failed.Mounts[0].Tree(), "left") {
			t.Errorf("%s does not see what the process left", tt.who)
		}
	}
	if has(theirs.Mounts[1].Tree(), "one") || theirs.Mounts[1].ID != "" {
		t.Error("who waited sees the other's directory as a mount")
	}
}

// What went wrong with a build that carried a step out is told to nobody else: it may be about its directory, or its client.
func TestRunsShareNoWordsOfFailures(t *testing.T) {
	began, goOn := make(signal), make(signal)
	var once sync.Once
	e, p := newProcesses(t, map[string]program{"step": func(_ context.Context, _ *sandbox.Spec, out io.Writer) (err error) {
		once.Do(func() {
			fmt.Fprintln(out, "began")
			close(began)
			<-goOn
			err = errors.New("of the first")
		})
		return err
	}})
	one, two := &errorsOf{view: newView()}, &errorsOf{view: newView()}
	first := evaluated(t.Context(), starts(t, e, RunOptions{Sink: one}), edgeOf(t, runs("step")))
	<-began
	second := evaluated(t.Context(), starts(t, e, RunOptions{Sink: two}), edgeOf(t, runs("step")))
	two.hears("began")
	close(goOn)
	if err := <-first; err == nil || len(one.all) != 1 || !strings.Contains(one.all[0], "of the first") {
		t.Errorf("the first got %v, and was told %q", err, one.all)
	}
	if err := <-second; err != nil || p.times("step") != 2 || two.started != 2 || two.ended != 2 || !slices.Equal(two.all, []string{context.Canceled.Error()}) {
		t.Errorf("the second got %v, and was told %q, of %d of %d", err, two.all, two.ended, two.started)
	}
}

// errorsOf notes the errors that a display is told.
type errorsOf struct {
	*view
	all []string
}

func (e *errorsOf) Write(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		if v.Error != "" {
			e.all = append(e.all, v.Error)
		}
	}
	e.view.Write(s)
}

// login are credentials of somebody.
type login string

func (l login) Lookup(context.Context, string) (user, secret string, err error) {
	if l == "" {
		return "", "", nil
	}
	return string(l), "secret", nil
}
func (login) FetchesTokens(context.Context, string) bool { return false }
func (login) Token(context.Context, registry.TokenRequest) (t registry.Token, err error) {
	return t, errBroken
}

// Images that a registry gives to one are not given to another one, not at the same time either; those whom it knows as the same share
// what they ask.
func TestRunsShareNoImages(t *testing.T) {
	reg := registrytest.Start(t)
	reg.PushImage("private:v1", registrytest.Image{Layers: []registrytest.Layer{{"file": "private"}}})
	reg.Use(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, _, _ := r.BasicAuth(); user != "one" {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	e, _ := newProcesses(t, nil)
	images := imagesource.New(e.opt.Store, registry.New(registry.Options{DockerConfigDir: t.TempDir()}))
	began := time.Now()
	as := func(name, user string) RunOptions {
		return RunOptions{Images: images.As(name, login(user)), Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Since: began}
	}
	edge := func() graph.Edge {
		return edgeOf(t, llb.Image(reg.Host+"/private:v1").Run(llb.Args([]string{"step"})).Root())
	}
	resolves := func(r *Run) error {
		_, err := r.ResolveImage(t.Context(), "key", "name", func(ctx context.Context) (*imagesource.Image, error) {
			return r.Images().Resolve(ctx, reg.Host+"/private:v1", r.Platform(), imagesource.ResolveDefault)
		})
		return err
	}
	a := starts(t, e, as("one", "one"))
	must(t, resolves(a))
	must(t, <-evaluated(t.Context(), a, edge()))
	for _, user := range []string{"two", ""} {
		r := starts(t, e, as("no "+user, user))
		if err := resolves(r); !errdefs.IsUnauthorized(err) {
			t.Errorf("user %q resolves it: %v", user, err)
		}
		if err := <-evaluated(t.Context(), r, edge()); !errdefs.IsUnauthorized(err) {
			t.Errorf("user %q has it: %v", user, err)
		}
	}
	reg.Requests()
	same := starts(t, e, as("one", "one"))
	must(t, resolves(same))
	must(t, <-evaluated(t.Context(), same, edge()))
	if asked := reg.Requests(); len(asked) != 0 {
		t.Errorf("the registry is asked again: %q", asked)
	}
}

// asks are secrets of a client that is asked where they come from.
type asks struct{ origin func() }

func (a asks) Secret(context.Context, string) ([]byte, error) { return nil, errBroken }
func (a asks) Origin(string) string {
	a.origin()
	return "origin"
}

// A client is asked while nobody else waits.
func TestClientsAreAskedWithoutLocks(t *testing.T) {
	e, _ := newProcesses(t, nil)
	r := starts(t, e, RunOptions{Secrets: asks{origin: func() {
		e.mu.Lock() // as another build does
		defer e.mu.Unlock()
	}}})
	st := llb.HTTP("http://127.0.0.1:1/file", llb.Checksum(digest.FromString("x")), llb.AuthHeaderSecret("key"))
	n := r.node(edgeOf(t, st).Vertex)
	must(t, r.asked(t.Context(), n, n.v.Op.GetSource()))
}

// The end of a run does not wait for what others go on to ask.
func TestCloseWaitsForNoOthers(t *testing.T) {
	e, _ := newProcesses(t, nil)
	asked, answer := make(signal), make(signal)
	find := func(ctx context.Context) (*imagesource.Image, error) {
		close(asked)
		return &imagesource.Image{}, answer.until(ctx)
	}
	a, b := starts(t, e, RunOptions{}), e.NewRun(t.Context(), RunOptions{})
	first, second := make(chan error, 1), make(chan error, 1)
	ask := func(r *Run, got chan error) {
		_, err := r.ResolveImage(context.Background(), "key", "name", find)
		got <- err
	}
	go ask(a, first)
	<-asked
	go ask(b, second)
	layertest.WaitBlocked(t, "inflight.(*Call[...]).Wait", 2)
	must(t, b.Close())
	if err := <-second; !errors.Is(err, errOver) {
		t.Errorf("who ended got %v", err)
	}
	close(answer)
	must(t, <-first)
}
