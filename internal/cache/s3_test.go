package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache/bucket"
	"github.com/slipway-build/slipway/internal/cache/bucket/buckettest"
)

func TestParseS3(t *testing.T) {
	t.Setenv("AWS_BUCKET", "")
	t.Setenv("AWS_REGION", "")
	for name, tc := range map[string]struct {
		attrs, err string
		want       bucketAt
	}{
		"defaults": {"bucket=b,region=r", "", bucketAt{
			opts: bucket.Options{Bucket: "b", Region: "r"}, blobs: "blobs/", indexes: "manifests/", names: []string{"buildkit"}, refresh: 24 * time.Hour,
		}},
		"all": {"bucket=b,region=r,prefix=p/,blobs_prefix=x/,manifests_prefix=y/,name=one;two,endpoint_url=http://e,use_path_style=true,access_key_id=a,secret_access_key=s,session_token=t,touch_refresh=1h,retry_mode=adaptive,retry_max_attempts=7", "", bucketAt{
			opts:  bucket.Options{Bucket: "b", Region: "r", Endpoint: "http://e", PathStyle: true, Attempts: 7, Keys: bucket.Keys{ID: "a", Secret: "s", Session: "t"}},
			blobs: "p/x/", indexes: "p/y/", names: []string{"one", "two"}, refresh: time.Hour,
		}},
		"what BuildKit passes over": {"bucket=b,region=r,touch_refresh=soon,use_path_style=maybe", "", bucketAt{
			opts: bucket.Options{Bucket: "b", Region: "r"}, blobs: "blobs/", indexes: "manifests/", names: []string{"buildkit"}, refresh: 24 * time.Hour,
		}},
		"no bucket":     {"region=r", "bucket ($AWS_BUCKET) not set for s3 cache", bucketAt{}},
		"no region":     {"bucket=b", "region ($AWS_REGION) not set for s3 cache", bucketAt{}},
		"mode":          {"bucket=b,region=r,retry_mode=x", `retry_mode must be "standard" or "adaptive"`, bucketAt{}},
		"attempts":      {"bucket=b,region=r,retry_max_attempts=0", "retry_max_attempts must be a positive integer", bucketAt{}},
		"parallelism":   {"bucket=b,region=r,upload_parallelism=0", "upload_parallelism must be a positive integer", bucketAt{}},
		"a compression": {"bucket=b,region=r,compression=x", "unsupported compression type x", bucketAt{}},
	} {
		e := Entry{Type: TypeS3, Attrs: attrsOf(tc.attrs)}
		to, err := ParseTo(e)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want %q", name, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(to.location.(*bucketAt).opts)
		want, _ := json.Marshal(tc.want.opts)
		b := to.location.(*bucketAt)
		if !bytes.Equal(got, want) || b.blobs != tc.want.blobs || b.indexes != tc.want.indexes || strings.Join(b.names, ";") != strings.Join(tc.want.names, ";") || b.refresh != tc.want.refresh {
			t.Errorf("%s: got %+v\nwant %+v", name, b, tc.want)
		}
		if s := b.where() + b.name(); b.opts.Keys.Secret != "" && strings.Contains(s, `"s"`) {
			t.Errorf("%s: %s", name, s)
		}
	}
}

// attrsOf reads KEY=VALUE,KEY=VALUE.
func attrsOf(text string) map[string]string {
	attrs := map[string]string{}
	for kv := range strings.SplitSeq(text, ",") {
		k, v, _ := strings.Cut(kv, "=")
		attrs[k] = v
	}
	return attrs
}

// s3At makes a place at a new server, of a bucket "b".
func s3At(t *testing.T, kv ...string) (*buckettest.Server, *objects) {
	t.Helper()
	srv, err := buckettest.New("b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		srv.Close()
		if p := srv.Problems(); len(p) > 0 {
			t.Error(p)
		}
	})
	attrs := map[string]string{"bucket": "b", "region": "r", "endpoint_url": srv.URL, "access_key_id": buckettest.ID, "secret_access_key": buckettest.Secret}
	for i := 0; i < len(kv); i += 2 {
		attrs[kv[i]] = kv[i+1]
	}
	l, err := s3To(&To{}, attrs)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.open(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return srv, p.(*objects)
}

// A blob is written once and touched when it is old, by BuildKit's names, and read on where it broke off.
func TestS3Blobs(t *testing.T) {
	srv, o := s3At(t, "prefix", "ci/")
	data := bytes.Repeat([]byte("layer"), 1000)
	desc := describe(ocispec.MediaTypeImageLayer, data)
	open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	for range 2 {
		if err := o.put(t.Context(), desc, open); err != nil {
			t.Fatal(err)
		}
	}
	key := "ci/blobs/" + desc.Digest.String()
	if got := strings.Join(srv.Asked(), "\n"); strings.Count(got, "PUT /b/"+key) != 1 || !bytes.Equal(srv.Get("b", key), data) {
		t.Errorf("it was asked %s", got)
	}
	o.refresh = -time.Hour
	if err := o.put(t.Context(), desc, nil); err != nil { // it is not opened
		t.Error(err)
	}
	if got := strings.Join(srv.Asked(), "\n"); !strings.Contains(got, "PUT /b/"+key) || !bytes.Equal(srv.Get("b", key), data) {
		t.Errorf("it was not touched: %s", got)
	}
	srv.Break = 1
	r, err := o.open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
	}
	r.Close()
	// One that is damaged while it is read does not arrive: the server is told its digest.
	bad := ocispec.Descriptor{Digest: dgst("other"), Size: desc.Size}
	if err := o.put(t.Context(), bad, open); err == nil || srv.Get("b", "ci/blobs/"+bad.Digest.String()) != nil {
		t.Errorf("another content was written: %v", err)
	}
	if p := srv.Problems(); len(p) != 1 || !strings.Contains(p[0], "the content is") {
		t.Errorf("%q", p)
	}
	srv.Forgive()
}

