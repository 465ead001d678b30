package frontend

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerui"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// Driver is somebody who drives a build by calls.
type Driver interface {
	// Result is what was returned, or the error; without either it is an error too.
	Result() (*gw.Result, error)
	// Returned reports whether there is a result or an error.
	Returned() bool
	// Done is closed when there can be no more calls.
	Done() <-chan struct{}
	// Close ends the calls, and waits for those under way.
	Close()
}

// Serve has somebody drive a build, whose client is c, by calls of BuildKit's gateway on a connection.
type Serve func(ctx context.Context, c gw.Client, conn io.ReadWriteCloser) Driver

// Labels of frontends' images.
const (
	labelNoNetwork = "moby.buildkit.frontend.network.none"
	labelCaps      = "moby.buildkit.frontend.caps"
	capInputs      = "moby.buildkit.frontend.inputs"
)

// metadataFile is where a frontend finds its own definition.
const metadataFile = "/run/config/buildkit/metadata/frontend.bin"

// image is a frontend that is an image.
type image struct {
	config dockerspec.DockerOCIImage
	digest digest.Digest
	ref    *Ref
}

// remote has a frontend that is an image read what there is to build: its process is given this client by calls on its standard
// input and output. It may do what a step may, and sees nothing of the build but what it asks for.
func (c *Client) remote(ctx context.Context, source string) (*gw.Result, error) {
	if c.opt.Serve == nil {
		return nil, fmt.Errorf("frontend %q is not supported: slipway has docker/dockerfile built in and runs no other here; remove the syntax line, or name docker/dockerfile:1", source)
	}
	unguard(ctx)
	img, err := c.frontendImage(ctx, source)
	if err != nil {
		return nil, err
	}
	if err := img.check(c.attrs["frontend.caps"], len(c.opt.Inputs) > 0); err != nil {
		return nil, err
	}
	def, err := img.ref.def.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("writing the frontend's definition: %w", err)
	}
	network := pb.NetMode_UNSET
	if none, _ := strconv.ParseBool(img.config.Config.Labels[labelNoNetwork]); none {
		network = pb.NetMode_NONE
	}
	ctr, err := c.opt.Run.NewContainer(ctx, engine.ContainerOptions{
		Mounts:  []engine.ContainerMount{{Mount: &pb.Mount{Dest: pb.RootMount}, Edge: img.ref.edge}},
		Files:   []sandbox.Mount{{Dest: metadataFile, ReadOnly: true, File: &sandbox.File{Data: def, Mode: 0o444}}},
		Network: network,
	})
	if err != nil {
		return nil, err
	}
	defer ctr.Close()
	step := progress.Start(c.opt.Sink, progress.Vertex{Digest: digest.FromString("frontend " + rand.Text()), Name: "[internal] frontend " + source})
	res, err := c.drive(ctx, ctr, img.process(c), step)
	step.Done(err)
	return res, err
}

// drive runs the frontend's process and gives what it returns.
func (c *Client) drive(ctx context.Context, ctr *engine.Container, p engine.ContainerProcess, step *progress.Step) (*gw.Result, error) {
	toProcess, in := io.Pipe()
	out, fromProcess := io.Pipe()
	driver := c.opt.Serve(ctx, c, &duplex{out, in})
	defer driver.Close()
	p.Streams = sandbox.IO{Stdin: toProcess, Stdout: fromProcess, Stderr: step.Stderr()}
	run, err := ctr.Start(ctx, p)
	if err == nil {
		err = waitFor(ctx, run, driver)
	}
	// The process is gone: nothing comes, and nobody reads.
	_ = toProcess.CloseWithError(io.ErrClosedPipe)
	_ = fromProcess.Close()
	driver.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	res, rerr := driver.Result()
	if err != nil && (rerr == nil || !driver.Returned()) { // what it says itself comes before how it has ended
		return nil, fmt.Errorf("frontend: %w", err)
	}
	return res, rerr
}

// lastWords is how long a frontend may go on that has closed its output, by which it could return something.
const lastWords = time.Second

// waitFor waits for the end of a frontend's process.
func waitFor(ctx context.Context, run *engine.Running, driver Driver) error {
	select {
	case <-run.Done():
		return run.Wait()
	case <-ctx.Done():
	case <-driver.Done():
		select {
		case <-run.Done():
			return run.Wait()
		case <-ctx.Done():
		case <-time.After(lastWords):
		}
	}
	run.Kill()
	_ = run.Wait() // that it was killed
	if driver.Returned() {
		return nil
	}
	return errors.New("frontend grpc server closed unexpectedly")
}

// duplex is a connection of two pipes.
type duplex struct {
	*io.PipeReader
	in *io.PipeWriter
}

func (d *duplex) Write(p []byte) (int, error) { return d.in.Write(p) }

func (d *duplex) Close() error {
	return errors.Join(d.in.Close(), d.PipeReader.Close())
}

