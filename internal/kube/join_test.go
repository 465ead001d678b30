package kube_test

import (
	"context"
	"errors"
	"fmt"
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

// another is another client of the same cluster.
func (f *fixture) another() *fixture {
	return &fixture{Server: f.Server, cluster: f.cluster, dir: f.dir, seen: func(string) {}, heard: func(string) {}}
}

// ended is what became of a command.
type ended struct {
	out kube.Outcome
	err error
}

// begin carries a script out beside others.
func (f *fixture) begin(ctx context.Context, t *testing.T, script string, change func(*kube.Spec)) <-chan ended {
	c := make(chan ended, 1)
	go func() {
		out, err := f.run(ctx, t, script, change)
		c <- ended{out, err}
	}()
	return c
}

func (f *fixture) wasTold(text string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.told, func(s string) bool { return strings.Contains(s, text) })
}

// shares reports whether the last Job that was made has a name by which others find it.
func (f *fixture) shares() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var last string
	for _, told := range f.told {
		if name, ok := strings.CutPrefix(told, "Job slipway-"); ok && strings.HasSuffix(told, " in namespace ci of test") {
			last, _, _ = strings.Cut(name, " ")
		}
	}
	return len(last) > 12
}

func shared(s *kube.Spec) { s.Shared = true }

// TestJoin: a second client of the same command has no Job of its own, sees all that the first one's prints, and leaves it to that one.
func TestJoin(t *testing.T) {
	for name, change := range map[string]func(*kube.Spec){
		"plain": shared,
		"files": func(s *kube.Spec) { s.Shared, s.Files = true, map[string][]byte{"config.json": []byte("x")} },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, kubetest.Options{})
			pipe, release := f.pipe(t)
			script := "echo one; read x < " + pipe + "; echo two; echo made > /dev/termination-log"
			second, two := f.another(), make(chan (<-chan ended), 1)
			second.seen = func(line string) {
				if line == "one" {
					go release()
				}
			}
			f.seen = func(line string) {
				if line == "one" {
					two <- second.begin(t.Context(), t, script, change)
				}
			}
			out, err := f.run(t.Context(), t, script, change)
			other := <-<-two
			if err != nil || other.err != nil || out.Message != "made\n" || other.out != out {
				t.Fatalf("%+v, %v; the second one %+v", out, err, other)
			}
			if want := []string{"one", "two"}; !slices.Equal(f.lines, want) || !slices.Equal(second.lines, want) || f.Made() != 1 {
				t.Errorf("lines %q and %q, %d Jobs", f.lines, second.lines, f.Made())
			}
			if !second.wasTold("joining Job slipway-") || !second.wasTold(" UTC; if it hangs: kubectl delete job slipway-") {
				t.Errorf("told %q", second.told)
			}
			f.empty(t)
		})
	}
}

// TestJoinerLeaves: who has joined a Job, and is interrupted, leaves it to its maker.
func TestJoinerLeaves(t *testing.T) {
	f := start(t, kubetest.Options{})
	pipe, release := f.pipe(t)
	script := "echo one; read x < " + pipe + "; echo two"
	ctx, interrupt := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	second, two := f.another(), make(chan (<-chan ended), 1)
	second.seen = func(string) { interrupt(why) }
	f.seen = func(line string) {
		if line == "one" {
			two <- second.begin(ctx, t, script, shared)
		}
	}
	one := f.begin(t.Context(), t, script, shared)
	if other := <-<-two; !errors.Is(other.err, why) {
		t.Errorf("the second one %+v", other)
	}
	release()
	if first := <-one; first.err != nil || !slices.Equal(f.lines, []string{"one", "two"}) || f.again != 0 {
		t.Errorf("%+v, lines %q, begun anew %d times", first, f.lines, f.again)
	}
	f.empty(t)
}

// waitsOnce is a script that waits when it is carried out the first time.
func (f *fixture) waitsOnce(t *testing.T) (script string, release func()) {
	t.Helper()
	pipe, release := f.pipe(t)
	return fmt.Sprintf(`[ -e %s ] || { : > %[1]s; echo waiting; read x < %s; }; echo over`, filepath.Join(f.dir, "first"), pipe), release
}

