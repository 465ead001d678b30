package actions

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipway-build/slipway/internal/cache/actions/actionstest"
	"github.com/slipway-build/slipway/internal/outbound"
)

// newTest starts a server, and a client of it that waits for nothing.
func newTest(t *testing.T, v2 bool, scopes ...string) (*actionstest.Server, *Client) {
	t.Helper()
	srv := actionstest.New()
	t.Cleanup(func() {
		srv.Close()
		if p := srv.Problems(); len(p) > 0 {
			t.Error(p)
		}
	})
	if scopes == nil {
		scopes = []string{"refs/heads/main"}
	}
	c, err := New(Options{URL: srv.URL, Token: actionstest.Token(scopes...), V2: v2, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	c.Tune.Base, c.Tune.Chunk = time.Nanosecond, 1000
	return srv, c
}

// both runs a test with both versions of the service.
func both(t *testing.T, test func(t *testing.T, v2 bool)) {
	t.Run("v1", func(t *testing.T) { test(t, false) })
	t.Run("v2", func(t *testing.T) { test(t, true) })
}

func text(t *testing.T, c *Client, e *Entry, offset int64) string {
	t.Helper()
	r, err := c.Open(t.Context(), e, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestEntries(t *testing.T) {
	both(t, func(t *testing.T, v2 bool) {
		srv, c := newTest(t, v2)
		for name, size := range map[string]int{"empty": 0, "small": 999, "one": 1000, "chunks": 2500} {
			data := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
			if err := c.Save(t.Context(), "key-"+name, int64(size), bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if got := srv.Get("refs/heads/main", "key-"+name); !bytes.Equal(got, data) {
				t.Errorf("%s: the server has %d bytes of %d", name, len(got), size)
			}
			e, err := c.Find(t.Context(), "key-"+name, false)
			if err != nil || e == nil {
				t.Fatal(e, err)
			}
			if got := text(t, c, e, 0); got != string(data) {
				t.Errorf("%s: got %d bytes of %d", name, len(got), size)
			}
			if err := c.Save(t.Context(), "key-"+name, 1, strings.NewReader("x")); !errors.Is(err, ErrExists) {
				t.Errorf("%s: saved twice: %v", name, err)
			}
		}
		e, _ := c.Find(t.Context(), "key-chunks", false)
		if got := text(t, c, e, 2495); got != "56789" {
			t.Errorf("from an offset on: %q", got)
		}
		if e, err := c.Find(t.Context(), "key-chu", false); e != nil || err != nil {
			t.Errorf("the beginning of a key: %v, %v", e, err)
		}
		if e, err := c.Find(t.Context(), "key-chu", true); e == nil || e.Key != "key-chunks" || err != nil {
			t.Errorf("a prefix: %v, %v", e, err)
		}
		if e, err := c.Find(t.Context(), "nothing", true); e != nil || err != nil {
			t.Errorf("nothing: %v, %v", e, err)
		}
	})
}

// What has another size than was said, or cannot be read, is not committed.
func TestNotWhole(t *testing.T) {
	both(t, func(t *testing.T, v2 bool) {
		srv, c := newTest(t, v2)
		for name, r := range map[string]io.Reader{
			"short": strings.NewReader("1234"), "long": strings.NewReader("123456"),
			"damaged": io.MultiReader(strings.NewReader("12345"), &failing{}),
		} {
			if err := c.Save(t.Context(), name, 5, r); err == nil || !strings.Contains(err.Error(), "reading what is to be uploaded") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if keys := srv.Keys("refs/heads/main"); len(keys) > 0 {
			t.Errorf("committed: %q", keys)
		}
	})
}

type failing struct{}

func (*failing) Read([]byte) (int, error) { return 0, errors.New("damaged") }

// A service that limits the rate is waited for; what may have been heard is not said again.
func TestRepetitions(t *testing.T) {
	both(t, func(t *testing.T, v2 bool) {
		srv, c := newTest(t, v2)
		srv.Limit = 20
		if err := c.Save(t.Context(), "key", 1, strings.NewReader("x")); err != nil {
			t.Error(err)
		}
		srv.Limit, c.opts.Timeout = 1, 0
		c.Tune.Base = time.Hour // longer than the timeout
		if _, err := c.Find(t.Context(), "key", false); !errdefs.IsUnavailable(err) {
			t.Errorf("beyond the timeout: %v", err)
		}
		c.Tune.Base = time.Nanosecond
		var refused atomic.Int32
		srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			refused.Add(1)
			return true
		}
		if err := c.Save(t.Context(), "other", 1, strings.NewReader("x")); err == nil || refused.Swap(0) != 1 {
			t.Errorf("reserving: %v", err)
		}
		if _, err := c.Find(t.Context(), "key", false); !errdefs.IsUnavailable(err) || refused.Load() != 5 {
			t.Errorf("looking up: %v after %d requests", err, refused.Load())
		}
	})
}

// Neither the token nor signed addresses get into errors, whatever the service says.
func TestSecretsInErrors(t *testing.T) {
	both(t, func(t *testing.T, v2 bool) {
		srv, c := newTest(t, v2)
		srv.Put("refs/heads/main", "key", []byte("data"), true)
		e, err := c.Find(t.Context(), "key", false)
		if err != nil {
			t.Fatal(err)
		}
		var errs []error
		srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusBadRequest)
			text := r.Header.Get("Authorization") + r.URL.String()
			io.WriteString(w, `{"code":"c\u001b[2J","message":"`+text+` \u001b[31m`+strings.Repeat("x", 1000)+`"}`)
			return true
		}
		_, err = c.Find(t.Context(), "key", false)
		errs = append(errs, err, c.Save(t.Context(), "other", 1, strings.NewReader("x")))
		_, err = c.Open(t.Context(), e, 0)
		errs = append(errs, err)
		srv.Close()
		_, err = c.Open(t.Context(), e, 0)
		errs = append(errs, err)
		_, err = c.Find(t.Context(), "key", false)
		errs = append(errs, err)
		for _, err := range errs {
			if err == nil || strings.Contains(err.Error(), c.opts.Token) || strings.Contains(err.Error(), actionstest.Signature) ||
				strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 400 {
				t.Errorf("%v", err)
			}
		}
	})
}

// A service says where blobs are. It sends nobody to what only this machine reaches, unless it is there
// itself, and nobody else gets the token.
func TestWhereBlobsAre(t *testing.T) {
	var told atomic.Pointer[[]string]
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told.Store(&[]string{r.Host, r.Header.Get("Authorization")})
		io.WriteString(w, "other")
	}))
	t.Cleanup(other.Close)
	both(t, func(t *testing.T, v2 bool) {
		srv, c := newTest(t, v2)
		srv.Put("refs/heads/main", "key", []byte("data"), true)
		blobs, to := "", "http://near.example/latest"
		c.base.Host = "service.example"
		c.Tune.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			to, ip := strings.TrimPrefix(other.URL, "http://"), "203.0.113.2"
			switch {
			case address == "service.example:80":
				to, ip = strings.Trim(strings.TrimPrefix(srv.URL, "http://"), "/"), "203.0.113.1"
			case strings.HasPrefix(address, "near."):
				ip = "169.254.169.254"
			}
			conn, err := (&net.Dialer{}).DialContext(ctx, network, to)
			return &at{conn, net.TCPAddr{IP: net.ParseIP(ip)}}, err
		}
		srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("redirected") == "" && blobs == "" {
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
				return true
			}
			return false
		}
		if _, err := c.Find(t.Context(), "key", false); !outbound.IsBeyondReach(err) {
			t.Errorf("redirected: %v", err)
		}
		to = "http://sub.service.example"
		c.Find(t.Context(), "key", false) //nolint:errcheck // the other one has no answer
		if got := told.Load(); got == nil || (*got)[0] != "sub.service.example" || (*got)[1] != "" {
			t.Errorf("redirected, another host was told %q", got)
		}
		for _, blobs = range []string{"http://near.example", "http://far.example"} {
			srv.BlobURL = blobs
			e, err := c.Find(t.Context(), "key", false)
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.Open(t.Context(), e, 0)
			if blobs == "http://near.example" {
				if !outbound.IsBeyondReach(err) {
					t.Errorf("reading: %v", err)
				}
			} else if err != nil {
				t.Error(err)
			} else {
				r.Close()
			}
			if err := c.Save(t.Context(), "new "+blobs, 1, strings.NewReader("x")); v2 && (blobs == "http://near.example") != outbound.IsBeyondReach(err) {
				t.Errorf("writing to %s: %v", blobs, err)
			}
		}
		if got := told.Load(); got == nil || (*got)[0] != "far.example" || (*got)[1] != "" {
			t.Errorf("another host was told %q", got)
		}
	})
}

