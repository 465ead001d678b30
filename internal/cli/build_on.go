package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/builders"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/progress"
)

// onFlags say where a build is carried out, if not here.
type onFlags struct {
	on, onImage, podTemplate, onRegistrySecret string
	onWait                                     time.Duration
	onAlone                                    bool
	workers                                    int

	// Of the builder that says where to build; nil: none does.
	builder     *builders.Builder
	overlay     kube.Overlay
	defaultLoad bool
}

func (o *onFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.on, "on", "", `Build in a Job of Kubernetes, with the caches of a registry ("kubernetes", "kubernetes://CONTEXT/NAMESPACE")`)
	f.StringVar(&o.onImage, "on-image", "", `Image of slipway that the pod of "--on" runs`)
	f.StringVar(&o.podTemplate, "pod-template", "", `File with the Job, or the Pod, that "--on" completes (YAML)`)
	f.StringVar(&o.onRegistrySecret, "on-registry-secret", "", `Secret of the cluster with the credentials of registries for the pod of "--on" (default: yours, of the registries that the command names)`)
	f.IntVar(&o.workers, "workers", 0, `How many Jobs of "--on" there may be at the same time, for what does not depend on each other (default: one for each build, 16 of a bake)`)
	f.DurationVar(&o.onWait, "on-wait", kube.DefaultPatience, `How long a pod of "--on" may take to start`)
	f.BoolVar(&o.onAlone, "on-alone", false, `Have Jobs of one's own for "--on", and join none of the same build`)
}

// remote is a build that is carried out in a cluster.
type remote struct {
	app     *app
	opts    *buildFlags
	flags   *pflag.FlagSet
	context string
	bounds  *bounds

	cluster *kube.Cluster
	repo    cache.Packed // where contexts, and results by their keys, are kept
	args    []string     // of each build in a pod
	result  []string     // besides, of the one that makes the result
	where   []string     // and at last: the context
	home    bool         // nobody pushes the image: it is to be brought home
	image   string       // where it is then
	pushed  []string     // names under which the image is to be in registries
	files   map[string][]byte

	platforms []ocispec.Platform
	archs     []string // theirs, each once

	elsewhere  bool     // a context is not named by its content
	dockerfile []byte   // nil: it is not of this machine
	same       []string // arguments by which several builds have the same keys

	step *progress.Step // what goes on in the cluster
	said lastLines
	out  kube.Outcome
	meta map[string]any
}

// buildOn builds in a Job of Kubernetes, as if it were here.
func (a *app) buildOn(ctx context.Context, flags *pflag.FlagSet, o *buildFlags, contextArg string) error {
	r := &remote{app: a, opts: o, flags: flags, context: contextArg, files: map[string][]byte{}}
	var err error
	if r.bounds, err = o.bounds(1); err != nil {
		return err
	}
	o.loadByDefault()
	if err := r.plan(); err != nil {
		return err
	}
	if o.iidFile != "" {
		if err := os.Remove(o.iidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the old --iidfile: %w", err)
		}
	}
	if r.cluster, err = kube.Open(o.on); err != nil {
		return err
	}
	mode := o.progress
	if o.quiet {
		mode = "quiet"
	}
	display, err := a.display(ctx, mode)
	if err != nil {
		return err
	}
	err = r.run(ctx, display)
	warnings := display.Wait()
	if mode != "quiet" && mode != "none" && mode != "rawjson" {
		a.printWarnings(warnings)
	}
	if err != nil {
		return a.failed(ctx, err)
	}
	r.said.print(a)
	return r.finish(ctx, mode, warnings)
}

// failed prints the last words of a build in a cluster that has failed, and gives the error that ends the command: with the exit code of the build.
func (a *app) failed(ctx context.Context, err error) error {
	var failed *failedBuild
	if !errors.As(err, &failed) {
		return err
	}
	if ctx.Err() == nil {
		failed.said.print(a)
	}
	switch {
	case failed.cluster != nil:
		return err
	case err == error(failed) && !failed.said.empty(): // its own words say it, where it is the only build
		err = nil
	}
	return &codeError{failed.out.ExitCode, err}
}

