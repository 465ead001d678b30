package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// stranger is a server that passes on to a registry what it is asked, and notes what it is told.
type stranger struct {
	*httptest.Server
	mu   sync.Mutex
	told []http.Header
}

func newStranger(t *testing.T, h http.Handler) *stranger {
	s := &stranger{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.mu.Lock()
		s.told = append(s.told, req.Header.Clone())
		s.mu.Unlock()
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	return s
}

// check looks for secrets in what the stranger was told.
func (s *stranger) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.told) == 0 {
		t.Error("nobody was sent to the other server")
	}
	for _, h := range s.told {
		if h.Get("Authorization") != "" || h.Get("X-Key") != "" || h.Get("Cookie") != "" || h.Get("Referer") != "" {
			t.Errorf("another server was told %v", h)
		}
	}
}

func proxyTo(t *testing.T, address string) http.Handler {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return httputil.NewSingleHostReverseProxy(u)
}

// ownHeader is a certs.d with a field of the user's own for a registry.
func ownHeader(t *testing.T, r *registrytest.Registry) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, r.Host), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n[header]\n  x-key = \"s3cret\"\n", r.URL)
	if err := os.WriteFile(filepath.Join(dir, r.Host, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRedirectedCredentials has a registry send downloads, uploads and manifests to another port of its
// host, which is somebody else.
func TestRedirectedCredentials(t *testing.T) {
	for _, scheme := range []string{"basic", "bearer"} {
		t.Run(scheme, func(t *testing.T) {
			r := registrytest.Start(t)
			img := r.PushImage("app:v1", registrytest.Image{})
			inner := registrytest.Start(t)
			inner.PushImage("app:v1", registrytest.Image{})
			other := newStranger(t, proxyTo(t, inner.URL))
			var token atomic.Value
			token.Store("token-1")
			auth := bearer(r, false, &token)
			if scheme == "basic" {
				auth = func(w http.ResponseWriter, req *http.Request, next http.Handler) {
					if _, pass, _ := req.BasicAuth(); pass != password {
						w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					next.ServeHTTP(w, req)
				}
			}
			away := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, other.URL+req.URL.RequestURI(), http.StatusTemporaryRedirect)
			})
			r.Use(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
				if req.URL.Path != "/token" && req.Header.Get("X-Key") != "s3cret" {
					t.Errorf("the registry itself is not told the user's field: %v", req.Header)
				}
				auth(w, req, away)
			})
			c := newClient(t, ownHeader(t, r))
			c.creds.dir = writeDockerConfig(t, r.Host)
			if _, err := c.Resolve(t.Context(), r.Host+"/app:v1"); err != nil {
				t.Error(err)
			}
			mustFetch(t, c, r.Host+"/app:v1", img.Manifest.Config, img.Config)
			mustPush(t, c, r.Host+"/app", blob([]byte("pushed")))
			other.check(t)
		})
	}
}

// TestForeignUpload has a registry name another server for an upload.
func TestForeignUpload(t *testing.T) {
	r, inner := registrytest.Start(t), registrytest.Start(t)
	uploads := &resumable{}
	other := newStranger(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		uploads.serve(w, req, proxyTo(t, inner.URL))
	}))
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if _, pass, _ := req.BasicAuth(); pass != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if req.Method == http.MethodPost {
			uploads.mu.Lock()
			uploads.uploads = map[string][]byte{"x": {}}
			uploads.mu.Unlock()
			w.Header().Set("Location", other.URL+"/v2/app/blobs/uploads/x")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, ownHeader(t, r))
	c.creds.dir = writeDockerConfig(t, r.Host)
	mustPush(t, c, r.Host+"/app", blob([]byte("pushed")))
	other.check(t)
}

// TestRedirectToRegistry is a redirect to another registry, which wants a token and gives it to anybody:
// the user's credentials for that one are not asked for by who sends there.
func TestRedirectToRegistry(t *testing.T) {
	r, target := registrytest.Start(t), registrytest.Start(t)
	img := target.PushImage("app:v1", registrytest.Image{})
	var token atomic.Value
	token.Store("token-1")
	auth := bearer(target, true, &token)
	target.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path == "/token" && (req.Method == http.MethodPost || req.Header.Get("Authorization") != "") {
			t.Error("the user's credentials were used because a server said so")
		}
		auth(w, req, next)
	})
	r.Use(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		http.Redirect(w, req, target.URL+req.URL.RequestURI(), http.StatusTemporaryRedirect)
	})
	c := newClient(t)
	c.creds.dir = writeDockerConfig(t, target.Host)
	if _, err := c.Resolve(t.Context(), r.Host+"/app:v1"); err != nil {
		t.Error(err)
	}
	mustFetch(t, c, r.Host+"/app:v1", img.Manifest.Config, img.Config)
}

