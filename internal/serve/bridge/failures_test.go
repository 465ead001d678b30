package bridge

import (
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/engine"
)

// fails solves what fails, and gives the error as BuildKit's clients see it.
func fails(t *testing.T, c gw.Client, st llb.State) (*errdefs.SolveError, error) {
	t.Helper()
	_, err := c.Solve(t.Context(), gw.SolveRequest{Definition: definitionOf(t, st), Evaluate: true})
	var solved *errdefs.SolveError
	var vertex *errdefs.VertexError
	if !errors.As(err, &solved) || !errors.As(err, &vertex) || solved.Op == nil {
		t.Fatalf("the failure is %v", err)
	}
	return solved, err
}

// reads gives a file of what an id of an error shows.
func reads(t *testing.T, c gw.Client, root gw.Reference, id, file string) string {
	t.Helper()
	ctr, err := c.NewContainer(t.Context(), gw.NewContainerRequest{Mounts: []gw.Mount{{Dest: "/", Ref: root}, {Dest: "/shown", ResultID: id}}})
	must(t, err)
	out := buffer()
	p, err := ctr.Start(t.Context(), gw.StartRequest{Args: []string{"cat", "/shown" + file}, Stdout: out})
	must(t, err)
	if err := p.Wait(); err != nil {
		t.Errorf("%s: %v", file, err)
	}
	must(t, ctr.Release(t.Context()))
	return strings.TrimSpace(out.String())
}

// TestFailedStep: a step that fails ends nothing else, and what it was given and left behind can be looked into, by its mounts.
func TestFailedStep(t *testing.T) {
	m := newMachine(t)
	_, c := gateway(t, m.build(engine.RunOptions{KeepFailed: true}))
	root := solve(t, c, llb.Image("busybox"))
	given := llb.Scratch().File(llb.Mkfile("given", 0o644, []byte("given")))
	failing := llb.Image("busybox").Run(
		llb.Args([]string{"sh", "-c", "for d in / /empty/ /m/ /no/; do echo of $d > ${d}left; done; exit 9"}),
		llb.AddMount("/empty", llb.Scratch()), llb.AddMount("/m", given), llb.AddMount("/ro", given, llb.Readonly),
		llb.AddMount("/no", given, llb.ForceNoOutput), llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs()),
	).Root()
	failed, err := fails(t, c, failing)
	var exit *gwpb.ExitError
	if !errors.As(err, &exit) || exit.ExitCode != 9 {
		t.Errorf("the error is %v", err)
	}
	places := map[string]int{}
	for i, mount := range failed.Op.GetExec().GetMounts() {
		places[mount.Dest] = i
	}
	if len(places) != 6 || len(failed.InputIDs) != 6 || len(failed.MountIDs) != 6 {
		t.Fatalf("the mounts are %v, the ids %q and %q", places, failed.InputIDs, failed.MountIDs)
	}
	for dest, file := range map[string]string{"/": "/left", "/empty": "/left", "/m": "/left", "/no": "/left", "/ro": "/given"} {
		want := "of " + strings.TrimSuffix(dest, "/") + "/"
		if dest == "/ro" {
			want = "given"
		}
		if got := reads(t, c, root, failed.MountIDs[places[dest]], file); got != want {
			t.Errorf("mount %s left %q, want %q", dest, got, want)
		}
		id := failed.InputIDs[places[dest]]
		switch dest {
		case "/empty":
			if id != "" {
				t.Errorf("mount %s was given %q", dest, id)
			}
		case "/":
			reads(t, c, root, id, "/bin/sh")
		default:
			if got := reads(t, c, root, id, "/given"); got != "given" {
				t.Errorf("mount %s was given %q", dest, got)
			}
		}
	}
	if i := places["/tmp"]; failed.MountIDs[i]+failed.InputIDs[i] != "" {
		t.Errorf("a mount of memory has ids")
	}
	solve(t, c, llb.Image("busybox").Run(llb.Shlex("true")).Root())
	if again, _ := fails(t, c, failing); again.MountIDs[0] != failed.MountIDs[0] {
		t.Error("the same failure has other ids")
	}
}

