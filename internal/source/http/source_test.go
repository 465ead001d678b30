package httpsource

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/outbound/outboundtest"
)

// memStore is a store in memory.
type memStore struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	memos map[string]string
	full  bool
}

func newMemStore() *memStore {
	return &memStore{blobs: map[digest.Digest][]byte{}, memos: map[string]string{}}
}

func (m *memStore) HasBlob(d digest.Digest) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blobs[d] != nil
}

func (m *memStore) AddBlob(_ context.Context, r io.Reader, accept func(ocispec.Descriptor) error) (ocispec.Descriptor, error) {
	if m.full {
		return ocispec.Descriptor{}, errors.New("no space left")
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := accept(desc); err != nil {
		return desc, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[desc.Digest] = append([]byte{}, data...)
	return desc, nil
}

func (m *memStore) Memo(_ context.Context, key string) (string, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.memos[key]
	return v, ok, nil
}

func (m *memStore) PutMemo(_ context.Context, key, value string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memos[key] = value
	return nil
}

// server answers with fn and counts.
type server struct {
	*httptest.Server
	outboundtest.Notes
	mu   sync.Mutex
	head []http.Header
}

func serve(t *testing.T, fn http.HandlerFunc) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Ask(r.Method + " " + r.URL.Path)
		s.mu.Lock()
		s.head = append(s.head, r.Header.Clone())
		s.mu.Unlock()
		fn(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func newSource(m *memStore) *Source {
	s := New(m)
	s.tune.base, s.tune.max = time.Millisecond, 20*time.Millisecond
	return s
}

func TestRevalidation(t *testing.T) {
	long := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	tests := []struct {
		name    string
		headers map[string]string
		second  []string // what is asked when the file is known and did not change
	}{
		{"etag", map[string]string{"ETag": `"a"`}, []string{"HEAD /f"}},
		{"weak etag", map[string]string{"ETag": `W/"a"`}, []string{"HEAD /f"}},
		{"time", map[string]string{"Last-Modified": long}, []string{"GET /f"}},
		{"neither", nil, []string{"GET /f"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sent := 0
			content := "one"
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				for k, v := range tt.headers {
					w.Header().Set(k, v)
				}
				if content == "two" { // a changed file has other validators
					w.Header().Set("ETag", `"b"`)
					w.Header().Del("Last-Modified")
				} else if r.Header.Get("If-Modified-Since") == long || strings.Contains(r.Header.Get("If-None-Match"), `"a"`) {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				if r.Method == http.MethodGet {
					sent++
					io.WriteString(w, content)
				}
			})
			m := newMemStore()
			r := &Request{URL: srv.URL + "/f"}
			get := func(want string) {
				t.Helper()
				f, err := newSource(m).Resolve(t.Context(), r, Env{})
				if err != nil {
					t.Fatal(err)
				}
				if f.Digest != digest.FromString(want) || f.Name != "f" || f.Size != 3 {
					t.Errorf("file is %+v, want %q", f, want)
				}
			}
			get("one")
			srv.Asked()
			get("one")
			if got := srv.Asked(); !slices.Equal(got, tt.second) {
				t.Errorf("asked %q, want %q", got, tt.second)
			}
			if want := map[string]int{"neither": 2}[tt.name]; want > 0 && sent != want || want == 0 && sent != 1 {
				t.Errorf("the file was sent %d times", sent)
			}
			clear(m.blobs) // the answer is known, and of no use
			get("one")
			if !m.HasBlob(digest.FromString("one")) {
				t.Error("the file is not there")
			}
			content = "two"
			get("two")
			if content = "one"; tt.headers["ETag"] != "" { // it is as it was, which is known as well
				was := sent
				if get("one"); sent != was {
					t.Error("the file of before was sent again")
				}
			}
			content = "two"
			get("two")
			for k := range m.memos {
				m.memos[k] = "{damaged"
			}
			get("two")
		})
	}
}

// A server's clock has seconds: a file that changed in the second in which it was sent may have
// changed again in it.
func TestYoungTimesAreNotTrusted(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		if r.Header.Get("If-Modified-Since") != "" {
			t.Error("the server was asked for changes since a time that tells nothing")
		}
		io.WriteString(w, "x")
	})
	s := newSource(newMemStore())
	for range 2 {
		if _, err := s.Resolve(t.Context(), &Request{URL: srv.URL}, Env{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name  string
		serve http.HandlerFunc
		want  string
		kind  error
		times int
	}{
		{"not found", http.NotFound, "invalid response status 404 Not Found", errdefs.ErrNotFound, 1},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "403 Forbidden", errdefs.ErrPermissionDenied, 1},
		{"broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, "502 Bad Gateway", errdefs.ErrUnavailable, 4},
		{"busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, "429 Too Many Requests", errdefs.ErrUnavailable, 4},
		{"busy for long", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
		}, "429 Too Many Requests", errdefs.ErrUnavailable, 1},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
		}, "unexpected EOF", io.ErrUnexpectedEOF, 4},
		{"not modified, but what", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, "304", nil, 1},
		{"redirects", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, "stopped after 10 redirects", nil, 0},
		{"to a file", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, "unsupported protocol scheme", nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, tt.serve)
			m := newMemStore()
			u := strings.Replace(srv.URL, "http://", "http://user:secret@", 1)
			_, err := newSource(m).Resolve(t.Context(), &Request{URL: u + "/f"}, Env{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Fatalf("error is %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells the password: %v", err)
			}
			if n := len(srv.Asked()); tt.times > 0 && n != tt.times {
				t.Errorf("asked %d times, want %d", n, tt.times)
			}
			if len(m.blobs)+len(m.memos) > 0 {
				t.Errorf("something is kept: %v %v", m.blobs, m.memos)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	srv.Config.ErrorLog = nil
	t.Cleanup(srv.Close)
	_, err := newSource(newMemStore()).Resolve(t.Context(), &Request{URL: srv.URL}, Env{})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error is %v", err)
	}
}

func TestRecovery(t *testing.T) {
	n := 0
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 3 {
			w.Header().Set("Content-Length", "8")
			io.WriteString(w, "half")
			return
		}
		io.WriteString(w, "half+all")
	})
	f, err := newSource(newMemStore()).Resolve(t.Context(), &Request{URL: srv.URL}, Env{})
	if err != nil || f.Digest != digest.FromString("half+all") {
		t.Errorf("got %+v, %v", f, err)
	}
}

