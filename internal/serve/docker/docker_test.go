package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/progress"
	ownregistry "github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab is a server with a store, and a client of it.
type lab struct {
	*client.Client
	t      *testing.T
	server *Server
	store  *store.Store
	url    string
	solve  func(ctx context.Context, s control.Solve, sink progress.Sink) (*control.Result, error)
	warned []string
}

// Solve implements [control.Builder].
func (l *lab) Solve(ctx context.Context, s control.Solve, sink progress.Sink) (*control.Result, error) {
	return l.solve(ctx, s, sink)
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	must(t, os.Mkdir(dir, 0o700))
	s, err := store.Open(dir)
	must(t, err)
	l := &lab{t: t, store: s}
	l.server = New(Options{
		Acquire: func() (*Backend, func(), error) {
			return &Backend{Store: s, Solver: l}, func() {}, nil
		},
		Control: control.New(control.Options{Acquire: func() (*control.Backend, func(), error) {
			return &control.Backend{Store: s, Builder: l}, func() {}, nil
		}}),
		Worker:   func(st *store.Store) (*view.Worker, error) { return view.NewWorker(st, view.WorkerOptions{}) },
		Registry: ownregistry.New(ownregistry.Options{}),
		System:   System{Version: "1", Docker: "29.0.0", BuildKit: "v0.34.2", Kernel: "6", Machine: "x86_64", OS: "x", Cgroups: "2", Runtime: "slipway"},
		Warn:     func(text string) { l.warned = append(l.warned, text) },
	})
	web := httptest.NewServer(l.server)
	t.Cleanup(func() {
		l.server.Close()
		web.Close()
		must(t, s.Close())
	})
	l.url = web.URL
	l.Client, err = client.New(client.WithHost(strings.Replace(web.URL, "http://", "tcp://", 1)))
	must(t, err)
	t.Cleanup(func() { l.Client.Close() })
	return l
}

// load loads a random image under a name, with a label.
func (l *lab) load(ref string) v1.Image {
	l.t.Helper()
	img, err := random.Image(1000, 2)
	must(l.t, err)
	config, err := img.ConfigFile()
	must(l.t, err)
	config.OS, config.Architecture, config.Config.Labels, config.Config.Env = "linux", "amd64", map[string]string{"of": ref}, []string{"A=b"}
	img, err = mutate.ConfigFile(img, config)
	must(l.t, err)
	tag, err := name.NewTag(ref, name.WithDefaultRegistry(""))
	must(l.t, err)
	var archive bytes.Buffer
	must(l.t, tarball.Write(tag, img, &archive))
	res, err := l.ImageLoad(l.t.Context(), &archive)
	must(l.t, err)
	said, err := io.ReadAll(res)
	must(l.t, err)
	if !strings.Contains(string(said), "Loaded image: "+ref) {
		l.t.Fatalf("loading %s: %s", ref, said)
	}
	return img
}

// get asks for a path, and returns the document and the status.
func (l *lab) get(method, path string, header ...string) (doc any, status int) {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), method, l.url+path, nil)
	must(l.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	must(l.t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(l.t, err)
	if len(bytes.TrimSpace(data)) > 0 && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(data, &doc); err != nil {
			l.t.Fatalf("%s %s: %v in %s", method, path, err, data)
		}
	}
	return doc, resp.StatusCode
}

// do sends a request, and returns the answer with its body.
func (l *lab) do(req *http.Request) (*http.Response, []byte) {
	l.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	must(l.t, err)
	data, err := io.ReadAll(resp.Body)
	must(l.t, err)
	must(l.t, resp.Body.Close())
	return resp, data
}

// in is what a document has at some fields, one in the other; a number is a place in a list.
func in(doc any, path ...any) any {
	for _, step := range path {
		switch at := step.(type) {
		case string:
			fields, _ := doc.(map[string]any)
			doc = fields[at]
		case int:
			list, _ := doc.([]any)
			if at >= len(list) {
				return nil
			}
			doc = list[at]
		}
	}
	return doc
}

