package bucket

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/cache/bucket/buckettest"
)

// newTest starts a server with a bucket "b", and a client of it that waits for nothing.
func newTest(t *testing.T, keys Keys) (*buckettest.Server, *Client) {
	t.Helper()
	srv, err := buckettest.New("b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	c, err := New(Options{Bucket: "b", Region: "eu-central-1", Endpoint: srv.URL, PathStyle: true, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	c.pause = time.Nanosecond
	return srv, c
}

var given = Keys{ID: buckettest.ID, Secret: buckettest.Secret, Session: buckettest.Session}

func put(t *testing.T, c *Client, key, text string) {
	t.Helper()
	open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
	if err := c.Put(t.Context(), key, digest.FromString(text), int64(len(text)), open); err != nil {
		t.Fatal(err)
	}
}

func TestObjects(t *testing.T) {
	srv, c := newTest(t, given)
	const key = "my cache/blobs/sha256:0a+b=ü"
	for _, text := range []string{"", "text", strings.Repeat("0123456789", 1000)} {
		put(t, c, key, text)
		size, when, err := c.Stat(t.Context(), key)
		if err != nil || size != int64(len(text)) || time.Since(when) > time.Hour {
			t.Errorf("%d, %s, %v", size, when, err)
		}
		r, err := c.Open(t.Context(), key, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Errorf("%d bytes of %d, %v", len(got), len(text), err)
		}
		r.Close()
	}
	r, err := c.Open(t.Context(), key, 9995)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "56789" {
		t.Errorf("%q, %v", got, err)
	}
	r.Close()
	if err := c.Touch(t.Context(), key); err != nil {
		t.Error(err)
	}
	if _, _, err := c.Stat(t.Context(), "nothing"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := c.Open(t.Context(), "nothing", 0); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "NoSuchKey") {
		t.Error(err)
	}
	if err := c.Put(t.Context(), "large", "", MaxObject+1, nil); err == nil {
		t.Error("too large")
	}
	if p := srv.Problems(); len(p) > 0 {
		t.Error(p)
	}
}

// A server that has no time is asked again, with the whole body. What it refuses stays refused.
func TestRepetitions(t *testing.T) {
	srv, c := newTest(t, given)
	srv.Refuse = 2
	put(t, c, "key", "text")
	if got := srv.Get("b", "key"); string(got) != "text" {
		t.Errorf("got %q", got)
	}
	srv.Refuse = 3
	if _, err := c.Open(t.Context(), "key", 0); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "503 Service Unavailable: SlowDown not so fast") {
		t.Errorf("got %v", err)
	}
	c.opts.Keys.Secret = "other"
	c.creds = c.opts.Keys.find("")
	srv.Asked()
	if _, err := c.Open(t.Context(), "key", 0); !errdefs.IsPermissionDenied(err) || len(srv.Asked()) != 1 {
		t.Errorf("got %v", err)
	}
}

// Keys are in no error, a redirect is not followed, and what a server says is short.
func TestHostileAnswers(t *testing.T) {
	srv, c := newTest(t, given)
	var sent http.Header
	other := 0
	srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/other") {
			other++
			return true
		}
		sent = r.Header.Clone()
		w.Header().Set("Location", "/other")
		w.WriteHeader(http.StatusTemporaryRedirect)
		io.WriteString(w, "<Error><Code>C</Code><Message>"+buckettest.Secret+buckettest.Session+"\x1b[2J"+strings.Repeat("x", 1<<20)+"</Message></Error>")
		return true
	}
	_, err := c.Open(t.Context(), "key", 0)
	if err == nil || other > 0 {
		t.Errorf("redirected: %v", err)
	}
	if s := err.Error(); strings.Contains(s, buckettest.Secret) || strings.Contains(s, buckettest.Session) || strings.Contains(s, "\x1b") || len(s) > 500 {
		t.Error(s)
	}
	for name, values := range sent {
		if strings.Contains(strings.Join(values, ""), buckettest.Secret) {
			t.Errorf("%s: the secret is sent", name)
		}
	}
	srv.Answer = func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, "whole"); return true }
	if _, err := c.Open(t.Context(), "key", 2); !errdefs.IsDataLoss(err) {
		t.Errorf("no range: %v", err)
	}
	srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		io.WriteString(w, `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>late</Message></Error>`)
		return true
	}
	if err := c.Touch(t.Context(), "key"); err == nil || !strings.Contains(err.Error(), "InternalError late") {
		t.Errorf("an error after the status: %v", err)
	}
}

