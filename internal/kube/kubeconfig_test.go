package kube

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func writeFiles(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestKubeconfig: of several files the first that says something counts; a place names a context and a namespace of it.
func TestKubeconfig(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"one": `
current-context: arn:aws:eks:eu:1:cluster/prod
contexts:
  - {name: "arn:aws:eks:eu:1:cluster/prod", context: {cluster: c, user: u, namespace: ci}}
  - {name: dangling, context: {cluster: nosuch, user: u}}
  - {name: old, context: {cluster: c, user: gcp}}
`,
		"two": `
current-context: other
clusters: [{name: c, cluster: {server: "https://example.com:6443/k8s"}}]
users:
  - {name: u, user: {token: x}}
  - {name: gcp, user: {auth-provider: {name: gcp}}}
contexts:
  - {name: "arn:aws:eks:eu:1:cluster/prod", context: {cluster: late, user: u}}
  - {name: other, context: {cluster: c, user: u}}
`,
	})
	t.Setenv("KUBECONFIG", filepath.Join(dir, "one")+":"+filepath.Join(dir, "none")+"::"+filepath.Join(dir, "two"))
	for place, want := range map[string]string{
		"kubernetes": "namespace ci of arn:aws:eks:eu:1:cluster/prod",
		"kubernetes://arn:aws:eks:eu:1:cluster/prod":      "namespace ci of arn:aws:eks:eu:1:cluster/prod",
		"kubernetes://arn:aws:eks:eu:1:cluster/prod/team": "namespace team of arn:aws:eks:eu:1:cluster/prod",
		"kubernetes://other":                              "namespace default of other",
		"kubernetes:///team":                              "namespace team of arn:aws:eks:eu:1:cluster/prod",
	} {
		c, err := Open(place)
		if err != nil || c.String() != want || c.base.String() != "https://example.com:6443/k8s" {
			t.Errorf("%s: %v, %v, want %s", place, c, err, want)
		}
	}
	for place, want := range map[string]string{
		"kubernetes://nosuch": `no context "nosuch"`, "kubernetes://dangling": `no cluster "nosuch"`, "kubernetes://old": "auth-provider (gcp)",
		"kubernetesx": "no place for a build", "docker://x": "no place for a build", "": "no place for a build",
	} {
		if _, err := Open(place); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", place, err, want)
		}
	}
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Open("kubernetes"); err == nil || !strings.Contains(err.Error(), "there is no cluster") {
		t.Errorf("error %v", err)
	}
}

// asWhom asks a server that tells whom it sees.
func asWhom(t *testing.T, a *access) (seen []string, _ error) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, strings.TrimSpace(r.Header.Get("Authorization")+" "+r.Header.Get("Impersonate-User")))
		if strings.HasSuffix(r.Header.Get("Authorization"), "old") {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer s.Close()
	a.cluster.Server = s.URL
	c, err := open(a)
	if err != nil {
		return nil, err
	}
	for range 2 {
		if err := c.once(t.Context(), request{method: http.MethodPost, path: "x", body: dict{}}, nil); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// TestIdentity: tokens, files with them, passwords and plugins of kubeconfigs; what a plugin gave is used until it does not hold any more.
func TestIdentity(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"token": "from-file\n",
		"plugin": `#!/bin/sh
echo x >> $1/count
case $KUBERNETES_EXEC_INFO in *v1beta1*) ;; *) exit 3;; esac
[ -e $1/new ] && t=new || t=old; : > $1/new
echo '{"kind": "ExecCredential", "status": {"token": "'$t$WHO'", "expirationTimestamp": "2099-01-01T00:00:00Z"}}'
`,
		"broken": "#!/bin/sh\necho 'log in first' >&2; exit 1\n",
	})
	plugin := execEntry{APIVersion: "client.authentication.k8s.io/v1beta1", Command: "./plugin", Args: []string{dir}}
	for name, c := range map[string]struct {
		user userEntry
		want string
		err  string
	}{
		"token":    {userEntry{Token: "t"}, "Bearer t,Bearer t", ""},
		"file":     {userEntry{Token: "t", TokenFile: "token", dir: dir}, "Bearer from-file,Bearer from-file", ""},
		"password": {userEntry{Username: "a", Password: "b", As: "eve"}, "Basic YTpi eve,Basic YTpi eve", ""},
		"plugin":   {userEntry{Exec: &plugin, dir: dir}, "Bearer old,Bearer new,Bearer new", ""},
		"broken":   {userEntry{Exec: &execEntry{Command: "./broken", InstallHint: "run login"}, dir: dir}, "", "exit status 1: log in first run login"},
		"nobody":   {userEntry{}, ",", ""},
	} {
		seen, err := asWhom(t, &access{user: c.user})
		if got := strings.Join(seen, ","); got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v, want %q, %q", name, got, err, c.want, c.err)
		}
	}
	if n, err := os.ReadFile(filepath.Join(dir, "count")); err != nil || strings.Count(string(n), "x") != 2 {
		t.Errorf("the plugin ran %d times", strings.Count(string(n), "x"))
	}
}

// TestServiceAccount: in a pod its own account is taken.
func TestServiceAccount(t *testing.T) {
	dir := writeFiles(t, map[string]string{"token": "t", "namespace": "team\n"})
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	a, err := podAccess(dir)
	if err != nil || a.namespace != "team" || a.cluster.Server != "https://[fd00::1]:443" || a.user.TokenFile != filepath.Join(dir, "token") {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestPassed: of a log that is read anew, what was read before is passed over, by time, and lines of one time by their number.
func TestPassed(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	var p place
	same := 0
	for _, n := range []int64{1, 2, 2} {
		if p.passed(at(n), &same) {
			t.Errorf("%d was passed over", n)
		}
	}
	same = 0
	var got []int64
	for _, n := range []int64{1, 2, 2, 2, 3} {
		if !p.passed(at(n), &same) {
			got = append(got, n)
		}
	}
	if len(got) != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("the second time it gave %v", got)
	}
}