// TestVersions: old clients get what they know.
func TestVersions(t *testing.T) {
	l := newLab(t)
	l.load("app:v1")
	for _, c := range []struct {
		path, field string
		list, there bool
	}{
		{"/v1.43/images/json", "VirtualSize", true, true},
		{"/v1.44/images/json", "VirtualSize", true, false},
		{"/v1.47/images/json", "Descriptor", true, false},
		{"/v1.48/images/json", "Descriptor", true, true},
		{"/v1.43/images/app:v1/json", "VirtualSize", false, true},
		{"/v1.51/images/app:v1/json", "Parent", false, true},
		{"/v1.52/images/app:v1/json", "Parent", false, false},
	} {
		doc, status := l.get(http.MethodGet, c.path)
		if c.list {
			doc = doc.([]any)[0]
		}
		if _, ok := doc.(map[string]any)[c.field]; status != http.StatusOK || ok != c.there {
			t.Errorf("%s: status %d, %s is there: %t", c.path, status, c.field, ok)
		}
	}
	config := func(version string) map[string]any {
		doc, _ := l.get(http.MethodGet, "/v"+version+"/images/app:v1/json")
		return doc.(map[string]any)["Config"].(map[string]any)
	}
	for version, fields := range map[string][]string{"1.49": {"Hostname", "Tty", "Volumes"}, "1.51": {"Volumes", "OnBuild"}} {
		for _, f := range fields {
			if _, ok := config(version)[f]; !ok {
				t.Errorf("the config of %s has no %s", version, f)
			}
		}
	}
	if _, ok := config("1.52")["Volumes"]; ok {
		t.Error("the config of 1.52 has Volumes, which are not set")
	}
	for path, want := range map[string]string{"/v1.23/info": "client version 1.23 is too old", "/v1.53/info": "client version 1.53 is too new", "/v1.52/nosuch": "page not found",
		"/containers/json?limit=x": "not a number", "/containers/nosuch/json": "No such container", "/swarm": "not a swarm manager", "/v9999999.1/info": "page not found"} {
		doc, status := l.get(http.MethodGet, path)
		if message := fmt.Sprint(doc); status < 400 || !strings.Contains(message, want) {
			t.Errorf("%s: %d, %s", path, status, message)
		}
	}
}

// TestImages is what a client does with images.
func TestImages(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	ping, err := l.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	must(t, err)
	if ping.APIVersion != MaxVersion || ping.BuilderVersion != "2" || ping.OSType != "linux" {
		t.Errorf("ping: %+v", ping)
	}
	img := l.load("app:v1")
	id, err := img.ConfigName()
	must(t, err)
	_, err = l.ImageTag(ctx, client.ImageTagOptions{Source: "app:v1", Target: "other:v2"})
	must(t, err)
	list, err := l.ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("reference", "other")})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].ID != id.String() || !slices.Equal(list.Items[0].RepoTags, []string{"other:v2"}) {
		t.Errorf("the list: %+v", list.Items)
	}
	saved, err := l.ImageSave(ctx, []string{"app:v1"})
	must(t, err)
	archive, err := io.ReadAll(saved)
	must(t, err)
	again, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, nil)
	must(t, err)
	if got, err := again.ConfigName(); got != id || err != nil {
		t.Errorf("saved: %s, %v, want %s", got, err, id)
	}
	gone, err := l.ImageRemove(ctx, "other:v2", client.ImageRemoveOptions{})
	must(t, err)
	if len(gone.Items) != 1 || gone.Items[0].Untagged != "other:v2" {
		t.Errorf("what went: %+v", gone.Items)
	}
	if gone, err = l.ImageRemove(ctx, "app:v1", client.ImageRemoveOptions{}); err != nil || len(gone.Items) != 2 || gone.Items[1].Deleted != id.String() {
		t.Errorf("what went: %+v, %v", gone.Items, err)
	}
	if _, err := l.ImageInspect(ctx, "app:v1"); err == nil || !strings.Contains(err.Error(), "No such image: app:v1") {
		t.Errorf("of an image that is gone: %v", err)
	}
	if _, status := l.get(http.MethodGet, "/images/UPPER/json"); status != http.StatusBadRequest {
		t.Errorf("a name that is none: %d", status)
	}
	for _, bad := range []string{"/images/json?filters={", `/images/json?filters={"x":["y"]}`, "/images/app/json?platform=x", "/events?since=x", "/images/create?fromImage=x&platform=a/b/c/d",
		"/build?remote=/etc/passwd", "/build?remote=../x", "/build?remote=file:///etc", "/build?buildargs=1", "/build?t=a&squash=1", "/images/x/tag?repo=UPPER", "/images/get"} {
		method := http.MethodPost
		if strings.HasPrefix(bad, "/images/json") || strings.HasPrefix(bad, "/images/app/") || strings.HasPrefix(bad, "/events") || bad == "/images/get" {
			method = http.MethodGet
		}
		if doc, status := l.get(method, bad); status != http.StatusBadRequest {
			t.Errorf("%s %s: %d, %v", method, bad, status, doc)
		}
	}
}