// TestJoinInterrupted: who has joined a Job that its maker deletes makes it anew; where the old one is still there, by another name.
func TestJoinInterrupted(t *testing.T) {
	for _, lingering := range []bool{false, true} {
		f := start(t, kubetest.Options{Lingering: lingering})
		script, _ := f.waitsOnce(t)
		ctx, interrupt := context.WithCancelCause(t.Context())
		why := errors.New("interrupted")
		second, two := f.another(), make(chan (<-chan ended), 1)
		second.seen = func(line string) {
			if line == "waiting" {
				interrupt(why)
			}
		}
		f.seen = func(string) { two <- second.begin(t.Context(), t, script, shared) }
		if _, err := f.run(ctx, t, script, shared); !errors.Is(err, why) {
			t.Fatalf("error %v", err)
		}
		if other := <-<-two; other.err != nil || other.out.ExitCode != 0 {
			t.Fatalf("the second one %+v, told %q", other, second.told)
		}
		if !slices.Equal(second.lines, []string{"waiting", "over"}) || f.Made() != 2 || second.again == 0 {
			t.Errorf("lines %q, %d Jobs, begun anew %d times", second.lines, f.Made(), second.again)
		}
		if !lingering {
			f.empty(t)
		}
	}
}

// TestNotJoined: a Job that has the name, and is another one or comes to no good end, is left alone.
func TestNotJoined(t *testing.T) {
	set := func(path string, value any) func(map[string]any) {
		return func(job map[string]any) {
			keys := strings.Split(path, ".")
			of := kubetest.At(job, strings.Join(keys[:len(keys)-1], "."))
			of.(map[string]any)[keys[len(keys)-1]] = value
		}
	}
	const container, pod = "spec.template.spec.containers.0.", "spec.template.spec."
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"image":     {set(container+"image", "evil"), "it is another one, by its spec.template.spec.containers[0].image"},
		"arguments": {set(container+"args", []any{"-c", "evil"}), "by its spec.template.spec.containers[0].args[1]"},
		"command":   {set(container+"command", []any{"sh"}), "by its spec.template.spec.containers[0].command[0]"},
		"env":       {set(container+"env", []any{map[string]any{"name": "LD_PRELOAD", "value": "/x"}}), "by its spec.template.spec.containers[0].env"},
		"rights":    {set(container+"securityContext.privileged", true), "by its spec.template.spec.containers[0].securityContext.privileged"},
		"no rights": {set(container+"securityContext", nil), "by its spec.template.spec.containers[0].securityContext"},
		"its name":  {set(container+"name", "other"), "by its spec.template.spec.containers[0].name"},
		"host":      {set(pod+"hostPID", true), "by its spec.template.spec.hostPID"},
		"more":      {set(pod+"initContainers", []any{map[string]any{"name": "x"}}), "by its spec.template.spec.initContainers"},
		"volume":    {set(pod+"volumes", []any{}), "by its spec.template.spec.volumes"},
		"selector":  {set("spec.manualSelector", true), "by its spec.manualSelector"},
		"label": {func(job map[string]any) {
			kubetest.At(job, "spec.template.metadata.labels").(map[string]any)["slipway.build/job"] = "other"
		}, "by its spec.template.metadata.labels.slipway.build/job"},
		"failed":  {set("status.conditions", []any{map[string]any{"type": "Failed", "status": "True"}}), "it has failed"},
		"failing": {set("status.conditions", []any{map[string]any{"type": "FailureTarget", "status": "True"}}), "it has failed"},
		"ended":   {set("status.conditions", []any{map[string]any{"type": "Complete", "status": "True"}}), "it has ended"},
		"deleted": {set("metadata.deletionTimestamp", "2026-01-01T00:00:00Z"), "it is being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, kubetest.Options{})
			script, release := f.waitsOnce(t)
			second, two := f.another(), make(chan (<-chan ended), 1)
			f.seen = func(line string) {
				if line == "waiting" {
					f.Edit(c.change)
					two <- second.begin(t.Context(), t, script, shared)
				}
			}
			one := f.begin(t.Context(), t, script, shared)
			other := <-<-two
			left := f.Left()
			if other.err != nil || !slices.Equal(second.lines, []string{"over"}) || f.Made() != 2 {
				t.Errorf("the second one %+v, lines %q, %d Jobs", other, second.lines, f.Made())
			}
			if !second.wasTold("is not joined: ") || !second.wasTold(c.want) {
				t.Errorf("told %q, want %q", second.told, c.want)
			}
			if another := strings.Contains(c.want, "by its"); second.shares() == another {
				t.Errorf("it has the Job %q", second.told)
			}
			if len(left) != 2 { // the first one's Job and its pod
				t.Errorf("there are %q", left)
			}
			release()
			<-one
		})
	}
}