// Keys that were found are in no error either.
func TestFoundKeysInErrors(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", buckettest.ID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
	t.Setenv("AWS_SESSION_TOKEN", buckettest.Session)
	srv, c := newTest(t, Keys{})
	srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<Error><Code>C</Code><Message>of "+r.Header.Get("X-Amz-Security-Token")+buckettest.Secret+"</Message></Error>")
		return true
	}
	_, err := c.Open(t.Context(), "key", 0)
	if err == nil || !strings.HasSuffix(err.Error(), "C of xxxxxxxxxx") {
		t.Errorf("got %v", err)
	}
}

// Keys that are not given are those of the environment, of a profile, or of a service that gives them.
func TestKeys(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	try := func(name string) {
		t.Helper()
		srv, c := newTest(t, Keys{})
		put(t, c, "key", name)
		if got := srv.Get("b", "key"); string(got) != name {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, c := newTest(t, Keys{}); true {
		if _, err := c.Open(t.Context(), "key", 0); !errdefs.IsPermissionDenied(err) {
			t.Errorf("nobody: %v", err)
		}
	}
	t.Run("nobody is asked again", func(t *testing.T) {
		role, err := buckettest.New("x")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(role.Close)
		asked := 0
		role.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			asked++
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.URL+"/role")
		_, c := newTest(t, Keys{})
		var first int
		for n := range 3 {
			if _, err := c.Open(t.Context(), "key", 0); !errdefs.IsPermissionDenied(err) {
				t.Errorf("nobody: %v", err)
			}
			if n == 0 {
				first = asked
			}
		}
		if first == 0 || asked != first {
			t.Errorf("asked %d times for the first request, %d times in all", first, asked)
		}
	})
	t.Run("service", func(t *testing.T) {
		role, err := buckettest.New("x")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(role.Close)
		role.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			io.WriteString(w, `{"AccessKeyId":"`+buckettest.ID+`","SecretAccessKey":"`+buckettest.Secret+`","Token":"`+buckettest.Session+`","Expiration":"2099-01-01T00:00:00Z"}`)
			return true
		}
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.URL+"/role")
		try("service")
	})
	if err := os.MkdirAll(filepath.Join(dir, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	profile := "[default]\naws_access_key_id = x\naws_secret_access_key = y\n[ci]\naws_access_key_id = " + buckettest.ID + "\naws_secret_access_key = " + buckettest.Secret + "\n"
	if err := os.WriteFile(filepath.Join(dir, ".aws", "credentials"), []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_PROFILE", "ci")
	try("profile")
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_ACCESS_KEY_ID", buckettest.ID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
	try("environment")
}

func TestAddresses(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		want string
	}{
		"Amazon":       {Options{Bucket: "my-b", Region: "eu-central-1"}, "https://my-b.s3.eu-central-1.amazonaws.com"},
		"China":        {Options{Bucket: "my-b", Region: "cn-north-1"}, "https://my-b.s3.cn-north-1.amazonaws.com.cn"},
		"no host name": {Options{Bucket: "my.b", Region: "r"}, "https://s3.r.amazonaws.com/my.b"},
		"endpoint":     {Options{Bucket: "my-b", Endpoint: "http://minio:9000"}, "http://my-b.minio:9000"},
		"path style":   {Options{Bucket: "my-b", Endpoint: "http://minio:9000/", PathStyle: true}, "http://minio:9000/my-b"},
		"address":      {Options{Bucket: "my-b", Endpoint: "http://10.0.0.1:9000"}, "http://10.0.0.1:9000/my-b"},
	} {
		c, err := New(tc.opts)
		if err != nil || c.base.String() != tc.want {
			t.Errorf("%s: %v, %v, want %s", name, c, err, tc.want)
		}
	}
	for _, e := range []string{"minio:9000", "ftp://minio", "http://"} {
		if _, err := New(Options{Bucket: "b", Endpoint: e}); err == nil {
			t.Errorf("%q is taken for an address", e)
		}
	}
}
