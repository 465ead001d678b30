package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// newClient returns a client with no configuration of this machine and short pauses.
func newClient(t *testing.T, certsDirs ...string) *Client {
	t.Helper()
	c := New(Options{CertsDirs: certsDirs, DockerConfigDir: t.TempDir(), UserAgent: "slipway-test"})
	c.tune.base = time.Millisecond
	c.tune.max = 20 * time.Millisecond
	return c
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// unusedHost is a loopback address where nobody listens.
func unusedHost(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func mustFetch(t *testing.T, c *Client, ref string, desc ocispec.Descriptor, want []byte) {
	t.Helper()
	rc, err := c.Fetch(t.Context(), ref, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes (%s), want %d (%s)", len(got), digest.FromBytes(got), len(want), desc.Digest)
	}
}

func TestParse(t *testing.T) {
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for in, want := range map[string]string{
		"alpine":                      "docker.io/library/alpine:latest",
		"alpine:3.20":                 "docker.io/library/alpine:3.20",
		"u/x":                         "docker.io/u/x:latest",
		"localhost:5000/x":            "localhost:5000/x:latest",
		"ghcr.io/a/b/c:v1":            "ghcr.io/a/b/c:v1",
		"index.docker.io/library/x":   "docker.io/library/x:latest",
		"alpine@" + sum:               "docker.io/library/alpine@" + sum,
		"alpine:3@" + sum:             "docker.io/library/alpine:3@" + sum,
		"Alpine":                      "",
		"":                            "",
		"alpine:":                     "",
		"https://docker.io/library/x": "",
	} {
		named, err := Parse(in)
		switch {
		case want == "" && !errdefs.IsInvalidArgument(err):
			t.Errorf("Parse(%q) = %v, %v, want an invalid argument", in, named, err)
		case want != "" && err != nil:
			t.Errorf("Parse(%q): %v", in, err)
		case want != "" && named.String() != want:
			t.Errorf("Parse(%q) = %s, want %s", in, named, want)
		}
	}
}

func TestResolveAndFetch(t *testing.T) {
	r := registrytest.Start(t)
	img := r.PushImage("app:v1", registrytest.Image{Layers: []registrytest.Layer{{"bin/x": "hello"}}})
	var agents atomic.Value
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		agents.Store(req.UserAgent())
		if e := req.Header.Get("Accept-Encoding"); req.Method == http.MethodGet && e != "identity" {
			t.Errorf("%s accepts the encodings %q, which cannot be resumed", req.URL, e)
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t)
	for _, ref := range []string{r.Host + "/app:v1", r.Host + "/app@" + img.Desc.Digest.String(), r.Host + "/app:v1@" + img.Desc.Digest.String()} {
		desc, err := c.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if desc.Digest != img.Desc.Digest || desc.Size != img.Desc.Size || desc.MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("Resolve(%s) = %+v, want %+v", ref, desc, img.Desc)
		}
	}
	mustFetch(t, c, r.Host+"/app:v1", img.Manifest.Config, img.Config)
	if got := agents.Load(); got != "slipway-test" {
		t.Errorf("user agent %q", got)
	}
}

// cut answers GETs of blobs with at most n bytes of the body, then breaks the connection; it
// does so the first `times` times.
func cut(n int, times int32, reset bool) registrytest.Middleware {
	var count atomic.Int32
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") || count.Add(1) > times {
			next.ServeHTTP(w, req)
			return
		}
		next.ServeHTTP(&cutter{ResponseWriter: w, client: req.RemoteAddr, left: n, reset: reset}, req)
	}
}

type cutter struct {
	http.ResponseWriter
	client string
	left   int
	reset  bool
}

