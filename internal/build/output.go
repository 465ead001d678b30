package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// attribute is a key of -o.
type attribute string

// What outputs of images have in common; docs of the keys are those of BuildKit's image exporter.
var imageAttrs = []attribute{
	"name", "compression", "compression-level", "force-compression", "oci-mediatypes", "oci-artifact",
	"source-date-epoch", "rewrite-timestamp", "attestation-inline",
	"buildinfo", "prefer-nondist-layers", // without effect: neither exists any more
}

// outputAttrs are the attributes that each output type knows, besides annotations.
var outputAttrs = map[OutputType][]attribute{
	OutputImage:     append([]attribute{"push", "push-by-digest", "registry.insecure", "unpack", "store"}, imageAttrs...),
	OutputOCI:       append([]attribute{"tar"}, imageAttrs...),
	OutputDocker:    append([]attribute{"tar"}, imageAttrs...),
	OutputLocal:     {"src", "platform-split", "attestation-prefix", "source-date-epoch"},
	OutputTar:       {"src", "platform-split", "attestation-prefix", "source-date-epoch"},
	OutputCacheOnly: {},
}

// IsImage reports whether the output is an image in whatever packing.
func (o *Output) IsImage() bool {
	return o.Type == OutputImage || o.Type == OutputOCI || o.Type == OutputDocker
}

// check finds what is wrong with an output. One of a client may have attributes that there are not, which BuildKit passes over, and goes where
// the client wants it.
func (o *Output) check(client bool) error {
	known, ok := outputAttrs[o.Type]
	switch {
	case !ok && client:
		return fmt.Errorf("exporter %q could not be found", o.Type)
	case !ok:
		return fmt.Errorf("output type %q is not supported: use image, registry, oci, docker, local, tar or cacheonly", o.Type)
	}
	for key, value := range o.Attrs {
		if _, ok, err := exptypes.ParseAnnotationKey(key); ok && o.IsImage() {
			if err != nil {
				return fmt.Errorf("output attribute %q: %w", key, err)
			}
			continue
		}
		if !slices.Contains(known, attribute(key)) && !client {
			return fmt.Errorf("output attribute %q is not supported for type %s", key, o.Type)
		}
		if slices.Contains(booleans, attribute(key)) {
			if _, err := strconv.ParseBool(value); err != nil {
				return fmt.Errorf("non-bool value specified for %s: %q", key, value)
			}
		}
	}
	if src, ok := o.Attrs["src"]; ok && src == "" {
		return errors.New("empty value for src; omit it to export the entire filesystem")
	}
	if _, err := o.encoding(); err != nil {
		return err
	}
	if _, err := o.epoch(nil); err != nil {
		return err
	}
	if o.is("oci-artifact", false) && !o.is("oci-mediatypes", true) {
		return errors.New(`exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"`)
	}
	if o.Type != OutputImage && o.Type != OutputCacheOnly && o.Dest == "" && o.Writer == nil && !client {
		return fmt.Errorf("output type %s needs dest=PATH", o.Type)
	}
	return nil
}

// booleans are the attributes that are true or false.
var booleans = []attribute{
	"push", "push-by-digest", "registry.insecure", "unpack", "store", "force-compression", "oci-mediatypes",
	"oci-artifact", "rewrite-timestamp", "attestation-inline", "tar", "platform-split", "prefer-nondist-layers", "buildinfo",
}

// is returns a boolean attribute, or what it is when it is not given.
func (o *Output) is(key attribute, otherwise bool) bool {
	if v, err := strconv.ParseBool(o.Attrs[string(key)]); err == nil {
		return v
	}
	return otherwise
}

// stored reports whether an image is named in the local store. One that is pushed without a tag
// has no name.
func (o *Output) stored() bool { return o.is("store", !o.is("push-by-digest", false)) }

// encoding is how layers made here are compressed: by gzip in archives and registries, as BuildKit
// has it, and not at all in the local store.
func (o *Output) encoding() (layer.Encoding, error) {
	e := layer.Encoding{Force: o.is("force-compression", false)}
	switch v := o.Attrs["compression"]; v {
	case "":
		if o.Type != OutputImage || o.is("push", false) {
			e.Compression = layer.Gzip
		}
	case "gzip", "zstd":
		e.Compression = layer.Compression(v)
	case "uncompressed":
	default:
		return e, fmt.Errorf("compression %q is not supported: use gzip, zstd or uncompressed", v)
	}
	if v := o.Attrs["compression-level"]; v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return e, fmt.Errorf("non-integer value %s specified for compression-level: %w", v, err)
		}
		return e.WithLevel(n)
	}
	return e, e.Check()
}

