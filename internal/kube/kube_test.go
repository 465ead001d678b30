package kube_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/kube/kubetest"
)

// fixture is a cluster whose containers are shells, and what a client was told.
type fixture struct {
	*kubetest.Server
	cluster *kube.Cluster
	dir     string

	mu    sync.Mutex
	lines []string
	told  []string
	again int
	seen  func(line string)
	heard func(told string)
}

// opened guards the variable by which a cluster is found: tests run at the same time.
var opened sync.Mutex

func start(t *testing.T, opt kubetest.Options) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), seen: func(string) {}, heard: func(string) {}}
	opt.Program, opt.Dir = "/bin/sh", filepath.Join(f.dir, "pods")
	f.Server = kubetest.New(opt)
	t.Cleanup(func() {
		for _, p := range f.Running() {
			p.Kill(unix.SIGKILL)
		}
		f.CloseClientConnections()
		f.Close()
	})
	conf := filepath.Join(f.dir, "kubeconfig")
	if err := f.Kubeconfig(conf); err != nil {
		t.Fatal(err)
	}
	opened.Lock()
	defer opened.Unlock()
	old := os.Getenv("KUBECONFIG")
	os.Setenv("KUBECONFIG", conf)
	defer os.Setenv("KUBECONFIG", old)
	var err error
	if f.cluster, err = kube.Open("kubernetes"); err != nil {
		t.Fatal(err)
	}
	return f
}

// run carries a shell's script out.
func (f *fixture) run(ctx context.Context, t *testing.T, script string, change func(*kube.Spec)) (kube.Outcome, error) {
	t.Helper()
	s := &kube.Spec{Image: "slipway:test", Args: []string{"-c", script}}
	if change != nil {
		change(s)
	}
	a, err := f.cluster.Admit(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	return f.cluster.Run(ctx, a, s, kube.View{
		Line:  func(l []byte) { f.mu.Lock(); f.lines = append(f.lines, string(l)); f.mu.Unlock(); f.seen(string(l)) },
		Tell:  func(l string) { f.mu.Lock(); f.told = append(f.told, l); f.mu.Unlock(); f.heard(l) },
		Again: func() { f.mu.Lock(); f.again++; f.mu.Unlock() },
	})
}

// empty checks that nothing is left in the cluster.
func (f *fixture) empty(t *testing.T) {
	t.Helper()
	if left := f.Left(); len(left) > 0 {
		t.Errorf("there are %q", left)
	}
}

// pipe makes a pipe in which a container waits until it is written to.
func (f *fixture) pipe(t *testing.T) (path string, release func()) {
	t.Helper()
	path = filepath.Join(f.dir, "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func() {
		if err := os.WriteFile(path, []byte("go\n"), 0); err != nil {
			t.Error(err)
		}
	}
}

func TestRun(t *testing.T) {
	f := start(t, kubetest.Options{})
	out, err := f.run(t.Context(), t, `echo one; cat /.slipway/job/secret; echo "$WHO" >&2; echo made > /dev/termination-log; echo '$(HOME)'`, func(s *kube.Spec) {
		s.Files = map[string][]byte{"secret": []byte("s3cret\n")}
		s.Env = map[string]string{"WHO": "an$$na $(x)"}
	})
	if err != nil || out.ExitCode != 0 || out.Message != "made\n" {
		t.Fatalf("%+v, %v", out, err)
	}
	if want := []string{"one", "s3cret", "an$$na $(x)", "$(HOME)"}; !slices.Equal(f.lines, want) {
		t.Errorf("it has printed %q, want %q", f.lines, want)
	}
	f.empty(t)
}

// TestLogEnd: what was printed is there when the container has ended, without waiting for the end of its log.
func TestLogEnd(t *testing.T) {
	defer kube.SetDrainTime(time.Hour)()
	f := start(t, kubetest.Options{LogsStay: true})
	out, err := f.run(t.Context(), t, `echo one; echo two`, nil)
	if err != nil || out.ExitCode != 0 || !slices.Equal(f.lines, []string{"one", "two"}) {
		t.Fatalf("%+v, %v, %q", out, err, f.lines)
	}
	f.empty(t)
}

// TestFailed: a command that fails is not carried out again.
func TestFailed(t *testing.T) {
	f := start(t, kubetest.Options{})
	out, err := f.run(t.Context(), t, `echo no; exit 3`, nil)
	if err != nil || out.ExitCode != 3 || f.again != 0 {
		t.Fatalf("%+v, %v, %d times again", out, err, f.again)
	}
	f.empty(t)
}

// TestLostPod: another pod takes the place of one that was killed, or deleted.
func TestLostPod(t *testing.T) {
	for name, lose := range map[string]func(p *kubetest.Pod){
		"killed": func(p *kubetest.Pod) { p.Kill(unix.SIGKILL) },
		"ended":  func(p *kubetest.Pod) { p.Kill(unix.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, kubetest.Options{})
			first := filepath.Join(f.dir, "first")
			pipe, _ := f.pipe(t)
			f.seen = func(line string) {
				if line == "waiting" {
					lose(f.Running()[0])
				}
			}
			out, err := f.run(t.Context(), t, fmt.Sprintf(`[ -e %s ] || { : > %[1]s; echo waiting; exec cat %s; }; echo again`, first, pipe), nil)
			if err != nil || out.ExitCode != 0 || f.again != 1 {
				t.Fatalf("%+v, %v, %d times again; told %q", out, err, f.again, f.told)
			}
			if !slices.Equal(f.lines, []string{"waiting", "again"}) {
				t.Errorf("lines %q", f.lines)
			}
			if !slices.ContainsFunc(f.told, func(s string) bool { return strings.Contains(s, "starting again from the last finished step") }) {
				t.Errorf("told %q", f.told)
			}
			f.empty(t)
		})
	}
}