// TestNotShared: what is not said to be the same has a Job of its own, as has what differs in anything that its name is made of.
func TestNotShared(t *testing.T) {
	f := start(t, kubetest.Options{})
	names := func(change func(*kube.Spec)) []string {
		s := &kube.Spec{Image: "x", Args: []string{"build", "packed://x@sha256:1"}, Shared: true, Files: map[string][]byte{"config.json": []byte("password")}}
		change(s)
		a, err := f.cluster.Admit(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return a.SharedNames(s)
	}
	if got := names(func(s *kube.Spec) { s.Shared = false }); got != nil {
		t.Errorf("names %q", got)
	}
	all := names(func(*kube.Spec) {})
	if len(all) != 3 {
		t.Errorf("names %q", all)
	}
	for what, change := range map[string]func(*kube.Spec){
		"image": func(s *kube.Spec) { s.Image = "y" }, "arguments": func(s *kube.Spec) { s.Args[1] = "packed://x@sha256:2" },
		"files": func(s *kube.Spec) { s.Files["secret-0"] = nil }, "environment": func(s *kube.Spec) { s.Env = map[string]string{"A": "b"} },
		"rights": func(s *kube.Spec) { s.NoUserNamespace = true }, "node": func(s *kube.Spec) { s.Arch = "arm64" },
		"secret": func(s *kube.Spec) { s.RegistrySecret = "x" }, "template": func(s *kube.Spec) { s.Template = []byte("kind: Pod\nspec: {priorityClassName: low}") },
	} {
		other := names(change)
		if slices.Contains(all, other[0]) {
			t.Errorf("another %s has the same name", what)
		}
		all = append(all, other...)
	}
	// Contents of files would be guessed by their digests.
	if got := names(func(s *kube.Spec) { s.Files["config.json"] = []byte("another one") }); got[0] != all[0] {
		t.Errorf("name %s, want %s", got[0], all[0])
	}
}

// TestJoinedFails: a failure of another client's Job is tried once with a Job of one's own, whose end counts.
func TestJoinedFails(t *testing.T) {
	for name, files := range map[string]map[string][]byte{"plain": nil, "files": {"config.json": []byte("x")}} {
		t.Run(name, func(t *testing.T) {
			f := start(t, kubetest.Options{})
			pipe, release := f.pipe(t)
			script := fmt.Sprintf(`echo one; [ -e %s ] || { : > %[1]s; read x < %s; }; exit 3`, filepath.Join(f.dir, "first"), pipe)
			change := func(s *kube.Spec) { s.Shared, s.Files = true, files }
			second, two := f.another(), make(chan (<-chan ended), 1)
			second.seen = func(string) {
				second.seen = func(string) {}
				go release()
			}
			f.seen = func(string) { two <- second.begin(t.Context(), t, script, change) }
			out, err := f.run(t.Context(), t, script, change)
			other := <-<-two
			if err != nil || other.err != nil || out.ExitCode != 3 || other.out.ExitCode != 3 || f.Made() != 2 {
				t.Errorf("%+v, %v; the second one %+v; %d Jobs; told %q", out, err, other, f.Made(), second.told)
			}
			if second.again == 0 || second.shares() || !second.wasTold("is left: it failed with exit code 3") {
				t.Errorf("begun anew %d times, told %q", second.again, second.told)
			}
			f.empty(t)
		})
	}
}

// TestJoinedNeverRuns: what keeps a joined Job from running counts at once where it is what was compared that does; what may have been mended since is tried once.
func TestJoinedNeverRuns(t *testing.T) {
	terminated := func(reason string) map[string]any {
		return kubetest.State("Failed", "terminated", map[string]any{"exitCode": 137, "reason": reason, "message": "no slipway"})
	}
	for name, c := range map[string]struct {
		states []map[string]any
		jobs   int
		want   string // the second one's error
	}{
		"memory":  {[]map[string]any{terminated("OOMKilled")}, 1, "OOMKilled"},
		"program": {[]map[string]any{terminated("StartError")}, 1, "the pod cannot start: no slipway"},
		"image":   {[]map[string]any{waiting("ErrImagePull", "denied"), waiting("ImagePullBackOff", "Back-off")}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pods := make(chan *kubetest.Pod, 1)
			first := true
			f := start(t, kubetest.Options{Pod: func(_ *kubetest.Server, p *kubetest.Pod) bool {
				runs := !first
				if first = false; !runs {
					pods <- p
				}
				return runs
			}})
			second := f.another()
			var two <-chan ended
			var other ended
			f.heard = func(told string) {
				switch {
				case strings.HasPrefix(told, "Job "):
					two = second.begin(t.Context(), t, "echo one", shared)
				case two != nil: // its Job is there until the second one has ended
					other, two = <-two, nil
				}
			}
			second.heard = func(told string) {
				if strings.HasPrefix(told, "joining ") {
					p := <-pods
					for _, s := range c.states {
						p.Set(s)
					}
				}
			}
			_, err := f.run(t.Context(), t, "echo one", shared)
			switch {
			case err == nil || f.Made() != c.jobs:
				t.Errorf("error %v, %d Jobs; told %q", err, f.Made(), second.told)
			case c.want == "" && (other.err != nil || !slices.Equal(second.lines, []string{"one"}) || second.shares()):
				t.Errorf("the second one %+v, lines %q", other, second.lines)
			case c.want != "" && (other.err == nil || !strings.Contains(other.err.Error(), c.want)):
				t.Errorf("the second one %+v, want %q", other, c.want)
			}
		})
	}
}

