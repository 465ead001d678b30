package build_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/layer/layertest"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// directories are the layers that are in directory form.
func (h *harness) directories() []string {
	h.t.Helper()
	all, err := filepath.Glob(filepath.Join(h.store.Root(), "layers", "*", "fs"))
	must(h.t, err)
	return all
}

// tars are the blobs that are plain tars: layers that were packed here.
func (h *harness) tars() []string {
	h.t.Helper()
	all, err := filepath.Glob(filepath.Join(h.store.Root(), "blobs", "sha256", "*"))
	must(h.t, err)
	return slices.DeleteFunc(all, func(p string) bool {
		head := make([]byte, 512)
		f, err := os.Open(p)
		must(h.t, err)
		defer f.Close()
		if n, _ := f.Read(head); n < len(head) {
			return true
		}
		return string(head[257:262]) != "ustar"
	})
}

// forms fails unless the store has so many directories of layers and plain tars.
func (h *harness) forms(directories, tars int) {
	h.t.Helper()
	if d := h.directories(); len(d) != directories {
		h.t.Errorf("%d layers were written as directories, want %d: %q", len(d), directories, d)
	}
	if p := h.tars(); len(p) != tars {
		h.t.Errorf("%d layers were packed, want %d: %q", len(p), tars, p)
	}
}

// whole fails unless all of an image is in the store, and reads all of it.
func (h *harness) whole(res *build.Result) ocispec.Manifest {
	h.t.Helper()
	var m ocispec.Manifest
	data, err := h.store.ReadBlob(context.Background(), res.Manifest.Digest)
	must(h.t, err)
	must(h.t, json.Unmarshal(data, &m))
	for _, d := range append(m.Layers, m.Config) {
		data, err := h.store.ReadBlob(context.Background(), d.Digest)
		if err != nil || int64(len(data)) != d.Size {
			h.t.Errorf("blob %s has %d bytes, %v, want %d", d.Digest, len(data), err, d.Size)
		}
	}
	return m
}

func (h *harness) local(target string) (build.Request, string) {
	h.t.Helper()
	dest := h.out("files")
	return build.Request{Target: target, Outputs: []build.Output{{Type: build.OutputLocal, Dest: dest}}}, dest
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is %q, %v, want %q", path, got, err, want)
	}
}

// no failed build and no finished one leaves anything half-done.
func (h *harness) clean() {
	h.t.Helper()
	if left, _ := filepath.Glob(filepath.Join(h.store.Root(), "tmp", "*", "*")); len(left) > 0 {
		h.t.Errorf("left behind: %q", left)
	}
}

func TestLabelsUnpackNothing(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nLABEL a=b\nENV C=d\nCMD [\"x\"]\n")
	res, _ := h.build(build.Request{Tags: []string{"app"}})
	h.forms(0, 0)
	h.whole(res)
	again, _ := h.build(build.Request{Tags: []string{"app"}})
	if again.ImageID != res.ImageID {
		t.Errorf("again the image is %s, want %s", again.ImageID, res.ImageID)
	}
	h.forms(0, 0)
	h.clean()
}

func TestCopyIntoFinalStageWritesNoDirectory(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nWORKDIR /app\nCOPY --chown=7:8 a b ./\nCOPY --link a /linked/\nADD b /tmp/x/\n")
	h.write("a", "content of a")
	h.write("b", strings.Repeat("b", 100_000))
	res, _ := h.build(build.Request{Tags: []string{"app"}})
	h.forms(0, 4)
	if m := h.whole(res); len(m.Layers) < 5 {
		t.Errorf("the image has %d layers", len(m.Layers))
	}
	h.clean()
	// A RUN that comes later needs directories, and the image stays what it is.
	h.write("Dockerfile.run", "FROM busybox\nWORKDIR /app\nCOPY --chown=7:8 a b ./\nCOPY --link a /linked/\nADD b /tmp/x/\nRUN stat -c %u:%g a > /owner; cat /tmp/x/b /linked/a | wc -c >> /owner\n")
	req, dest := h.local("")
	req.Dockerfile = filepath.Join(h.context, "Dockerfile.run")
	_, ev := h.build(req)
	if ev.ranStep("COPY") || !ev.ranStep("RUN") {
		t.Errorf("ran %q", ev.ran)
	}
	wantFile(t, dest+"/owner", "7:8\n100012\n")
	again, _ := h.build(build.Request{Tags: []string{"app"}})
	if again.ImageID != res.ImageID {
		t.Errorf("again the image is %s, want %s", again.ImageID, res.ImageID)
	}
}

