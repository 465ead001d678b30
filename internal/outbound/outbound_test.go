package outbound

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestOrigin(t *testing.T) {
	same := [][2]string{
		{"https://example.com", "https://example.com:443/x"}, {"http://example.com/a", "HTTP://EXAMPLE.com:80"},
		{"http://[::1]:5000/", "http://[::1]:5000"}, {"https://example.com.", "https://example.com"},
		{"https://u:p@example.com", "https://example.com"},
	}
	for _, p := range same {
		if a, b := Origin(mustParse(t, p[0])), Origin(mustParse(t, p[1])); a != b {
			t.Errorf("%s is %s, %s is %s", p[0], a, p[1], b)
		}
	}
	other := [][2]string{
		{"https://example.com", "http://example.com"}, {"https://example.com", "http://example.com:443"},
		{"https://example.com", "https://example.com:8443"}, {"https://example.com", "https://a.example.com"},
	}
	for _, p := range other {
		if a, b := Origin(mustParse(t, p[0])), Origin(mustParse(t, p[1])); a == b {
			t.Errorf("%s and %s are %s", p[0], p[1], a)
		}
	}
}

// TestRedirect sends a request along a chain of addresses and looks at what each of them sees.
func TestRedirect(t *testing.T) {
	tests := []struct {
		name  string
		chain []string
		seen  []bool // whether the credentials
	}{
		{"same origin", []string{"https://a.example/1", "https://a.example:443/2"}, []bool{true, true}},
		{"other port", []string{"https://a.example/1", "https://a.example:8443/2"}, []bool{true, false}},
		{"plain", []string{"https://a.example/1", "http://a.example/2"}, []bool{true, false}},
		{"plain on the port of https", []string{"https://a.example/1", "http://a.example:443/2"}, []bool{true, false}},
		{"encrypted", []string{"http://a.example/1", "https://a.example/2"}, []bool{true, false}},
		{"subdomain", []string{"https://a.example/1", "https://b.a.example/2"}, []bool{true, false}},
		{"other host", []string{"https://a.example/1", "https://b.example/2"}, []bool{true, false}},
		{"there and back", []string{"https://a.example/1", "https://b.example/2", "https://a.example/3"}, []bool{true, false, false}},
		{"further at the other", []string{"https://a.example/1", "https://b.example/2", "https://b.example/3"}, []bool{true, false, false}},
	}
	secret := []string{"Authorization", "Cookie", "Cookie2", "Proxy-Authorization", "Www-Authenticate", "X-Api-Key"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []http.Header
			client := &http.Client{CheckRedirect: Redirect, Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
				got = append(got, req.Header.Clone())
				resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}
				if len(got) < len(tt.chain) {
					resp.StatusCode = http.StatusTemporaryRedirect
					resp.Header.Set("Location", tt.chain[len(got)])
				}
				return resp, nil
			})}
			req, err := http.NewRequest(http.MethodGet, tt.chain[0]+"?token=signed", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range secret {
				req.Header.Set(h, "secret")
			}
			req.Header.Set("Accept", "text/plain")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			for i, seen := range tt.seen {
				for _, h := range secret {
					if (got[i].Get(h) != "") != seen {
						t.Errorf("%s: %s is %q", tt.chain[i], h, got[i].Get(h))
					}
				}
				if got[i].Get("Accept") != "text/plain" || got[i].Get("Referer") != "" {
					t.Errorf("%s: header is %v", tt.chain[i], got[i])
				}
			}
		})
	}
}