// waitRead returns when a client on this machine has read what was sent to it: a reset takes away what it has
// not read.
func waitRead(client string) {
	_, port, _ := net.SplitHostPort(client)
	n, _ := strconv.Atoi(port)
	// Local address, remote one, state, transmit and receive queue.
	unread := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]{4} 01 [0-9A-F]{8}:0*[1-9A-F]`, n))
	unacknowledged := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:[0-9A-F]{4} [0-9A-F]+:%04X 01 0*[1-9A-F][0-9A-F]*:`, n))
	for {
		var sockets []byte
		for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			data, _ := os.ReadFile(name) // without IPv6 there is none
			sockets = append(sockets, data...)
		}
		if !unread.Match(sockets) && !unacknowledged.Match(sockets) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	c.ResponseWriter.Write(p[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	if c.reset {
		waitRead(c.client)
		conn, _, err := c.ResponseWriter.(http.Hijacker).Hijack()
		if err == nil {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}
	panic(http.ErrAbortHandler)
}

func TestFetchResumes(t *testing.T) {
	content := randomBytes(1 << 20)
	for _, reset := range []bool{false, true} {
		t.Run(fmt.Sprintf("reset=%v", reset), func(t *testing.T) {
			r := registrytest.Start(t)
			desc := r.PushBlob("app", "application/octet-stream", content)
			var ranged atomic.Int32
			broken := cut(100_000, 4, reset)
			r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if req.Header.Get("Range") != "" {
					ranged.Add(1)
				}
				broken(w, req, next)
			})
			mustFetch(t, newClient(t), r.Host+"/app", desc, content)
			if ranged.Load() < 4 {
				t.Errorf("resumed with %d ranged requests, want 4 at least", ranged.Load())
			}
		})
	}
}

// A registry may not know ranges (200 with the whole), or refuse them (416).
func TestFetchResumesWithoutRanges(t *testing.T) {
	content := randomBytes(300_000)
	for _, status := range []int{http.StatusOK, http.StatusRequestedRangeNotSatisfiable} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			r := registrytest.Start(t)
			desc := r.PushBlob("app", "application/octet-stream", content)
			broken := cut(100_000, 1, true)
			r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if req.Header.Get("Range") != "" {
					if status != http.StatusOK {
						w.WriteHeader(status)
						return
					}
					req.Header.Del("Range")
				}
				broken(w, req, next)
			})
			mustFetch(t, newClient(t), r.Host+"/app", desc, content)
		})
	}
}

func TestFetchResumesAfterStall(t *testing.T) {
	content := randomBytes(200_000)
	r := registrytest.Start(t)
	desc := r.PushBlob("app", "application/octet-stream", content)
	var count atomic.Int32
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if count.Add(1) > 1 {
			next.ServeHTTP(w, req)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:1000])
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	})
	c := newClient(t)
	c.tune.pace.Stall = 50 * time.Millisecond
	mustFetch(t, c, r.Host+"/app", desc, content)
}

func TestRetries(t *testing.T) {
	for _, status := range []int{500, 502, 503, 504, 429, 408} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := registrytest.Start(t)
			img := r.PushImage("app:v1", registrytest.Image{})
			var count atomic.Int32
			r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if count.Add(1)%4 != 0 { // three failures, then an answer
					w.WriteHeader(status)
					return
				}
				next.ServeHTTP(w, req)
			})
			c := newClient(t)
			if _, err := c.Resolve(t.Context(), r.Host+"/app:v1"); err != nil {
				t.Fatal(err)
			}
			mustFetch(t, c, r.Host+"/app:v1", img.Manifest.Config, img.Config)
		})
	}
}

func TestGivesUp(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", registrytest.Image{})
	for status, want := range map[int]string{
		503: "registry HOST fails to give image \"HOST/app:v1\"\n  tried HOST: 503 Service Unavailable",
		429: "registry HOST refuses image \"HOST/app:v1\" for now: too many requests\n  tried HOST: 429 Too Many Requests",
	} {
		var count atomic.Int32
		r.Use(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			count.Add(1)
			w.WriteHeader(status)
		})
		_, err := newClient(t).Resolve(t.Context(), r.Host+"/app:v1")
		checkError(t, err, errdefs.ErrUnavailable, strings.ReplaceAll(want, "HOST", r.Host), "hosts.toml")
		if n := count.Load(); n < 5 || n > 12 {
			t.Errorf("status %d: asked %d times, want a handful", status, n)
		}
	}
}

// A long Retry-After is not waited for, and not ignored by asking again at once either.
func TestRetryAfterTooLong(t *testing.T) {
	r := registrytest.Start(t)
	var count atomic.Int32
	r.Use(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		count.Add(1)
		w.Header().Set("Retry-After", "21600")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	_, err := newClient(t).Resolve(t.Context(), r.Host+"/app:v1")
	checkError(t, err, errdefs.ErrUnavailable, "too many requests")
	if count.Load() != 1 {
		t.Errorf("asked %d times, want once", count.Load())
	}
}

func checkError(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	if err == nil || !errors.Is(err, kind) {
		t.Fatalf("got %v, want an error of category %q", err, kind)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not contain %q", err, p)
		}
	}
}

