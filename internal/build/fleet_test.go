package build_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
)

// byKeys are the two ends of a cache of mode=keys in a directory.
func byKeys(dir string) (from, to []cache.Entry) {
	return []cache.Entry{{Type: cache.TypeLocal, Attrs: map[string]string{"src": dir, "mode": "keys"}}},
		[]cache.Entry{{Type: cache.TypeLocal, Attrs: map[string]string{"dest": dir, "mode": "keys"}}}
}

// worker is a machine whose keys somebody looks at.
type worker struct {
	*harness
	mu    sync.Mutex
	lines map[string][]string
}

func newWorker(t *testing.T) *worker {
	w := &worker{harness: newHarness(t)}
	opt := w.options
	opt.DumpKey = func(vertex string, lines []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lines[vertex] = lines
	}
	w.builder = build.New(opt)
	w.write("Dockerfile", `FROM busybox AS gen
RUN head -c 9 /dev/urandom | md5sum > /one && cp /one /two
FROM scratch AS few
COPY --from=gen one /one
FROM scratch AS moved
COPY --from=gen one /moved
FROM few
COPY --from=gen two /two
`)
	return w
}

// copied builds, and gives each file that was copied, with the digest that the copy's key has.
func (w *worker) copied(req build.Request) map[string]string {
	w.t.Helper()
	w.lines = map[string][]string{}
	local, out := w.local(req.Target)
	local.CacheFrom, local.CacheTo, local.NoCache = req.CacheFrom, req.CacheTo, req.NoCache
	w.build(local)
	all := map[string]string{}
	for vertex, lines := range w.lines {
		_, copy, is := strings.Cut(vertex, "COPY ")
		if !is {
			continue
		}
		words := strings.Fields(strings.TrimPrefix(copy, "--from=gen "))
		data, err := os.ReadFile(filepath.Join(out, words[1]))
		must(w.t, err)
		for _, l := range lines {
			if _, of, is := strings.Cut(l, "files of input"); is {
				all[words[0]+" "+string(data)] = of[strings.Index(of, "sha256:"):]
			}
		}
	}
	if len(all) == 0 {
		w.t.Fatalf("no key has the digest of files: %q", w.lines)
	}
	return all
}

// Two machines whose step gives other bytes each time, in every order: what is copied from it has the key of these bytes, whoever made the
// digest, the result and the copy.
func TestFleetOfStepsThatDiffer(t *testing.T) {
	if testing.Short() {
		t.Skip("long: six orders of builds")
	}
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	prover := newWorker(t)
	for _, order := range orders {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			from, to := byKeys(filepath.Join(t.TempDir(), "cache"))
			a, b := newWorker(t), newWorker(t)
			steps := []struct {
				at  *worker
				req build.Request
			}{
				{a, build.Request{CacheFrom: from, CacheTo: to, Target: "few"}},
				{b, build.Request{CacheTo: to}},
				{a, build.Request{CacheFrom: from, CacheTo: to, NoCache: true}},
			}
			check := func(w *worker, req build.Request) {
				t.Helper()
				for file, content := range w.copied(req) {
					name, data, _ := strings.Cut(file, " ")
					prover.write(name, data)
					prover.write("Dockerfile", "FROM scratch\nCOPY "+name+" /"+name+"\n")
					if want := prover.copied(build.Request{})[file]; content != want {
						t.Errorf("%s has the key of other bytes: %s, want %s", file, content, want)
					}
				}
			}
			var early []*worker
			for _, n := range order {
				check(steps[n].at, steps[n].req)
				early = append(early, newWorker(t))
				check(early[len(early)-1], build.Request{CacheFrom: from, Target: "few"})
			}
			for _, w := range early { // it remembers a digest, and has no files
				check(w, build.Request{CacheFrom: from, Target: "moved"})
			}
			check(b, build.Request{CacheFrom: from, CacheTo: to})
			check(a, build.Request{CacheFrom: from, CacheTo: to})
			check(newWorker(t), build.Request{CacheFrom: from})
		})
	}
}

