package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// blob is content to be pushed.
func blob(content []byte, sources ...string) Content {
	return Content{
		Desc:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content))},
		Open:    func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		Sources: sources,
	}
}

func mustPush(t *testing.T, c *Client, ref string, content Content) Pushed {
	t.Helper()
	pushed, err := c.Push(t.Context(), ref, content)
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

func TestPush(t *testing.T) {
	r := registrytest.Start(t)
	c := newClient(t)
	content := randomBytes(200_000)
	b := blob(content)
	var most, last int64
	b.Progress = func(sent int64) { most, last = max(most, sent), sent }
	for _, size0 := range []bool{false, true} {
		if size0 {
			b = blob(nil)
			content = nil
		}
		if got := mustPush(t, c, r.Host+"/team/app", b); got != (Pushed{}) {
			t.Errorf("the first push: %+v", got)
		}
		if got := mustPush(t, c, r.Host+"/team/app", b); !got.Existed {
			t.Errorf("the second push: %+v, want what is there", got)
		}
		mustFetch(t, c, r.Host+"/team/app", b.Desc, content)
	}
	if most != 200_000 || last != most {
		t.Errorf("progress ends at %d, and the most was %d", last, most)
	}

	manifest := blob([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`))
	manifest.Desc.MediaType = ocispec.MediaTypeImageManifest
	byDigest := r.Host + "/team/app@" + manifest.Desc.Digest.String()
	for _, ref := range []string{byDigest, r.Host + "/team/app:v1", r.Host + "/team/app:v2"} {
		if got := mustPush(t, c, ref, manifest); got.Existed {
			t.Errorf("%s is there before it was pushed", ref)
		}
		if got := mustPush(t, c, ref, manifest); !got.Existed {
			t.Errorf("%s is not there after it was pushed", ref)
		}
		if desc, err := c.Resolve(t.Context(), ref); err != nil || desc.Digest != manifest.Desc.Digest {
			t.Errorf("%s: %+v, %v", ref, desc, err)
		}
	}
	// A tag moves.
	other := blob([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}`))
	other.Desc.MediaType = ocispec.MediaTypeImageManifest
	if got := mustPush(t, c, r.Host+"/team/app:v1", other); got.Existed {
		t.Error("another manifest under the same tag is taken for the one that is there")
	}
	if desc, err := c.Resolve(t.Context(), r.Host+"/team/app:v1"); err != nil || desc.Digest != other.Desc.Digest {
		t.Errorf("the tag did not move: %+v, %v", desc, err)
	}
}

// resumable is a registry that keeps what came of an upload that broke, and tells how much that is.
type resumable struct {
	cut     int // bytes of the first request of each upload after which it breaks; 0: never
	breaks  atomic.Int32
	lossy   bool // nothing is kept
	noCheck bool // the answer to the completion is lost

	mu       sync.Mutex
	uploads  map[string][]byte
	received int // bytes of all uploads
	starts   int
}

func (u *resumable) serve(w http.ResponseWriter, req *http.Request, next http.Handler) {
	_, id, isUpload := strings.Cut(req.URL.Path, "/blobs/uploads/")
	if !isUpload {
		next.ServeHTTP(w, req)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if req.Method == http.MethodPost {
		u.starts++
		id = fmt.Sprint("upload", u.starts)
		if u.uploads == nil {
			u.uploads = map[string][]byte{}
		}
		u.uploads[id] = []byte{}
		w.Header().Set("Location", req.URL.Path+id+"?state=0")
		w.WriteHeader(http.StatusAccepted)
		return
	}
	have, ok := u.uploads[id]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	tell := func(code int) {
		w.Header().Set("Location", fmt.Sprintf("%s?state=%d", req.URL.Path, len(u.uploads[id])))
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(u.uploads[id])-1)))
		w.WriteHeader(code)
	}
	switch req.Method {
	case http.MethodGet:
		tell(http.StatusNoContent)
	case http.MethodPatch:
		if got, want := req.Header.Get("Content-Range"), fmt.Sprintf("%d-", len(have)); len(have) > 0 && !strings.HasPrefix(got, want) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		body := io.Reader(req.Body)
		broken := u.cut > 0 && u.breaks.Add(-1) >= 0
		if broken {
			body = io.LimitReader(body, int64(u.cut))
		}
		part, _ := io.ReadAll(body)
		u.received += len(part)
		u.uploads[id] = append(have, part...)
		if broken {
			if u.lossy {
				delete(u.uploads, id)
			}
			panic(http.ErrAbortHandler)
		}
		tell(http.StatusAccepted)
	case http.MethodPut:
		rec := httptest.NewRecorder()
		repo := strings.Split(req.URL.Path, "/blobs/")[0]
		next.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, repo+"/blobs/uploads/?digest="+req.URL.Query().Get("digest"), bytes.NewReader(have)))
		delete(u.uploads, id)
		if u.noCheck {
			u.noCheck = false
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes())
	}
}