// Who may not list a bucket hears "forbidden" of what is not there: a layer is written then, and that is said once. Keys that
// are wrong are refused all the same.
func TestS3WithoutListing(t *testing.T) {
	srv, o := s3At(t)
	srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
		return true
	}
	loaded := ""
	c, err := o.load(t.Context(), nil, func(line string) { loaded += line })
	if err != nil || len(c.results) > 0 || !strings.Contains(loaded, "WARNING: no cache at manifests/buildkit that may be read: reading manifests/buildkit of bucket b: 403 Forbidden: AccessDenied") {
		t.Errorf("loading told %q, %v", loaded, err)
	}
	if _, err := o.open(t.Context(), describe("", []byte("one"))); !errdefs.IsNotFound(err) {
		t.Errorf("a layer that may not be there: %v", err)
	}
	var told []string
	x := &exporting{tell: func(line string, _ bool) {
		if strings.Contains(line, "WARNING") {
			told = append(told, line)
		}
	}}
	for _, text := range []string{"one", "two"} {
		desc := describe(ocispec.MediaTypeImageLayer, []byte(text))
		if err := o.put(t.Context(), desc, bytesOpener([]byte(text))); err != nil || string(srv.Get("b", "blobs/"+desc.Digest.String())) != text {
			t.Errorf("%s was not written: %v", text, err)
		}
	}
	if _, err := o.commit(t.Context(), x, nil); err != nil || len(told) != 1 || !strings.Contains(told[0], "s3:ListBucket") {
		t.Errorf("it was told %q, %v", told, err)
	}
	srv.Answer = func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true }
	if err := o.put(t.Context(), describe("", []byte("three")), bytesOpener([]byte("three"))); err == nil || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("keys that may do nothing: %v", err)
	}
}

// An index has every name that it is given, and is read by the first.
func TestS3Indexes(t *testing.T) {
	srv, o := s3At(t, "name", "one;two")
	if c, err := o.load(t.Context(), nil, func(string) {}); err != nil || len(c.results) > 0 {
		t.Errorf("of an empty bucket: %v, %v", c, err)
	}
	x := &exporting{tell: func(string, bool) {}}
	if err := json.Unmarshal(sampleConfig(t, "main"), &x.config); err != nil {
		t.Fatal(err)
	}
	if _, err := o.commit(t.Context(), x, nil); err != nil {
		t.Fatal(err)
	}
	if keys := srv.Keys("b", "manifests/"); len(keys) != 2 {
		t.Errorf("it has %q", keys)
	}
	srv.Break = 1
	c, err := o.load(t.Context(), nil, func(string) {})
	if err != nil || c.results[key("main")] == nil {
		t.Errorf("got %v, %v", c, err)
	}
}

// An index that is endless, or no index, is a failed import. One of BuildKit's is told apart.
func TestS3HostileIndexes(t *testing.T) {
	srv, o := s3At(t)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"endless": func(w http.ResponseWriter) {
			for b := bytes.Repeat([]byte(" "), 1<<20); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		},
		"no JSON": func(w http.ResponseWriter) { io.WriteString(w, "<html>") },
	} {
		srv.Answer = func(w http.ResponseWriter, r *http.Request) bool { answer(w); return true }
		if c, err := o.load(t.Context(), nil, func(string) {}); err == nil {
			t.Errorf("%s: got %v", name, c)
		}
	}
	srv.Answer = nil
	data, err := os.ReadFile("testdata/buildkit-index.json")
	if err != nil {
		t.Fatal(err)
	}
	put := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	if err := o.client.Put(t.Context(), "manifests/buildkit", digest.FromBytes(data), int64(len(data)), put); err != nil {
		t.Fatal(err)
	}
	i := (&From{Type: TypeS3, location: o.bucketAt}).Open(nil)
	if err := i.Load(t.Context(), func(string) {}, nil); !errors.Is(err, errForeign) || i.contents.foreign == 0 {
		t.Errorf("got %v, %+v", err, i.contents)
	}
}

// What this machine has to be known by is not somebody else's to use.
func TestForeignEntries(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_BUCKET": "b", "AWS_REGION": "r", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
		"ACTIONS_RUNTIME_TOKEN": "token", "ACTIONS_RESULTS_URL": "http://localhost/",
	} {
		t.Setenv(name, value)
	}
	keys := map[string]string{"bucket": "b", "region": "r", "access_key_id": "mine", "secret_access_key": "mine"}
	half := map[string]string{"access_key_id": "mine", "secret_access_key": "mine"}
	for name, tc := range map[string]struct {
		typ   string
		attrs map[string]string
		err   string
	}{
		"keys":      {TypeS3, map[string]string{"bucket": "b", "region": "r", "endpoint_url": "http://localhost"}, "access_key_id= is not set"},
		"secret":    {TypeS3, map[string]string{"bucket": "b", "region": "r", "access_key_id": "id"}, "secret_access_key= is not set"},
		"bucket":    {TypeS3, half, "bucket ($AWS_BUCKET) not set"},
		"token":     {TypeGHA, map[string]string{"url": "http://localhost/"}, "token="},
		"all of it": {TypeS3, keys, ""},
	} {
		_, to := ParseTos([]Entry{{Type: tc.typ, Attrs: tc.attrs, Foreign: true}})
		_, from := ParseFroms([]Entry{{Type: tc.typ, Attrs: tc.attrs, Foreign: true}})
		for _, err := range []error{to, from} {
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want %q", name, err, tc.err)
			}
		}
	}
}