// An error's lines are ours: what a registry says stands in one of them.
func TestErrorLines(t *testing.T) {
	e := &Error{problem: "it says \n  log in at evil", Tried: []string{"a: 404\r\n  log in", "b: 500"}, hint: "check the name"}
	if want := "it says    log in at evil\n  tried a: 404    log in\n  tried b: 500\n  check the name"; e.Error() != want {
		t.Errorf("got %q", e.Error())
	}
}

func TestErrors(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", registrytest.Image{})
	dead := unusedHost(t)
	status := func(code int, body string) registrytest.Middleware {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	tests := []struct {
		name string
		ref  string
		use  registrytest.Middleware
		kind error
		want []string
	}{
		{"unknown repository", r.Host + "/nope", nil, errdefs.ErrNotFound,
			[]string{r.Host + "/nope:latest: not found\n  tried " + r.Host + ": 404 Not Found\n  check the name"}},
		{"unknown tag", r.Host + "/app:v2", nil, errdefs.ErrNotFound, []string{"app:v2"}},
		{"unreachable", dead + "/app:v1", nil, errdefs.ErrUnavailable,
			[]string{"registry " + dead + " cannot be reached", "connection refused", "name a mirror in certs.d/" + dead + "/hosts.toml"}},
		{"unauthorized", r.Host + "/app:v1", status(401, ""), errdefs.ErrUnauthenticated, []string{"slipway login " + r.Host}},
		{"forbidden", r.Host + "/app:v1", status(403, `{"errors":[{"code":"DENIED","message":"not for you"}]}`), errdefs.ErrPermissionDenied,
			[]string{"pull access denied, repository does not exist", "not for you"}},
		{"no registry", r.Host + "/app:v1", status(400, "what?"), errdefs.ErrUnknown, []string{"rejects the request"}},
		{"bad reference", "a/Upper", nil, errdefs.ErrInvalidArgument, []string{`"a/Upper"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r.Use(tt.use)
			_, err := newClient(t).Resolve(t.Context(), tt.ref)
			checkError(t, err, tt.kind, tt.want...)
		})
	}
}

func TestGiantManifest(t *testing.T) {
	giant := strings.Repeat(" ", MaxManifestSize+1)
	r := registrytest.Start(t)
	r.PushManifest("app", "declared", ocispec.MediaTypeImageManifest, []byte(giant))
	_, err := newClient(t).Resolve(t.Context(), r.Host+"/app:declared")
	checkError(t, err, errdefs.ErrOutOfRange, "larger than the limit")

	var sent atomic.Int64
	r.Use(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		// No length and no digest, so that the client has to read it; and no end.
		w.(http.Flusher).Flush()
		for req.Method == http.MethodGet {
			n, err := io.WriteString(w, giant)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})
	_, err = newClient(t).Resolve(t.Context(), r.Host+"/app:endless")
	checkError(t, err, errdefs.ErrOutOfRange, "larger than the limit")
}

func TestWrongSize(t *testing.T) {
	r := registrytest.Start(t)
	desc := r.PushBlob("app", "application/octet-stream", randomBytes(1000))
	for _, size := range []int64{999, 1001, 0} {
		d := desc
		d.Size = size
		rc, err := newClient(t).Fetch(t.Context(), r.Host+"/app", d)
		if err == nil {
			var got []byte
			got, err = io.ReadAll(rc)
			rc.Close()
			if int64(len(got)) > size {
				t.Errorf("got %d bytes where %d were announced", len(got), size)
			}
		}
		if size == 0 { // nothing is asked for, and the digest tells
			if err != nil {
				t.Errorf("size 0: %v", err)
			}
			continue
		}
		checkError(t, err, errdefs.ErrDataLoss, "wrong size", desc.Digest.String())
	}
}

func TestFetchIgnoresURLs(t *testing.T) {
	r, other := registrytest.Start(t), registrytest.Start(t)
	desc := r.PushBlob("app", "application/octet-stream", []byte("x"))
	desc.URLs = []string{other.URL + "/steal"}
	mustFetch(t, newClient(t), r.Host+"/app", desc, []byte("x"))
	if got := other.Requests(); len(got) != 0 {
		t.Errorf("the manifest made us ask %v", got)
	}
}

func TestCancel(t *testing.T) {
	r := registrytest.Start(t)
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) { <-req.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := newClient(t).Resolve(ctx, r.Host+"/app:v1")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Minute {
		t.Fatalf("got %v after %s", err, time.Since(start))
	}
}

func TestMirrors(t *testing.T) {
	r, broken := registrytest.Start(t), registrytest.Start(t)
	img := r.PushImage("library/alpine:3", registrytest.Image{})
	broken.Use(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) })
	dead := unusedHost(t)

	// Two roots: the first lacks the host and one does not even exist.
	dir := t.TempDir()
	err := registrytest.WriteCertsD(dir, map[string][]string{"docker.io": {"http://" + dead, broken.URL, r.URL}})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, filepath.Join(dir, "missing"), t.TempDir(), dir)
	desc, err := c.Resolve(t.Context(), "alpine:3")
	if err != nil {
		t.Fatal(err)
	}
	if desc.Digest != img.Desc.Digest {
		t.Errorf("got %s, want %s", desc.Digest, img.Desc.Digest)
	}
	mustFetch(t, c, "alpine:3", img.Manifest.Config, img.Config)
	if got := len(broken.Requests()); got != 2 {
		t.Errorf("the broken mirror was asked %d times, want once for each of two requests", got)
	}
}

// A mirror that begins to answer and then breaks, each time, does not keep the next one from
// being asked.
func TestMirrorBreaks(t *testing.T) {
	good, bad := registrytest.Start(t), registrytest.Start(t)
	content := randomBytes(100_000)
	desc := good.PushBlob("library/alpine", "application/octet-stream", content)
	bad.Use(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	dir := t.TempDir()
	if err := registrytest.WriteCertsD(dir, map[string][]string{"docker.io": {bad.URL, good.URL}}); err != nil {
		t.Fatal(err)
	}
	mustFetch(t, newClient(t, dir), "alpine", desc, content)
}

// Registries on loopback are asked over https first, without looking at the certificate,
// then over http. Where hosts.toml says https, the certificate counts.
func TestTLS(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", registrytest.Image{})
	target, _ := url.Parse(r.URL)
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t).Resolve(t.Context(), host+"/app:v1"); err != nil {
		t.Error(err)
	}
	for hosts, want := range map[string]string{
		fmt.Sprintf("server = %q\nca = %q\n", server.URL, ca): "",
		fmt.Sprintf("server = %q\n", server.URL):              "x509: ",
		fmt.Sprintf("server = %q\n", "https://"+r.Host):       "if it speaks plain HTTP",
	} {
		dir := t.TempDir()
		os.MkdirAll(filepath.Join(dir, "example.com"), 0o755)
		os.WriteFile(filepath.Join(dir, "example.com/hosts.toml"), []byte(hosts), 0o644)
		_, err := newClient(t, dir).Resolve(t.Context(), "example.com/app:v1")
		if want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		checkError(t, err, errdefs.ErrUnavailable, want, dir+"/example.com/hosts.toml")
	}
}

func TestAllMirrorsFail(t *testing.T) {
	dead := unusedHost(t)
	broken := registrytest.Start(t)
	broken.Use(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) })
	dir := t.TempDir()
	hosts := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", broken.Host, dead)
	os.MkdirAll(filepath.Join(dir, "docker.io"), 0o755)
	os.WriteFile(filepath.Join(dir, "docker.io/hosts.toml"), []byte(hosts), 0o644)
	_, err := newClient(t, dir).Resolve(t.Context(), "alpine")
	checkError(t, err, errdefs.ErrUnavailable, `image "docker.io/library/alpine:latest"`, "docker.io", dead+": ", broken.Host+": 502 Bad Gateway", dir+"/docker.io/hosts.toml")
}

func TestBrokenHostsToml(t *testing.T) {
	for _, text := range []string{"server = ", "[host.\"http://x\"]\ncapabilities = [\"fly\"]\n"} {
		dir := t.TempDir()
		os.MkdirAll(filepath.Join(dir, "docker.io"), 0o755)
		os.WriteFile(filepath.Join(dir, "docker.io/hosts.toml"), []byte(text), 0o644)
		_, err := newClient(t, dir).Resolve(t.Context(), "alpine")
		checkError(t, err, errdefs.ErrFailedPrecondition, dir+"/docker.io/hosts.toml")
	}
}

const password = "s3cret-pass"

func writeDockerConfig(t *testing.T, host string) string {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte("anna:" + password))
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, auth)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBasicAuth(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", registrytest.Image{})
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if user, pass, _ := req.BasicAuth(); user != "anna" || pass != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
	c := New(Options{DockerConfigDir: writeDockerConfig(t, r.Host)})
	if _, err := c.Resolve(t.Context(), r.Host+"/app:v1"); err != nil {
		t.Error(err)
	}
	_, err := newClient(t).Resolve(t.Context(), r.Host+"/app:v1")
	checkError(t, err, errdefs.ErrUnauthenticated, "slipway login "+r.Host)
}

// bearer asks for tokens, which its own /token gives to anna, or to anybody.
func bearer(r *registrytest.Registry, anonymous bool, valid *atomic.Value) registrytest.Middleware {
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.UserAgent() != "slipway-test" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if req.URL.Path == "/token" {
			user, pass, ok := req.BasicAuth()
			if req.Method == http.MethodPost {
				req.ParseForm()
				user, pass, ok = req.PostForm.Get("username"), req.PostForm.Get("password"), true
			}
			if !(anonymous && !ok) && (user != "anna" || pass != password) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			token := valid.Load().(string)
			fmt.Fprintf(w, `{"token": %q, "access_token": %q}`, token, token)
			return
		}
		if req.Header.Get("Authorization") != "Bearer "+valid.Load().(string) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:app:pull"`, r.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	}
}

func TestBearerAuth(t *testing.T) {
	for _, anonymous := range []bool{true, false} {
		t.Run(fmt.Sprintf("anonymous=%v", anonymous), func(t *testing.T) {
			r := registrytest.Start(t)
			img := r.PushImage("app:v1", registrytest.Image{})
			var token atomic.Value
			token.Store("token-1")
			r.Use(bearer(r, anonymous, &token))
			dir := t.TempDir()
			if !anonymous {
				dir = writeDockerConfig(t, r.Host)
			}
			c := newClient(t)
			c.creds.dir = dir
			if _, err := c.Resolve(t.Context(), r.Host+"/app:v1"); err != nil {
				t.Fatal(err)
			}
			r.Requests()
			mustFetch(t, c, r.Host+"/app:v1", img.Manifest.Config, img.Config)
			if got := r.Requests(); len(got) != 1 {
				t.Errorf("the token was not kept: %v", got)
			}
			token.Store("token-2") // the old one is worth nothing now, and nobody told us when
			mustFetch(t, c, r.Host+"/app:v1", img.Manifest.Config, img.Config)
		})
	}
}

func TestTokenServerFails(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", registrytest.Image{})
	var token atomic.Value
	token.Store("token-1")
	var count atomic.Int32
	auth := bearer(r, true, &token)
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path == "/token" && count.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		auth(w, req, next)
	})
	if _, err := newClient(t).Resolve(t.Context(), r.Host+"/app:v1"); err != nil {
		t.Fatal(err)
	}
}

func TestNoSecretsInErrors(t *testing.T) {
	r := registrytest.Start(t)
	desc := r.PushBlob("app", "application/octet-stream", []byte("x"))
	dead := unusedHost(t)
	dir := writeDockerConfig(t, r.Host)
	for name, m := range map[string]registrytest.Middleware{
		"wrong password": func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			if req.URL.Path == "/token" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token?key=s3cret-key",service="test"`, r.URL))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"signed redirect": func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			http.Redirect(w, req, "http://u:s3cret-user@"+dead+"/blob?signature=s3cret-sig", http.StatusTemporaryRedirect)
		},
		"refused redirect": func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			if req.URL.Path == "/blob" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			http.Redirect(w, req, r.URL+"/blob?signature=s3cret-sig", http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.Use(m)
			c := newClient(t)
			c.creds.dir = dir
			_, err := c.Fetch(t.Context(), r.Host+"/app", desc)
			if err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "s3cret") {
				t.Errorf("the error tells a secret: %#v", err)
			}
			t.Log(err)
		})
	}
}

func TestScrub(t *testing.T) {
	for in, want := range map[string]string{
		`Get "https://cdn.example/x?X-Sig=s3cret&y=1": EOF`: `Get "https://cdn.example/x?...": EOF`,
		"https://anna:s3cret@host/v2/: refused":             "https://...@host/v2/: refused",
		"nothing to hide":                                   "nothing to hide",
	} {
		if got := scrub(in); got != want {
			t.Errorf("scrub(%q) = %q, want %q", in, got, want)
		}
	}
}