// A broken upload goes on where it broke, as often as it gets further; each byte is sent once, but
// for what was on the way.
func TestPushResumes(t *testing.T) {
	for name, seekable := range map[string]bool{"seekable": true, "not seekable": false} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.Start(t)
			u := &resumable{cut: 50_000}
			u.breaks.Store(15) // more than the attempts that are made without progress
			r.Use(u.serve)
			content := randomBytes(1_000_000)
			b := blob(content)
			if seekable {
				b.Open = func(context.Context) (io.ReadCloser, error) {
					return struct {
						*bytes.Reader
						io.Closer
					}{bytes.NewReader(content), io.NopCloser(nil)}, nil
				}
			}
			c := newClient(t)
			mustPush(t, c, r.Host+"/app", b)
			mustFetch(t, c, r.Host+"/app", b.Desc, content)
			if u.received != len(content) || u.starts != 1 {
				t.Errorf("the registry got %d bytes in %d uploads, want %d in one", u.received, u.starts, len(content))
			}
		})
	}
}

// Where the registry forgets a broken upload it begins anew.
func TestPushBeginsAnew(t *testing.T) {
	r := registrytest.Start(t)
	u := &resumable{cut: 50_000, lossy: true}
	u.breaks.Store(3)
	r.Use(u.serve)
	content := randomBytes(200_000)
	c := newClient(t)
	mustPush(t, c, r.Host+"/app", blob(content))
	mustFetch(t, c, r.Host+"/app", blob(content).Desc, content)
	if u.starts != 4 || u.received != 3*50_000+len(content) {
		t.Errorf("the registry got %d bytes in %d uploads, want %d in 4", u.received, u.starts, 3*50_000+len(content))
	}
	u.breaks.Store(1000)
	_, err := c.Push(t.Context(), r.Host+"/app", blob(randomBytes(100_001)))
	checkError(t, err, errdefs.ErrUnavailable, "cannot be reached for blob", r.Host)
}

// The registry has taken the blob, but its answer is lost.
func TestPushAnswerLost(t *testing.T) {
	r := registrytest.Start(t)
	u := &resumable{noCheck: true}
	r.Use(u.serve)
	if got := mustPush(t, newClient(t), r.Host+"/app", blob(randomBytes(1000))); got.Existed || u.starts != 1 {
		t.Errorf("%+v after %d uploads, want one upload", got, u.starts)
	}
}

// A registry that takes nothing any more is given up, and asked again.
func TestPushStall(t *testing.T) {
	r := registrytest.Start(t)
	var stalled atomic.Int32
	again := make(chan struct{})
	release := sync.OnceFunc(func() { close(again) })
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPatch && stalled.Add(1) == 1 {
			io.CopyN(io.Discard, req.Body, 1000)
			<-again
			return
		} else if req.Method == http.MethodPatch {
			release()
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t)
	c.tune.pace.Stall = time.Second
	content := make([]byte, 16<<20) // more than the buffers on the way
	mustPush(t, c, r.Host+"/app", blob(content))
	if stalled.Load() != 2 {
		t.Errorf("%d requests, want the stalled one and another", stalled.Load())
	}
}

// everyThird fails every third request, in turn by 429, 503 and a reset connection.
func everyThird(w http.ResponseWriter, req *http.Request, next http.Handler, n int32) {
	switch n % 9 {
	case 2:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	case 5:
		w.WriteHeader(http.StatusServiceUnavailable)
	case 8:
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	default:
		next.ServeHTTP(w, req)
	}
}

func TestPushThroughFailures(t *testing.T) {
	r := registrytest.Start(t)
	var n atomic.Int32
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) { everyThird(w, req, next, n.Add(1)) })
	c := newClient(t)
	c.tune.attempts = 12 // which of all requests fail is chance: one push may meet several
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := c.Push(t.Context(), r.Host+"/app", blob(randomBytes(100_000+i))); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	manifest := blob([]byte(`{"schemaVersion":2}`))
	manifest.Desc.MediaType = ocispec.MediaTypeImageManifest
	for i := range 5 {
		mustPush(t, c, fmt.Sprintf("%s/app:v%d", r.Host, i), manifest)
	}
	r.Use(nil)
	for i := range 20 {
		mustFetch(t, c, r.Host+"/app", blob(randomBytes(100_000+i)).Desc, randomBytes(100_000+i))
	}
}