// TestDeadNode: where a node is gone its pod stays as long as its Job, and another Job takes its place.
func TestDeadNode(t *testing.T) {
	defer kube.SetDeadNodeTime(10 * time.Millisecond)()
	f := start(t, kubetest.Options{})
	pipe, release := f.pipe(t)
	f.seen = func(string) {
		f.Running()[0].Strand()
		f.seen = func(string) { go release() }
	}
	out, err := f.run(t.Context(), t, "echo one; read x < "+pipe, nil)
	if err != nil || out.ExitCode != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	if f.again != 1 || !slices.ContainsFunc(f.told, func(s string) bool { return strings.Contains(s, "is lost (the node of the pod does not answer)") }) {
		t.Errorf("begun anew %d times, told %q", f.again, f.told)
	}
	f.empty(t)
}

// TestInterrupted: the Job goes with who wanted it.
func TestInterrupted(t *testing.T) {
	f := start(t, kubetest.Options{})
	pipe, _ := f.pipe(t)
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.seen = func(string) { cancel(why) }
	if _, err := f.run(ctx, t, "echo waiting; exec cat "+pipe, nil); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	f.empty(t)
}

// TestCut: connections that break lose no line and give none twice.
func TestCut(t *testing.T) {
	f := start(t, kubetest.Options{})
	pipe, release := f.pipe(t)
	f.seen = func(line string) {
		if line == "150" {
			f.Cut(false)
			go release()
		}
	}
	out, err := f.run(t.Context(), t, `for i in $(seq 300); do echo $i; [ $i != 200 ] || read x < `+pipe+`; done`, nil)
	if err != nil || out.ExitCode != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprint(i+1))
	}
	if !slices.Equal(f.lines, want) {
		t.Errorf("lines %q", f.lines)
	}
}

// TestRightsAreBack: an API server that begins anew may know nothing of rights for a moment. One that was never there is not waited for.
func TestRightsAreBack(t *testing.T) {
	const message = `pods is forbidden: User "anna" cannot list resource "pods" in API group "" in the namespace "ci": RBAC: role.rbac.authorization.k8s.io "slipway-build" not found`
	f := start(t, kubetest.Options{})
	pipe, release := f.pipe(t)
	asked := func() (n int) {
		for _, a := range f.Asked() {
			if a == "GET pods" {
				n++
			}
		}
		return n
	}
	f.seen = func(string) {
		before := asked()
		f.Refuse("GET pods", message)
		f.Cut(false)
		go func() {
			for asked() == before {
				time.Sleep(time.Millisecond) // nobody tells who was refused
			}
			f.Refuse("GET pods", "")
			release()
		}()
	}
	if out, err := f.run(t.Context(), t, `echo one; read x < `+pipe, nil); err != nil || out.ExitCode != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	f = start(t, kubetest.Options{})
	f.Refuse("POST jobs", strings.ReplaceAll(strings.ReplaceAll(message, "pods", "jobs"), "list", "create"))
	if _, err := f.run(t.Context(), t, `echo one`, nil); err == nil || !strings.Contains(err.Error(), `cannot create resource "jobs"`) {
		t.Errorf("error %v", err)
	}
	if n := len(f.Asked()); n > 3 { // the trial run, the Job, and its deletion
		t.Errorf("%d requests: %q", n, f.Asked())
	}
}