// TestRealms are token services that a registry names. realm gets the password, if anybody does.
func TestRealms(t *testing.T) {
	for name, tt := range map[string]struct {
		realm func(own, other string) string // addresses; own is that of the registry, encrypted
		code  int                            // with which the token service sends on; 0: it does not
		want  string
	}{
		"encrypted":         {realm: func(_, _ string) string { return "https://auth.test/token" }},
		"unencrypted":       {realm: func(_, _ string) string { return "http://auth.test/token" }, want: "sent unencrypted, to http://auth.test:80"},
		"unencrypted, here": {realm: func(own, _ string) string { return strings.Replace(own, "https", "http", 1) + "/token" }, want: "sent unencrypted"},
		"sends on":          {realm: func(_, _ string) string { return "https://auth.test/token" }, code: http.StatusTemporaryRedirect, want: "sends us on"},
		"sends on to see":   {realm: func(_, _ string) string { return "https://auth.test/token" }, code: http.StatusFound, want: ""},
		"no web":            {realm: func(_, _ string) string { return "file:///etc/passwd" }, want: "file:"},
		"giant":             {realm: func(_, _ string) string { return "https://auth.test/giant" }, want: "answer of the token service"},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.Start(t)
			r.PushImage("app:v1", registrytest.Image{})
			var heard []string // by others than the token service
			var mu sync.Mutex
			hear := func(req *http.Request) {
				req.ParseForm()
				mu.Lock()
				defer mu.Unlock()
				if req.Header.Get("Authorization") != "" || len(req.PostForm) > 0 || req.Header.Get("X-Key") != "" {
					heard = append(heard, fmt.Sprint(req.Host, req.Header, req.PostForm))
				}
			}
			plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				hear(req)
				io.WriteString(w, `{"token":"t","access_token":"t"}`)
			}))
			defer plain.Close()
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				switch {
				case req.Host == "evil.test":
					hear(req)
					io.WriteString(w, `{"token":"t","access_token":"t"}`)
				case req.URL.Path == "/giant":
					io.WriteString(w, `{"token":"`+strings.Repeat("t", maxToken)+`"}`)
				case req.URL.Path == "/token" && tt.code != 0:
					http.Redirect(w, req, "https://evil.test/token", tt.code)
				case req.URL.Path == "/token":
					if req.Header.Get("X-Key") != "" {
						t.Error("the token service is told what is for the registry")
					}
					io.WriteString(w, `{"token":"t","access_token":"t"}`)
				case req.Header.Get("Authorization") != "Bearer t":
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test"`, tt.realm("https://reg.test:5000", "")))
					w.WriteHeader(http.StatusUnauthorized)
				default:
					proxyTo(t, r.URL).ServeHTTP(w, req)
				}
			}))
			front.Config.ErrorLog = log.New(io.Discard, "", 0)
			front.StartTLS()
			defer front.Close()
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "reg.test:5000"), 0o755); err != nil {
				t.Fatal(err)
			}
			text := "server = \"https://reg.test:5000\"\nskip_verify = true\n[header]\n  x-key = \"s3cret\"\n"
			if err := os.WriteFile(filepath.Join(dir, "reg.test:5000/hosts.toml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c := newClient(t, dir)
			c.creds.dir = writeDockerConfig(t, "reg.test:5000")
			c.tune.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				to := front.Listener.Addr().String()
				if strings.HasSuffix(address, ":80") {
					to = plain.Listener.Addr().String()
				}
				return (&net.Dialer{}).DialContext(ctx, network, to)
			}
			_, err := c.Resolve(t.Context(), "reg.test:5000/app:v1")
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error is %v, want %q", err, tt.want)
			}
			if len(heard) > 0 {
				t.Errorf("somebody else heard %q", heard)
			}
		})
	}
}

// at is a connection that says to be with another address.
type at struct {
	net.Conn
	ip net.IP
}

func (a *at) RemoteAddr() net.Addr { return &net.TCPAddr{IP: a.ip} }