// A full disk is no reason to ask again.
func TestFullStore(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") })
	m := newMemStore()
	m.full = true
	_, err := newSource(m).Resolve(t.Context(), &Request{URL: srv.URL}, Env{})
	if err == nil || !strings.Contains(err.Error(), "no space left") || len(srv.Asked()) != 1 {
		t.Errorf("error is %v", err)
	}
}

func TestChecksum(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"a"`)
		io.WriteString(w, "one")
	})
	m := newMemStore()
	s := newSource(m)
	bad := &Request{URL: srv.URL, Checksum: digest.FromString("two")}
	_, err := s.Resolve(t.Context(), bad, Env{})
	want := "digest mismatch for " + srv.URL + ": " + digest.FromString("one").String() + " (expected: " + digest.FromString("two").String() + ")"
	if err == nil || err.Error() != want || !errdefs.IsDataLoss(err) || len(srv.Asked()) != 1 || len(m.blobs) > 0 {
		t.Errorf("error is %v, want %s", err, want)
	}
	good := &Request{URL: srv.URL, Checksum: digest.FromString("one")}
	for range 2 {
		if _, err := s.Resolve(t.Context(), good, Env{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := srv.Asked(); len(got) != 1 {
		t.Errorf("asked %q for a file that is known", got)
	}
	// What is known has another checksum than the one that is wanted now.
	if _, err := s.Resolve(t.Context(), bad, Env{}); !errdefs.IsDataLoss(err) {
		t.Errorf("error is %v", err)
	}
}

func TestSecrets(t *testing.T) {
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") })
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		// "localhost" is another host than 127.0.0.1.
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	})
	tests := []struct {
		name    string
		secrets map[string]string
		request Request
		want    string
	}{
		{"none", nil, Request{}, ""},
		{"token", map[string]string{"HTTP_AUTH_TOKEN_127.0.0.1": "t"}, Request{}, "Bearer t"},
		{"header", map[string]string{"HTTP_AUTH_HEADER_127.0.0.1": "Basic b"}, Request{}, "Basic b"},
		{"both", map[string]string{"HTTP_AUTH_HEADER_127.0.0.1": "Basic b", "HTTP_AUTH_TOKEN_127.0.0.1": "t"}, Request{}, "Bearer t"},
		{"named", map[string]string{"mine": "Basic m", "HTTP_AUTH_TOKEN_127.0.0.1": "t"}, Request{AuthHeaderSecret: "mine"}, "Basic m"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv.head, other.head = nil, nil
			m := newMemStore()
			r := tt.request
			r.URL = srv.URL
			r.Header = []Field{{"User-Agent", "mine"}}
			_, err := newSource(m).Resolve(t.Context(), &r, Env{Secret: func(_ context.Context, id string) ([]byte, error) {
				if v, ok := tt.secrets[id]; ok {
					return []byte(v), nil
				}
				return nil, errdefs.ErrNotFound
			}})
			if err != nil {
				t.Fatal(err)
			}
			if got := srv.head[0]; got.Get("Authorization") != tt.want || got.Get("User-Agent") != "mine" {
				t.Errorf("headers are %v, want %q", got, tt.want)
			}
			if got := other.head[0].Get("Authorization"); got != "" {
				t.Errorf("another host was told %q", got)
			}
			for k, v := range m.memos {
				for _, s := range tt.secrets {
					if strings.Contains(k+v, s) && len(s) > 1 {
						t.Errorf("the store has the secret: %s %s", k, v)
					}
				}
			}
		})
	}
	_, err := newSource(newMemStore()).Resolve(t.Context(), &Request{URL: srv.URL, AuthHeaderSecret: "mine"}, Env{})
	if err == nil || !strings.Contains(err.Error(), "failed to retrieve HTTP auth secret mine") {
		t.Errorf("error is %v", err)
	}
}

// TestSecretsStay has a server send requests to another port of its host. The secret is for the host by
// name, as in BuildKit, but what it was sent to decides.
func TestSecretsStay(t *testing.T) {
	var other *server
	for _, scheme := range []string{"http", "https"} {
		other = serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") })
		srv := &server{Server: httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/next", http.StatusFound)
		}))}
		if scheme == "https" {
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		s := newSource(newMemStore())
		u, err := url.Parse(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		client := s.client(u)
		if scheme == "https" {
			tr := srv.Client().Transport.(*http.Transport)
			client.Transport = new(outbound.Reach).Guard(tr)
		}
		u.User = url.UserPassword("user", "hunter2")
		for _, r := range []*Request{{URL: srv.URL + "/f?sig=hunter2"}, {URL: u.String() + "/f"}} {
			other.head = nil
			if _, err := s.Resolve(t.Context(), r, Env{Secret: func(_ context.Context, id string) ([]byte, error) {
				if id == "HTTP_AUTH_TOKEN_127.0.0.1" && !strings.Contains(r.URL, "@") {
					return []byte("hunter2"), nil
				}
				return nil, errdefs.ErrNotFound
			}}); err != nil {
				t.Fatal(err)
			}
			if h := other.head[0]; h.Get("Authorization") != "" || h.Get("Referer") != "" {
				t.Errorf("%s: another port was told %v", scheme, h)
			}
		}
	}
}

// TestSecretsInErrors fails in all ways that name addresses.
func TestSecretsInErrors(t *testing.T) {
	gone := serve(t, nil)
	gone.Close()
	for name, location := range map[string]string{
		"refused":            gone.URL + "/?sig=hunter2",
		"scheme":             "gopher://other/?sig=hunter2",
		"no address":         "http://%zz/",
		"with a user's name": strings.Replace(gone.URL, "//", "//hunter2@", 1),
		"loop":               "/f?sig=hunter2",
		"status":             "",
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if location == "" {
					conn, buf, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					buf.WriteString("HTTP/1.1 404 \x1b[2Jhunter2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
					buf.Flush()
					conn.Close()
					return
				}
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusFound)
			})
			u := strings.Replace(srv.URL, "//", "//hunter2:hunter2@", 1) + "/f"
			s := newSource(newMemStore())
			s.tune.attempts = 1
			_, err := s.Resolve(t.Context(), &Request{URL: u}, Env{})
			if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// TestSlowServer gives up a server that sends a little now and then.
func TestSlowServer(t *testing.T) {
	stop := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := io.WriteString(w, "x"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-stop:
				return
			case <-r.Context().Done():
				return
			default:
			}
		}
	})
	t.Cleanup(func() { close(stop) })
	s := newSource(newMemStore())
	s.tune.attempts = 2
	s.tune.pace = outbound.Pace{Stall: time.Minute, Rate: 1 << 50, Window: time.Nanosecond}
	_, err := s.Resolve(t.Context(), &Request{URL: srv.URL}, Env{})
	if !errors.Is(err, outbound.ErrSlow) || len(srv.Asked()) != 2 {
		t.Errorf("error is %v", err)
	}
}

func TestUploads(t *testing.T) {
	up := Upload{Path: "/some/file", Digest: digest.FromString("uploaded"), Size: 8}
	m := newMemStore()
	s := newSource(m)
	env := Env{Uploads: UploadedFiles{"abc": up}}
	f, err := s.Resolve(t.Context(), &Request{URL: "http://buildkit-session/abc", Filename: "context"}, env)
	if err != nil || f.Digest != up.Digest || f.Name != "context" || f.Path != up.Path || f.Size != 8 {
		t.Errorf("got %+v, %v", f, err)
	}
	for _, name := range []string{"other", "../abc", "abc/x", "/abc"} {
		if _, err := s.Resolve(t.Context(), &Request{URL: "http://buildkit-session/" + name}, env); !errdefs.IsNotFound(err) {
			t.Errorf("upload %q: %v", name, err)
		}
	}
	bad := &Request{URL: "http://buildkit-session/abc", Checksum: digest.FromString("other")}
	if _, err := s.Resolve(t.Context(), bad, env); !errdefs.IsDataLoss(err) {
		t.Errorf("another checksum: %v", err)
	}
	if len(m.blobs)+len(m.memos) > 0 {
		t.Error("an upload is kept")
	}
}

func TestCancel(t *testing.T) {
	stop := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-stop
	})
	t.Cleanup(func() { close(stop) }) // before the server is closed
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := newSource(newMemStore()).Resolve(ctx, &Request{URL: srv.URL}, Env{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestNames(t *testing.T) {
	tests := []struct{ url, filename, disposition, want string }{
		{"http://h/a/b.txt", "", "", "b.txt"},
		{"http://h/a/b.txt?x=/y", "", "", "b.txt"},
		{"http://h/a/", "", "", "a"},
		{"http://h/", "", "", "download"},
		{"http://h", "", "", "download"},
		{"http://h/..", "", "", "download"},
		{"http://h/a%2fb", "", "", "b"},
		{"http://h/a%0ab", "", "", "download"},
		{"http://h/a", "f", `attachment; filename="x"`, "f"},
		{"http://h/a", "", `attachment; filename="x"`, "x"},
		{"http://h/a", "", `attachment; filename="../../x"`, "x"},
		{"http://h/a", "", `attachment; filename="x/"`, "a"},
		{"http://h/a", "", `attachment; filename=".."`, "download"},
		{"http://h/a", "", `nonsense;;`, "a"},
		{"http://h/a", "../../etc/passwd", "", "passwd"},
		{"http://h/a", "/", "", "download"},
	}
	for _, tt := range tests {
		r := &Request{URL: tt.url, Filename: tt.filename}
		if got := r.name(tt.disposition); got != tt.want {
			t.Errorf("%+v is called %q, want %q", tt, got, tt.want)
		}
	}
}

func TestParse(t *testing.T) {
	sum := digest.FromString("x")
	r, err := Parse(&pb.SourceOp{Identifier: "http://h/f", Attrs: map[string]string{
		pb.AttrHTTPChecksum: sum.String(), pb.AttrHTTPFilename: "f", pb.AttrHTTPPerm: "0644", pb.AttrHTTPUID: "12", pb.AttrHTTPGID: "34",
		pb.AttrHTTPAuthHeaderSecret: "s", pb.AttrHTTPHeaderPrefix + "user-agent": "u", pb.AttrHTTPHeaderPrefix + "accept": "a",
		pb.AttrHTTPHeaderPrefix + "cookie": "c", "unknown": "x",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.URL != "http://h/f" || r.Checksum != sum || r.Filename != "f" || r.Mode() != 0o644 || r.UID != 12 || r.GID != 34 ||
		r.AuthHeaderSecret != "s" || !slices.Equal(r.Header, []Field{{"Accept", "a"}, {"User-Agent", "u"}}) {
		t.Errorf("request is %+v", r)
	}
	if (&Request{}).Mode() != 0o600 {
		t.Error("the mode without one is not 0600")
	}
	for key, value := range map[string]string{
		pb.AttrHTTPChecksum: "sha256:1", pb.AttrHTTPPerm: "rw", pb.AttrHTTPUID: "-1", pb.AttrHTTPGID: "root", pb.AttrHTTPSignatureVerify: "x",
	} {
		if _, err := Parse(&pb.SourceOp{Identifier: "http://u:p4ss@h/f", Attrs: map[string]string{key: value}}); err == nil || strings.Contains(err.Error(), "p4ss") {
			t.Errorf("%s=%s gives %v", key, value, err)
		}
	}
}

// What tells requests apart is in the place under which answers are remembered.
func TestPlaces(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range []Request{
		{URL: "http://h/a"}, {URL: "http://h/b"}, {URL: "http://h/a", AuthHeaderSecret: "s"},
		{URL: "http://h/a", Header: []Field{{"Accept", "x"}}},
	} {
		if seen[r.place()] {
			t.Errorf("%+v is in the place of another", r)
		}
		seen[r.place()] = true
	}
	if !bytes.HasPrefix([]byte((&Request{}).place()), []byte("http ")) {
		t.Error("places are not kept apart from other memos")
	}
}

// A file of which a signature is wanted has both, or is no request. (Signatures that are right are tested by BuildKit's own tests.)
func TestSignatures(t *testing.T) {
	for _, attrs := range []map[string]string{{"http.sig.pubkey": "x"}, {"http.sig.signature": "x"}} {
		if _, err := Parse(&pb.SourceOp{Identifier: "http://a/b", Attrs: attrs}); err == nil || !strings.Contains(err.Error(), "requires both") {
			t.Errorf("%v: got %v", attrs, err)
		}
	}
	r, err := Parse(&pb.SourceOp{Identifier: "http://a/b", Attrs: map[string]string{"http.sig.pubkey": "x", "http.sig.signature": "x"}})
	if err != nil || !r.Signature.Wanted() {
		t.Fatal(r, err)
	}
	if err := r.Signature.Verify(strings.NewReader("file")); err == nil || !strings.Contains(err.Error(), "failed to verify pgp signature") {
		t.Errorf("got %v", err)
	}
}