// at is a connection that says to be with another address.
type at struct {
	net.Conn
	addr net.TCPAddr
}

func (a *at) RemoteAddr() net.Addr { return &a.addr }

// What a service answers is bounded, and what is no answer is an error.
func TestOddAnswers(t *testing.T) {
	both(t, func(t *testing.T, v2 bool) {
		srv, c := newTest(t, v2)
		for name, body := range map[string]string{
			"no JSON": "<html>", "no address": `{"ok":true,"matched_key":"key","cacheKey":"key"}`,
			"endless":          strings.Repeat(" ", 1<<20) + "{}",
			"relative address": `{"ok":true,"matched_key":"key","cacheKey":"key","signed_download_url":"/etc","archiveLocation":"/etc"}`,
		} {
			srv.Answer = func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, body); return true }
			if e, err := c.Find(t.Context(), "key", false); err == nil {
				t.Errorf("%s: %v", name, e)
			}
		}
	})
}

// A server that does not know ranges gives nothing that is taken for the rest.
func TestNoRanges(t *testing.T) {
	srv, c := newTest(t, true)
	srv.Put("refs/heads/main", "key", []byte("data"), true)
	e, err := c.Find(t.Context(), "key", false)
	if err != nil {
		t.Fatal(err)
	}
	srv.Answer = func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, "data"); return true }
	if _, err := c.Open(t.Context(), e, 2); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
}