// TestReach has a registry on the network send requests to services of this machine.
func TestReach(t *testing.T) {
	r := registrytest.Start(t)
	img := r.PushImage("app:v1", registrytest.Image{})
	for name, m := range map[string]registrytest.Middleware{
		"redirect": func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			http.Redirect(w, req, "http://metadata.test/steal", http.StatusTemporaryRedirect)
		},
		"realm": func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://metadata.test/steal",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"upload": func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if req.Method == http.MethodPost {
				w.Header().Set("Location", "http://metadata.test/steal")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			next.ServeHTTP(w, req)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.Use(m)
			r.Requests()
			dir := t.TempDir()
			if err := registrytest.WriteCertsD(dir, map[string][]string{"reg.test": {"http://reg.test"}}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "reg.test/hosts.toml"), []byte("server = \"http://reg.test\"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c := newClient(t, dir)
			c.tune.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, r.Host)
				if err != nil {
					return nil, err
				}
				ip := "203.0.113.1"
				if strings.HasPrefix(address, "metadata.test") {
					ip = "169.254.169.254"
				}
				return &at{conn, net.ParseIP(ip)}, nil
			}
			var err error
			if name == "upload" {
				_, err = c.Push(t.Context(), "reg.test/app", blob([]byte("x")))
			} else {
				_, err = c.Fetch(t.Context(), "reg.test/app", img.Manifest.Config)
			}
			checkError(t, err, errdefs.ErrPermissionDenied, "metadata.test", "which only this machine reaches")
			for _, req := range r.Requests() {
				if strings.Contains(req, "steal") {
					t.Errorf("it was asked: %s", req)
				}
			}
		})
	}
}

// TestSlowRegistry gives up one that sends a little now and then, however often it is asked again.
func TestSlowRegistry(t *testing.T) {
	content := randomBytes(1 << 20)
	for name, m := range map[string]registrytest.Middleware{
		"drips": func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			for i := 0; req.Context().Err() == nil; i++ {
				w.Write([]byte("x"))
				w.(http.Flusher).Flush()
			}
		},
		"breaks off": func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"ends early": func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			var from int
			fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &from)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from, len(content)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content[from : from+1])
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.Start(t)
			desc := r.PushBlob("app", "application/octet-stream", content)
			r.Use(m)
			c := newClient(t)
			if name == "drips" {
				c.tune.pace.Rate, c.tune.pace.Window = 1<<50, 1
			}
			c.tune.attempts = 3
			rc, err := c.Fetch(t.Context(), r.Host+"/app", desc)
			if err == nil {
				_, err = io.Copy(io.Discard, rc)
				rc.Close()
			}
			checkError(t, err, errdefs.ErrUnavailable, r.Host)
			if got := len(r.Requests()); got > maxAsked {
				t.Errorf("it was asked %d times", got)
			}
		})
	}
}

// TestOddManifests are answers that are not by the book and can be understood all the same.
func TestOddManifests(t *testing.T) {
	for name, change := range map[string]func(w http.ResponseWriter, req *http.Request){
		"HEAD says 0": func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead {
				w.Header().Set("Content-Length", "0")
			}
		},
		"HEAD says nothing": func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead {
				w.Header().Del("Content-Length")
			}
		},
		"text/plain": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		},
		"text/plain without a digest": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Del("Docker-Content-Digest")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.Start(t)
			img := r.PushImage("app:v1", registrytest.Image{})
			r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, req)
				for k, v := range rec.Header() {
					w.Header()[k] = v
				}
				change(w, req)
				w.WriteHeader(rec.Code)
				if req.Method != http.MethodHead {
					w.Write(rec.Body.Bytes())
				}
			})
			c := newClient(t)
			for _, ref := range []string{"/app:v1", "/app@" + img.Desc.Digest.String()} {
				desc, err := c.Resolve(t.Context(), r.Host+ref)
				if err != nil || desc.Digest != img.Desc.Digest || desc.Size != img.Desc.Size || strings.Contains(desc.MediaType, "v1+prettyjws") {
					t.Errorf("%s is %+v, %v", ref, desc, err)
				}
			}
		})
	}
}

// TestPlainOnLoopback finds out that a registry on loopback speaks HTTP, whatever it says to TLS.
func TestPlainOnLoopback(t *testing.T) {
	r := registrytest.Start(t)
	img := r.PushImage("app:v1", registrytest.Image{})
	for name, answer := range map[string]string{
		"a sentence": "HTTP/1.0 400 Bad request\r\n\r\n", "a page": "<!DOCTYPE HTML>\n<p>Bad request", "nothing": "", "bytes": "\x00\x01\x02\x03\x04\x05\x06\x07",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go answerTLS(conn, r.Host, answer)
				}
			}()
			c := newClient(t)
			desc, err := c.Resolve(t.Context(), l.Addr().String()+"/app:v1")
			if err != nil || desc.Digest != img.Desc.Digest {
				t.Errorf("got %+v, %v", desc, err)
			}
			mustPush(t, c, l.Addr().String()+"/app", blob([]byte("pushed")))
		})
	}
}