func TestRunPacksNothingUntilExport(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a > /b\n")
	h.write("a", "content")
	req, dest := h.local("")
	h.build(req)
	wantFile(t, dest+"/b", "content")
	h.forms(len(h.directories()), 0)
	if d := h.directories(); len(d) < 3 { // the base has one layer or more
		t.Errorf("the directories are %q", d)
	}
	dirs := len(h.directories())
	res, ev := h.build(build.Request{Tags: []string{"app"}})
	if ev.ranStep("RUN") || ev.ranStep("COPY") {
		t.Errorf("ran %q", ev.ran)
	}
	h.whole(res)
	h.forms(dirs, 2)
	h.clean()
}

// What was only planned in one build is known in the next, with the time at which it was made.
func TestPlannedResultsAreCached(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nWORKDIR /w\nCOPY a /a\nCOPY --link a /b\n")
	h.write("a", "content")
	for n := range 3 {
		req, dest := h.local("")
		_, ev := h.build(req)
		wantFile(t, dest+"/b", "content")
		if n > 0 && (ev.ranStep("COPY") || ev.ranStep("WORKDIR") || !slices.ContainsFunc(ev.cached, func(s string) bool { return strings.Contains(s, "COPY a /a") })) {
			t.Errorf("build %d ran %q, cached were %q", n, ev.ran, ev.cached)
		}
		h.clean()
		nextSecond() // a new time would show in the image
	}
	var id string
	for n := range 3 {
		res, ev := h.build(build.Request{Tags: []string{"app"}})
		if ev.ranStep("COPY") || ev.ranStep("WORKDIR") {
			t.Errorf("image build %d ran %q", n, ev.ran)
		}
		h.whole(res)
		if n > 0 && res.ImageID.String() != id {
			t.Errorf("image build %d gave %s, want %s", n, res.ImageID, id)
		}
		id = res.ImageID.String()
	}
	h.clean()
}

// nextSecond returns in another second than it was called in: images have times of whole seconds.
func nextSecond() {
	for was := time.Now().Unix(); time.Now().Unix() == was; {
		time.Sleep(time.Millisecond)
	}
}

// The time of the first build is the time of the layer, whatever that build was for.
func TestPlannedTime(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM scratch\nCOPY a /a\n")
	h.write("a", "content")
	before := time.Now()
	req, _ := h.local("")
	h.build(req)
	after := time.Now()
	nextSecond()
	res, _ := h.build(build.Request{Tags: []string{"app"}})
	var config ocispec.Image
	data, err := h.store.ReadBlob(context.Background(), res.ImageID)
	must(t, err)
	must(t, json.Unmarshal(data, &config))
	if c := config.Created; c == nil || c.Before(before.Truncate(time.Second)) || c.After(after) {
		t.Errorf("the image was created at %v, want between %v and %v", c, before, after)
	}
}