// TestJoinStuck: a Job whose client went before it made the Secret never begins, and is not waited for, by nobody who comes. What was missing for a moment is no reason
// to leave a Job.
func TestJoinStuck(t *testing.T) {
	began := time.Now().Add(-5 * time.Minute)
	pending := map[string]any{"phase": "Pending", "startTime": began.UTC().Format(time.RFC3339)}
	for name, c := range map[string]struct {
		warned   time.Duration // after the pod began
		patience time.Duration
		left     string
	}{
		"no Secret":     {4 * time.Minute, 0, "is left: its pod does not start: FailedMount"},
		"a late Secret": {10 * time.Second, 0, ""},
		"hangs":         {10 * time.Second, 4 * time.Minute, "is left: its pod does not start"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, first := began, make(chan *kubetest.Pod, 1)
			f := start(t, kubetest.Options{Pod: func(s *kubetest.Server, p *kubetest.Pod) bool {
				if s.Made() > 1 {
					return true
				}
				s.WarnedAt(began.Add(c.warned), p.UID, "FailedMount", `MountVolume.SetUp failed for volume "slipway-job": secret not found`)
				p.Set(pending)
				first <- p
				return false
			}})
			change := func(s *kube.Spec) { s.Shared, s.Patience = true, c.patience }
			ctx, interrupt := context.WithCancel(t.Context())
			one := f.begin(ctx, t, "echo one", func(s *kube.Spec) { s.Shared, s.Patience = true, time.Hour })
			p := <-first
			second := f.another()
			second.heard = func(told string) {
				if c.left == "" && strings.HasPrefix(told, "FailedMount") { // it has looked, and stays
					p.Set(kubetest.State("Succeeded", "terminated", map[string]any{"exitCode": 0}))
				}
			}
			out, err := second.run(t.Context(), t, "echo one", change)
			switch {
			case err != nil || out.ExitCode != 0:
				t.Errorf("%+v, %v, told %q", out, err, second.told)
			case c.left == "" && (f.Made() != 1 || second.wasTold("is left")):
				t.Errorf("%d Jobs, told %q", f.Made(), second.told)
			case c.left != "" && (f.Made() != 2 || !second.wasTold(c.left) || !second.shares()):
				t.Errorf("%d Jobs, told %q", f.Made(), second.told)
			}
			interrupt()
			<-one
		})
	}
}