// Of who writes the same blob at the same time, a registry may refuse the manifest for an instant.
func TestPushWhileLinksAreWritten(t *testing.T) {
	r := registrytest.Start(t)
	var refusals atomic.Int32
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") && refusals.Add(-1) >= 0 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}`)
			return
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t)
	manifest := blob([]byte(`{"schemaVersion":2}`))
	manifest.Desc.MediaType = ocispec.MediaTypeImageManifest
	refusals.Store(2)
	mustPush(t, c, r.Host+"/app:once", manifest)
	refusals.Store(1000)
	if _, err := c.Push(t.Context(), r.Host+"/app:never", manifest); err == nil || !strings.Contains(err.Error(), "did not match") {
		t.Errorf("refused for good: %v", err)
	}
}

// Retry-After is obeyed, for 429 and 503, as seconds and as a date.
func TestPushRetryAfter(t *testing.T) {
	for name, tt := range map[string]struct {
		code  int
		after string
	}{
		"429": {http.StatusTooManyRequests, "1"},
		"503": {http.StatusServiceUnavailable, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.Start(t)
			var refused atomic.Bool
			r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if req.Method == http.MethodPatch && refused.CompareAndSwap(false, true) {
					w.Header().Set("Retry-After", tt.after)
					w.WriteHeader(tt.code)
					return
				}
				next.ServeHTTP(w, req)
			})
			c := newClient(t)
			c.tune.max = 5 * time.Second
			start := time.Now()
			mustPush(t, c, r.Host+"/app", blob(randomBytes(1000)))
			if d := time.Since(start); d < time.Second {
				t.Errorf("asked again after %s, want a second", d)
			}
		})
	}
	if d, ok := retryAfter(time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)); !ok || d < 58*time.Second || d > time.Minute {
		t.Errorf("a date in a minute is %s, %v", d, ok)
	}
	for _, bad := range []string{"", "soon", "-1"} {
		if _, ok := retryAfter(bad); ok {
			t.Errorf("%q is taken for a time", bad)
		}
	}
}