// TestImport: an archive becomes an image of one layer, with what the changes say, and what is none is an error.
func TestImport(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	must(t, w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: 2}))
	_, err := w.Write([]byte("in"))
	must(t, err)
	must(t, w.Close())
	res, err := l.ImageImport(ctx, client.ImageImportSource{Source: &archive, SourceName: "-"}, "made:v1", client.ImageImportOptions{Message: "words", Changes: []string{"ENV A=b", "CMD cat /file"}})
	must(t, err)
	said, err := io.ReadAll(res)
	must(t, err)
	img, err := l.ImageInspect(ctx, "made:v1")
	must(t, err)
	if !strings.Contains(string(said), img.ID) || img.Comment != "words" || len(img.RootFS.Layers) != 1 || !slices.Contains(img.Config.Env, "A=b") {
		t.Errorf("it is told %s, and is %+v", said, img.InspectResponse)
	}
	for _, bad := range []string{"/images/create?fromSrc=-&repo=UPPER", "/images/create?fromSrc=-&changes=RUN+x", "/images/create?fromSrc=-&platform=a/b/c/d", "/images/create"} {
		if doc, status := l.get(http.MethodPost, bad); status != http.StatusBadRequest {
			t.Errorf("%s: %d, %v", bad, status, doc)
		}
	}
}

// TestPages: what a page in a browser sends is not answered, whatever it asks for.
func TestPages(t *testing.T) {
	l := newLab(t)
	for _, header := range [][]string{{"Origin", "http://example.com"}, {"Origin", "null"}, {"Sec-Fetch-Site", "same-origin"}} {
		for _, path := range []string{"/info", "/_ping", "/v1.52/images/json"} {
			if _, status := l.get(http.MethodGet, path, header...); status != http.StatusForbidden {
				t.Errorf("%s with %v: %d", path, header, status)
			}
		}
		if _, status := l.get(http.MethodPost, "/build", header...); status != http.StatusForbidden {
			t.Errorf("a build with %v: %d", header, status)
		}
	}
}

// TestEvents: who follows is told of what happens, and of what happened before if he asks for it.
func TestEvents(t *testing.T) {
	l := newLab(t)
	next := l.Events(t.Context(), client.EventsListOptions{Filters: client.Filters{}.Add("type", "image").Add("event", "load", "tag")})
	for { // it follows when it is there
		l.server.events.mu.Lock()
		n := len(l.server.events.followers)
		l.server.events.mu.Unlock()
		if n > 0 {
			break
		}
	}
	l.load("app:v1")
	_, err := l.ImageTag(t.Context(), client.ImageTagOptions{Source: "app:v1", Target: "other:v2"})
	must(t, err)
	for _, want := range []events.Action{events.ActionLoad, events.ActionTag} {
		select {
		case m := <-next.Messages:
			if m.Action != want || m.Type != events.ImageEventType || m.Actor.Attributes["name"] == "" {
				t.Errorf("got %+v, want %s", m, want)
			}
		case err := <-next.Err:
			t.Fatal(err)
		}
	}
	doc, _ := l.get(http.MethodGet, "/v1.51/events?since=0&until=1")
	if doc != nil {
		t.Errorf("of long ago: %v", doc)
	}
}