func TestKeys(t *testing.T) {
	srv, c := newTest(t, true, "refs/heads/topic", "read:refs/heads/main")
	for i := range 150 {
		srv.Put("refs/heads/main", "blob-"+string(rune('a'+i/26))+string(rune('a'+i%26)), []byte("x"), true)
	}
	srv.Put("refs/heads/topic", "blob-topic", []byte("x"), true)
	srv.Put("refs/heads/topic", "blob-unfinished", []byte("x"), false)
	srv.Put("refs/heads/topic", "other", []byte("x"), true)
	keys, err := c.Keys(t.Context(), API{URL: srv.URL, Repository: "me/app", Token: actionstest.Token("read:x")}, "blob-")
	if err != nil || len(keys) != 151 || !keys["blob-topic"] || !keys["blob-fk"] {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if asked := srv.Asked(); !slices.Contains(asked, "GET /repos/me/app/actions/caches") {
		t.Errorf("asked %q", asked)
	}
	if _, err := c.Keys(t.Context(), API{URL: srv.URL, Repository: "../../x/y", Token: "t"}, ""); err == nil {
		t.Error("a repository that is none was asked for")
	}
}

func TestTokens(t *testing.T) {
	c, err := New(Options{URL: "http://example.com", Token: actionstest.Token("refs/heads/topic", "read:refs/heads/main")})
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Scopes(); len(s) != 2 || !s[0].Writable() || !s[0].Readable() || s[1].Writable() || !s[1].Readable() {
		t.Errorf("got %v", s)
	}
	for _, token := range []string{"", "opaque", "a.b.c", "a.e30.c", "a.eyJhYyI6IngifQ.c"} {
		if _, err := New(Options{URL: "http://example.com", Token: token}); err == nil || token != "" && strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", token, err)
		}
	}
	for _, u := range []string{"", "example.com", "file:///etc", "http://"} {
		if _, err := New(Options{URL: u, Token: actionstest.Token("x")}); err == nil {
			t.Errorf("%q is taken for an address", u)
		}
	}
}