// epoch is the latest time of an output: its own, or the build's. Files are clamped to it unless
// the output has rewrite-timestamp=false.
func (o *Output) epoch(build *time.Time) (*time.Time, error) {
	v, ok := o.Attrs["source-date-epoch"]
	if !ok {
		return build, nil
	}
	if v == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("source-date-epoch %q is no number of seconds since 1970", v)
	}
	t := time.Unix(n, 0).UTC()
	return &t, nil
}

// annotations are those of the output's attributes, and those of the same keys that the frontend gave: its own come before those, as
// with BuildKit.
func (o *Output) annotations(said map[string][]byte) (export.Annotations, error) {
	a := export.Annotations{
		Index: map[string]string{}, IndexDescriptor: map[string]string{},
		Manifest: map[string]map[string]string{}, ManifestDescriptor: map[string]map[string]string{},
	}
	of := func(m map[string]map[string]string, platform string) map[string]string {
		if m[platform] == nil {
			m[platform] = map[string]string{}
		}
		return m[platform]
	}
	all := maps.Clone(o.Attrs)
	if all == nil {
		all = map[string]string{}
	}
	for key, value := range said {
		all[key] = string(value)
	}
	for key, value := range all {
		k, ok, err := exptypes.ParseAnnotationKey(key)
		if !ok {
			continue
		}
		if err != nil {
			return a, err
		}
		switch k.Type {
		case exptypes.AnnotationIndex:
			a.Index[k.Key] = value
		case exptypes.AnnotationIndexDescriptor:
			a.IndexDescriptor[k.Key] = value
		case exptypes.AnnotationManifest:
			of(a.Manifest, k.PlatformString())[k.Key] = value
		case exptypes.AnnotationManifestDescriptor:
			of(a.ManifestDescriptor, k.PlatformString())[k.Key] = value
		}
	}
	return a, nil
}

// export carries out all outputs. Images are named last, when nothing can fail any more.
func (b *building) export(ctx context.Context, products []*product, res *Result) error {
	var images []store.Image
	for i, o := range b.req.outputs() {
		name := exportName(o)
		step := progress.Start(b.sink, progress.Vertex{Digest: b.id(fmt.Sprint(name, i)), Name: name})
		var named []store.Image
		write := func() (err error) {
			named, err = b.exportOne(ctx, &o, i, products, res, step)
			return err
		}
		var err error
		if o.Dest != "" && o.Writer == nil {
			err = b.job.alone(o.Dest, func() error { return b.opt.Store.Again(ctx, o.Dest, write) })
		} else {
			err = write()
		}
		step.Done(err)
		if err != nil {
			return err
		}
		images = append(images, named...)
	}
	if len(images) == 0 {
		return nil
	}
	return b.opt.Store.SetImages(ctx, images...)
}

func exportName(o Output) string {
	switch o.Type {
	case OutputImage:
		return "exporting to image"
	case OutputOCI:
		return "exporting to oci image format"
	case OutputDocker:
		return "exporting to docker image format"
	case OutputLocal:
		return "exporting to client directory"
	case OutputCacheOnly:
		return "keeping the cache only"
	}
	return "exporting to client tarball"
}

func (b *building) exportOne(ctx context.Context, o *Output, i int, products []*product, res *Result, step *progress.Step) ([]store.Image, error) {
	switch o.Type {
	case OutputCacheOnly:
		return nil, nil
	case OutputLocal, OutputTar:
		return nil, b.exportFiles(ctx, o, i, products, step)
	case OutputDocker:
		if b.byPlatform {
			return nil, errors.New("docker exporter does not currently support exporting manifest lists: use type=oci")
		}
	}
	named, err := b.named(*o)
	if err != nil {
		return nil, err
	}
	o = &named
	names, err := b.req.names(*o)
	if err != nil {
		return nil, err
	}
	a, err := b.assemble(ctx, o, names, products, res, step)
	if err != nil {
		return nil, err
	}
	about, err := response(a, b.req.told(*o, names))
	if err != nil {
		return nil, err
	}
	res.respond(about)
	res.Descriptors[i] = a.Target
	if err := b.record.describe(ctx, b.opt.Store, a.Manifests(), res); err != nil {
		return nil, err
	}
	switch {
	case o.Type == OutputImage:
		if o.is("push", false) {
			if err := b.push(ctx, o, a, names, step); err != nil {
				return nil, err
			}
		}
		if !o.stored() {
			return nil, nil
		}
		for _, name := range names {
			step.Status("naming to "+name, 0, 0, true)
		}
		return records(a, names), nil
	case !o.is("tar", true):
		return nil, b.place(o, i).layout(ctx, b.opt.Store, a, names)
	}
	return nil, archived(step, func() error {
		return b.place(o, i).archive(ctx, about, func(w io.Writer) error {
			return export.OCIArchive(ctx, b.opt.Store, a, names, o.Type == OutputDocker, w)
		})
	})
}