func TestCopyBetweenStagesWritesNothingInBetween(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", `FROM busybox AS a
COPY one two /d/
FROM scratch AS b
COPY --from=a /d/one /e/one
FROM scratch
COPY --from=b /e /f
`)
	h.write("one", "content of one")
	h.write("two", "two")
	res, _ := h.build(build.Request{Tags: []string{"app"}})
	h.forms(0, 1)
	if m := h.whole(res); len(m.Layers) != 1 {
		t.Errorf("the image has %d layers", len(m.Layers))
	}
	h.clean()
	_, ev := h.build(build.Request{Tags: []string{"app"}})
	if len(ev.ran) > 1 || ev.ranStep("COPY") { // exporting
		t.Errorf("again ran %q", ev.ran)
	}
	// An edit of what is not copied on leaves the image as it is, and still writes nothing.
	h.write("two", "three")
	again, _ := h.build(build.Request{Tags: []string{"app"}})
	if again.ImageID != res.ImageID {
		t.Errorf("with another file that is not copied on the image is %s, want %s", again.ImageID, res.ImageID)
	}
	h.forms(0, 1)
	h.write("one", "new content")
	req, dest := h.local("")
	h.build(req)
	wantFile(t, dest+"/f/one", "new content")
	h.forms(0, 1)
}

func TestFailedBuildRecordsWhatWasDone(t *testing.T) {
	h := newHarness(t)
	h.write("a", "content")
	h.write("Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a; exit 3\nCOPY a /c\n")
	if _, _, err := h.try(build.Request{Tags: []string{"app"}}); err == nil || !strings.Contains(err.Error(), "exit code: 3") {
		t.Errorf("error is %v", err)
	}
	h.clean()
	h.write("Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a > /b\nCOPY a /c\nCOPY missing /d\n")
	if _, _, err := h.try(build.Request{Tags: []string{"app"}}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("error is %v", err)
	}
	h.clean()
	h.write("missing", "there now")
	res, ev := h.build(build.Request{Tags: []string{"app"}})
	if ev.ranStep("COPY a /a") {
		t.Errorf("ran %q", ev.ran)
	}
	h.whole(res)
	req, dest := h.local("")
	h.build(req)
	for name, want := range map[string]string{"a": "content", "b": "content", "c": "content", "d": "there now"} {
		wantFile(t, filepath.Join(dest, name), want)
	}
	h.clean()
}

// A build that is cancelled while its base image comes does not take it from another one that
// needs it.
func TestCancelledPullDoesNotDisturbOthers(t *testing.T) {
	h := newHarness(t)
	files := registrytest.Layer{"data": strings.Repeat("data", 1000)}
	pushed := h.reg.PushImage("library/slow", registrytest.Image{Layers: []registrytest.Layer{files}})
	h.write("Dockerfile", "FROM slow\nCOPY Dockerfile /d\n")
	entered, release := make(chan struct{}, 10), make(chan struct{})
	h.reg.Use(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, pushed.Manifest.Layers[0].Digest.String()) {
			entered <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		next.ServeHTTP(w, r)
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("enough")
	first, second := make(chan error, 1), make(chan error, 1)
	dest := h.out("files")
	start := func(ctx context.Context, done chan<- error, dest string) {
		var over bool
		var mu sync.Mutex
		sink := progress.SinkFunc(func(*client.SolveStatus) {
			mu.Lock()
			defer mu.Unlock()
			if over {
				t.Error("a build that is over tells of progress")
			}
		})
		_, err := h.builder.Build(ctx, build.Request{Context: h.context, Outputs: []build.Output{{Type: build.OutputLocal, Dest: dest}}}, sink)
		mu.Lock()
		over = true
		mu.Unlock()
		done <- err
	}
	go start(ctx, first, h.out("unused"))
	<-entered
	go start(context.Background(), second, dest)
	layertest.WaitBlocked(t, "store.(*Store).once", 2) // the second one waits for the first one's pull
	cancel(stop)
	select {
	case err := <-first:
		if !errors.Is(err, stop) {
			t.Errorf("the cancelled build gave %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the cancelled build does not end")
	}
	close(release)
	select {
	case err := <-second:
		must(t, err)
	case <-time.After(time.Minute):
		t.Fatal("the other build does not end")
	}
	wantFile(t, dest+"/data", files["data"])
	h.clean()
}

// Builds in one process share the store, and none forgets what another one still needs.
func TestBuildsAtOnce(t *testing.T) {
	h := newHarness(t)
	h.write("a", "content")
	const dockerfile = "FROM busybox AS x\nCOPY a /a\nRUN cat /a > /b\nFROM busybox\nWORKDIR /w\nCOPY --from=x /b /c\nCOPY --link a /n%d\n"
	errs := make(chan error)
	const builds = 8
	for n := range builds {
		name := fmt.Sprint("Dockerfile.", n)
		h.write(name, fmt.Sprintf(dockerfile, n%3))
		out := build.Output{Type: build.OutputImage}
		if n%2 == 1 {
			out = build.Output{Type: build.OutputLocal, Dest: h.out("files")}
		}
		go func() {
			req := build.Request{Context: h.context, Dockerfile: filepath.Join(h.context, name), Tags: []string{fmt.Sprint("app", n)}, Outputs: []build.Output{out}}
			_, err := h.builder.Build(context.Background(), req, progress.Discard)
			if err == nil && out.Dest != "" {
				if got, rerr := os.ReadFile(filepath.Join(out.Dest, "c")); string(got) != "content" {
					err = fmt.Errorf("c is %q, %v", got, rerr)
				}
			}
			if err != nil {
				err = fmt.Errorf("build %d: %w", n, err)
			}
			errs <- err
		}()
	}
	for range builds {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	h.clean()
	for n := range builds {
		if n%2 == 0 {
			img, err := h.store.Image(context.Background(), fmt.Sprint("app", n))
			must(t, err)
			h.whole(&build.Result{Manifest: img.Manifest})
		}
	}
}

// Damage in a base image that was never unpacked is found by whoever reads it first, and the layer is
// fetched again. Damage in an index is no damage.
func TestDamagedBaseIsFetchedAgain(t *testing.T) {
	dockerfiles := map[string]string{
		"labels":   "FROM busybox\nLABEL a=b\n",
		"metadata": "FROM busybox\nWORKDIR /w\n",
		"copy":     "FROM busybox\nCOPY --from=busybox /bin/busybox /b\n",
		"run":      "FROM busybox\nRUN echo x > /x\n",
	}
	for name, dockerfile := range dockerfiles {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.write("Dockerfile", "FROM busybox\nWORKDIR /some\n") // makes the index
			h.build(build.Request{Tags: []string{"app"}})
			res, _ := h.build(build.Request{Tags: []string{"app"}})
			m := h.whole(res)
			base := filepath.Join(h.store.Root(), "blobs", "sha256", m.Layers[0].Digest.Encoded())
			data, err := os.ReadFile(base)
			must(t, err)
			indexes, err := filepath.Glob(filepath.Join(h.store.Root(), "layers", "*", "index"))
			must(t, err)
			if len(indexes) < 2 || len(h.directories()) > 0 {
				t.Fatalf("indexes are %q, directories %q", indexes, h.directories())
			}
			h.write("Dockerfile", dockerfile)
			for _, at := range []int{30, len(data) / 2, len(data) - 3} {
				for _, x := range indexes {
					must(t, os.WriteFile(x, []byte("damage"), 0o600))
				}
				for _, d := range h.directories() {
					must(t, os.RemoveAll(d))
				}
				bad := slices.Clone(data)
				bad[at] ^= 0x10
				must(t, os.WriteFile(base, bad, 0o644))
				out := build.Output{Type: build.OutputOCI, Dest: h.out("oci.tar")}
				h.build(build.Request{NoCache: true, Outputs: []build.Output{out}})
				if now, err := os.ReadFile(base); err != nil || !slices.Equal(now, data) {
					t.Errorf("with damage at %d the blob was not fetched again: %v", at, err)
				}
				h.clean()
			}
		})
	}
}

// A base image of which the store has some forms only is completed when somebody needs the others.
func TestMissingBlobOfUnpackedBase(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN echo x > /x\n")
	res, _ := h.build(build.Request{Tags: []string{"app"}})
	m := h.whole(res)
	base := filepath.Join(h.store.Root(), "blobs", "sha256", m.Layers[0].Digest.Encoded())
	must(t, os.Remove(base))
	h.reg.Requests()
	req, dest := h.local("")
	_, ev := h.build(req) // needs no blob
	wantFile(t, dest+"/x", "x\n")
	if ev.ranStep("RUN") || slices.ContainsFunc(h.reg.Requests(), func(r string) bool { return strings.HasPrefix(r, "GET") && strings.Contains(r, "/blobs/") }) {
		t.Error("the base image was fetched for nothing")
	}
	again, ev := h.build(build.Request{Tags: []string{"app"}})
	if ev.ranStep("RUN") || again.ImageID != res.ImageID {
		t.Errorf("ran %q, the image is %s, want %s", ev.ran, again.ImageID, res.ImageID)
	}
	h.whole(again)
	h.clean()
}

// A base image that cannot be fetched is one clear error of the build that needs it, and no layer is
// left of it.
func TestBaseThatCannotBeFetched(t *testing.T) {
	for _, dockerfile := range []string{"FROM busybox\nLABEL a=b\n", "FROM busybox\nRUN true\n", "FROM busybox\nWORKDIR /w\n", "FROM scratch\nCOPY --from=busybox /bin/busybox /\n"} {
		h := newHarness(t)
		h.write("Dockerfile", dockerfile)
		h.reg.Use(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") == "" {
				rec := &cutWriter{ResponseWriter: w, left: 20_000} // the config passes, a layer does not
				next.ServeHTTP(rec, r)
				if rec.left > 0 {
					return
				}
				panic(http.ErrAbortHandler)
			}
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Error(w, "no", http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, r)
		})
		_, _, err := h.try(build.Request{Tags: []string{"app"}})
		if err == nil || !strings.Contains(err.Error(), "busybox") {
			t.Errorf("%q: error is %v", dockerfile, err)
		}
		h.forms(0, 0)
		h.clean()
		h.reg.Use(nil)
		res, _ := h.build(build.Request{Tags: []string{"app"}})
		h.whole(res)
	}
}

// cutWriter sends no more than the first bytes of a body.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left]) //nolint:errcheck // it is cut anyway
		c.left = 0
		return 0, errors.New("cut")
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}
