package bridge

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/frontend"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "slipway-bridge-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs.dir = dir
	return m.Run()
}

// machine is everything that a build needs, with busybox in a registry.
type machine struct {
	t      *testing.T
	dir    string
	store  *store.Store
	images *imagesource.Source
	runner sandbox.Runner
	reg    *registrytest.Registry
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	dir, err := os.MkdirTemp("/dev/shm", "slipway-bridge-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, reg: registrytest.Start(t)}
	busybox, err := baseimage.Busybox()
	must(t, err)
	m.push("library/busybox:latest", busybox)
	certs := filepath.Join(dir, "certs.d")
	must(t, registrytest.WriteCertsD(certs, map[string][]string{"docker.io": {m.reg.URL}}))
	m.store, err = store.Open(filepath.Join(dir, "store"))
	must(t, err)
	t.Cleanup(func() { must(t, m.store.Close()) })
	m.runner, err = sandbox.New(sandbox.Options{StateDir: filepath.Join(dir, "run")})
	must(t, err)
	m.images = imagesource.New(m.store, registry.New(registry.Options{CertsDirs: []string{certs}}))
	t.Cleanup(func() {
		if left, err := os.ReadDir(filepath.Join(dir, "run")); err != nil || len(left) > 0 {
			t.Errorf("after all runs there are %v, %v", left, err)
		}
	})
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) push(repository string, img v1.Image) {
	m.t.Helper()
	ref, err := name.ParseReference(m.reg.Host + "/" + repository)
	must(m.t, err)
	must(m.t, remote.Write(ref, img))
}

// build is a build's own client, without anything that it builds yet.
func (m *machine) build(opt engine.RunOptions) *frontend.Client {
	m.t.Helper()
	opt.Platform = platforms.DefaultSpec()
	run := engine.New(engine.Options{Store: m.store, Images: m.images, Runner: m.runner}).NewRun(context.Background(), opt)
	m.t.Cleanup(func() { must(m.t, run.Close()) })
	return frontend.New(frontend.Options{Run: run, Sink: progress.Discard, Platform: opt.Platform, Serve: Serve})
}

func solve(t *testing.T, c gw.Client, s llb.State) gw.Reference {
	t.Helper()
	res, err := c.Solve(t.Context(), gw.SolveRequest{Definition: definitionOf(t, s)})
	must(t, err)
	return res.Ref
}

// TestRealContainer: BuildKit's client runs processes in a container on what it has built.
func TestRealContainer(t *testing.T) {
	m := newMachine(t)
	t.Setenv("SECRET", "hidden")
	hidden, err := secrets.NewStore([]secrets.Source{{ID: "s", Env: "SECRET"}})
	must(t, err)
	_, c := gateway(t, m.build(engine.RunOptions{Secrets: hidden}))
	ctx := t.Context()
	root := solve(t, c, llb.Image("busybox").Run(llb.Args([]string{"sh", "-c", "echo base > /base; ln -s base /link; ln -s /base /absolute"})).Root())
	other := solve(t, c, llb.Scratch().File(llb.Mkfile("/in", 0o644, []byte("other"))))
	ctr, err := c.NewContainer(ctx, gw.NewContainerRequest{
		Hostname: "box", NetMode: pb.NetMode_NONE, ExtraHosts: []*pb.HostIP{{Host: "db", IP: "10.1.2.3"}},
		Mounts: []gw.Mount{
			{Dest: "/", Ref: root}, {Dest: "/other", Ref: other}, {Dest: "/ro", Ref: other, Readonly: true}, {Dest: "/empty"},
			{Dest: "/tmpfs", MountType: pb.MountType_TMPFS}, {Dest: "/cache", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "bridge"}},
			{Dest: "/secret", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Mode: 0o400}},
		},
	})
	must(t, err)
	first, err := ctr.Start(ctx, gw.StartRequest{Args: []string{"sh", "-c", "echo first > /first; while :; do sleep 1000; done"}})
	must(t, err)
	try := func(req gw.StartRequest) (string, error) {
		t.Helper()
		out := buffer()
		req.Stdout = out
		if !req.Tty {
			req.Stderr = nopCloser{out.Buffer}
		}
		p, err := ctr.Start(ctx, req)
		must(t, err)
		err = p.Wait()
		return strings.TrimSpace(strings.ReplaceAll(out.String(), "\r", "")), err
	}
	sh := func(script string) string {
		t.Helper()
		out, err := try(gw.StartRequest{Args: []string{"sh", "-c", script}})
		if err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
		return out
	}
	if got := sh("until [ -e /first ]; do :; done; cat /first /base /other/in /ro/in /secret; hostname; grep -c db /etc/hosts; pwd; echo more > /more; echo w > /other/w; echo c > /cache/c; echo e > /empty/e"); got != "first\nbase\notherotherhiddenbox\n1\n/" {
		t.Errorf("the container is %q", got)
	}
	if out, err := try(gw.StartRequest{Args: []string{"sh", "-c", "echo x > /ro/x"}}); err == nil {
		t.Errorf("a mount that is read-only is written to: %s", out)
	}
	if out, err := try(gw.StartRequest{
		Args: []string{"sh", "-c", "echo $A $S; id -u; pwd; cat"}, Env: []string{"A=b"}, SecretEnv: []*pb.SecretEnv{{ID: "s", Name: "S"}}, User: "1000", Cwd: "/tmp",
		Stdin: io.NopCloser(strings.NewReader("in")),
	}); err != nil || out != "b hidden\n1000\n/tmp\nin" {
		t.Errorf("a process with all that a process can have: %q, %v", out, err)
	}
	var exit *gwpb.ExitError
	if _, err := try(gw.StartRequest{Args: []string{"sh", "-c", "exit 99"}}); !errors.As(err, &exit) || exit.ExitCode != 99 || !strings.Contains(err.Error(), "exit code: 99") {
		t.Errorf("exit 99 is %v", err)
	}
	if _, err := try(gw.StartRequest{Args: []string{"nosuch"}}); err == nil || !strings.Contains(err.Error(), "command not found") {
		t.Errorf("a command that is not there: %v", err)
	}
	if out, err := try(gw.StartRequest{Args: []string{"sh", "-c", "tty && echo $TERM"}, Tty: true}); err != nil || !strings.HasPrefix(out, "/dev/pts/") {
		t.Errorf("a process with a terminal: %q, %v", out, err)
	}
	p, err := ctr.Start(ctx, gw.StartRequest{Args: []string{"sh", "-c", "trap 'exit 7' HUP; echo > /trap; while :; do sleep 0.01; done"}})
	must(t, err)
	sh("until [ -e /trap ]; do :; done")
	must(t, p.Signal(ctx, syscall.SIGHUP))
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode != 7 {
		t.Errorf("a process that got a signal: %v", err)
	}

	// Files, while the container runs.
	for mount, names := range map[int][]string{0: {"/more", "/base", "/link", "/absolute", "/bin/../base"}, 1: {"/in", "/w"}, 2: {"/in"}, 3: {"/e"}, 5: {"/c"}} {
		for _, file := range names {
			if data, err := ctr.ReadFile(ctx, gw.ReadContainerRequest{ReadRequest: gw.ReadRequest{Filename: file}, MountIndex: mount}); err != nil || len(data) == 0 {
				t.Errorf("%s of mount %d: %q, %v", file, mount, data, err)
			}
		}
	}
	if data, err := ctr.ReadFile(ctx, gw.ReadContainerRequest{ReadRequest: gw.ReadRequest{Filename: "/base", Range: &gw.FileRange{Offset: 1, Length: 2}}}); err != nil || string(data) != "as" {
		t.Errorf("a part of /base is %q, %v", data, err)
	}
	for path, mode := range map[string]os.FileMode{"/link": 0, "/absolute": os.ModeSymlink, "/bin": os.ModeDir} {
		if st, err := ctr.StatFile(ctx, gw.StatContainerRequest{StatRequest: gw.StatRequest{Path: path}}); err != nil || os.FileMode(st.Mode).Type() != mode || st.Path != filepath.Base(path) {
			t.Errorf("%s is %v, %v", path, st, err)
		}
	}
	if all, err := ctr.ReadDir(ctx, gw.ReadDirContainerRequest{ReadDirRequest: gw.ReadDirRequest{Path: "/"}, MountIndex: 1}); err != nil || len(all) != 2 {
		t.Errorf("the directory has %v, %v", all, err)
	}
	for file, mount := range map[string]int{"/nosuch": 0, "relative": 0, "/x": 4, "/secret": 6, "/y": 7, "/z": -1} {
		if data, err := ctr.ReadFile(ctx, gw.ReadContainerRequest{ReadRequest: gw.ReadRequest{Filename: file}, MountIndex: mount}); err == nil {
			t.Errorf("%s of mount %d is %q", file, mount, data)
		}
	}
	if err := ctr.Release(ctx); !errors.As(err, &exit) { // that of the process which failed first
		t.Errorf("releasing the container: %v", err)
	}
	if err := first.Wait(); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("the first process ended with %v", err)
	}
	if _, err := try(gw.StartRequest{Args: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "previously released") {
		t.Errorf("a container that was released runs a process: %v", err)
	}

	// What processes wrote is in nothing that a build gives.
	if data, err := root.ReadFile(ctx, gw.ReadRequest{Filename: "/more"}); err == nil {
		t.Errorf("the result has %q", data)
	}
}

