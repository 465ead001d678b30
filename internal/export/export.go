// Package export turns the result of a build into what the user asked for: an image in the local
// store, an archive, or files. Each output type has a file.
package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Source is what is exported: a root filesystem and the image config that the frontend made for
// it, without rootfs and times.
type Source struct {
	Snapshot layer.Snapshot
	Config   []byte
	Platform ocispec.Platform
}

// Image is an image whose blobs are all in the store.
type Image struct {
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Snapshot layer.Snapshot // the layers in the store
	Created  time.Time
	Size     int64 // bytes of all layers' files, uncompressed; -1 when not known
}

// layerForm is one layer of an image that is being put together.
type layerForm struct {
	id      layer.ID
	desc    ocispec.Descriptor
	diffID  digest.Digest
	size    int64
	created time.Time
}

// Assemble writes everything that the image of src consists of into the store: layers that have
// no blob yet, config and manifest. Layers are made at the same time.
func Assemble(ctx context.Context, s *store.Store, src Source, encoding layer.Encoding) (Image, error) {
	forms := make([]layerForm, len(src.Snapshot))
	g, gctx := errgroup.WithContext(ctx)
	for i, id := range src.Snapshot {
		g.Go(func() (err error) {
			forms[i], err = form(gctx, s, id, encoding)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Image{}, fmt.Errorf("exporting layers: %w", err)
	}
	config, img, err := finishConfig(src.Config, forms)
	if err != nil {
		return Image{}, fmt.Errorf("exporting config: %w", err)
	}
	if img.Config, err = s.PutBlob(ctx, ocispec.MediaTypeImageConfig, config); err != nil {
		return Image{}, err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    img.Config,
		Layers:    img.Layers,
	})
	if err != nil {
		return Image{}, fmt.Errorf("exporting manifest: %w", err)
	}
	if img.Manifest, err = s.PutBlob(ctx, ocispec.MediaTypeImageManifest, manifest); err != nil {
		return Image{}, err
	}
	p := src.Platform
	img.Manifest.Platform = &p
	return img, nil
}

func form(ctx context.Context, s *store.Store, id layer.ID, encoding layer.Encoding) (layerForm, error) {
	f := layerForm{id: id}
	var err error
	if f.desc, f.diffID, err = s.Blob(ctx, id, encoding); err != nil {
		return f, err
	}
	f.desc.MediaType = ociMediaType(f.desc.MediaType)
	info, err := s.Layer(ctx, id)
	f.created, f.size = info.Created, info.Size
	return f, err
}

// ociMediaType returns the OCI name of a layer's media type: images may be pulled with Docker's.
func ociMediaType(mediaType string) string {
	switch mediaType {
	case "application/vnd.docker.image.rootfs.diff.tar":
		return ocispec.MediaTypeImageLayer
	case "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return ocispec.MediaTypeImageLayerGzip
	case "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return ocispec.MediaTypeImageLayerZstd
	}
	return mediaType
}

// finishConfig fills in rootfs, history and creation times. Fields
// of the config that it does not know stay as they are.
func finishConfig(config []byte, forms []layerForm) ([]byte, Image, error) {
	var img ocispec.Image
	raw := map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(config, &img), json.Unmarshal(config, &raw)); err != nil {
		return nil, Image{}, err
	}
	if img.OS == "" || img.Architecture == "" {
		return nil, Image{}, errors.New("the config names no os or no architecture")
	}
	history := history(img.History, forms)
	out := Image{Layers: []ocispec.Descriptor{}}
	rootfs := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, f := range forms {
		rootfs.DiffIDs = append(rootfs.DiffIDs, f.diffID)
		out.Layers = append(out.Layers, f.desc)
		out.Snapshot = append(out.Snapshot, f.id)
		if f.size < 0 || out.Size < 0 {
			out.Size = -1
		} else {
			out.Size += f.size
		}
	}
	for _, h := range history {
		if h.Created != nil {
			out.Created = *h.Created
		}
	}
	fields := map[string]any{"rootfs": rootfs, "history": history}
	if !out.Created.IsZero() {
		fields["created"] = out.Created.UTC()
	}
	for key, value := range fields {
		data, err := json.Marshal(value)
		if err != nil {
			return nil, Image{}, err
		}
		raw[key] = data
	}
	data, err := json.Marshal(raw)
	return data, out, err
}

// history matches history entries with layers. The rules are those of BuildKit's image exporter:
// entries without a time get that of their layer, or of the one before; layers without an entry
// get one; entries without a layer become empty ones.
func history(entries []ocispec.History, forms []layerForm) []ocispec.History {
	out := make([]ocispec.History, 0, len(entries))
	next := 0
	take := func(h ocispec.History) {
		if h.Created == nil {
			t := forms[next].created.UTC()
			h.Created = &t
		}
		next++
		out = append(out, h)
	}
	for _, h := range entries {
		switch {
		case h.EmptyLayer:
			out = append(out, h)
		case next < len(forms):
			take(h)
		default:
			h.EmptyLayer = true
			out = append(out, h)
		}
	}
	for next < len(forms) {
		take(ocispec.History{Comment: "slipway"})
	}
	fillTimes(out)
	return out
}

// fillTimes gives entries without a time that of the first new layer, or of the layer before.
func fillTimes(out []ocispec.History) {
	var created *time.Time
	missing := false
	for _, h := range out {
		if h.Created == nil {
			missing = true
			continue
		}
		created = h.Created
		if missing {
			break
		}
	}
	missing = false
	for i := range out {
		switch {
		case out[i].Created == nil:
			missing = true
			out[i].Created = created
		case missing:
			created = out[i].Created
		}
	}
}