func waiting(reason, message string) map[string]any {
	return kubetest.State("Pending", "waiting", map[string]any{"reason": reason, "message": message})
}

// TestCannotStart: what keeps a pod from starting is told, and not waited for.
func TestCannotStart(t *testing.T) {
	for _, c := range []struct {
		name, want string
		states     []map[string]any
		event      string
	}{
		{"image", "the pod cannot start: ImagePullBackOff: ", []map[string]any{waiting("ErrImagePull", "no such image"), waiting("ImagePullBackOff", "Back-off")}, "Failed"},
		{"config", "CreateContainerConfigError: secret not found", []map[string]any{waiting("CreateContainerConfigError", "secret not found")}, ""},
		{"memory", "OOMKilled", []map[string]any{kubetest.State("Failed", "terminated", map[string]any{"exitCode": 137, "reason": "OOMKilled"})}, ""},
		{"node", "no pod has started in 1ms: no node has place for the pod: 0/3 nodes are available", []map[string]any{{
			"phase": "Pending", "conditions": []any{map[string]any{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}},
		}}, ""},
		{"volume", "FailedMount: no such image", []map[string]any{{"phase": "Pending"}}, "FailedMount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, kubetest.Options{Pod: func(s *kubetest.Server, p *kubetest.Pod) bool {
				if c.event != "" {
					s.Warn(p.UID, c.event, "no such image")
				}
				for _, state := range c.states {
					p.Set(state)
				}
				return false
			}})
			_, err := f.run(t.Context(), t, "true", func(s *kube.Spec) { s.Patience = time.Millisecond })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q; told %q", err, c.want, f.told)
			}
			f.empty(t)
		})
	}
}

// TestLevels: the best rights that a namespace admits are found, and why there are no better ones is told.
func TestLevels(t *testing.T) {
	for _, c := range []struct {
		opt  kubetest.Options
		want string
		not  bool
	}{
		{kubetest.Options{}, "user namespace of the pod (hostUsers: false, SYS_ADMIN): steps are isolated, and root in them is nobody on the node", false},
		{kubetest.Options{NoUserNamespaces: true}, "no seccomp profile (Unconfined): steps are isolated in a user namespace of slipway's; better is refused: the cluster has no user namespaces for pods", false},
		{kubetest.Options{Level: "baseline"}, `baseline (RuntimeDefault): steps run in place, not isolated from the builder; better is refused: pods "slipway-x" is forbidden: violates PodSecurity "baseline:latest"`, false},
		{kubetest.Options{Level: "restricted"}, `restricted (user 1000): steps run in place`, false},
	} {
		f := start(t, c.opt)
		a, err := f.cluster.Admit(t.Context(), &kube.Spec{Image: "x"})
		if err != nil || !strings.HasPrefix(a.Tells, c.want) {
			t.Errorf("%+v: %v, %v, want %q", c.opt, a, err, c.want)
		}
		f.empty(t)
	}
}

