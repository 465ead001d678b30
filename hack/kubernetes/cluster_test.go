package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is the registry of the cluster.
const host = "10.99.0.1:5000"

// patience is how long what comes is waited for: nodes are told apart from slow ones after 20 seconds, their pods given up after 30 more.
const patience = 3 * time.Minute

// cluster is one of cluster.sh.
type cluster struct {
	dir     string // $SLIPWAY_KUBERNETES
	program string
	store   string // of the clients
	work    string
	team    string // part of the names of images and gates
}

// newCluster starts what of the cluster does not run. With SLIPWAY_KUBERNETES_KEEP in the environment it goes on afterwards.
func newCluster(t *testing.T) *cluster {
	c := &cluster{dir: os.Getenv("SLIPWAY_KUBERNETES"), program: os.Getenv("SLIPWAY_PROGRAM"), work: t.TempDir(), team: fmt.Sprintf("team%d", os.Getpid())}
	if c.dir == "" || c.program == "" || os.Geteuid() != 0 {
		t.Skip("make kubernetes starts one, as root")
	}
	c.store = filepath.Join(c.work, "store")
	if os.Getenv("SLIPWAY_KUBERNETES_KEEP") == "" {
		t.Cleanup(func() {
			if out, err := exec.Command("./cluster.sh", "down").CombinedOutput(); err != nil {
				t.Errorf("ending the cluster: %v\n%s", err, out)
			}
		})
	}
	if out, err := exec.CommandContext(t.Context(), "./cluster.sh", "up").CombinedOutput(); err != nil {
		t.Fatalf("starting a cluster: %v\n%s", err, out)
	}
	for _, level := range []string{"privileged", "baseline", "restricted"} {
		c.namespace(t, level, level)
		c.kubectl(t, "", "-n", level, "delete", "jobs", "-l", "app.kubernetes.io/managed-by=slipway") // of a test before that has failed
	}
	return c
}

// namespace makes one of a level of Pod Security, in which anna has the role of docs/kubernetes.md.
func (c *cluster) namespace(t *testing.T, name, level string) {
	t.Helper()
	c.kubectl(t, fmt.Sprintf(namespace, name, level)+"---\n"+role(t), "-n", name, "apply", "-f", "-")
}

const namespace = `
apiVersion: v1
kind: Namespace
metadata: {name: "%[1]s", labels: {pod-security.kubernetes.io/enforce: "%[2]s"}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: anna, namespace: "%[1]s"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: slipway-build}
subjects: [{kind: User, name: anna}]
`

var roleBlock = regexp.MustCompile("(?s)```yaml\n(apiVersion: rbac.*?)```")

// role is the one that docs/kubernetes.md has.
func role(t *testing.T) string {
	page, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	m := roleBlock.FindSubmatch(page)
	if m == nil {
		t.Fatal("docs/kubernetes.md has no role")
	}
	return string(m[1])
}

// script runs cluster.sh.
func (c *cluster) script(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "./cluster.sh", args...).CombinedOutput(); err != nil {
		t.Fatalf("cluster.sh %q: %v\n%s", args, err, out)
	}
}

// kubectl runs the program of that name as the administrator.
func (c *cluster) kubectl(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("./cluster.sh", append([]string{"client", "kubectl"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %q: %v\n%s\n%s", args, err, out, input)
	}
	return string(out)
}

// eventually waits for something.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(200 * time.Millisecond) { // as kubectl wait does, which knows one condition
		if time.Now().After(end) {
			t.Fatalf("it is not so that %s", what)
		}
	}
}

// empty waits until nothing of a build is left.
func (c *cluster) empty(t *testing.T, namespace string) {
	t.Helper()
	left := ""
	defer func() {
		if t.Failed() {
			t.Log(left)
		}
	}()
	eventually(t, "nothing is left", func() bool {
		left = c.kubectl(t, "", "-n", namespace, "get", "jobs,pods,secrets", "-l", "app.kubernetes.io/managed-by=slipway", "-o", "name")
		return left == "" || strings.HasPrefix(left, "No resources")
	})
}