// scoped gives tokens that say what they are for, and wants the right ones: to push to app, and to
// pull from every repository but private ones.
func scoped(r *registrytest.Registry) registrytest.Middleware {
	mounted := map[string]bool{}
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path == "/token" {
			req.ParseForm() // the query or, with credentials, the body
			fmt.Fprintf(w, `{"access_token": %q, "token": %[1]q}`, strings.Join(req.Form["scope"], " "))
			return
		}
		need := []string{"repository:app:pull,push"}
		from := req.URL.Query().Get("from")
		if from != "" {
			need = append(need, "repository:"+from+":pull")
		}
		granted := strings.Fields(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
		for _, n := range need {
			if !slices.Contains(granted, n) || strings.Contains(n, "private") {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope=%q,error="insufficient_scope"`, r.URL, n))
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		if from == "base" {
			mounted[from] = true
			w.WriteHeader(http.StatusCreated)
			return
		}
		next.ServeHTTP(w, req)
	}
}

func TestPushMounts(t *testing.T) {
	r := registrytest.Start(t)
	for name, tt := range map[string]struct {
		sources []string
		want    string
		posts   int // begun uploads
	}{
		"from the same registry":     {[]string{r.Host + "/base"}, "base", 1},
		"from another registry":      {[]string{"docker.io/library/base"}, "", 1},
		"from itself":                {[]string{r.Host + "/app"}, "", 1},
		"the registry does not want": {[]string{r.Host + "/other"}, "", 1},
		"not allowed":                {[]string{r.Host + "/private"}, "", 2},
		"the second one":             {[]string{r.Host + "/private", r.Host + "/base"}, "base", 2},
	} {
		t.Run(name, func(t *testing.T) {
			r.Use(scoped(r))
			c := newClient(t)
			r.Requests()
			content := []byte(name)
			got := mustPush(t, c, r.Host+"/app", blob(content, tt.sources...))
			if got.MountedFrom != tt.want || got.Existed {
				t.Errorf("%+v, want it mounted from %q", got, tt.want)
			}
			all := r.Requests()
			if sent := slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, "PATCH") }); sent != (tt.want == "") {
				t.Errorf("sent: %v; requests %v", sent, all)
			}
		})
	}
	sources := []string{r.Host + "/x/y/z", r.Host + "/q", r.Host + "/a/b/other", r.Host + "/a/c", "elsewhere.test/a/b/c", r.Host + "/a/b/c"}
	named, err := Parse(r.Host + "/a/b/c")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := mountCandidates(named, sources), []string{"a/b/other", "a/c", "x/y/z"}; !slices.Equal(got, want) {
		t.Errorf("candidates %v, want %v", got, want)
	}
}

func TestPushErrors(t *testing.T) {
	r := registrytest.Start(t)
	dead := unusedHost(t)
	answer := func(method string, code int, body string) registrytest.Middleware {
		return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if req.Method != method {
				next.ServeHTTP(w, req)
				return
			}
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	const denied = `{"errors":[{"code":"DENIED","message":"not for you"}]}`
	const limit = `{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached your limit"}]}`
	for _, tt := range []struct {
		name string
		host string
		use  registrytest.Middleware
		kind error
		want []string
	}{
		{"unreachable", dead, nil, errdefs.ErrUnavailable, []string{"registry " + dead + " cannot be reached", "connection refused"}},
		{"unauthorized", r.Host, answer("POST", 401, denied), errdefs.ErrUnauthenticated, []string{"denied", "not for you", "slipway login " + r.Host}},
		{"forbidden", r.Host, answer("POST", 403, denied), errdefs.ErrPermissionDenied, []string{"push access denied, repository does not exist", "not for you"}},
		{"no place", r.Host, answer("POST", 404, `{"errors":[{"code":"NAME_UNKNOWN","message":"make it first"}]}`), errdefs.ErrNotFound, []string{"make it first"}},
		{"only for pulling", r.Host, answer("POST", 405, ""), errdefs.ErrPermissionDenied, []string{"only for pulling"}},
		{"too large", r.Host, answer("PATCH", 413, ""), errdefs.ErrOutOfRange, []string{"1000 bytes", "too large"}},
		{"limited", r.Host, answer("POST", 429, limit), errdefs.ErrUnavailable, []string{"too many requests", "you have reached your limit"}},
		{"fails", r.Host, answer("PUT", 500, `{"errors":[{"code":"UNKNOWN","message":"disk full"}]}`), errdefs.ErrUnavailable, []string{"fails to take", "disk full"}},
		{"rejects", r.Host, answer("PUT", 400, `{"errors":[{"code":"DIGEST_INVALID","message":"it is another"}]}`), errdefs.ErrUnknown, []string{"rejects", "it is another"}},
		{"unencrypted", r.Host, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if req.Method == "POST" {
				w.WriteHeader(http.StatusAccepted) // and no Location
				return
			}
			next.ServeHTTP(w, req)
		}, errdefs.ErrUnknown, []string{"does not say where"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.Use(tt.use)
			_, err := newClient(t).Push(t.Context(), tt.host+"/app:v1", blob(randomBytes(1000)))
			checkError(t, err, tt.kind, append(tt.want, "blob sha256:")...)
			var known *Error
			if !errors.As(err, &known) || known.Host != tt.host {
				t.Errorf("%#v is no error of registry %s", err, tt.host)
			}
			t.Log(err)
		})
	}
}

// What is wrong here is not blamed on the registry, and not tried again.
func TestPushBadContent(t *testing.T) {
	r := registrytest.Start(t)
	mine := errors.New("the disk is gone")
	for name, change := range map[string]func(*Content){
		"cannot be opened": func(b *Content) { b.Open = func(context.Context) (io.ReadCloser, error) { return nil, mine } },
		"cannot be read": func(b *Content) {
			b.Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) { return 0, mine }))), nil
			}
		},
		"too short": func(b *Content) { b.Desc.Size++ },
	} {
		t.Run(name, func(t *testing.T) {
			b := blob(randomBytes(100_000))
			change(&b)
			opened := 0
			open := b.Open
			b.Open = func(ctx context.Context) (io.ReadCloser, error) { opened++; return open(ctx) }
			_, err := newClient(t).Push(t.Context(), r.Host+"/app", b)
			var known *Error
			if err == nil || errors.As(err, &known) || opened != 1 || name != "too short" && !errors.Is(err, mine) {
				t.Errorf("got %v (%T) after %d tries", err, err, opened)
			}
		})
	}
}

func TestPushCancel(t *testing.T) {
	r := registrytest.Start(t)
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPatch {
			io.Copy(io.Discard, req.Body) // or the server does not notice that the client goes away
			<-req.Context().Done()
			return
		}
		next.ServeHTTP(w, req)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := newClient(t).Push(ctx, r.Host+"/app", blob(randomBytes(1000)))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Minute {
		t.Fatalf("got %v after %s", err, time.Since(start))
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