// run carries the build out.
func (r *remote) run(ctx context.Context, sink progress.Sink) (err error) {
	r.step = progress.Start(sink, progress.Vertex{Digest: digest.FromString("kubernetes"), Name: "[kubernetes] build in " + r.cluster.String()})
	defer func() { r.step.Done(ofCluster(ctx, err)) }()
	spec := &kube.Spec{Image: r.opts.onImage, Patience: r.opts.onWait, Files: r.files, Overlay: r.opts.overlay}
	if err := r.bounds.sends.in(ctx, func() error { return r.prepare(ctx, sink, spec) }); err != nil {
		return err
	}
	return r.carryOut(ctx, sink, spec, r.split())
}

// ofCluster is what the step of the cluster ends with: a build that failed in its pod is another step's.
func ofCluster(ctx context.Context, err error) error {
	var failed *failedBuild
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Canceled
	case errors.As(err, &failed):
		return failed.cluster
	}
	return err
}

// prepare completes what all Jobs of the build have, and sends what they read.
func (r *remote) prepare(ctx context.Context, sink progress.Sink, spec *kube.Spec) (err error) {
	if r.opts.podTemplate != "" {
		if spec.Template, err = os.ReadFile(r.opts.podTemplate); err != nil {
			return fmt.Errorf("reading --pod-template: %w", err)
		}
	}
	if err := errors.Join(r.readSecrets(ctx), r.readCredentials()); err != nil {
		return err
	}
	if len(r.files) > 0 && r.files[registryFile] != nil {
		spec.Env = map[string]string{"DOCKER_CONFIG": kube.Dir}
	}
	spec.RegistrySecret = r.opts.onRegistrySecret
	admitted, err := r.cluster.Admit(ctx, spec) // before anything is sent
	if err != nil {
		return err
	}
	if err := r.sendContexts(ctx, sink); err != nil {
		return err
	}
	r.nameImage(admitted.Identity(spec))
	spec.Shared = r.shared()
	return nil
}

func (r *remote) tell(text string) { _, _ = r.step.Stderr().Write([]byte(text + "\n")) }

// maxSaid is how much is kept of a pod's words, in bytes.
const maxSaid = 256 << 10

// lastLines are the last lines of something.
type lastLines struct{ text []byte }

func (l *lastLines) add(line []byte) {
	l.text = append(append(l.text, line...), '\n')
	if over := len(l.text) - maxSaid; over > 0 {
		_, rest, _ := bytes.Cut(l.text[over:], []byte("\n"))
		l.text = slices.Clone(rest)
	}
}

func (l *lastLines) clear()       { l.text = nil }
func (l *lastLines) empty() bool  { return len(l.text) == 0 }
func (l *lastLines) print(a *app) { _, _ = a.stderr.Write(l.text) }

// readResult reads what the pod says that it has made.
func (r *remote) readResult() (*build.Result, error) {
	if err := json.Unmarshal([]byte(r.out.Message), &r.meta); err != nil {
		return nil, fmt.Errorf("the build ended well, but its pod does not say what it has made: %w", err)
	}
	result := &build.Result{}
	for key, d := range map[string]*digest.Digest{"containerimage.digest": &result.Manifest.Digest, "containerimage.config.digest": &result.Config} {
		text, ok := r.meta[key].(string)
		if !ok {
			continue
		}
		if *d = digest.Digest(text); d.Validate() != nil {
			return nil, fmt.Errorf("the pod says that the image has the %s %q", key, text)
		}
	}
	if result.ImageID = result.Config; result.ImageID == "" {
		result.ImageID = result.Manifest.Digest
	}
	return result, nil
}

// finish does what is to be done here with an image that is built.
func (r *remote) finish(ctx context.Context, mode string, warnings []client.VertexWarning) error {
	result, err := r.readResult()
	if err != nil {
		return err
	}
	if r.opts.load {
		if err := r.bringHome(ctx, mode, result.Manifest.Digest); err != nil {
			return err
		}
	}
	if r.opts.iidFile != "" {
		if err := os.WriteFile(r.opts.iidFile, []byte(result.ImageID), 0o644); err != nil {
			return fmt.Errorf("writing --iidfile: %w", err)
		}
	}
	if r.opts.metadataFile != "" {
		addWarnings(r.meta, warnings)
		if err := writeMetadata(r.opts.metadataFile, r.meta); err != nil {
			return err
		}
	}
	if r.opts.quiet && result.ImageID != "" {
		_, err := fmt.Fprintln(r.app.stdout, result.ImageID)
		return err
	}
	return nil
}