func TestRedirectEnds(t *testing.T) {
	n := 0
	client := &http.Client{CheckRedirect: Redirect, Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
		n++
		return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"/again"}}, Body: http.NoBody, Request: req}, nil
	})}
	if resp, err := client.Get("https://a.example/"); err == nil || !strings.Contains(err.Error(), "stopped after 10 redirects") || n != maxRedirects {
		t.Errorf("%v after %d requests (%v)", err, n, resp)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// at is a connection that says to be with another address.
type at struct {
	net.Conn
	addr net.TCPAddr
}

func (a *at) RemoteAddr() net.Addr { return &a.addr }

// TestReach has servers with addresses of all kinds send requests to each other.
func TestReach(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		io.WriteString(w, "reached")
	}))
	t.Cleanup(srv.Close)
	addrs := map[string]string{
		"public.example:80": "203.0.113.1", "other.example:80": "203.0.113.2", "office.example:80": "10.1.2.3",
		"metadata.example:80": "169.254.169.254", "six.example:80": "fe80::1", "mapped.example:80": "::ffff:127.0.0.1",
		"here.example:80": "127.0.0.1", "there.example:80": "127.0.0.2", "nothing.example:80": "0.0.0.0",
	}
	newClient := func(proxy func(*http.Request) (*url.URL, error)) *http.Client {
		tr := &http.Transport{Proxy: proxy, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
			if err != nil {
				return nil, err
			}
			return &at{conn, net.TCPAddr{IP: net.ParseIP(addrs[address])}}, nil
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: new(Reach).Guard(tr), CheckRedirect: Redirect}
	}
	tests := []struct {
		from, to string
		ok       bool
	}{
		{"public", "other", true}, {"public", "office", true},
		{"public", "here", false}, {"public", "metadata", false}, {"public", "six", false}, {"public", "mapped", false}, {"public", "nothing", false},
		{"office", "here", false},
		{"here", "public", true}, {"here", "there", true}, {"metadata", "metadata", true},
	}
	for _, tt := range tests {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			from := "http://" + tt.from + ".example/"
			target := "http://" + tt.to + ".example/"
			resp, err := newClient(nil).Get(from + "?to=" + url.QueryEscape(target))
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != tt.ok || err != nil && !IsBeyondReach(err) {
				t.Errorf("redirected: %v", err)
			}
			// The same by other means than a redirect.
			client := newClient(nil)
			if resp, err = client.Get(from); err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			req, err := http.NewRequestWithContext(Sent(t.Context(), mustParse(t, from)), http.MethodGet, target, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err = client.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != tt.ok {
				t.Errorf("sent: %v", err)
			}
		})
	}
	// A proxy on loopback is the user's own.
	client := newClient(func(*http.Request) (*url.URL, error) { return url.Parse("http://here.example") })
	resp, err := client.Get("http://public.example/?to=" + url.QueryEscape("http://other.example/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// drip is a body that takes a time of its own for each read.
type drip struct {
	clock *time.Time
	each  time.Duration
	size  int
	left  int
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	n := min(d.size, d.left, len(p))
	*d.clock = d.clock.Add(d.each)
	d.left -= n
	return n, nil
}

func (d *drip) Close() error { return nil }

func TestPace(t *testing.T) {
	tests := []struct {
		name string
		body drip
		ok   bool
	}{
		{"fast", drip{each: time.Millisecond, size: 1000, left: 1 << 20}, true},
		{"just fast enough", drip{each: time.Second, size: 1001, left: 1 << 20}, true},
		{"too slow", drip{each: time.Second, size: 900, left: 1 << 20}, false},
		{"a byte now and then", drip{each: 20 * time.Second, size: 1, left: 100}, false},
		{"small", drip{each: 20 * time.Second, size: 1, left: 2}, true},
		{"fast, then slow", drip{each: time.Minute, size: 50_000, left: 1 << 20}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := time.Unix(0, 0)
			tt.body.clock = &clock
			var cause error
			b := DefaultPace.Body(&tt.body, func(err error) { cause = errors.Join(cause, err) }).(*pacedBody)
			b.now = func() time.Time { return clock }
			_, err := io.Copy(io.Discard, b)
			if tt.ok != (err == nil) || err != nil && (!errors.Is(err, ErrSlow) || !errors.Is(cause, ErrSlow)) {
				t.Errorf("error is %v, cause %v", err, cause)
			}
		})
	}
}

// TestPaceReader has a slow reader, which is not the server's fault.
func TestPaceReader(t *testing.T) {
	clock := time.Unix(0, 0)
	b := DefaultPace.Body(&drip{clock: &clock, each: time.Millisecond, size: 10, left: 1000}, func(error) {}).(*pacedBody)
	b.now = func() time.Time { return clock }
	for {
		_, err := b.Read(make([]byte, 10))
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		clock = clock.Add(time.Hour)
	}
}

func TestPaceStall(t *testing.T) {
	r, w := io.Pipe()
	b := Pace{Stall: time.Nanosecond, Rate: 1, Window: time.Hour}.Body(r, func(err error) { w.CloseWithError(err) })
	if _, err := io.ReadAll(b); !errors.Is(err, ErrSlow) || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("error is %v", err)
	}
}