// TestContainersAreSteps: a container may do what a step of the build may, and nothing else.
func TestContainersAreSteps(t *testing.T) {
	m := newMachine(t)
	_, c := gateway(t, m.build(engine.RunOptions{}))
	ctx := t.Context()
	root := solve(t, c, llb.Image("busybox"))
	for _, mounts := range [][]gw.Mount{
		{{Dest: "/", Ref: root, MountType: pb.MountType_TMPFS}}, {{Dest: "/", ResultID: "another's"}}, {{Dest: "/", Ref: root}, {Dest: "/s", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "nosuch"}}},
		{{Dest: "/", Ref: root}, {Dest: "/s", MountType: 99}},
	} {
		if _, err := c.NewContainer(ctx, gw.NewContainerRequest{Mounts: mounts}); err == nil {
			t.Errorf("a container has the mounts %v", mounts)
		}
	}
	for _, tt := range []struct {
		network  pb.NetMode
		security pb.SecurityMode
		want     string
	}{
		{pb.NetMode_HOST, pb.SecurityMode_SANDBOX, "network.host is not allowed"}, {pb.NetMode_UNSET, pb.SecurityMode_INSECURE, "security.insecure is not allowed"},
		{pb.NetMode_UNSET, 2, "invalid security mode"}, {9, pb.SecurityMode_SANDBOX, "invalid network mode"},
	} {
		ctr, err := c.NewContainer(ctx, gw.NewContainerRequest{NetMode: tt.network, Mounts: []gw.Mount{{Dest: "/", Ref: root}}})
		must(t, err)
		p, err := ctr.Start(ctx, gw.StartRequest{Args: []string{"true"}, SecurityMode: tt.security})
		must(t, err)
		if err := p.Wait(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("a process: %v, want %q", err, tt.want)
		}
	}

	_, c = gateway(t, m.build(engine.RunOptions{Entitlements: entitlements.Set{entitlements.EntitlementSecurityInsecure: nil, entitlements.EntitlementNetworkHost: nil}}))
	root = solve(t, c, llb.Image("busybox"))
	ctr, err := c.NewContainer(ctx, gw.NewContainerRequest{NetMode: pb.NetMode_HOST, Mounts: []gw.Mount{{Dest: "/", Ref: root}}})
	must(t, err)
	out := buffer()
	p, err := ctr.Start(ctx, gw.StartRequest{Args: []string{"grep", "Seccomp:", "/proc/self/status"}, SecurityMode: pb.SecurityMode_INSECURE, Stdout: out})
	must(t, err)
	if err := p.Wait(); err != nil || !strings.Contains(out.String(), "\t0") {
		t.Errorf("an insecure process that is allowed: %q, %v", out.String(), err)
	}
}

