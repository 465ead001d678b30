package imagesource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// big makes an image of n layers of 200 kB that do not compress.
func big(n int) registrytest.Image {
	var img registrytest.Image
	for i := range n {
		b := make([]byte, 200_000)
		rand.NewChaCha8([32]byte{byte(i)}).Read(b)
		img.Layers = append(img.Layers, registrytest.Layer{fmt.Sprint("f", i): string(b)})
	}
	return img
}

func isLayerGet(req *http.Request, img registrytest.Pushed) bool {
	return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && !strings.HasSuffix(req.URL.Path, img.Manifest.Config.Digest.String())
}

func TestPull(t *testing.T) {
	r := registrytest.Start(t)
	in := big(8)
	in.Layers = append(in.Layers, in.Layers[0]) // the same again
	pushed := r.PushImage("app:v1", in)
	var now, begun, most atomic.Int32
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isLayerGet(req, pushed) {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			begun.Add(1)
			for begun.Load() < maxDownloads && req.Context().Err() == nil { // all that may be there at a time
				time.Sleep(time.Millisecond)
			}
			defer now.Add(-1)
		}
		next.ServeHTTP(w, req)
	})
	s, store := newSource(t)
	img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
	r.Requests()

	var mu sync.Mutex
	last := map[string]int64{}
	err := s.Pull(t.Context(), img, func(layer ocispec.Descriptor, current, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if d := layer.Digest.String(); current < last[d] || current > total || total != layer.Size {
			t.Errorf("progress of %s: %d after %d, of %d", d, current, last[d], total)
		}
		last[layer.Digest.String()] = current
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Manifest.Layers {
		if !store.HasBlob(l.Digest) || last[l.Digest.String()] != l.Size {
			t.Errorf("layer %s: progress ends at %d of %d", l.Digest, last[l.Digest.String()], l.Size)
		}
	}
	if got := len(r.Requests()); got != 8 {
		t.Errorf("%d requests for 8 layers", got)
	}
	if m := most.Load(); m != maxDownloads {
		t.Errorf("%d downloads at a time, want %d", m, maxDownloads)
	}
	if err := s.Pull(t.Context(), img, nil); err != nil || len(r.Requests()) != 0 {
		t.Errorf("a second pull asks again, or fails: %v", err)
	}
}

// Several pulls of one image at the same time fetch each layer once.
func TestPullOnce(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", big(3))
	s, _ := newSource(t)
	img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
	r.Requests()
	var wg sync.WaitGroup
	for range 5 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := s.Pull(t.Context(), img, nil); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if got := r.Requests(); len(got) != 3 {
		t.Errorf("%d requests for 3 layers: %v", len(got), got)
	}
}

func TestPullResumes(t *testing.T) {
	r := registrytest.Start(t)
	pushed := r.PushImage("app:v1", big(3))
	var broken atomic.Int32
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isLayerGet(req, pushed) && broken.Add(1) <= 3 {
			w.Header().Set("Content-Length", "200000")
			next.ServeHTTP(&half{w, 50_000}, req)
			return
		}
		next.ServeHTTP(w, req)
	})
	s, store := newSource(t)
	img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
	if err := s.Pull(t.Context(), img, nil); err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Manifest.Layers {
		if !store.HasBlob(l.Digest) {
			t.Errorf("layer %s is missing", l.Digest)
		}
	}
	if broken.Load() < 6 {
		t.Errorf("only %d requests, was nothing broken?", broken.Load())
	}
}

// half writes n bytes and then breaks the connection.
type half struct {
	http.ResponseWriter
	n int
}

func (h *half) Write(p []byte) (int, error) {
	h.ResponseWriter.Write(p[:min(len(p), h.n)])
	if h.n -= len(p); h.n < 0 {
		h.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return len(p), nil
}

// When one layer fails, the downloads of the others are ended, and what failed is not stored.
func TestPullFails(t *testing.T) {
	r := registrytest.Start(t)
	pushed := r.PushImage("app:v1", big(3))
	bad := pushed.Manifest.Layers[1]
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		kind  error
	}{
		"not found": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, errdefs.ErrNotFound},
		"wrong content": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(strings.Repeat("x", int(bad.Size))))
		}, errdefs.ErrDataLoss},
		"too long":  {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, bad.Size+1)) }, errdefs.ErrDataLoss},
		"forbidden": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, errdefs.ErrPermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan struct{}, 10)
			r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				switch {
				case strings.HasSuffix(req.URL.Path, bad.Digest.String()):
					tt.serve(w, req)
				case isLayerGet(req, pushed): // gives nothing until the client goes away
					<-req.Context().Done()
					ended <- struct{}{}
				default:
					next.ServeHTTP(w, req)
				}
			})
			s, store := newSource(t)
			img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
			err := s.Pull(t.Context(), img, nil)
			checkError(t, err, tt.kind, bad.Digest.String(), r.Host+"/app:v1")
			t.Log(err)
			if store.HasBlob(bad.Digest) {
				t.Error("the bad layer was stored")
			}
		})
	}
}

func TestPullCancel(t *testing.T) {
	r := registrytest.Start(t)
	pushed := r.PushImage("app:v1", big(2))
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isLayerGet(req, pushed) {
			<-req.Context().Done()
			return
		}
		next.ServeHTTP(w, req)
	})
	s, _ := newSource(t)
	img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	start := time.Now()
	if err := s.Pull(ctx, img, nil); !errors.Is(err, context.Canceled) || time.Since(start) > time.Minute {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}