// TestJoinAfterLostPods: who joins a Job is shown the pod that it has now, and not those that were lost before; when that one is lost, the next one.
func TestJoinAfterLostPods(t *testing.T) {
	f := start(t, kubetest.Options{})
	pipe, release := f.pipe(t)
	script := ""
	for _, word := range []string{"one", "two"} {
		script += fmt.Sprintf("[ -e %s ] || { : > %[1]s; echo %s; exec cat %s; }; ", filepath.Join(f.dir, word), word, pipe)
	}
	script += "echo three; read x < " + pipe
	kill := func() { f.Running()[0].Kill(unix.SIGKILL) }
	second, two := f.another(), make(chan (<-chan ended), 1)
	f.seen = func(line string) {
		switch line {
		case "one":
			kill()
		case "two":
			two <- second.begin(t.Context(), t, script, shared)
		}
	}
	second.seen = func(line string) {
		switch line {
		case "two":
			kill()
		case "three":
			go release()
		}
	}
	out, err := f.run(t.Context(), t, script, shared)
	other := <-<-two
	if err != nil || other.err != nil || other.out != out || f.Made() != 1 {
		t.Errorf("%+v, %v; the second one %+v; %d Jobs", out, err, other, f.Made())
	}
	if !slices.Equal(second.lines, []string{"two", "three"}) || second.again != 1 {
		t.Errorf("lines %q, begun anew %d times, told %q", second.lines, second.again, second.told)
	}
	f.empty(t)
}

// TestManyJoin: three clients have one Job, also with files; when it ends badly each of those that have joined it has one of its own.
func TestManyJoin(t *testing.T) {
	files := func(s *kube.Spec) { s.Shared, s.Files = true, map[string][]byte{"config.json": []byte("x")} }
	for name, code := range map[string]int{"well": 0, "badly": 3} {
		t.Run(name, func(t *testing.T) {
			f := start(t, kubetest.Options{})
			script, release := f.waitsOnce(t)
			script += fmt.Sprintf("; exit %d", code)
			var joined sync.WaitGroup
			joined.Add(2)
			var others []*fixture
			var ends []<-chan ended
			f.seen = func(line string) {
				if line != "waiting" {
					return
				}
				for range 2 {
					o := f.another()
					o.seen = func(line string) {
						if line == "waiting" {
							joined.Done()
						}
					}
					others, ends = append(others, o), append(ends, o.begin(t.Context(), t, script, files))
				}
				go func() { joined.Wait(); release() }()
			}
			out, err := f.run(t.Context(), t, script, files)
			if err != nil || out.ExitCode != code {
				t.Errorf("%+v, %v", out, err)
			}
			for i, end := range ends {
				if got := <-end; got.err != nil || got.out.ExitCode != code {
					t.Errorf("%+v, told %q", got, others[i].told)
				}
			}
			if want := map[int]int{0: 1, 3: 3}[code]; f.Made() != want {
				t.Errorf("%d Jobs, want %d", f.Made(), want)
			}
			f.empty(t)
		})
	}
}

// TestJoinedDeadNode: who has joined a Job whose node is gone leaves it, and deletes nothing of it.
func TestJoinedDeadNode(t *testing.T) {
	f := start(t, kubetest.Options{})
	script, _ := f.waitsOnce(t)
	ctx, interrupt := context.WithCancel(t.Context())
	var one <-chan ended
	second := f.another()
	second.seen = func(line string) {
		if line == "waiting" {
			f.Running()[0].Strand()
		}
	}
	two := make(chan (<-chan ended), 1)
	f.seen = func(string) { two <- second.begin(t.Context(), t, script, shared) }
	restore := kube.SetDeadNodeTime(10 * time.Millisecond)
	defer restore()
	f.heard = func(told string) { // the first one sees nothing of it
		if strings.Contains(told, " is lost") {
			<-ctx.Done()
		}
	}
	one = f.begin(ctx, t, script, shared)
	other := <-<-two
	var pods []string // that were deleted
	for _, asked := range f.Asked() {
		if strings.HasPrefix(asked, "DELETE pods") {
			pods = append(pods, asked)
		}
	}
	if other.err != nil || !slices.Equal(second.lines, []string{"waiting", "over"}) || len(pods) > 1 || f.Made() != 2 {
		t.Errorf("%+v, lines %q, %d Jobs, asked for %q, told %q", other, second.lines, f.Made(), pods, second.told)
	}
	if !second.wasTold("is left: the node of the pod does not answer") {
		t.Errorf("told %q", second.told)
	}
	interrupt()
	<-one
}