// TestContainerEnds: a container ends with the client's connection, whatever runs in it.
func TestContainerEnds(t *testing.T) {
	m := newMachine(t)
	b, api, gone := dial(t, m.build(engine.RunOptions{}))
	ctx := t.Context()
	res, err := api.Solve(ctx, &gwpb.SolveRequest{Definition: definitionOf(t, llb.Image("busybox")), AllowResultReturn: true, AllowResultArrayRef: true})
	must(t, err)
	_, err = api.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/", ResultID: res.Result.GetRef().Id}}})
	must(t, err)
	stream, err := api.ExecProcess(ctx)
	must(t, err)
	for i, args := range [][]string{{"sleep", "1000"}, {"sh", "-c", "trap '' TERM HUP INT; while :; do echo x; done"}} {
		must(t, stream.Send(&gwpb.ExecMessage{ProcessID: fmt.Sprint(i), Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "c", Meta: &pb.Meta{Args: args}, Fds: []uint32{0, 1, 2}}}}))
		for {
			msg, err := stream.Recv()
			must(t, err)
			if msg.ProcessID == fmt.Sprint(i) && msg.GetStarted() != nil {
				break
			}
		}
	}
	gone()
	<-b.Done()
	b.Close() // and newMachine looks for what is left
}

// program compiles a program that needs no library, for an image of nothing else. It stays for other tests.
func program(t *testing.T, pkg string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if path := programs.made[pkg]; path != "" {
		return path
	}
	path := filepath.Join(programs.dir, fmt.Sprint(len(programs.made)))
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compiling %s: %v: %s", pkg, err, out)
	}
	programs.made[pkg] = path
	return path
}