// TestFailedAction: an action of a file operation that fails says which one it is, and what it began with can be looked into.
func TestFailedAction(t *testing.T) {
	m := newMachine(t)
	_, c := gateway(t, m.build(engine.RunOptions{KeepFailed: true}))
	root := solve(t, c, llb.Image("busybox"))
	made := llb.Mkdir("/foo", 0o700).Mkfile("/foo/bar", 0o600, []byte("made"))
	for _, tt := range []struct {
		name            string
		st              llb.State
		action          int64
		inputs, actions int
		file            string // of what it was to change
		from            string // of what it copies from
	}{
		{"mkfile", llb.Scratch().File(made.Mkfile("/notfound/foo", 0o600, nil)), 2, 0, 3, "/foo/bar", ""},
		{"on an input", llb.Scratch().File(made).File(llb.Mkfile("/notfound/foo", 0o600, nil)), 0, 1, 1, "/foo/bar", ""},
		{"copy of an input", llb.Image("busybox").File(llb.Copy(llb.Scratch().File(made), "/foo/bar", "/notfound/baz")), 0, 2, 1, "", "/foo/bar"},
		{"copy of an action", llb.Image("busybox").File(llb.Copy(made.WithState(llb.Scratch()), "/foo/bar", "/notfound/baz")), 2, 1, 3, "", "/foo/bar"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed, _ := fails(t, c, tt.st)
			subject, ok := failed.Subject.(*errdefs.Solve_File)
			if !ok || subject.File.Index != tt.action || len(failed.InputIDs) != tt.inputs || len(failed.MountIDs) != tt.actions {
				t.Fatalf("the failure is %v, with the ids %q and %q", failed.Subject, failed.InputIDs, failed.MountIDs)
			}
			began := failed.MountIDs[tt.action]
			if tt.file != "" && reads(t, c, root, began, tt.file) != "made" {
				t.Error("it began with something else")
			}
			if tt.from == "" {
				return
			}
			reads(t, c, root, began, "/bin/sh")
			second := int(failed.Op.GetFile().Actions[tt.action].SecondaryInput)
			id := ""
			if second < tt.inputs {
				id = failed.InputIDs[second]
			} else {
				id = failed.MountIDs[second-tt.inputs]
			}
			if got := reads(t, c, root, id, tt.from); got != "made" {
				t.Errorf("it copies from %q", got)
			}
		})
	}
}

// TestUnreadInput: where files of an input cannot be read, the input can be looked into.
func TestUnreadInput(t *testing.T) {
	m := newMachine(t)
	_, c := gateway(t, m.build(engine.RunOptions{KeepFailed: true}))
	root := solve(t, c, llb.Image("busybox"))
	input := llb.Scratch().File(llb.Mkfile("there", 0o600, []byte("there")))
	failed, _ := fails(t, c, llb.Image("busybox").Run(llb.Shlex("true"), llb.AddMount("/src", input, llb.SourcePath("/notfound"), llb.Readonly)).Root())
	subject, ok := failed.Subject.(*errdefs.Solve_Cache)
	if !ok || subject.Cache.Index != 1 || len(failed.InputIDs) != 1 || len(failed.MountIDs) != 0 || failed.Op.GetExec() == nil {
		t.Fatalf("the failure is %v, with the ids %q and %q", failed.Subject, failed.InputIDs, failed.MountIDs)
	}
	if got := reads(t, c, root, failed.InputIDs[0], "/there"); got != "there" {
		t.Errorf("the input has %q", got)
	}
}

// TestFailedSource: an image that is not there is an error of its operation.
func TestFailedSource(t *testing.T) {
	m := newMachine(t)
	_, c := gateway(t, m.build(engine.RunOptions{}))
	if failed, _ := fails(t, c, llb.Image("nosuch")); failed.Op.GetSource() == nil || len(failed.InputIDs) > 0 || failed.Subject != nil {
		t.Errorf("the failure is %v", failed)
	}
}

// TestEvaluatedFrontend: what a frontend gives is evaluated if the client asks for that, as a graph is; both is nothing.
func TestEvaluatedFrontend(t *testing.T) {
	m := newMachine(t)
	_, c := gateway(t, m.build(engine.RunOptions{}))
	file := definitionOf(t, llb.Scratch().File(llb.Mkfile("Dockerfile", 0o644, []byte("FROM busybox\nRUN exit 3\n"))))
	for _, evaluate := range []bool{false, true} {
		_, err := c.Solve(t.Context(), gw.SolveRequest{
			Frontend: "dockerfile.v0", Evaluate: evaluate, FrontendInputs: map[string]*pb.Definition{"context": file, "dockerfile": file},
		})
		var exit *gwpb.ExitError
		if failed := errors.As(err, &exit) && exit.ExitCode == 3; failed != evaluate || !evaluate && err != nil {
			t.Errorf("evaluate %t: %v", evaluate, err)
		}
	}
	if _, err := c.Solve(t.Context(), gw.SolveRequest{Frontend: "dockerfile.v0", Definition: file}); err == nil || !strings.Contains(err.Error(), "both Definition and Frontend") {
		t.Errorf("a frontend with a graph: %v", err)
	}
}
