package docker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

var updateZero = flag.Bool("update-zero", false, "write testdata/zero: read afterwards whether it is what dockerd says")

// zeros leaves of a document what it has where nothing is: null, [], {}, "", 0 and false are themselves, others are what kind they are of, once
// where several follow each other.
func zeros(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = zeros(value)
		}
	case []any:
		var some []any
		for _, value := range v {
			if value = zeros(value); len(some) == 0 || !reflect.DeepEqual(value, some[len(some)-1]) {
				some = append(some, value)
			}
		}
		if len(some) > 0 {
			return some
		}
	case string:
		if v != "" {
			return "a string"
		}
	case float64:
		if v != 0 {
			return "a number"
		}
	}
	return v
}

// anyNumber makes 0 any other number, of a document whose numbers depend on the moment.
func anyNumber(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = anyNumber(value)
		}
	case float64:
		return 1.0
	}
	return v
}

// zeroLab is a server of which the answers are compared with testdata/zero.
type zeroLab struct {
	*lab
	asked map[string]bool // routes, by what routeKey gives
	said  string          // the ID in the last answer that had one
}

// request is what is asked for, and the file that has the answer; without one there is nothing in the answer. In the path HOST is a registry, ID what was said last.
type zeroRequest struct {
	file, method, path, body string
	status                   int
}

func get(file, path string) zeroRequest { return zeroRequest{file, http.MethodGet, path, "", 200} }

// routeKey names a route.
func routeKey(r route) string {
	if r.after == "" {
		return r.method + " " + r.before
	}
	return r.method + " " + r.before + "N" + strings.TrimSuffix(r.after, anyName)
}

var versionOf = regexp.MustCompile(`^/v[0-9.]+`)