var programs = struct {
	sync.Mutex
	dir  string
	made map[string]string
}{made: map[string]string{}}

// pushFrontend pushes an image with a program, and gives its digest.
func (m *machine) pushFrontend(repository, path string, labels map[string]string) string {
	m.t.Helper()
	data, err := os.ReadFile(path)
	must(m.t, err)
	base, err := baseimage.Busybox()
	must(m.t, err)
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	must(m.t, tw.WriteHeader(&tar.Header{Name: "bin/frontend", Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}))
	_, err = tw.Write(data)
	must(m.t, errors.Join(err, tw.Close()))
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
	must(m.t, err)
	img, err := mutate.AppendLayers(base, layer)
	must(m.t, err)
	file, err := img.ConfigFile()
	must(m.t, err)
	config := file.Config
	config.Entrypoint, config.Cmd, config.Labels = []string{"/bin/frontend"}, nil, labels
	img, err = mutate.Config(img, config)
	must(m.t, err)
	m.push(repository, img)
	digest, err := img.Digest()
	must(m.t, err)
	return digest.String()
}

// builder builds Dockerfiles, with frontends that are images.
func (m *machine) dockerfile(text string, req build.Request) (*build.Result, string, error) {
	m.t.Helper()
	req.DockerfileText = text
	if req.Context == "" {
		req.Context = m.t.TempDir()
	}
	var mu sync.Mutex
	var log strings.Builder
	b := build.New(build.Options{Store: m.store, Images: m.images, Runner: m.runner, Serve: Serve})
	res, err := b.Build(m.t.Context(), req, progress.SinkFunc(func(s *client.SolveStatus) {
		mu.Lock()
		defer mu.Unlock()
		for _, l := range s.Logs {
			log.Write(l.Data)
		}
	}))
	mu.Lock()
	defer mu.Unlock()
	return res, log.String(), err
}

const frontendCaps = "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests"

// TestImageFrontend: a frontend that is an image builds, asks for other frontends, and its errors are the build's.
func TestImageFrontend(t *testing.T) {
	if testing.Short() {
		t.Skip("long: compiles a frontend, and runs it in each of its ways")
	}
	m := newMachine(t)
	path := program(t, "./testdata/frontend")
	m.pushFrontend("test/frontend:1", path, map[string]string{labelNetwork: "true"})
	const syntax = "# syntax=test/frontend:1\nthis is no Dockerfile\n"
	args := func(mode string) build.Request {
		return build.Request{BuildArgs: map[string]string{"mode": mode, "name": "us"}}
	}
	exported := func(req build.Request) (build.Request, string) {
		dest := t.TempDir()
		req.Outputs = []build.Output{{Type: build.OutputLocal, Dest: dest}}
		return req, dest
	}
	for _, mode := range []string{"", "container", "failing"} {
		req, dest := exported(args(mode))
		_, log, err := m.dockerfile(syntax, req)
		made, rerr := os.ReadFile(filepath.Join(dest, "made"))
		if err != nil || rerr != nil || string(made) != "made by a frontend for us\n" {
			t.Errorf("mode %q: made %q, %v, %v\n%s", mode, made, err, rerr, log)
		}
		if !strings.Contains(log, "the frontend speaks") {
			t.Errorf("mode %q: what the frontend prints is not in the log: %q", mode, log)
		}
	}
	req, dest := exported(args("nested"))
	if _, log, err := m.dockerfile("# syntax=test/frontend:1\nFROM busybox\nRUN echo nested > /nested\n", req); err != nil {
		t.Errorf("nested: %v\n%s", err, log)
	} else if got, err := os.ReadFile(filepath.Join(dest, "nested")); err != nil || string(got) != "nested\n" {
		t.Errorf("nested: %q, %v", got, err)
	}
	for mode, want := range map[string]string{
		"error": "the frontend does not like it", "exit": "exit code: 3", "garbage": "frontend grpc server closed unexpectedly", "loop": "frontends name each other",
	} {
		_, log, err := m.dockerfile(syntax, args(mode))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mode %q: got %v, want %q\n%s", mode, err, want, log)
		}
		if src := errdefs.Sources(err); mode == "error" && (len(src) == 0 || src[0].Info.Filename != "File") {
			t.Errorf("the error has the place %v", src)
		}
	}
	// A named context takes its place, for the linked one's name too.
	req, dest = exported(args(""))
	req.Contexts = map[string]string{"docker/dockerfile:1": "docker-image://test/frontend:1"}
	if _, log, err := m.dockerfile("# syntax=docker/dockerfile:1\nnothing\n", req); err != nil {
		t.Errorf("a named context: %v\n%s", err, log)
	} else if _, err := os.Stat(filepath.Join(dest, "made")); err != nil {
		t.Error(err)
	}
	// What it does not say that it can, it is not asked for.
	var unsupported *errdefs.UnsupportedFrontendCapError
	_, _, err := m.dockerfile(syntax, build.Request{Attrs: map[string]string{"frontend.caps": "moby.buildkit.frontend.subrequests+forward"}})
	if !errors.As(err, &unsupported) || unsupported.Name != "moby.buildkit.frontend.subrequests" {
		t.Errorf("a capability that it has not: %v", err)
	}
	if _, _, err := m.dockerfile("# syntax=test/nosuch\nFROM busybox\n", build.Request{}); err == nil || !strings.Contains(err.Error(), "test/nosuch") {
		t.Errorf("an image that is not there: %v", err)
	}
}

