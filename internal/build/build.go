package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/frontend"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
)

// Options are what a builder works with.
type Options = engine.Options

// Builder carries out builds. It is safe for concurrent use.
type Builder struct {
	opt    Options
	engine *engine.Engine
}

// New returns a builder.
func New(opt Options) *Builder {
	return &Builder{opt: opt, engine: engine.New(opt)}
}

// maxRepairs bounds how many damaged entries of the store one build makes anew. Each is dropped
// when it is found; a disk that damages them as fast is beyond repair.
const maxRepairs = 100

// building is one build under way.
type building struct {
	*Builder
	req    Request
	sink   progress.Sink
	names  []string // full image names
	run    *engine.Run
	record *record
}

// Build carries out one build. When it fails no image is named, and no output file that it was to
// write is left half-written.
func (b *Builder) Build(ctx context.Context, req Request, sink progress.Sink) (*Result, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	names, err := req.names()
	if err != nil {
		return nil, err
	}
	rec, err := b.newRecord(req)
	if err != nil {
		return nil, err
	}
	bu := &building{Builder: b, req: req, names: names, record: rec, sink: progress.Multi(sink, rec.log)}
	res, err := bu.build(ctx)
	for n := 0; n < maxRepairs && errors.Is(err, store.ErrDamaged) && ctx.Err() == nil && !req.streams(); n++ {
		// The damaged entry is gone now: what it was for is a miss, and is made again.
		res, err = bu.build(ctx)
	}
	return res, errors.Join(err, rec.finish(bu.run, res, err))
}

// blobs reports whether the result is needed as an image.
func (r *Request) blobs() bool {
	return len(r.Outputs) == 0 || slices.ContainsFunc(r.Outputs, func(o Output) bool {
		return o.Type != OutputLocal && o.Type != OutputTar
	})
}

// streams reports whether an output goes to a stream, which cannot be written twice.
func (r *Request) streams() bool {
	return slices.ContainsFunc(r.Outputs, func(o Output) bool { return o.Writer != nil })
}

func (b *building) build(ctx context.Context) (_ *Result, err error) {
	platform, err := b.req.platform()
	if err != nil {
		return nil, err
	}
	res := &Result{ID: b.record.ID, Names: b.names}
	dir := b.context()
	defer func() { err = errors.Join(err, dir.Close()) }()
	opt := engine.RunOptions{
		Contexts: map[string]local.Context{
			"context":    dir,
			"dockerfile": local.NewDir(filepath.Dir(b.req.dockerfile()), ""),
		},
		Sink:     b.sink,
		Platform: platform,
		Network:  sandbox.NetworkHost,
		Pull:     b.req.Pull,
		NoCache:  b.req.NoCache,
		Slot:     b.req.dockerfile(),
	}
	if err := b.req.allow(&opt); err != nil {
		return nil, err
	}
	b.run = b.engine.NewRun(ctx, opt)
	defer func() { err = errors.Join(err, b.run.Close()) }()
	out, err := frontend.Build(ctx, frontend.Options{
		Run: b.run, Images: b.opt.Images, Sink: b.sink, Attrs: b.req.attrs(), Platform: platform,
		Warn: func(vertex digest.Digest, message string, opt gw.WarnOpts) {
			b.warn(res, vertex, message, opt)
		},
	})
	if err != nil {
		return nil, err
	}
	if b.req.Call != "" {
		res.Answer = out.Metadata
		return res, nil
	}
	src, value, err := b.source(out, platform)
	if err != nil {
		return nil, err
	}
	if err := b.export(ctx, src, value, res); err != nil {
		return nil, err
	}
	res.Took = time.Since(b.record.Started)
	return res, nil
}

// source evaluates the frontend's result: this is where everything runs.
func (b *building) source(out *gw.Result, platform ocispec.Platform) (export.Source, engine.Value, error) {
	var edge graph.Edge
	single, err := out.SingleRef()
	if err != nil {
		return export.Source{}, engine.Value{}, fmt.Errorf("reading the frontend's result: %w", err)
	}
	if ref, ok := single.(*frontend.Ref); ok && ref != nil {
		edge = ref.Edge()
	}
	evaluate := b.run.Result
	if b.req.blobs() {
		evaluate = b.run.ExportedResult
	}
	value, err := evaluate(edge)
	if err != nil {
		return export.Source{}, value, err
	}
	src := export.Source{Snapshot: value.Snapshot, Config: out.Metadata[exptypes.ExporterImageConfigKey], Platform: platform}
	var p exptypes.Platforms
	if data := out.Metadata[exptypes.ExporterPlatformsKey]; data != nil && json.Unmarshal(data, &p) == nil && len(p.Platforms) == 1 {
		src.Platform = p.Platforms[0].Platform
	}
	return src, value, nil
}

