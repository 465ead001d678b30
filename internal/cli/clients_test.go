package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/buildkit/client/llb"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// TestClients runs testdata/clients/*.txtar, which are scripts as those of [TestScripts], with the clients that people have:
// buildctl and buildx of the releases that are linked, compiled by hack/buildkit.sh. Each has a server of its own,
// `slipway serve`, at $BUILDKIT_HOST; the script starts it.
//
// The real docker is docker-cli, where this machine has one. Besides the other commands there are:
//
//	llb KIND FILE        a definition for `buildctl build`
//	frontend NAME        push a frontend that is an image to $REGISTRY: internal/serve/bridge/testdata/frontend
func TestClients(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	tools := clientTools(t)
	p := scripts(t, "testdata/clients")
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		if err := setup(env); err != nil {
			return err
		}
		env.Setenv("SLIPWAY_BIN", filepath.SplitList(env.Getenv("PATH"))[0])
		env.Setenv("PATH", tools+string(filepath.ListSeparator)+env.Getenv("PATH"))
		if err := linkDocker(env, tools); err != nil {
			return err
		}
		env.Setenv("NODE_PATH", filepath.Join(tools, "engine", "dockerode", "node_modules"))
		env.Setenv("BUILDKIT_HOST", "unix://"+filepath.Join(env.WorkDir, "s"))
		env.Setenv("BUILDX_CONFIG", filepath.Join(env.WorkDir, ".buildx"))
		env.Setenv("BUILDX_EXPERIMENTAL", "1") // commands of debuggers
		return nil
	}
	testscript.Run(t, p)
}

// linkDocker makes docker-cli of the docker that `make clients` has compiled, or the machine's, if there is one: "docker" is slipway in scripts.
// Its plugins are those that are compiled.
func linkDocker(env *testscript.Env, tools string) error {
	engine := filepath.Join(tools, "engine")
	plugins := filepath.Join(env.WorkDir, ".docker", "cli-plugins")
	if err := os.MkdirAll(plugins, 0o755); err != nil {
		return err
	}
	for name, program := range map[string]string{"docker-buildx": filepath.Join(tools, "buildx"), "docker-compose": filepath.Join(engine, "docker-compose")} {
		if err := os.Symlink(program, filepath.Join(plugins, name)); err != nil {
			return err
		}
	}
	for _, dir := range append([]string{engine}, filepath.SplitList(os.Getenv("PATH"))[1:]...) { // the first one is testscript's
		docker := filepath.Join(dir, "docker")
		if info, err := os.Stat(docker); err != nil || !info.Mode().IsRegular() {
			continue
		}
		bin := filepath.Join(env.WorkDir, ".docker-cli")
		env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
		err := errors.Join(os.Mkdir(bin, 0o755), os.Symlink(docker, filepath.Join(bin, "docker-cli")))
		if _, missing := os.Stat(filepath.Join(engine, "docker-compose")); missing == nil && err == nil {
			err = os.Symlink(filepath.Join(engine, "docker-compose"), filepath.Join(bin, "docker-compose"))
		}
		return err
	}
	return nil
}

// clientTools returns the directory of the clients.
func clientTools(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../build/tools")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("hack/buildkit.sh", dir, "buildctl", "buildx")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compiling BuildKit's clients: %v\n%s", err, out)
	}
	return dir
}

// definition is the command `llb KIND FILE`: what no Dockerfile makes.
func definition(ts *testscript.TestScript, neg bool, args []string) {
	kinds := map[string]func() llb.State{
		// a stage that reads a directory of the client, merged with another one
		"merge": func() llb.State {
			out := llb.Image("busybox").Run(llb.Shlex(`sh -c "cat /src/file > /out/copied"`), llb.AddMount("/src", llb.Local("src"), llb.Readonly))
			return llb.Merge([]llb.State{out.AddMount("/out", llb.Scratch()), llb.Scratch().File(llb.Mkfile("/made", 0o600, []byte("made\n")))})
		},
		// what a process has changed, with a secret, a cache and an exit code that is not 0
		"diff": func() llb.State {
			base := llb.Image("busybox")
			return llb.Diff(base, base.Run(llb.Shlex(`sh -c "cat /run/secret > /told; touch /cache/x; exit 3"`), llb.ValidExitCodes(3),
				llb.AddSecret("/run/secret", llb.SecretID("s")), llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir("c", llb.CacheMountShared))).Root())
		},
		// the user namespace of a process
		"namespace": func() llb.State {
			return llb.Image("busybox").Run(llb.Shlex(`sh -c "cat /proc/self/uid_map > /out/uids"`)).AddMount("/out", llb.Scratch())
		},
		"fails": func() llb.State {
			return llb.Image("busybox").Run(llb.Shlex(`sh -c "echo no luck; exit 4"`)).Root()
		},
	}
	if neg || len(args) != 2 || kinds[args[0]] == nil {
		ts.Fatalf("usage: llb merge|diff|namespace|fails FILE")
	}
	def, err := kinds[args[0]]().Marshal(context.Background())
	ts.Check(err)
	var buf bytes.Buffer
	ts.Check(llb.WriteTo(def, &buf))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), buf.Bytes(), 0o644))
}

// frontendProgram is the frontend of tests, made once.
var frontendProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "slipway-frontend-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "frontend")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./internal/serve/bridge/testdata/frontend")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// frontendImage is the command `frontend NAME`.
func frontendImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: frontend NAME")
	}
	program, err := frontendProgram()
	ts.Check(err)
	data := registrytest.Layer{"bin/frontend": string(program)}.Tar()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	ts.Check(err)
	img, err := mutate.AppendLayers(empty.Image, l)
	ts.Check(err)
	img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/bin/frontend"}, Labels: map[string]string{"moby.buildkit.frontend.caps": "moby.buildkit.frontend.inputs"}})
	ts.Check(err)
	ref, err := name.ParseReference(ts.Getenv("REGISTRY") + "/" + args[0])
	ts.Check(err)
	ts.Check(remote.Write(ref, img))
}