// A layer with other bytes of the same size is found when it is used, and said; its step runs, and others find a good one then.
func TestFleetWithBadBytes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	from, to := byKeys(dir)
	req := func(w *harness, from, to []cache.Entry) build.Request {
		r, _ := w.local("")
		r.CacheFrom, r.CacheTo = from, to
		return r
	}
	same := "FROM busybox\nRUN head -c 70000 /dev/zero > /zeros && touch -d @0 /zeros\nRUN echo more > /more\n"
	a := newHarness(t)
	a.write("Dockerfile", same)
	a.build(req(a, nil, to))
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	must(t, err)
	for _, f := range blobs {
		data, err := os.ReadFile(f)
		must(t, err)
		if len(data) < 100 || data[0] == '{' {
			continue
		}
		data[len(data)/2] ^= 1
		must(t, os.WriteFile(f, data, 0o644))
	}
	b := newHarness(t)
	b.write("Dockerfile", same)
	_, ev := b.build(req(b, from, to))
	if !ev.ranStep("RUN head") || !ev.ranStep("importing cache layer") {
		t.Errorf("it ran %q", ev.ran)
	}
	c := newHarness(t)
	c.write("Dockerfile", same)
	if _, ev := c.build(req(c, from, nil)); ev.ranStep("RUN") || ev.ranStep("importing cache layer") {
		t.Errorf("after it was put right it ran %q", ev.ran)
	}
}

// A build that fails waits for its results to be written, and only for so long.
func TestFleetThatHangs(t *testing.T) {
	defer build.AfterFailure(50 * time.Millisecond)()
	hangs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case r.Method == http.MethodGet, r.Method == http.MethodHead:
			http.NotFound(w, r)
		default:
			<-r.Context().Done()
		}
	}))
	t.Cleanup(hangs.Close)
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN echo made > /made\nRUN false\n")
	ref := strings.TrimPrefix(hangs.URL, "http://") + "/fleet"
	_, ev, err := h.try(build.Request{CacheTo: []cache.Entry{{Type: cache.TypeRegistry, Attrs: map[string]string{"ref": ref, "mode": "keys"}}}})
	if err == nil || !strings.Contains(err.Error(), "RUN false") && !strings.Contains(err.Error(), "exit code") {
		t.Errorf("the build ended with %v", err)
	}
	if !ev.ranStep("for the next build") {
		t.Errorf("it said %q", ev.ran)
	}
}

// The results of a target that is only a context of another one are in that one's cache, and found there.
func TestFleetOfLinkedTargets(t *testing.T) {
	from, to := byKeys(filepath.Join(t.TempDir(), "cache"))
	for n, want := range []int{1, 0} {
		h := newHarness(t)
		h.write("Dockerfile.base", "FROM busybox AS gen\nRUN echo ran-gen && echo gen > /gen\nFROM busybox\nCOPY --from=gen /gen /gen\nRUN echo ran-deep && echo deep > /deep\n")
		h.write("Dockerfile.middle", "FROM deep\nRUN echo ran-middle && echo middle > /middle\n")
		h.write("Dockerfile", "FROM base\nRUN cat /middle > /app\n")
		out := filepath.Join(h.context, "out")
		none := []build.Output{{Type: build.OutputCacheOnly}}
		app := build.Request{Contexts: map[string]string{"base": "target:middle"}, Outputs: []build.Output{{Type: build.OutputLocal, Dest: out}}, CacheFrom: from, CacheTo: to}
		_, s := h.buildAll(build.Named{Name: "app", Request: app},
			build.Named{Name: "deep", Request: build.Request{Dockerfile: filepath.Join(h.context, "Dockerfile.base"), Outputs: none}},
			build.Named{Name: "middle", Request: build.Request{Dockerfile: filepath.Join(h.context, "Dockerfile.middle"), Contexts: map[string]string{"deep": "target:deep"}, Outputs: none}},
		)
		wantFile(t, filepath.Join(out, "app"), "middle\n")
		if got := strings.Count(s.log.String(), "ran-"); got != 3*want {
			t.Errorf("build %d ran %d steps, want %d", n+1, got, 3*want)
		}
	}
}