// TestAdmittedOnce: what rights a pod may have is not asked again of another command, but of a pod that is another one.
func TestAdmittedOnce(t *testing.T) {
	f := start(t, kubetest.Options{Level: "baseline"})
	trials := func(s *kube.Spec) (tells string, n int) {
		before := len(f.Asked())
		a, err := f.cluster.Admit(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return a.Tells, len(f.Asked()) - before
	}
	first, n := trials(&kube.Spec{Image: "x", Args: []string{"one"}})
	second, again := trials(&kube.Spec{Image: "x", Args: []string{"two"}, Arch: "arm64"})
	if n != 3 || again != 0 || first != second {
		t.Errorf("%d trial runs, and %d of another command; told %q and %q", n, again, first, second)
	}
	if _, n := trials(&kube.Spec{Image: "x", Files: map[string][]byte{"a": nil}}); n != 3 {
		t.Errorf("%d trial runs of another pod", n)
	}
}

// TestRefused: who may not ask is told so, and what refuses every pod says why.
func TestRefused(t *testing.T) {
	f := start(t, kubetest.Options{})
	f.Refuse("POST pods", `pods is forbidden: User "anna" cannot create resource "pods" in API group "" in the namespace "ci"`)
	if _, err := f.cluster.Admit(t.Context(), &kube.Spec{Image: "x"}); err == nil || !strings.Contains(err.Error(), `cannot create resource "pods"`) || !strings.Contains(err.Error(), "docs/kubernetes.md") {
		t.Errorf("error %v", err)
	}
	if n := len(f.Asked()); n != 1 {
		t.Errorf("%d requests: %q", n, f.Asked())
	}
	f.Refuse("POST pods", `pods "slipway-x" is forbidden: exceeded quota: pods=0`)
	if _, err := f.cluster.Admit(t.Context(), &kube.Spec{Image: "x"}); err == nil || !strings.Contains(err.Error(), "namespace ci of test admits no pod that could build") || !strings.Contains(err.Error(), "exceeded quota") {
		t.Errorf("error %v", err)
	}
}

// TestUnreachable: a server that is not there is no reason to wait long, before it has answered once.
func TestUnreachable(t *testing.T) {
	f := start(t, kubetest.Options{})
	f.Cut(true)
	began := time.Now()
	_, err := f.cluster.Admit(t.Context(), &kube.Spec{Image: "x"})
	if err == nil || !strings.HasPrefix(err.Error(), "cannot reach the API server "+f.URL) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
}

// TestTemplates: what a template says stays, and what the command needs is added to it.
func TestTemplates(t *testing.T) {
	var job map[string]any
	f := start(t, kubetest.Options{Level: "baseline"})
	f.seen = func(string) { job = f.Jobs()[0] }
	_, err := f.run(t.Context(), t, "echo x", func(s *kube.Spec) {
		s.Template = []byte(`
kind: Pod
metadata: {labels: {team: a}, name: mine}
spec:
  priorityClassName: low
  containers:
    - name: other
      resources: {limits: {memory: 4Gi}}
      env: [{name: A, value: b}]
`)
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"spec.template.metadata.labels.team":                                  "a",
		"spec.template.spec.priorityClassName":                                "low",
		"spec.template.spec.restartPolicy":                                    "Never",
		"spec.template.spec.containers.0.name":                                "slipway",
		"spec.template.spec.containers.0.image":                               "slipway:test",
		"spec.template.spec.containers.0.resources.limits.memory":             "4Gi",
		"spec.template.spec.containers.0.env.0.value":                         "b",
		"spec.template.spec.containers.0.securityContext.seccompProfile.type": "RuntimeDefault",
		"spec.backoffLimit":                                                   "3",
	} {
		if got := fmt.Sprint(kubetest.At(job, path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	_, err = f.run(t.Context(), t, "echo x", func(s *kube.Spec) {
		s.Template = []byte("kind: Job\nspec: {backoffLimit: 7, template: {spec: {containers: [{name: slipway}]}}}")
	})
	if got, limit := fmt.Sprint(kubetest.At(job, "spec.ttlSecondsAfterFinished")), fmt.Sprint(kubetest.At(job, "spec.backoffLimit")); err != nil || got != "600" || limit != "7" {
		t.Errorf("a Job of a template goes by itself after %s s, and has the limit %s; %v", got, limit, err)
	}
	for template, want := range map[string]string{
		"kind: Deployment":            `kind "Deployment": want a Job, a Pod or a PodTemplate`,
		"kind: Pod\n---\nkind: Pod\n": "several documents",
		"{":                           "reading the pod's template",
		"kind: Pod\nspec: {containers: [{name: a}, {name: b}]}":                           `none of its containers is called "slipway"`,
		"kind: Pod\nspec: {containers: [{name: a, securityContext: {privileged: true}}]}": `refuses the pod of the template: pods "slipway-x" is forbidden: violates PodSecurity`,
	} {
		if _, err := f.cluster.Admit(t.Context(), &kube.Spec{Image: "x", Template: []byte(template)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", template, err, want)
		}
	}
}