// frontendImage finds the image of a frontend, which may be a named context, and evaluates nothing of it.
func (c *Client) frontendImage(ctx context.Context, source string) (*image, error) {
	img := &image{}
	state, err := c.namedFrontend(ctx, source, img)
	if err != nil {
		return nil, err
	}
	if state == nil {
		named, err := reference.ParseNormalizedNamed(source)
		if err != nil {
			return nil, fmt.Errorf("invalid frontend %q: %w", source, err)
		}
		full := reference.TagNameOnly(named).String()
		ref, dgst, config, err := c.ResolveImageConfig(ctx, full, sourceresolver.Opt{LogName: "resolve image config for docker-image://" + full})
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(config, &img.config); err != nil {
			return nil, fmt.Errorf("reading the config of frontend %s: %w", source, err)
		}
		pinned, err := reference.ParseNormalizedNamed(ref)
		if err == nil && dgst != "" {
			pinned, err = reference.WithDigest(pinned, dgst)
		}
		if err != nil {
			return nil, fmt.Errorf("invalid frontend %q: %w", source, err)
		}
		img.digest = dgst
		s := llb.Image(pinned.String())
		state = &s
	}
	def, err := state.Marshal(ctx)
	if err != nil {
		return nil, fmt.Errorf("frontend %s: %w", source, err)
	}
	res, err := c.Solve(ctx, gw.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		return nil, err
	}
	ref, ok := res.Ref.(*Ref)
	if !ok {
		return nil, fmt.Errorf("frontend %s is empty", source)
	}
	img.ref = ref
	return img, nil
}

// namedFrontend finds a frontend among the named contexts; nil if there is none of that name.
func (c *Client) namedFrontend(ctx context.Context, source string, img *image) (*llb.State, error) {
	if !c.hasContexts() {
		return nil, nil
	}
	dc, err := dockerui.NewClient(c)
	if err != nil {
		return nil, err
	}
	nc, err := dc.NamedContext(source, dockerui.ContextOpt{CaptureDigest: &img.digest})
	if err != nil || nc == nil {
		return nil, err
	}
	state, config, err := nc.Load(ctx)
	if config != nil {
		img.config = *config
	}
	return state, err
}

// hasContexts reports whether there are named contexts.
func (c *Client) hasContexts() bool {
	for key := range c.attrs {
		if strings.HasPrefix(key, "context:") {
			return true
		}
	}
	return false
}

// process is the frontend's process, with BuildKit's environment.
func (i *image) process(c *Client) engine.ContainerProcess {
	p := engine.ContainerProcess{Args: []string{"/run"}, Env: slices.Clone(i.config.Config.Env), Cwd: i.config.Config.WorkingDir}
	if len(i.config.Config.Entrypoint) > 0 {
		p.Args = i.config.Config.Entrypoint
	}
	for n, key := range slices.Sorted(maps.Keys(c.attrs)) {
		p.Env = append(p.Env, fmt.Sprintf("BUILDKIT_FRONTEND_OPT_%d=%s=%s", n, key, c.attrs[key]))
	}
	opts := c.BuildOpts()
	workers, err := json.Marshal(opts.Workers)
	if err != nil {
		workers = []byte("[]") // they are plain data
	}
	p.Env = append(p.Env, "BUILDKIT_SESSION_ID="+opts.SessionID, "BUILDKIT_WORKERS="+string(workers), "BUILDKIT_EXPORTEDPRODUCT="+opts.Product)
	return p
}

// oldFrontends can be given inputs, though their labels do not say so: docker/dockerfile 1.1.6 and 1.1.7, and the experimental ones.
var oldFrontends = []digest.Digest{
	"sha256:9ac1c43a60e31dca741a6fe8314130a9cd4c4db0311fbbc636ff992ef60ae76d", "sha256:080bd74d8778f83e7b670de193362d8c593c8b14f5c8fb919d28ee8feda0d069",
	"sha256:60543a9d92b92af5088fb2938fb09b2072684af8384399e153e137fe081f8ab4", "sha256:de85b2f3a3e8a2f7fe48e8e84a65f6fdd5cd5183afa6412fff9caa6871649c44",
}

// check finds what is asked of a frontend that it does not say that it can.
func (i *image) check(required string, inputs bool) error {
	has := capNames(i.config.Config.Labels[labelCaps])
	if slices.Contains(oldFrontends, i.digest) {
		has = append(has, capInputs)
	}
	want := capNames(required)
	if inputs {
		want = append(want, capInputs)
	}
	for _, name := range want {
		if !slices.Contains(has, name) {
			return errdefs.NewUnsupportedFrontendCapError(name)
		}
	}
	return nil
}

// capNames are those of a list, without what follows a "+".
func capNames(list string) (names []string) {
	for name := range strings.SplitSeq(list, ",") {
		if name, _, _ = strings.Cut(name, "+"); name != "" {
			names = append(names, name)
		}
	}
	return names
}