// TestLostAnswer: a Job whose making was not answered is its maker's nevertheless: he does not join it, and deletes it.
func TestLostAnswer(t *testing.T) {
	for _, lost := range []int{1, -1} {
		f := start(t, kubetest.Options{LostAnswers: lost})
		ctx, interrupt := context.WithCancel(t.Context())
		f.heard = func(told string) {
			if lost < 0 {
				interrupt() // before any answer has come
			}
		}
		out, err := f.run(ctx, t, "echo one", shared)
		if lost > 0 && (err != nil || out.ExitCode != 0 || f.wasTold("joining") || !slices.Equal(f.lines, []string{"one"})) || lost < 0 && !errors.Is(err, context.Canceled) {
			t.Errorf("%+v, %v, told %q", out, err, f.told)
		}
		if f.Made() != 1 {
			t.Errorf("%d Jobs", f.Made())
		}
		f.empty(t)
		interrupt()
	}
}

// TestInterruptedUnanswered: who is interrupted before he knows whose the Job of the name is leaves it there, where it is another client's.
func TestInterruptedUnanswered(t *testing.T) {
	f := start(t, kubetest.Options{})
	pipe, release := f.pipe(t)
	s := &kube.Spec{Image: "slipway:test", Args: []string{"-c", "echo one; read x < " + pipe}, Shared: true}
	a, err := f.cluster.Admit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	f.seen = func(string) {
		ctx, interrupt := context.WithCancel(t.Context())
		interrupt()
		if _, err := f.cluster.Run(ctx, a, s, kube.View{Tell: func(string) {}}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if len(f.Left()) != 2 {
			t.Errorf("there are %q", f.Left())
		}
		go release()
	}
	if out, err := f.run(t.Context(), t, s.Args[1], shared); err != nil || out.ExitCode != 0 || f.Made() != 1 {
		t.Errorf("%+v, %v, %d Jobs, told %q", out, err, f.Made(), f.told)
	}
	f.empty(t)
}

// TestDeletesItsOwn: another Job that has the name by now is nobody's to delete.
func TestDeletesItsOwn(t *testing.T) {
	f := start(t, kubetest.Options{})
	f.seen = func(string) {
		f.Edit(func(job map[string]any) { job["metadata"].(map[string]any)["uid"] = "a successor" })
	}
	if _, err := f.run(t.Context(), t, "echo one", shared); err != nil {
		t.Fatal(err)
	}
	if left := f.Left(); !slices.ContainsFunc(left, func(s string) bool { return strings.HasPrefix(s, "job ") }) {
		t.Errorf("there are %q", left)
	}
}

// TestPodsOfItsOwn: what a pod says counts when the Job owns it, and not when it only has the Job's label, as those of one that had the name before.
func TestPodsOfItsOwn(t *testing.T) {
	first := true
	f := start(t, kubetest.Options{Pod: func(s *kubetest.Server, p *kubetest.Pod) bool {
		if !first {
			return true
		}
		first = false
		p.Disown()
		p.Set(kubetest.State("Failed", "terminated", map[string]any{"exitCode": 9, "message": "false"}))
		return false
	}})
	out, err := f.run(t.Context(), t, "echo one", shared)
	if err != nil || out.ExitCode != 0 || !slices.Equal(f.lines, []string{"one"}) {
		t.Errorf("%+v, %v, lines %q", out, err, f.lines)
	}
}
