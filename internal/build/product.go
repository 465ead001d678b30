package build

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	commonexptypes "github.com/moby/buildkit/exporter/exptypes"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/util/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/frontend"
)

// product is the result of a build for one platform.
type product struct {
	export.Source
	id    string // of the platform, "linux/arm64"
	value engine.Value
	ref   *frontend.Ref // nil when the result is the empty filesystem
}

// products evaluates the frontend's result, all platforms at the same time: this is where
// everything runs. The first that fails ends the others.
func (b *building) products(ctx context.Context, out *gw.Result) ([]*product, error) {
	ps, err := exptypes.ParsePlatforms(out.Metadata)
	if err != nil {
		return nil, fmt.Errorf("reading the frontend's result: %w", err)
	}
	b.byPlatform = len(out.Refs) > 0
	products := make([]*product, len(ps.Platforms))
	for i, p := range ps.Platforms {
		ref, ok := out.FindRef(p.ID)
		if !ok {
			return nil, fmt.Errorf("reading the frontend's result: there is none for %s", p.ID)
		}
		if products[i], err = b.product(out, p, ref); err != nil {
			return nil, err
		}
	}
	for _, p := range products {
		if b.req.blobs() {
			b.run.WillExport(p.edge(), p.Epoch)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range products {
		g.Go(func() error { return b.value(ctx, p) })
	}
	return products, g.Wait()
}

// product reads what the frontend says of one platform.
func (b *building) product(out *gw.Result, p exptypes.Platform, ref gw.Reference) (*product, error) {
	pr := &product{id: p.ID, Source: export.Source{
		Config:   exptypes.ParseKey(out.Metadata, exptypes.ExporterImageConfigKey, &p),
		Base:     exptypes.ParseKey(out.Metadata, exptypes.ExporterImageBaseConfigKey, &p),
		Platform: p.Platform,
	}}
	pr.ref, _ = ref.(*frontend.Ref)
	if v := exptypes.ParseKey(out.Metadata, commonexptypes.ExporterEpochKey, &p); len(v) > 0 {
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("invalid SOURCE_DATE_EPOCH: %q is no number of seconds since 1970", v)
		}
		epoch := time.Unix(n, 0).UTC()
		pr.Epoch = &epoch
	}
	return pr, nil
}

func (b *building) value(ctx context.Context, p *product) (err error) {
	if b.req.blobs() {
		p.value, err = b.run.ExportedResult(ctx, p.edge(), p.Epoch)
	} else {
		p.value, err = b.run.Result(ctx, p.edge())
	}
	p.Snapshot = p.value.Snapshot
	return err
}

// clamp returns the source of a product whose times are not later than the epoch: those of its
// history, and with files set those in its layers.
func (b *building) clamp(ctx context.Context, p *product, epoch *time.Time, files bool) (export.Source, error) {
	src := p.Source
	src.Epoch = epoch
	if epoch == nil || !files {
		return src, nil
	}
	inherited, err := b.inherited(ctx, p)
	if err != nil {
		return src, err
	}
	v, err := b.run.Clamp(ctx, p.value, inherited, *epoch)
	src.Snapshot, src.Clamped = v.Snapshot, len(v.Snapshot)-inherited
	return src, err
}

// inherited counts the layers that a product has from its base image.
func (b *building) inherited(ctx context.Context, p *product) (int, error) {
	if p.Base == nil {
		return 0, nil
	}
	var base ocispec.Image
	if err := json.Unmarshal(p.Base, &base); err != nil {
		return 0, fmt.Errorf("reading the base image's config: %w", err)
	}
	for i, id := range p.Snapshot {
		info, err := b.opt.Store.Layer(ctx, id)
		if err != nil {
			return 0, err
		}
		if i >= len(base.RootFS.DiffIDs) || info.DiffID != base.RootFS.DiffIDs[i] {
			return i, nil
		}
	}
	return len(p.Snapshot), nil
}

// sources are the sources of products, with the times of an output.
func (b *building) sources(ctx context.Context, products []*product, o *Output) ([]export.Source, error) {
	all := make([]export.Source, len(products))
	for i, p := range products {
		epoch, err := o.epoch(p.Epoch)
		if err != nil {
			return nil, err
		}
		if all[i], err = b.clamp(ctx, p, epoch, o.is("rewrite-timestamp", true)); err != nil {
			return nil, err
		}
		if !o.is("rewrite-timestamp", false) { // BuildKit clamps only then, and says it
			all[i].Clamped = 0
		}
		b.describe(&all[i], p, o)
		if len(all[i].Config) == 0 {
			if all[i].Config, err = emptyConfig(p.Platform); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// describe puts what a client says of an image over what made it says: a graph has no configuration of its own.
func (b *building) describe(src *export.Source, p *product, o *Output) {
	if b.req.Client == nil {
		return
	}
	said := map[string][]byte{}
	for _, key := range []string{exptypes.ExporterImageConfigKey, exptypes.ExporterImageBaseConfigKey} {
		for _, k := range []string{key, key + "/" + p.id} {
			if v, ok := o.Attrs[k]; ok {
				said[k] = []byte(v)
			}
		}
	}
	of := exptypes.Platform{ID: p.id, Platform: p.Platform}
	if config := exptypes.ParseKey(said, exptypes.ExporterImageConfigKey, &of); len(config) > 0 {
		src.Config = config
	}
	if base := exptypes.ParseKey(said, exptypes.ExporterImageBaseConfigKey, &of); len(base) > 0 {
		src.Base = base
	}
}

// emptyConfig is the configuration of an image of which nobody says one: that of BuildKit's image exporter.
func emptyConfig(p ocispec.Platform) ([]byte, error) {
	img := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	img.Config.WorkingDir = "/"
	if p.OS != "windows" {
		img.Config.Env = []string{"PATH=" + system.DefaultPathEnv(p.OS)}
	}
	data, err := json.Marshal(img)
	if err != nil {
		return nil, fmt.Errorf("making an image's config: %w", err)
	}
	return data, nil
}