// answerTLS answers a TLS greeting with bytes, and passes on everything else.
func answerTLS(conn net.Conn, to, answer string) {
	defer conn.Close()
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return
	}
	if first[0] == 0x16 { // a handshake record
		io.WriteString(conn, answer)
		return
	}
	next, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer next.Close()
	next.Write(first[:])
	go func() {
		io.Copy(next, conn)
		next.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(conn, next)
}

// TestRegistryWithoutPatch takes blobs in one request.
func TestRegistryWithoutPatch(t *testing.T) {
	for _, status := range []int{http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		r := registrytest.Start(t)
		var patches, posts atomic.Int32
		r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			switch req.Method {
			case http.MethodPatch:
				patches.Add(1)
				w.WriteHeader(status)
				return
			case http.MethodPost:
				posts.Add(1)
			case http.MethodPut:
				if !strings.Contains(req.URL.Path, "/uploads/") {
					break
				}
				repo := strings.Split(req.URL.Path, "/blobs/")[0]
				whole := httptest.NewRequest(http.MethodPost, repo+"/blobs/uploads/?digest="+req.URL.Query().Get("digest"), req.Body)
				next.ServeHTTP(w, whole)
				return
			}
			next.ServeHTTP(w, req)
		})
		c := newClient(t)
		for _, content := range [][]byte{randomBytes(100_000), {}, randomBytes(1000)} {
			mustPush(t, c, r.Host+"/app", blob(content))
			mustFetch(t, c, r.Host+"/app", blob(content).Desc, content)
		}
		if patches.Load() != 1 || posts.Load() > 4 {
			t.Errorf("it was asked %d times to take a part, in %d uploads", patches.Load(), posts.Load())
		}
	}
}

// TestForeignLayers come from where their descriptors say, when the registry has none.
func TestForeignLayers(t *testing.T) {
	content := randomBytes(200_000)
	r, with := registrytest.Start(t), registrytest.Start(t)
	desc := with.PushBlob("app", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", content)
	broken := cut(100_000, 1, false)
	other := newStranger(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		req.URL.Path = "/v2/app/blobs/" + desc.Digest.String()
		broken(w, req, proxyTo(t, with.URL))
	}))
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if _, pass, _ := req.BasicAuth(); pass != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, ownHeader(t, r))
	c.creds.dir = writeDockerConfig(t, r.Host)
	r.PushBlob("app", "application/octet-stream", []byte("the repository is there"))
	desc.URLs = []string{"file:///etc/passwd", other.URL[:len(other.URL)-1] + "x/none", strings.Replace(other.URL, "//", "//u:p@", 1) + "/layer"}
	mustFetch(t, c, r.Host+"/app", desc, content)
	other.check(t)
	r.PushBlob("app", "application/octet-stream", content)
	told := len(other.told)
	mustFetch(t, c, r.Host+"/app", desc, content)
	if len(other.told) != told {
		t.Error("what the registry has was fetched from elsewhere")
	}
	// Other layers have no other places.
	desc.MediaType = ocispec.MediaTypeImageLayerGzip
	desc.Digest = blob([]byte("other")).Desc.Digest
	_, err := c.Fetch(t.Context(), r.Host+"/app", desc)
	checkError(t, err, errdefs.ErrNotFound, desc.Digest.String())
}

// TestRegistrysWords have nothing for a terminal.
func TestRegistrysWords(t *testing.T) {
	r := registrytest.Start(t)
	r.Use(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		body := `{"errors":[{"code":"\u001b[2J","message":"\u001b]0;x\u0007\u009b"}]}`
		fmt.Fprintf(buf, "HTTP/1.1 403 \x1b[2J\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		buf.Flush()
		conn.Close()
	})
	c := newClient(t)
	_, err := c.Fetch(t.Context(), r.Host+"/app", blob([]byte("x")).Desc)
	_, rerr := c.Resolve(t.Context(), r.Host+"/app:v1")
	_, perr := c.Push(t.Context(), r.Host+"/app", blob([]byte("x")))
	for _, err := range []error{err, rerr, perr} {
		if err == nil || outbound.Clean(err.Error()) != err.Error() {
			t.Errorf("error is %q", err)
		}
		if e := (*Error)(nil); errors.As(err, &e) && outbound.Clean(strings.Join(e.Tried, "")) != strings.Join(e.Tried, "") {
			t.Errorf("tried %q", e.Tried)
		}
	}
}