// warn keeps a finding of the linter and shows it.
func (b *building) warn(res *Result, vertex digest.Digest, message string, opt gw.WarnOpts) {
	w := Warning{Message: message, URL: opt.URL}
	for _, d := range opt.Detail {
		w.Detail = append(w.Detail, string(d))
	}
	if opt.SourceInfo != nil {
		w.File = opt.SourceInfo.Filename
	}
	if len(opt.Range) > 0 {
		w.Line = int(opt.Range[0].Start.GetLine())
	}
	res.Warnings = append(res.Warnings, w)
	b.sink.Write(&client.SolveStatus{Warnings: []*client.VertexWarning{{
		Vertex: vertex, Level: opt.Level, Short: []byte(message), Detail: opt.Detail,
		URL: opt.URL, SourceInfo: opt.SourceInfo, Range: opt.Range,
	}}})
}

// check finds requests that cannot be served before anything is done.
func (r *Request) check() error {
	fi, err := os.Stat(r.Context)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("unable to prepare context: path %q not found", r.Context)
	case err != nil:
		return fmt.Errorf("unable to prepare context: %w", err)
	case !fi.IsDir():
		return fmt.Errorf("unable to prepare context: %q is not a directory", r.Context)
	}
	switch r.Network {
	case "", "default", "host", "none":
	default:
		return fmt.Errorf("network mode %q is not supported: use host or none", r.Network)
	}
	for _, o := range r.Outputs {
		if err := o.check(); err != nil {
			return err
		}
	}
	return nil
}

// names returns the full names of the image, from the tags and from the outputs' name attributes.
func (r *Request) names() ([]string, error) {
	tags := slices.Clone(r.Tags)
	for _, o := range r.Outputs {
		if n := o.Attrs["name"]; n != "" {
			tags = append(tags, strings.Split(n, ",")...)
		}
	}
	var names []string
	for _, t := range tags {
		name, err := store.NormalizeName(t)
		if err != nil {
			return nil, fmt.Errorf("invalid tag: %w", err)
		}
		if strings.Contains(name, "@") {
			return nil, fmt.Errorf("invalid tag %q: an image cannot be named with a digest", t)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

func (r *Request) platform() (ocispec.Platform, error) {
	host := platforms.Normalize(platforms.DefaultSpec())
	if r.Platform == "" {
		return host, nil
	}
	if strings.Contains(r.Platform, ",") {
		return host, fmt.Errorf("building for several platforms at once (%s) is not supported yet", r.Platform)
	}
	p, err := platforms.Parse(r.Platform)
	if err != nil {
		return host, fmt.Errorf("invalid platform %q: %w", r.Platform, err)
	}
	p = platforms.Normalize(p)
	return p, nil
}

// dockerfile returns the path of the Dockerfile on the host.
func (r *Request) dockerfile() string {
	if r.Dockerfile == "" {
		return filepath.Join(r.Context, "Dockerfile")
	}
	return r.Dockerfile
}

// context returns the build context, and the file in which digests of its files are remembered.
func (b *building) context() *local.Dir {
	path := b.req.Context
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return local.NewDir(b.req.Context, b.opt.Store.ContextFile(path))
}

// attrs are the frontend's options of the request.
func (r *Request) attrs() map[string]string {
	a := maps.Clone(r.Attrs)
	if a == nil {
		a = map[string]string{}
	}
	a["filename"] = filepath.Base(r.dockerfile())
	for k, v := range r.BuildArgs {
		a["build-arg:"+k] = v
	}
	for k, v := range r.Labels {
		a["label:"+k] = v
	}
	for key, v := range map[string]string{"target": r.Target, "platform": r.Platform, "add-hosts": r.extraHosts()} {
		if v != "" {
			a[key] = v
		}
	}
	r.callAttrs(a)
	if r.NoCache {
		a["no-cache"] = ""
	}
	if r.Pull {
		a["image-resolve-mode"] = pb.AttrImageResolveModeForcePull
	}
	if r.Network == "host" || r.Network == "none" {
		a["force-network-mode"] = r.Network
	}
	return a
}

// extraHosts writes AddHosts as the frontend reads them: "name=ip,name=ip", IPv6 without brackets.
// What is no "name:ip" stays as it is: the frontend says what is wrong.
func (r *Request) extraHosts() string {
	hosts := make([]string, 0, len(r.AddHosts))
	for _, h := range r.AddHosts {
		if i := strings.IndexAny(h, "=:"); i > 0 {
			h = h[:i] + "=" + strings.TrimSuffix(strings.TrimPrefix(h[i+1:], "["), "]")
		}
		hosts = append(hosts, h)
	}
	return strings.Join(hosts, ",")
}
