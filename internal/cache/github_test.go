package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache/actions/actionstest"
	"github.com/slipway-build/slipway/internal/store"
)

// An entry of the type gha takes from the environment what buildx takes from it, and is none outside of a job.
func TestGitHubEnvironment(t *testing.T) {
	const v1url, v2url = "https://v1.example/x/", "https://results.example/"
	for name, tc := range map[string]struct {
		attrs, env, want map[string]string
	}{
		"outside of a job":  {nil, nil, nil},
		"no address":        {nil, map[string]string{"ACTIONS_RUNTIME_TOKEN": "t"}, nil},
		"no token":          {nil, map[string]string{"ACTIONS_CACHE_URL": v1url}, nil},
		"empty token":       {nil, map[string]string{"ACTIONS_RUNTIME_TOKEN": "", "ACTIONS_CACHE_URL": v1url}, nil},
		"version 1":         {nil, map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_CACHE_URL": v1url}, map[string]string{"token": "t", "url": v1url}},
		"version 2":         {nil, map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_CACHE_URL": v1url, "ACTIONS_RESULTS_URL": v2url, "ACTIONS_CACHE_SERVICE_V2": "True"}, map[string]string{"token": "t", "url": v1url, "url_v2": v2url}},
		"version 2 alone":   {nil, map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_RESULTS_URL": v2url, "ACTIONS_CACHE_SERVICE_V2": "1"}, map[string]string{"token": "t", "url": v2url, "url_v2": v2url}},
		"not told":          {nil, map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_RESULTS_URL": v2url}, map[string]string{"token": "t", "url": v2url}},
		"version by option": {map[string]string{"version": "2"}, map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_RESULTS_URL": v2url}, map[string]string{"version": "2", "token": "t", "url": v2url, "url_v2": v2url}},
		"options":           {map[string]string{"token": "o", "url": "http://o"}, map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_CACHE_URL": v1url}, map[string]string{"token": "o", "url": "http://o"}},
	} {
		attrs := map[string]string{}
		for k, v := range tc.attrs {
			attrs[k] = v
		}
		missing := githubEnvironment(attrs, func(k string) (string, bool) { v, ok := tc.env[k]; return v, ok })
		active := missing == ""
		if active != (tc.want != nil) {
			t.Errorf("%s: missing is %q", name, missing)
		}
		if active && !bytes.Equal(encode(t, attrs), encode(t, tc.want)) {
			t.Errorf("%s: got %v, want %v", name, attrs, tc.want)
		}
	}
}

func TestParseGitHub(t *testing.T) {
	token := actionstest.Token("refs/heads/main")
	for name, tc := range map[string]struct {
		attrs string
		url   string
		v2    bool
		err   string
	}{
		"version 1":           {"url=http://one", "http://one", false, ""},
		"version 2":           {"url=http://one,url_v2=http://two", "http://two", true, ""},
		"version 1 by option": {"url=http://one,url_v2=http://two,version=1", "http://one", false, ""},
		"the known address":   {"url=https://results-receiver.actions.githubusercontent.com/", "https://results-receiver.actions.githubusercontent.com/", true, ""},
		"no number":           {"url=http://one,version=x", "", false, `failed to parse api version "x"`},
		"no time":             {"url=http://one,timeout=x", "", false, "failed to parse timeout"},
	} {
		attrs := attrsOf(tc.attrs)
		attrs["token"] = token
		l, err := githubFrom(attrs)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want %q", name, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if g := l.(*github); g.opts.URL != tc.url || g.opts.V2 != tc.v2 || g.scope != "buildkit" || g.opts.Timeout != 10*time.Minute {
			t.Errorf("%s: got %+v", name, g)
		}
	}
}

// What a build records of a cache is for builds that import the same one: that of the same repository, service
// and scope, as a job of the same refs of git sees it.
func TestGitHubOrigins(t *testing.T) {
	attrs := func(kv ...string) map[string]string {
		m := map[string]string{"token": actionstest.Token("refs/heads/main"), "url": "http://one", "repository": "me/app"}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	seen := map[string]string{}
	for name, a := range map[string]map[string]string{
		"plain": attrs(), "scope": attrs("scope", "other"), "service": attrs("url", "http://two"), "repository": attrs("repository", "you/app"),
		"pull request": attrs("token", actionstest.Token("refs/pull/1/merge", "read:refs/heads/main")),
	} {
		l, err := githubFrom(a)
		if err != nil {
			t.Fatal(err)
		}
		where := l.where()
		if other, ok := seen[where]; ok {
			t.Errorf("%s and %s are one: %s", name, other, where)
		}
		if seen[where] = name; strings.Contains(where, a["token"]) {
			t.Errorf("the token is in %s", where)
		}
	}
}

// github makes a place at a server.
func githubAt(t *testing.T, srv *actionstest.Server, token string) *entries {
	t.Helper()
	t.Setenv("GITHUB_API_URL", srv.URL)
	l, err := githubFrom(map[string]string{"token": token, "url_v2": srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.open(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := p.(*entries)
	e.pause, e.client.Tune.Base = time.Nanosecond, time.Nanosecond
	return e
}

func newActions(t *testing.T) *actionstest.Server {
	srv := actionstest.New()
	t.Cleanup(srv.Close)
	return srv
}

// sampleConfig is a config with one result, whose key and layer have the name.
func sampleConfig(t *testing.T, name string) []byte {
	base := configLayer("base")
	base.Own = &ownLayer{Base: true}
	return encode(t, config{
		Layers:  []cacheLayer{base, configLayer(name)},
		Records: []record{resultRecord(Record{Key: key(name), Result: store.Result{Created: then}}, [][]int32{{0, 1}})},
	})
}

// indexName is a key of BuildKit's for an index: its scope, and the ref of git as eight digits.
func indexName(ref, number string) string {
	return "index-buildkit-1-" + digest.FromString(ref).Encoded()[:8] + "#" + number
}

// A job reads the caches of its ref and of the default branch, and writes its own, by BuildKit's names.
func TestGitHubScopes(t *testing.T) {
	srv := newActions(t)
	srv.Put("refs/heads/main", indexName("refs/heads/main", "6"), sampleConfig(t, "old"), true)
	srv.Put("refs/heads/main", indexName("refs/heads/main", "7"), sampleConfig(t, "main"), true)
	e := githubAt(t, srv, actionstest.Token("refs/heads/topic", "read:refs/heads/main"))
	srv.Break = maxResumes
	c, err := e.load(t.Context(), nil, func(string) {})
	if err != nil || len(c.results) != 1 || c.results[key("main")] == nil {
		t.Fatalf("got %v, %v", c, err)
	}
	out := c.results[key("main")].Outputs[0]
	if out[0].Held || !out[1].Held || out[1].Blob.Digest != dgst("blob main") {
		t.Errorf("got %+v, %+v", out[0], out[1])
	}
	x := &exporting{tell: func(string, bool) {}}
	if err := json.Unmarshal(sampleConfig(t, "topic"), &x.config); err != nil {
		t.Fatal(err)
	}
	if _, err := e.commit(t.Context(), x, nil); err != nil {
		t.Fatal(err)
	}
	if srv.Get("refs/heads/topic", indexName("refs/heads/topic", "1")) == nil {
		t.Errorf("it has %q", srv.Keys("refs/heads/topic"))
	}
	c, err = e.load(t.Context(), nil, func(string) {})
	if err != nil || len(c.results) != 2 {
		t.Errorf("got %v, %v", c, err)
	}
	readOnly := githubAt(t, srv, actionstest.Token("read:refs/heads/main"))
	if _, err := readOnly.commit(t.Context(), x, nil); err == nil || !strings.Contains(err.Error(), "no permission to write") {
		t.Errorf("without permission: %v", err)
	}
}

// Of several that write an index each gets a number of its own. One that never finished is waited for, and
// passed over then.
func TestGitHubIndexes(t *testing.T) {
	srv := newActions(t)
	e := githubAt(t, srv, actionstest.Token("refs/heads/main"))
	prefix := e.indexKey("refs/heads/main")
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if err := e.saveIndex(t.Context(), prefix, []byte{byte('0' + i)}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if keys := srv.Keys("refs/heads/main"); len(keys) != 4 {
		t.Errorf("it has %q", keys)
	}
	srv.Put("refs/heads/main", prefix+"5", nil, false)
	srv.Asked()
	if err := e.saveIndex(t.Context(), prefix, []byte("last")); err != nil || string(srv.Get("refs/heads/main", prefix+"6")) != "last" {
		t.Errorf("after one that never finished: %v", err)
	}
	if n := strings.Count(strings.Join(srv.Asked(), "\n"), "GetCacheEntryDownloadURL"); n != indexPauses+1 {
		t.Errorf("it was looked %d times for whether the other one came", n)
	}
	for i := 7; i < 7+maxIndexes; i++ {
		srv.Put("refs/heads/main", prefix+strconv.Itoa(i), nil, false)
	}
	if err := e.saveIndex(t.Context(), prefix, nil); err == nil || !strings.Contains(err.Error(), "are taken") {
		t.Errorf("all are taken: %v", err)
	}
	srv.Put("refs/heads/main", prefix+"x", nil, true)
	if err := e.saveIndex(t.Context(), prefix, nil); err == nil || !strings.Contains(err.Error(), "has no number") {
		t.Errorf("no number: %v", err)
	}
}

// A blob is written once, whoever writes it, and read on where it broke off, also when its address is not
// valid any more.
func TestGitHubBlobs(t *testing.T) {
	srv := newActions(t)
	e := githubAt(t, srv, actionstest.Token("refs/heads/main"))
	data := bytes.Repeat([]byte("layer"), 1000)
	desc := describe(ocispec.MediaTypeImageLayer, data)
	opened := 0
	open := func(context.Context) (io.ReadCloser, error) {
		opened++
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	for range 2 {
		if err := e.put(t.Context(), desc, open); err != nil {
			t.Fatal(err)
		}
	}
	if opened != 1 || !bytes.Equal(srv.Get("refs/heads/main", "buildkit-blob-1-"+desc.Digest.String()), data) {
		t.Errorf("it was opened %d times, the server has %q", opened, srv.Keys("refs/heads/main"))
	}
	srv.Put("refs/heads/main", "buildkit-blob-1-"+dgst("reserved").String(), nil, false)
	if err := e.put(t.Context(), ocispec.Descriptor{Digest: dgst("reserved"), Size: desc.Size}, open); err != nil {
		t.Errorf("one that somebody else writes: %v", err)
	}
	srv.Break = maxResumes
	r, err := e.open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, data) || r.Close() != nil {
		t.Errorf("read %d bytes of %d: %v", len(got), len(data), err)
	}
	srv.Break = maxResumes + 1
	r, err = e.open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "broke off 5 times") {
		t.Errorf("got %v", err)
	}
	r.Close()
	if _, err := e.open(t.Context(), ocispec.Descriptor{Digest: dgst("gone")}); err == nil {
		t.Error("a blob that is not there was opened")
	}
}

// With a token for GitHub's API one list tells which blobs there are. When it cannot be had they are asked for.
func TestGitHubList(t *testing.T) {
	srv := newActions(t)
	t.Setenv("GITHUB_API_URL", srv.URL)
	desc := describe(ocispec.MediaTypeImageLayer, []byte("layer"))
	srv.Put("refs/heads/main", blobKey(desc.Digest), []byte("layer"), true)
	token := actionstest.Token("refs/heads/main")
	for _, ghtoken := range []string{token, "wrong"} {
		l, err := githubTo(nil, map[string]string{"token": token, "url_v2": srv.URL, "repository": "me/app", "ghtoken": ghtoken})
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.open(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		srv.Asked()
		for range 3 {
			if err := p.put(t.Context(), desc, nil); err != nil { // it is not opened
				t.Fatal(err)
			}
		}
		asked := srv.Asked()
		if want := map[string]int{token: 1, "wrong": 4}[ghtoken]; len(asked) != want || asked[0] != "GET /repos/me/app/actions/caches" {
			t.Errorf("with token %s: asked %q", ghtoken, asked)
		}
	}
}

// An index that is huge, endless, or no index is a failed import, which takes no memory.
func TestGitHubHostileIndexes(t *testing.T) {
	srv := newActions(t)
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
		srv.Put("refs/heads/main", indexName("refs/heads/main", "1"), []byte("x"), true)
		srv.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				answer(w)
				return true
			}
			return false
		}
		e := githubAt(t, srv, actionstest.Token("refs/heads/main"))
		if c, err := e.load(t.Context(), nil, func(string) {}); err == nil {
			t.Errorf("%s: got %v", name, c)
		}
	}
}

// What BuildKit exported is read, and told apart from what is of use.
func TestGitHubOfBuildKit(t *testing.T) {
	data, err := os.ReadFile("testdata/buildkit-index.json")
	if err != nil {
		t.Fatal(err)
	}
	srv := newActions(t)
	srv.Put("refs/heads/main", indexName("refs/heads/main", "1"), data, true)
	f, err := ParseFrom(Entry{Type: TypeGHA, Attrs: map[string]string{"token": actionstest.Token("refs/heads/main"), "url_v2": srv.URL}})
	if err != nil {
		t.Fatal(err)
	}
	i := f.Open(nil)
	if err := i.Load(t.Context(), func(string) {}, nil); !errors.Is(err, errForeign) || i.contents.foreign == 0 {
		t.Errorf("got %v, %+v", err, i.contents)
	}
}

// Who breaks off does not wait for a list of what is there.
func TestGitHubListEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		select {
		case <-r.Context().Done():
		case <-time.After(10 * time.Second):
			t.Error("the list is still waited for")
		}
	}))
	defer api.Close()
	t.Setenv("GITHUB_API_URL", api.URL)
	l, err := githubTo(nil, map[string]string{
		"token": actionstest.Token("refs/heads/main"), "url": api.URL, "repository": "me/app", "ghtoken": "t",
	})
	if err != nil {
		t.Fatal(err)
	}
	to, err := l.open(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = to.put(ctx, describe("blob", []byte("x")), bytesOpener([]byte("x")))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
