package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	dockerclient "github.com/moby/moby/client"
	"github.com/tonistiigi/fsutil"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/serve/docker"
)

// startWeb starts a server whose socket of Docker's API is returned, as an address.
func startWeb(t *testing.T, b func(*server) builder) (s *server, addr string) {
	t.Helper()
	addr = "unix://" + filepath.Join(t.TempDir(), "d")
	var c *control.Options
	s = start(t, func(ctx context.Context, solve control.Solve, sink progress.Sink) (*control.Result, error) {
		return b(s)(ctx, solve, sink)
	}, func(copt *control.Options, opt *Options, s *server) {
		c = copt
		ls, err := Listen([]string{addr}, ListenOptions{Mode: 0o600, UID: -1})
		must(t, err)
		opt.HTTPListeners, opt.Connections = ls, NewConnections()
		opt.HTTP = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/panic" {
				panic("a bug")
			}
			docker.New(docker.Options{
				GRPC: opt.Connections.Serve, Control: opt.Control,
				Acquire: func() (*docker.Backend, func(), error) { return nil, nil, errors.New("there is none") },
				Warn:    c.Warn,
			}).ServeHTTP(w, r)
		})
	})
	return s, addr
}

// TestDockerDriver: BuildKit's client gets to its API through Docker's, in the ways that buildx has, with its session.
func TestDockerDriver(t *testing.T) {
	dir := t.TempDir()
	var seen []string
	s, addr := startWeb(t, func(s *server) builder {
		return func(ctx context.Context, solve control.Solve, _ progress.Sink) (*control.Result, error) {
			caller, err := s.sessions.Get(ctx, solve.Session, false)
			if err != nil {
				return nil, err
			}
			if caller.Supports(session.MethodURL("moby.filesync.v1.FileSync", "DiffCopy")) {
				seen = append(seen, "the session has files")
			}
			if !solve.Engine {
				return nil, errors.New("nobody says that it came by Docker's API")
			}
			return &control.Result{Response: map[string]string{"a": "b"}}, nil
		}
	})
	engine, err := dockerclient.New(dockerclient.WithHost(addr))
	must(t, err)
	defer engine.Close()
	hijacked := []client.ClientOpt{
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return engine.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return engine.DialHijack(ctx, "/session", proto, meta)
		}),
	}
	for name, how := range map[string]struct {
		addr string
		opts []client.ClientOpt
	}{"upgraded": {"", hijacked}, "direct": {addr, nil}} {
		c, err := client.New(t.Context(), how.addr, how.opts...)
		must(t, err)
		info, err := c.Info(t.Context())
		if err != nil || info.BuildkitVersion.Package != "slipway" {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		fs, err := fsutil.NewFS(dir)
		must(t, err)
		res, err := c.Solve(t.Context(), nil, client.SolveOpt{
			Frontend: "dockerfile.v0", Session: []session.Attachable{filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": fs})},
		}, make(chan *client.SolveStatus, 1000))
		if err != nil || res.ExporterResponse["a"] != "b" {
			t.Errorf("%s: solving: %+v, %v", name, res, err)
		}
		must(t, c.Close())
	}
	if len(seen) != 2 {
		t.Errorf("the builds have seen %q", seen)
	}
	s.drain()
	if err := <-s.ended; err != nil {
		t.Errorf("the server ends with %v", err)
	}
	s.ended <- nil
}

// TestDockerRequests: what is no upgrade is refused, and a bug is at the end of its own request.
func TestDockerRequests(t *testing.T) {
	s, addr := startWeb(t, func(*server) builder { return nil })
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(addr, "unix://"))
	}}}
	for _, path := range []string{"/grpc", "/session"} {
		for proto, want := range map[string]int{"": http.StatusBadRequest, "websocket": http.StatusBadRequest} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x"+path, nil)
			must(t, err)
			if proto != "" {
				req.Header.Set("Upgrade", proto)
				req.Header.Set("Connection", "Upgrade")
			}
			resp, err := h.Do(req)
			must(t, err)
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s with %q: %s", path, proto, resp.Status)
			}
		}
	}
	if _, err := h.Get("http://x/panic"); err == nil {
		t.Error("a request that panics has an answer")
	}
	resp, err := h.Get("http://x/_ping")
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Builder-Version") != "2" {
		t.Errorf("after it: %s %v", resp.Status, resp.Header)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.warned) != 1 || !strings.Contains(s.warned[0], "a bug") {
		t.Errorf("the server warns of %q", s.warned)
	}
}