// send sends a request.
func (l *zeroLab) send(method, path, body string) (*http.Response, []byte) {
	l.t.Helper()
	p, _, _ := strings.Cut(versionOf.ReplaceAllString(path, ""), "?")
	if r, _ := find(method, p); r.handle != nil {
		l.asked[routeKey(r)] = true
	}
	req, err := http.NewRequestWithContext(l.t.Context(), method, l.url+path, strings.NewReader(body))
	must(l.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return l.do(req)
}

// ask sends a request and compares the answer.
func (l *zeroLab) ask(q zeroRequest) {
	l.t.Helper()
	resp, data := l.send(q.method, q.path, q.body)
	if resp.StatusCode != q.status {
		l.t.Errorf("%s %s: %d, %s", q.method, q.path, resp.StatusCode, data)
		return
	}
	if q.file == "" {
		if len(data) > 0 {
			l.t.Errorf("%s %s: there is a document: %s", q.method, q.path, data)
		}
		return
	}
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil || resp.Header.Get("Content-Type") != "application/json" {
		l.t.Errorf("%s %s: %s, %v in %s", q.method, q.path, resp.Header.Get("Content-Type"), err, data)
	}
	if object, ok := doc.(map[string]any); ok {
		if id, ok := object["Id"].(string); ok {
			l.said = id
		}
	}
	l.same(q.method+" "+q.path, q.file, doc)
}

// same compares a document with a file.
func (l *zeroLab) same(what, file string, doc any) {
	l.t.Helper()
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetIndent("", "  ")
	must(l.t, e.Encode(zeros(doc)))
	file = filepath.Join("testdata", "zero", file+".json")
	if *updateZero {
		must(l.t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(l.t, os.WriteFile(file, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		l.t.Errorf("%s is not as %s has it:\n%s", what, file, got.Bytes())
	}
}

// streams are the routes whose answers are no documents, and why nothing is compared here.
var streams = map[string]string{
	"POST /grpc":                "the connection is one of gRPC afterwards",
	"POST /session":             "the connection is one of gRPC afterwards",
	"POST /build":               "messages, as they come",
	"POST /images/load":         "messages, as they come",
	"POST /images/N/push":       "messages, as they come",
	"GET /images/get":           "a tar",
	"GET /images/N/get":         "a tar",
	"GET /containers/N/export":  "a tar",
	"GET /containers/N/archive": "a tar",
	"GET /containers/N/logs":    "bytes of the container's",
	"POST /containers/N/attach": "bytes of the container's",
}

// TestZeroValues: where nothing is, each answer has what dockerd's has: null, [], {} or nothing at all, by which typed clients break. The files in
// testdata/zero follow from dockerd's sources (moby 29): slices that nobody has made are null.
func TestZeroValues(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		t.Setenv(name, "")
	}
	l := &zeroLab{lab: newContainers(t), asked: map[string]bool{}}
	l.server.opt.System.Memory = 1 << 30
	reg := registrytest.Start(t)
	reg.PushImage("bare:v1", registrytest.Image{})
	for _, q := range zeroRequests() {
		q.path = strings.ReplaceAll(strings.ReplaceAll(q.path, "HOST", reg.Host), "ID", l.said)
		q.body = strings.ReplaceAll(q.body, "HOST", reg.Host)
		l.ask(q)
	}
	l.heads()
	l.running(reg.Host)
	for version, file := range map[string]string{"1.52": "events", "1.51": "events-1.51"} {
		l.same("/v"+version+"/events", file, l.allEvents(version))
	}
	all := map[string]bool{}
	for _, r := range routes() {
		key := routeKey(r)
		if all[key] = true; !l.asked[key] && streams[key] == "" {
			t.Errorf("no document of %s is compared", key)
		}
	}
	for key := range streams {
		if !all[key] {
			t.Errorf("there is no %s", key)
		}
	}
}

// zeroRequests are those of an image, a container that does not run, a volume and a network, of which nothing is said.
func zeroRequests() (all []zeroRequest) {
	post := func(file, path, body string, status int) zeroRequest {
		return zeroRequest{file, http.MethodPost, path, body, status}
	}
	remove := func(file, path string, status int) zeroRequest {
		return zeroRequest{file, http.MethodDelete, path, "", status}
	}
	all = append(all,
		get("no-containers", "/containers/json"), get("no-images", `/images/json?filters={"reference":["nosuch"]}`), get("no-volumes", "/volumes"), get("no-networks", `/networks?filters={"name":["nosuch"]}`),
		post("prune-builds", "/build/prune", "", 200), get("df-nothing", "/v1.52/system/df?type=container&type=volume"), get("df-nothing-1.51", "/v1.51/system/df?type=container&type=volume"), get("plugins", "/plugins"),

		post("created", "/containers/create?name=zero", `{"Image":"busybox","Cmd":["true"]}`, 201),
		post("volume", "/volumes/create", `{"Name":"zero"}`, 201),
		post("network-created", "/networks/create", `{"Name":"zero"}`, 201),
		get("info", "/info"), get("version", "/version"),
		get("container", "/containers/zero/json"), get("container-size", "/containers/zero/json?size=1"), get("containers", "/containers/json?all=1"), get("changes", "/containers/zero/changes"),
		get("stats-stopped", "/containers/zero/stats?stream=0"), get("stats-stopped", "/containers/zero/stats?stream=0&one-shot=1"), post("waited", "/containers/zero/wait", "", 200),
		get("image", "/images/busybox/json"), get("image-manifests", "/images/busybox/json?manifests=1"), get("images", "/images/json"), get("history", "/images/busybox/history"),
		get("volume", "/volumes/zero"), get("volumes", "/volumes"),
		get("network", "/networks/zero"), get("network-host", "/networks/host"), get("networks", "/networks"), get("networks", "/networks/"),
		get("df", "/system/df"), get("df-verbose", "/system/df?verbose=1"),
	)
	// Of versions before which, or after which, something is different.
	for _, old := range []struct{ file, path, versions string }{
		{"info", "/info", "1.24 1.47 1.49"},
		{"container", "/containers/zero/json", "1.24 1.44 1.47 1.51"}, {"containers", "/containers/json?all=1", "1.24 1.46 1.51"},
		{"image", "/images/busybox/json", "1.24 1.44 1.45 1.49 1.51"}, {"images", "/images/json", "1.24 1.47 1.50 1.51"},
		{"network", "/networks/zero", "1.51"}, {"networks", "/networks", "1.27"}, {"df", "/system/df", "1.24 1.41 1.44 1.51"},
	} {
		for _, version := range strings.Fields(old.versions) {
			all = append(all, get(old.file+"-"+version, "/v"+version+old.path))
		}
	}
	return append(all,
		// An image without a name, and one in which nothing is.
		post("committed", "/commit?container=zero", "", 201),
		get("image-unnamed", "/images/ID/json"), get("images-unnamed", `/images/json?filters={"dangling":["true"]}`), get("images-unnamed-1.42", `/v1.42/images/json?filters={"dangling":["true"]}`),
		get("history-unnamed", "/images/ID/history"), remove("image-removed", "/images/ID", 200),
		post("auth", "/auth", `{"username":"me","password":"secret","serveraddress":"HOST"}`, 200),
		get("distribution", "/distribution/HOST/bare:v1/json"),
	)
}

// heads compares the answers that are told in their heads.
func (l *zeroLab) heads() {
	l.t.Helper()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		resp, data := l.send(method, "/_ping", "")
		if said := string(data); said != map[string]string{http.MethodGet: "OK"}[method] {
			l.t.Errorf("%s of ping says %q", method, said)
		}
		head := map[string]any{}
		for name := range resp.Header {
			head[name] = resp.Header.Get(name)
		}
		for _, name := range []string{"Content-Length", "Date"} {
			delete(head, name)
		}
		l.same(method+" /_ping", "ping", head)
	}
	resp, _ := l.send(http.MethodHead, "/containers/zero/archive?path=/etc/passwd", "")
	data, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Docker-Container-Path-Stat"))
	must(l.t, err)
	var doc any
	must(l.t, json.Unmarshal(data, &doc))
	l.same("the head of an archive", "path-stat", doc)
}

// running compares what is told of a container that runs, and of what is done until nothing is left.
func (l *zeroLab) running(host string) {
	l.t.Helper()
	send := func(method, path, body string, status int) {
		l.t.Helper()
		l.ask(zeroRequest{"", method, path, body, status})
	}
	ask := func(file, method, path, body string, status int) {
		l.t.Helper()
		l.ask(zeroRequest{file, method, path, body, status})
	}
	const post, remove = http.MethodPost, http.MethodDelete
	ask("created", post, "/containers/create?name=run", `{"Image":"busybox","Cmd":["sh","-c","while :; do sleep 0.05; done"],"HostConfig":{"NetworkMode":"none","Binds":["made:/v"]}}`, 201)
	send(post, "/containers/run/start", "", 204)
	send(post, "/containers/run/start", "", 304)
	if _, err := exec.LookPath("ps"); err != nil {
		l.asked["GET /containers/N/top"] = true
	} else {
		ask("top", http.MethodGet, "/containers/run/top", "", 200)
	}
	l.compareStats()
	ask("exec-created", post, "/containers/run/exec", `{"Cmd":["true"]}`, 201)
	process := l.said
	ask("exec", http.MethodGet, "/exec/"+process+"/json", "", 200)
	send(post, "/exec/"+process+"/start", `{"Detach":true}`, 200)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if x, _ := l.get(http.MethodGet, "/exec/"+process+"/json"); in(x, "ExitCode") != nil {
			break
		}
	}
	ask("exec-ended", http.MethodGet, "/exec/"+process+"/json", "", 200)
	ask("error", post, "/exec/nosuch/resize?h=1&w=1", "", 404)
	send(http.MethodPut, "/containers/run/archive?path=/tmp", "", 200)
	for _, path := range []string{"/containers/run/archive?path=/etc/passwd", "/containers/run/export", "/images/busybox/get"} {
		if resp, data := l.send(http.MethodGet, path, ""); resp.StatusCode != 200 || len(data) == 0 {
			l.t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	send(post, "/containers/run/rename?name=ran", "", 204)
	send(post, "/containers/ran/restart?t=0", "", 204)
	send(post, "/containers/ran/stop?t=0", "", 204)
	send(post, "/containers/ran/stop", "", 304)
	ask("error", post, "/containers/ran/kill", "", 409)
	send(post, "/containers/ran/start", "", 204)
	send(post, "/containers/ran/kill", "", 204)
	ask("waited-killed", post, "/containers/ran/wait?condition=not-running", "", 200)
	ask("container-ended", http.MethodGet, "/containers/ran/json", "", 200)
	ask("error", post, "/containers/ran/resize?h=1&w=1", "", 409)

	for _, what := range []string{"update", "pause", "unpause"} {
		ask("error", post, "/containers/zero/"+what, "", 501)
	}
	ask("error", http.MethodGet, "/containers/zero/attach/ws", "", 501)
	ask("error", http.MethodGet, "/containers/nosuch/json", "", 404)
	ask("error", http.MethodGet, "/images/search?term=x", "", 501)
	for _, path := range []string{"/swarm", "/services", "/tasks", "/nodes", "/secrets", "/configs"} {
		ask("error", http.MethodGet, path, "", 503)
	}
	for _, path := range []string{"/plugins/x/json", "/images/busybox/attestations", "/nosuch"} {
		ask("error", http.MethodGet, path, "", 404)
	}

	send(post, "/networks/zero/connect", `{"Container":"zero"}`, 200)
	send(post, "/networks/zero/disconnect", `{"Container":"zero"}`, 200)
	send(remove, "/networks/zero", "", 204)
	send(remove, "/containers/ran", "", 204)
	send(remove, "/volumes/zero", "", 204)
	send(post, "/images/busybox/tag?repo="+host+"/box&tag=v1", "", 201)
	for _, path := range []string{post + " /images/" + host + "/box/push?tag=v1", post + " /images/create?fromImage=" + host + "/bare&tag=v1"} {
		method, path, _ := strings.Cut(path, " ")
		if resp, data := l.send(method, path, ""); resp.StatusCode != 200 || bytes.Contains(data, []byte("error")) {
			l.t.Errorf("%s: %d, %s", path, resp.StatusCode, data)
		}
	}
	bare := "/images/" + host + "/bare:v1"
	ask("image-bare", http.MethodGet, bare+"/json", "", 200)
	ask("image-bare-1.44", http.MethodGet, "/v1.44"+bare+"/json", "", 200)
	ask("image-bare-1.43", http.MethodGet, "/v1.43"+bare+"/json", "", 200)
	ask("image-bare-manifests", http.MethodGet, bare+"/json?manifests=1", "", 200)
	ask("history-bare", http.MethodGet, bare+"/history", "", 200)
	ask("created", post, "/containers/create?name=bare", `{"Image":"`+host+`/bare:v1","Cmd":["x"]}`, 201)
	ask("container-bare", http.MethodGet, "/containers/bare/json", "", 200)
	send(remove, "/containers/bare", "", 204)
	ask("image-removed-named", remove, bare, "", 200)
	send(post, "/build/cancel?id=x", "", 200)
	for _, prune := range []struct{ file, path string }{
		{"prune-containers", `/containers/prune?filters={"label":["x"]}`}, {"prune-images", "/images/prune"}, {"prune-volumes", "/volumes/prune"}, {"prune-networks", "/networks/prune"},
	} {
		ask(prune.file, post, prune.path, "", 200)
	}
	ask("prune-volumes-some", post, `/volumes/prune?filters={"all":["true"]}`, "", 200)
}

// compareStats compares what a container uses: numbers differ, and some are left out where they are 0.
func (l *zeroLab) compareStats() {
	l.t.Helper()
	for file, query := range map[string]string{"stats": "stream=0", "stats-once": "stream=0&one-shot=1"} {
		for end := time.Now().Add(time.Minute); ; { // a process that is being executed has no memory for a moment
			_, data := l.send(http.MethodGet, "/containers/run/stats?"+query, "")
			var doc map[string]any
			must(l.t, json.Unmarshal(data, &doc))
			if in(doc, "memory_stats", "usage") != nil || time.Now().After(end) {
				l.same("stats?"+query, file, anyNumber(doc))
				break
			}
		}
	}
}

// allEvents is what was told, the first of each kind.
func (l *zeroLab) allEvents(version string) any {
	l.t.Helper()
	_, data := l.send(http.MethodGet, "/v"+version+"/events?until="+l.now(), "")
	all := map[string]any{}
	for decoder := json.NewDecoder(bytes.NewReader(data)); ; {
		var m map[string]any
		if err := decoder.Decode(&m); err == io.EOF {
			return all
		} else if err != nil {
			l.t.Fatal(err)
		}
		action, _, _ := strings.Cut(m["Action"].(string), ":")
		if kind := fmt.Sprint(m["Type"], " ", action); all[kind] == nil {
			all[kind] = m
		}
	}
}