const labelNetwork = "moby.buildkit.frontend.network.none"

// TestImageFrontendIsEnded: with the build a frontend ends that would not.
func TestImageFrontendIsEnded(t *testing.T) {
	m := newMachine(t)
	m.pushFrontend("test/frontend:1", program(t, "./testdata/frontend"), nil)
	ctx, cancel := context.WithCancel(t.Context())
	b := build.New(build.Options{Store: m.store, Images: m.images, Runner: m.runner, Serve: Serve})
	speaks := sync.OnceFunc(cancel)
	_, err := b.Build(ctx, build.Request{Context: t.TempDir(), DockerfileText: "# syntax=test/frontend:1\n", BuildArgs: map[string]string{"mode": "wait"}},
		progress.SinkFunc(func(s *client.SolveStatus) {
			for _, l := range s.Logs {
				if strings.Contains(string(l.Data), "the frontend speaks") {
					speaks()
				}
			}
		}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the build ended with %v", err)
	}
}

// TestDockerfileImage: docker/dockerfile itself, compiled from the same module, runs as an image when it is named by its digest.
func TestDockerfileImage(t *testing.T) {
	if testing.Short() {
		t.Skip("long: compiles docker/dockerfile")
	}
	m := newMachine(t)
	path := program(t, "github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend")
	digest := m.pushFrontend("docker/dockerfile:1", path, map[string]string{labelNetwork: "true", "moby.buildkit.frontend.caps": frontendCaps})
	dir, dest := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("of the context"), 0o644))
	asked := func() (n int) {
		for _, r := range m.reg.Requests() {
			if strings.Contains(r, "docker/dockerfile") {
				n++
			}
		}
		return n
	}
	const text = "FROM busybox AS base\nARG A\nRUN echo $A > /a\nFROM scratch\nCOPY --from=base /a /a\nCOPY file /file\n"
	for _, line := range []string{"# syntax=docker/dockerfile:1@" + digest + "\n", "# syntax=docker/dockerfile:1\n"} {
		req := build.Request{Context: dir, BuildArgs: map[string]string{"A": "b"}, Outputs: []build.Output{{Type: build.OutputLocal, Dest: dest}}}
		asked() // what was before
		began := time.Now()
		_, log, err := m.dockerfile(line+text, req)
		t.Logf("%q took %s", line, time.Since(began))
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, log)
		}
		if n := asked(); strings.Contains(line, "@") != (n > 0) {
			t.Errorf("%q: the image was asked for %d times", line, n)
		}
		for file, want := range map[string]string{"a": "b\n", "file": "of the context"} {
			if got, err := os.ReadFile(filepath.Join(dest, file)); err != nil || string(got) != want {
				t.Errorf("%s: %s is %q, %v", line, file, got, err)
			}
		}
		must(t, os.RemoveAll(filepath.Join(dest, "a")))
		must(t, os.RemoveAll(filepath.Join(dest, "file")))
	}
	// A mistake has its place, through the other process.
	_, _, err := m.dockerfile("# syntax=docker/dockerfile:1@"+digest+"\nFROM busybox\nRUNN x\n", build.Request{Context: dir})
	if src := errdefs.Sources(err); len(src) == 0 || src[0].Ranges[0].Start.Line != 3 || !strings.Contains(err.Error(), "RUNN") {
		t.Errorf("a mistake: %v at %v", err, src)
	}
}
