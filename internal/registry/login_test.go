package registry

import (
	"context"
	"encoding/pem"
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
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// tokens is a registry with a token server that gives an identity token for anna's password, and
// later takes that instead.
func tokens(r *registrytest.Registry, seen *[]string) registrytest.Middleware {
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path != "/token" {
			if req.Header.Get("Authorization") != "Bearer access" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, r.URL))
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, req)
			return
		}
		req.ParseForm()
		user, pass, _ := req.BasicAuth()
		if user == "" {
			user, pass = req.PostForm.Get("username"), req.PostForm.Get("password")
		}
		switch {
		case req.PostForm.Get("grant_type") == "refresh_token" && req.PostForm.Get("refresh_token") == "identity":
			*seen = append(*seen, "identity token")
			io.WriteString(w, `{"access_token": "access"}`)
		case user == "anna" && pass == password:
			*seen = append(*seen, "password")
			io.WriteString(w, `{"access_token": "access", "refresh_token": "identity"}`)
		default:
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`)
		}
	}
}

func TestLoginToken(t *testing.T) {
	r := registrytest.Start(t)
	var seen []string
	r.Use(tokens(r, &seen))
	token, err := newClient(t).Login(t.Context(), r.Host, "anna", password)
	if err != nil || token != "identity" {
		t.Fatalf("got token %q, %v", token, err)
	}
	_, err = newClient(t).Login(t.Context(), r.Host, "anna", "s3cret-guess")
	checkError(t, err, errdefs.ErrUnauthenticated, r.Host, "incorrect username or password")
	if strings.Contains(fmt.Sprintf("%v %#v", err, err), "s3cret") {
		t.Errorf("the error tells the password: %#v", err)
	}
	if _, err := newClient(t).Login(t.Context(), r.Host, "", "identity"); err != nil {
		t.Errorf("with the identity token: %v", err)
	}

	// What login gives is what pushing works with.
	dir := t.TempDir()
	text := fmt.Sprintf(`{"auths": {%q: {"auth": "YW5uYTo=", "identitytoken": "identity"}}}`, r.Host)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t)
	c.creds.dir = dir
	seen = nil
	mustPush(t, c, r.Host+"/app", blob(randomBytes(1000)))
	if !slices.Equal(seen, []string{"identity token"}) {
		t.Errorf("the token server was asked with %v", seen)
	}
}

func TestLogin(t *testing.T) {
	r := registrytest.Start(t)
	dead := unusedHost(t)
	status := func(code int) registrytest.Middleware {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(code) }
	}
	for _, tt := range []struct {
		name, host string
		use        registrytest.Middleware
		kind       error
		want       string
	}{
		{"nobody is refused", r.Host, nil, nil, ""},
		{"forbidden", r.Host, status(403), errdefs.ErrUnauthenticated, "refuses the login"},
		{"no registry", r.Host, status(404), errdefs.ErrUnknown, "does not answer as a registry does"},
		{"fails", r.Host, status(500), errdefs.ErrUnavailable, "fails to answer"},
		{"limited", r.Host, status(429), errdefs.ErrUnavailable, "too many requests"},
		{"unreachable", dead, nil, errdefs.ErrUnavailable, "cannot be reached for a login"},
		{"no host", "a b", nil, errdefs.ErrInvalidArgument, "no name of a registry"},
		{"a path", r.Host + "/app", nil, errdefs.ErrInvalidArgument, "no name of a registry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.Use(tt.use)
			_, err := newClient(t).Login(t.Context(), tt.host, "anna", password)
			if tt.kind == nil && err == nil {
				return
			}
			checkError(t, err, tt.kind, tt.want)
		})
	}
	if got := r.Requests(); !slices.Contains(got, "GET /v2/") {
		t.Errorf("login asked for %v", got)
	}
}

// Credentials of a name go to the host that hosts.toml gives it, encrypted or on this machine.
func TestCredentialsFor(t *testing.T) {
	c := newClient(t)
	c.creds.dir = writeDockerConfig(t, "reg.test")
	for _, tt := range []struct {
		own   docker.RegistryHost
		asked string
		want  string
	}{
		{docker.RegistryHost{Scheme: "https", Host: "reg.test"}, "reg.test", "anna"},
		{docker.RegistryHost{Scheme: "https", Host: "other.test"}, "other.test", "anna"},
		{docker.RegistryHost{Scheme: "http", Host: "127.0.0.1:5000"}, "127.0.0.1:5000", "anna"},
		{docker.RegistryHost{Scheme: "http", Host: "other.test"}, "other.test", ""},
		{docker.RegistryHost{Scheme: "https", Host: "other.test"}, "mirror.test", ""},
	} {
		user, secret, err := c.credentialsFor("reg.test", tt.own, tt.asked)
		if err != nil || user != tt.want || (secret != "") != (tt.want != "") {
			t.Errorf("%s asked, which %+v: user %q, %v, want %q", tt.asked, tt.own, user, err, tt.want)
		}
	}
}

// leadTo makes every name lead to one address.
func leadTo(addr net.Addr) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr.String())
	}
}

func TestAllowInsecure(t *testing.T) {
	r := registrytest.Start(t)
	target, _ := url.Parse(r.URL)
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	plain, err := net.ResolveTCPAddr("tcp", r.Host)
	if err != nil {
		t.Fatal(err)
	}
	for name, addr := range map[string]net.Addr{"unknown certificate": server.Listener.Addr(), "plain HTTP": plain} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t)
			c.tune.dial = leadTo(addr)
			if _, err := c.Push(t.Context(), "reg.test:5000/app", blob([]byte(name))); err == nil {
				t.Error("it is trusted without being told so")
			}
			c.AllowInsecure("other.test")
			if _, err := c.Push(t.Context(), "reg.test:5000/app", blob([]byte(name))); err == nil {
				t.Error("it is trusted because another one is")
			}
			c.AllowInsecure("reg.test:5000")
			mustPush(t, c, "reg.test:5000/app", blob([]byte(name)))
		})
	}
}

// Docker's layout: a registry whose certificate the directory's ca.crt signs is trusted.
func TestDockerCertificates(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", registrytest.Image{})
	target, _ := url.Parse(r.URL)
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS() // for example.com, among others
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	const host = "example.com:5000"
	for name, want := range map[string]string{"ca.crt": "", "other.crt": "", "ca.cert": "reading the settings", "": "x509: "} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, host), 0o755); err != nil {
			t.Fatal(err)
		}
		if name != "" {
			if err := os.WriteFile(filepath.Join(dir, host, name), ca, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c := newClient(t, dir)
		c.tune.dial = leadTo(server.Listener.Addr())
		_, err := c.Resolve(t.Context(), host+"/app:v1")
		switch {
		case want == "" && err != nil:
			t.Errorf("with %q: %v", name, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("with %q: %v, want %q", name, err, want)
		}
	}
}

// A tag that nobody can write is none.
func TestOddTags(t *testing.T) {
	r := registrytest.Start(t)
	r.Use(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		io.WriteString(w, `{"tags":["v1","\u001b[2J","a b","../x","","v2"]}`)
	})
	got, err := newClient(t).Tags(t.Context(), r.Host+"/app")
	if err != nil || !slices.Equal(got, []string{"v1", "v2"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTags(t *testing.T) {
	r, mirror := registrytest.Start(t), registrytest.Start(t)
	for _, tag := range []string{"v1", "v2", "latest"} {
		r.PushImage("app:"+tag, registrytest.Image{})
	}
	got, err := newClient(t).Tags(t.Context(), r.Host+"/app")
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []string{"latest", "v1", "v2"}) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = newClient(t).Tags(t.Context(), r.Host+"/none")
	checkError(t, err, errdefs.ErrNotFound, "/none")

	// In parts, from the second mirror, after a failure.
	failed := false
	r.Use(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		if !failed {
			failed = true
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		switch req.URL.Query().Get("last") {
		case "":
			w.Header().Set("Link", `</v2/app/tags/list?n=1&last=a>; rel="next"`)
			io.WriteString(w, `{"name":"app","tags":["a"]}`)
		default:
			io.WriteString(w, `{"name":"app","tags":["b"]}`)
		}
	})
	mirror.Use(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusNotFound) })
	dir := t.TempDir()
	if err := registrytest.WriteCertsD(dir, map[string][]string{"reg.test": {mirror.URL, r.URL}}); err != nil {
		t.Fatal(err)
	}
	// The registry itself comes last and is not there: what a mirror says counts.
	if got, err = newClient(t, dir).Tags(t.Context(), "reg.test/app"); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v, %v", got, err)
	}
	for link, want := range map[string]string{
		``: "", `<http://elsewhere.test/x>; rel="next"`: "", `</v2/x?last=1>; rel="prev"`: "", `</v2/x?last=1>; rel="next"`: "http://r.test/v2/x?last=1",
	} {
		resp := &http.Response{Header: http.Header{"Link": {link}}, Request: &http.Request{URL: &url.URL{Scheme: "http", Host: "r.test"}}}
		if got := nextPage(resp); got != want {
			t.Errorf("after %q comes %q, want %q", link, got, want)
		}
	}
}