// gate is a command of a step that waits until open is called with the name.
func (c *cluster) gate(name string) string {
	return "wget -q -O /dev/null http://" + host + "/gate/" + c.team + name
}

func (c *cluster) open(t *testing.T, name string) {
	t.Helper()
	c.script(t, "client", "curl", "-sf", "-X", "PUT", "http://"+host+"/gate/"+c.team+name)
}

// asked are the requests to the registry that match.
func (c *cluster) asked(t *testing.T, re string) []string {
	data, err := os.ReadFile(filepath.Join(c.dir, "log", "registry.log"))
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(string(data), "\n")
	return slices.DeleteFunc(all, func(s string) bool { return !regexp.MustCompile(re).MatchString(s) })
}

// files writes a directory.
func (c *cluster) files(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// client is a slipway of the user anna.
type client struct {
	t   *testing.T
	cmd *exec.Cmd

	mu      sync.Mutex
	out     bytes.Buffer
	changed chan struct{} // closed when there is more
	ended   chan struct{}
}

// Write takes what it prints.
func (p *client) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
	return p.out.Write(b)
}

// String is what it has printed.
func (p *client) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start starts slipway in the network of the cluster.
func (c *cluster) start(t *testing.T, stdin io.Reader, args ...string) *client {
	t.Helper()
	return c.startAs(t, filepath.Join(c.dir, "run/pki/anna.kubeconfig"), stdin, args...)
}

func (c *cluster) startAs(t *testing.T, kubeconfig string, stdin io.Reader, args ...string) *client {
	t.Helper()
	p := c.prepare(t, kubeconfig, stdin, c.program, args...)
	p.begin()
	return p
}

// prepare is a program that is to begin there.
func (c *cluster) prepare(t *testing.T, kubeconfig string, stdin io.Reader, program string, args ...string) *client {
	p := &client{t: t, changed: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.Command("./cluster.sh", append([]string{"client", program}, args...)...)
	p.cmd.Env = append(os.Environ(), "SLIPWAY_ROOT="+c.store, "HOME="+c.work, "BUILDKIT_PROGRESS=plain", "KUBECONFIG="+kubeconfig, "SOURCE_DATE_EPOCH=1700000000")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, p, p
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	return p
}

func (p *client) begin() {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its code is looked at
		close(p.ended)
	}()
	p.t.Cleanup(func() {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // it may have ended
		<-p.ended
	})
}

// on are the flags of a build in a namespace.
func (c *cluster) on(namespace, tag string, args ...string) []string {
	keys := "type=registry,ref=" + host + "/" + c.team + "/cache,mode=keys,registry.insecure=true"
	return append([]string{
		"build", "--on=kubernetes://lab/" + namespace, "--on-image=" + host + "/slipway:latest",
		"--cache-to=" + keys, "--cache-from=" + keys, "--tag=" + host + "/" + c.team + "/" + tag,
	}, args...)
}

// saw waits until it has printed something, and gives the first submatch.
func (p *client) saw(re string) string {
	p.t.Helper()
	r, timer := regexp.MustCompile(re), time.NewTimer(patience)
	defer timer.Stop()
	for {
		p.mu.Lock()
		m, changed := r.FindStringSubmatch(p.out.String()), p.changed
		p.mu.Unlock()
		if m != nil {
			return m[len(m)-1]
		}
		select {
		case <-changed:
		case <-p.ended:
			if !r.MatchString(p.String()) {
				p.t.Fatalf("it ended without %s:\n%s", re, p)
			}
		case <-timer.C:
			p.t.Fatalf("it does not print %s:\n%s", re, p)
		}
	}
}

// wait waits for its end, and checks the exit code.
func (p *client) wait(code int) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.t.Fatalf("it does not end:\n%s", p)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("exit code %d, want %d:\n%s", got, code, p)
	}
	return p.String()
}

// must checks what was printed: lines, and with ! before what must not be.
func must(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, re := range all {
		re, not := strings.CutPrefix(re, "!")
		if regexp.MustCompile(re).MatchString(text) == not {
			t.Errorf("%s (want %v) in:\n%s", re, !not, text)
		}
	}
}