// TestRegistries: pulls and pushes have the credentials of the request, which are sent to nobody but the registry that they are for.
func TestRegistries(t *testing.T) {
	l := newLab(t)
	reg := registrytest.Start(t)
	reg.Use(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter2" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	host := reg.Host
	l.load(host + "/team/app:v1")
	push := func(auth string) string {
		res, err := l.ImagePush(t.Context(), host+"/team/app:v1", client.ImagePushOptions{RegistryAuth: auth})
		if err != nil {
			return err.Error()
		}
		said, err := io.ReadAll(res)
		must(t, err)
		return string(said)
	}
	good := encode(t, registry.AuthConfig{Username: "me", Password: "hunter2"})
	if said := push(encode(t, registry.AuthConfig{Username: "me", Password: "no"})); !strings.Contains(said, `"errorDetail"`) || !strings.Contains(said, `"error"`) {
		t.Errorf("with a wrong password: %s", said)
	}
	if said := push(good); strings.Contains(said, "error") || !strings.Contains(said, `"aux":{"Tag":"v1","Digest":"sha256:`) {
		t.Errorf("the push: %s", said)
	}
	for _, c := range []struct{ auth, want string }{{good, "Status: Image is up to date"}, {"", "errorDetail|401|denied|unauthorized"}} {
		doc := ""
		res, err := l.ImagePull(t.Context(), host+"/team/app:v1", client.ImagePullOptions{RegistryAuth: c.auth})
		if err != nil {
			doc = err.Error()
		} else {
			data, err := io.ReadAll(res)
			must(t, err)
			doc = string(data)
		}
		if !slices.ContainsFunc(strings.Split(c.want, "|"), func(w string) bool { return strings.Contains(doc, w) }) {
			t.Errorf("pulling: %s, want %s", doc, c.want)
		}
	}
	for password, want := range map[string]bool{"hunter2": true, "no": false} {
		said, err := l.RegistryLogin(t.Context(), client.RegistryLoginOptions{Username: "me", Password: password, ServerAddress: host})
		if want != (err == nil && said.Auth.Status == "Login Succeeded") || !want && !errdefs.IsUnauthorized(err) {
			t.Errorf("logging in with %s: %+v, %v", password, said, err)
		}
	}
	c := newCredentials(map[string]registry.AuthConfig{"https://index.docker.io/v1/": {Username: "hub", Password: "p"}, "a.example.com:5000": {IdentityToken: "t"}})
	for host, want := range map[string]string{"docker.io": "hub p", "registry-1.docker.io": "hub p", "a.example.com:5000": " t", "a.example.com": " ", "mirror.example.com": " ", "evil.docker.io": " "} {
		user, secret, err := c.Lookup(t.Context(), host)
		if got := user + " " + secret; err != nil || got != want {
			t.Errorf("for %s: %q, %v", host, got, err)
		}
	}
}

func encode(t *testing.T, auth registry.AuthConfig) string {
	t.Helper()
	data, err := json.Marshal(auth)
	must(t, err)
	return base64.URLEncoding.EncodeToString(data)
}

// TestParameters: a Dockerfile is one in the context, whatever a client calls it, and what is empty in any of the forms of clients is empty.
func TestParameters(t *testing.T) {
	read := func(query string) (*parameters, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/build?"+query, nil)
		must(t, err)
		r.Form, r.PostForm = r.URL.Query(), url.Values{}
		return (&request{Request: r}).buildParameters()
	}
	for given, want := range map[string]string{"/etc/passwd": "etc/passwd", "../../etc/passwd": "etc/passwd", "http://x/y": "http:/x/y", "a/../b": "b", "": ""} {
		p, err := read("dockerfile=" + given)
		if err != nil || p.dockerfile != want {
			t.Errorf("%s: %+v, %v, want %s", given, p, err, want)
		}
	}
	p, err := read(`t=&buildargs=null&labels={}&cachefrom=[]&ulimits=null&remote=&shmsize=0&networkmode=bridge`)
	if err != nil || p.tags != nil || p.remote != "" || len(p.args)+len(p.cacheFrom)+len(p.attrs) > 0 || p.network != "default" {
		t.Errorf("nothing: %+v, %v", p, err)
	}
	p, err = read(`t=a&t=b&buildargs={"A":"1","B":null}&cachefrom=["x"]&ulimits=[{"Name":"nofile","Soft":1,"Hard":2}]&shmsize=67108864&target=t&nocache=1&pull=true&extrahosts=h:1.2.3.4&platform=linux/arm64`)
	must(t, err)
	if !slices.Equal(p.tags, []string{"a", "b"}) || len(p.args) != 1 || p.args["A"] != "1" || p.cacheFrom[0].Attrs["ref"] != "x" || p.attrs["ulimit"] != "nofile=1:2" || p.attrs["shm-size"] != "67108864" ||
		!p.noCache || !p.pull || p.target != "t" || p.hosts[0] != "h:1.2.3.4" || p.platforms[0] != "linux/arm64" {
		t.Errorf("got %+v", p)
	}
}

// TestBuildOfSession: a build of version 2 is told as BuildKit tells it, can be ended by its ID, and is none that a client who does not read holds up.
func TestBuildOfSession(t *testing.T) {
	l := newLab(t)
	l.server.opt.Entitlements = []string{hostNetwork}
	var got control.Solve
	l.solve = func(_ context.Context, s control.Solve, sink progress.Sink) (*control.Result, error) {
		got = s
		st := progress.Start(sink, progress.Vertex{Digest: digest.FromString("x"), Name: "[1/2] RUN x"})
		_, _ = st.Stdout().Write([]byte("hello\n"))
		st.Done(nil)
		return &control.Result{Response: map[string]string{"containerimage.config.digest": "sha256:abc"}}, nil
	}
	res, err := l.ImageBuild(t.Context(), nil, client.ImageBuildOptions{Version: "2", SessionID: "s", RemoteContext: "client-session", Tags: []string{"a", "b:1"}, Dockerfile: "/D", Target: "t",
		BuildArgs: map[string]*string{"A": ptr("1")}, Labels: map[string]string{"l": "v"}, ExtraHosts: []string{"h:1.2.3.4"}, NoCache: true, PullParent: true, BuildID: "id", NetworkMode: "host"})
	must(t, err)
	said, err := io.ReadAll(res.Body)
	must(t, err)
	want := map[string]string{"filename": "D", "target": "t", "build-arg:A": "1", "label:l": "v", "add-hosts": "h=1.2.3.4", "no-cache": "", "image-resolve-mode": "pull", "force-network-mode": "host"}
	if !maps.Equal(got.Attrs, want) || got.Session != "s" || !got.Engine || !slices.Equal(got.Entitlements, []string{hostNetwork}) || got.Outputs[0].Attrs["name"] != "a,b:1" {
		t.Errorf("it is asked for %+v", got)
	}
	if got, want := l.told(events.ImageEventType), []string{"create sha256:abc name=sha256:abc", "tag sha256:abc name=a:latest", "tag sha256:abc name=b:1"}; !slices.Equal(got, want) {
		t.Errorf("told were %q, not %q", got, want)
	}
	if !strings.Contains(string(said), `"id":"moby.buildkit.trace","aux":"`) || !strings.Contains(string(said), `"id":"moby.image.id","aux":{"ID":"sha256:abc"}`) {
		t.Errorf("the client is told %s", said)
	}
	begun := make(chan struct{})
	l.solve = func(ctx context.Context, _ control.Solve, _ progress.Sink) (*control.Result, error) {
		close(begun)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	ended := make(chan int)
	go func() {
		_, status := l.get(http.MethodPost, "/build?version=2&remote=client-session&session=s&buildid=mine")
		ended <- status
	}()
	<-begun
	if _, status := l.get(http.MethodPost, "/build?version=2&remote=client-session&session=s&buildid=mine"); status < 400 {
		t.Errorf("a second one of the ID: %d", status)
	}
	// One that has failed breaks off nothing else on its connection.
	l.load("app:v1")
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.url, "http://"))
	must(t, err)
	defer conn.Close()
	answer := bufio.NewReader(conn)
	for _, c := range []struct {
		method, path string
		status       int
	}{{http.MethodPost, "/build?buildid=mine", http.StatusInternalServerError}, {http.MethodGet, "/images/app:v1/json", http.StatusOK}} {
		_, err := io.WriteString(conn, c.method+" "+c.path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		must(t, err)
		resp, err := http.ReadResponse(answer, nil)
		must(t, err)
		said, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, %s", c.path, resp.StatusCode, said)
		}
	}
	_, status := l.get(http.MethodPost, "/build/cancel?id=mine")
	if end := <-ended; status != http.StatusOK || end < 400 {
		t.Errorf("cancelling: %d, and the build ends with %d", status, end)
	}
}

func ptr(s string) *string { return &s }

// TestProxy: no password of a proxy is told, in whatever form it stands.
func TestProxy(t *testing.T) {
	for value, want := range map[string]string{"": "", "http://p:3128": "http://p:3128", "http://u:pw@p:3128": "http://xxxxx:xxxxx@p:3128", "u:pw@p:3128": "xxxxx:xxxxx@p:3128"} {
		t.Setenv("HTTP_PROXY", value)
		if got := proxy("HTTP_PROXY"); got != want {
			t.Errorf("%s: %s", value, got)
		}
	}
}