// assemble writes the images of an output into the store, and what they are into the result.
func (b *building) assemble(ctx context.Context, o *Output, names []string, products []*product, res *Result, step *progress.Step) (*export.Assembly, error) {
	opt := export.Options{
		Index: b.byPlatform,
		Names: names,
		Lazy:  o.Type == OutputImage && !o.stored(),
	}
	var err error
	if opt.DockerTypes, opt.ImageManifest, err = b.req.formats(o, products); err != nil {
		return nil, err
	}
	if opt.Encoding, err = o.encoding(); err != nil {
		return nil, err
	}
	if opt.Annotations, err = o.annotations(b.out.Metadata); err != nil {
		return nil, err
	}
	sources, err := b.sources(ctx, products, o)
	if err != nil {
		return nil, err
	}
	step.Status("exporting layers", 0, 0, false)
	a, err := export.Assemble(ctx, b.opt.Store, sources, opt)
	if err != nil {
		return nil, err
	}
	step.Status("exporting layers", 0, 0, true)
	if epoch := sources[0].Epoch; epoch != nil && o.Type != OutputImage {
		said := a.Target.Annotations
		a.Target.Annotations = map[string]string{ocispec.AnnotationCreated: epoch.UTC().Format(time.RFC3339)}
		maps.Copy(a.Target.Annotations, said)
	}
	res.ImageID, res.Manifest = a.Target.Digest, a.Target
	b.record.ImageSize = 0
	for _, img := range a.Images {
		b.record.ImageSize += max(img.Size, 0)
		step.Status("exporting manifest "+img.Manifest.Digest.String(), 0, 0, true)
		step.Status("exporting config "+img.Config.Digest.String(), 0, 0, true)
	}
	if a.IsIndex() {
		for _, att := range a.Attestations {
			step.Status("exporting attestation manifest "+att.Digest.String(), 0, 0, true)
		}
		step.Status("exporting manifest list "+a.Target.Digest.String(), 0, 0, true)
		return a, nil
	}
	res.ImageID, res.Config = a.Images[0].Config.Digest, a.Images[0].Config.Digest
	if o.Type == OutputImage && o.stored() { // a line of Docker's own store, which scripts look for
		step.Status("writing image "+res.ImageID.String(), 0, 0, true)
	}
	return a, nil
}

// exportFiles writes the files of the products, each platform's into a directory of its own when
// there are several, unless the output says otherwise; with src only those below that path. The rules are those of BuildKit's local and
// tar exporters.
func (b *building) exportFiles(ctx context.Context, o *Output, i int, products []*product, step *progress.Step) error {
	split := o.is("platform-split", b.byPlatform)
	var trees []export.Files
	for _, p := range products {
		tree, err := b.run.Tree(ctx, p.value, store.NeedContent)
		if err != nil {
			return err
		}
		if tree, err = layer.Below(tree, o.Attrs["src"]); err != nil {
			return fmt.Errorf("src=%s: %w", o.Attrs["src"], err)
		}
		f := export.Files{Tree: tree, Platform: p.id, Attestations: p.Attestations, Prefix: o.Attrs["attestation-prefix"]}
		if f.Epoch, err = o.epoch(p.Epoch); err != nil {
			return err
		}
		trees = append(trees, f)
	}
	if o.Type == OutputLocal {
		return b.place(o, i).files(ctx, b.opt.Store, trees, split)
	}
	return archived(step, func() error {
		return b.place(o, i).archive(ctx, nil, func(w io.Writer) error { return export.Tar(trees, split, w) })
	})
}

// records lists the records of an assembly, one per name; an image without a name has one too. An
// index stands in the store with the image of this machine, or with its first one.
func records(a *export.Assembly, names []string) []store.Image {
	img := a.Images[0]
	for _, i := range a.Images {
		if platforms.Default().Match(*i.Manifest.Platform) {
			img = i
			break
		}
	}
	rec := store.Image{Manifest: img.Manifest, ID: img.Config.Digest, Created: img.Created, Layers: img.Snapshot, Size: img.Size}
	if a.IsIndex() {
		rec.Index = &a.Target
	}
	if len(names) == 0 {
		rec.Name = rec.ID.String()
		return []store.Image{rec}
	}
	var all []store.Image
	for _, n := range names {
		rec.Name = n
		all = append(all, rec)
	}
	return all
}
