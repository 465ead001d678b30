// Package registrytest runs an image registry in the process of a test and fills it with
// small images. It belongs to tests; nothing of the product imports it.
package registrytest

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
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/slipway-build/slipway/internal/outbound/outboundtest"
)

// TB is what Start needs of testing.TB.
type TB interface {
	Helper()
	Cleanup(func())
}

// Middleware changes what a registry does: it may answer itself, or call next.
type Middleware func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Registry is an in-memory registry on a loopback port, over plain HTTP. It is safe for
// concurrent use.
type Registry struct {
	// Host is "127.0.0.1:PORT", to be used in references and certs.d.
	Host string
	// URL is "http://" + Host.
	URL string

	server  *httptest.Server
	content http.Handler

	notes outboundtest.Notes

	mu         sync.Mutex
	middleware Middleware
}

// New starts a registry; the caller closes it.
func New() *Registry {
	r := &Registry{content: ranges(registry.New(registry.Logger(log.New(io.Discard, "", 0))))}
	r.server = httptest.NewServer(http.HandlerFunc(r.serve))
	r.URL = r.server.URL
	r.Host = strings.TrimPrefix(r.URL, "http://")
	return r
}

// Start starts a registry that is closed when the test ends.
func Start(t TB) *Registry {
	t.Helper()
	r := New()
	t.Cleanup(r.Close)
	return r
}

// Close stops the registry and breaks its connections.
func (r *Registry) Close() {
	r.server.CloseClientConnections()
	r.server.Close()
}

// Use puts m before the registry, instead of an earlier one; nil takes it away. Pushing with
// the methods of this package does not pass through it.
func (r *Registry) Use(m Middleware) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.middleware = m
}

// Requests returns "METHOD /path" of the requests since the last call, in order, without
// those of this package's own methods.
func (r *Registry) Requests() []string { return r.notes.Asked() }

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	r.notes.Ask(req.Method + " " + req.URL.Path)
	r.mu.Lock()
	m := r.middleware
	r.mu.Unlock()
	if m != nil {
		m(w, req, r.content)
		return
	}
	r.content.ServeHTTP(w, req)
}

// ranges answers ranges of blobs: the registry behind it knows closed ones only, while
// clients that resume ask for "bytes=N-".
func ranges(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet || req.Header.Get("Range") == "" || !strings.Contains(req.URL.Path, "/blobs/") {
			next.ServeHTTP(w, req)
			return
		}
		whole := req.Clone(req.Context())
		whole.Header.Del("Range")
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, whole)
		if rec.Code != http.StatusOK {
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(rec.Body.Bytes()))
	})
}

// WriteCertsD writes dir/<host>/hosts.toml for each host, with its mirrors' addresses
// ("http://127.0.0.1:5000") in the order in which they are asked. The host itself comes last.
func WriteCertsD(dir string, mirrors map[string][]string) error {
	for host, urls := range mirrors {
		var b strings.Builder
		for _, u := range urls {
			fmt.Fprintf(&b, "[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", u)
		}
		if err := os.MkdirAll(filepath.Join(dir, host), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
