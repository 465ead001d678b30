package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// attestationSubject is the annotation by which an attestation in an index names its image.
const attestationSubject = "vnd.docker.reference.digest"

// Pushable returns the manifest or index that is pushed for an image of the store, whose own layers
// are plain tars: one with those layers compressed, which are made once and kept. Layers that are
// compressed already stay as they are, whichever way. An image of nothing but those is pushed as it
// is, under its own digest.
func Pushable(ctx context.Context, s *store.Store, desc ocispec.Descriptor, encoding layer.Encoding) (ocispec.Descriptor, error) {
	out, err := pushable(ctx, s, desc, encoding)
	if err != nil {
		return out, fmt.Errorf("compressing image: %w", err)
	}
	return out, nil
}

func pushable(ctx context.Context, s *store.Store, desc ocispec.Descriptor, encoding layer.Encoding) (ocispec.Descriptor, error) {
	if encoding.Compression == "" || !s.HasBlob(desc.Digest) {
		return desc, nil
	}
	raw, err := s.ReadBlob(ctx, desc.Digest)
	if err != nil {
		return desc, err
	}
	if images.IsIndexType(desc.MediaType) {
		return pushableIndex(ctx, s, desc, raw, encoding)
	}
	return pushableManifest(ctx, s, desc, raw, encoding)
}

// pushableManifest compresses the plain layers of one image.
func pushableManifest(ctx context.Context, s *store.Store, desc ocispec.Descriptor, raw []byte, encoding layer.Encoding) (ocispec.Descriptor, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return desc, fmt.Errorf("reading manifest %s: %w", desc.Digest, err)
	}
	plain := map[int]bool{}
	for i, l := range m.Layers {
		if l.MediaType == ocispec.MediaTypeImageLayer || l.MediaType == images.MediaTypeDockerSchema2Layer {
			plain[i] = true
		}
	}
	if len(plain) == 0 {
		return desc, nil
	}
	rawConfig, err := s.ReadBlob(ctx, m.Config.Digest)
	if err != nil {
		return desc, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return desc, fmt.Errorf("reading config %s: %w", m.Config.Digest, err)
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return desc, fmt.Errorf("config %s has %d diff_ids for %d layers", m.Config.Digest, len(config.RootFS.DiffIDs), len(m.Layers))
	}
	g, gctx := errgroup.WithContext(ctx)
	for i := range plain {
		g.Go(func() (err error) {
			m.Layers[i], err = compressedLayer(gctx, s, config.RootFS.DiffIDs[i], m.Layers[i], encoding)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return desc, err
	}
	return replaced(ctx, s, desc, m)
}

// compressedLayer is the compressed form of a layer that is a plain tar.
func compressedLayer(ctx context.Context, s *store.Store, diffID digest.Digest, plain ocispec.Descriptor, encoding layer.Encoding) (ocispec.Descriptor, error) {
	id, err := s.BlobLayer(ctx, diffID, plain)
	if err != nil {
		return plain, err
	}
	out, _, err := s.Blob(ctx, id, encoding)
	if err != nil {
		return plain, err
	}
	out.MediaType = ociMediaType(out.MediaType)
	if plain.MediaType == images.MediaTypeDockerSchema2Layer {
		if out.MediaType, err = dockerMediaType(out.MediaType); err != nil {
			return plain, err
		}
	}
	out.Annotations = plain.Annotations
	return out, nil
}

// pushableIndex does it for the images of an index. Attestations follow the images that they are
// about.
func pushableIndex(ctx context.Context, s *store.Store, desc ocispec.Descriptor, raw []byte, encoding layer.Encoding) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return desc, fmt.Errorf("reading index %s: %w", desc.Digest, err)
	}
	now := map[digest.Digest]ocispec.Descriptor{} // what became of the images, by what they were
	for i, child := range index.Manifests {
		if child.Annotations[attestationSubject] != "" {
			continue
		}
		out, err := pushable(ctx, s, child, encoding)
		if err != nil {
			return desc, err
		}
		if out.Digest != child.Digest {
			now[child.Digest], index.Manifests[i] = out, out
		}
	}
	if len(now) == 0 {
		return desc, nil
	}
	for i, child := range index.Manifests {
		old := digest.Digest(child.Annotations[attestationSubject])
		if subject, ok := now[old]; ok {
			out, err := aboutAnother(ctx, s, child, old, subject)
			if err != nil {
				return desc, fmt.Errorf("attestation %s: %w", child.Digest, err)
			}
			index.Manifests[i] = out
		}
	}
	return replaced(ctx, s, desc, index)
}

// aboutAnother makes an attestation that is about the image old one about the same image with
// compressed layers. Its statements name the image by its digest.
func aboutAnother(ctx context.Context, s *store.Store, desc ocispec.Descriptor, old digest.Digest, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
	raw, err := s.ReadBlob(ctx, desc.Digest)
	if err != nil {
		return desc, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return desc, err
	}
	for i, l := range m.Layers {
		statement, err := s.ReadBlob(ctx, l.Digest)
		if err != nil {
			return desc, err
		}
		statement = bytes.ReplaceAll(statement, []byte(old.Encoded()), []byte(subject.Digest.Encoded()))
		out, err := s.PutBlob(ctx, l.MediaType, statement)
		if err != nil {
			return desc, err
		}
		m.Layers[i].Digest, m.Layers[i].Size = out.Digest, out.Size
	}
	if m.Subject != nil && m.Subject.Digest == old {
		m.Subject.Digest, m.Subject.Size = subject.Digest, subject.Size
	}
	if m.Config, err = statementsConfig(ctx, s, m); err != nil {
		return desc, err
	}
	out, err := replaced(ctx, s, desc, m)
	if err != nil {
		return desc, err
	}
	annotations := map[string]string{}
	for k, v := range desc.Annotations {
		annotations[k] = v
	}
	annotations[attestationSubject] = subject.Digest.String()
	out.Annotations = annotations
	return out, nil
}

// statementsConfig is the config of an attestation in the form of an image: it lists the digests of
// the statements as if they were layers. Other attestations have an empty config.
func statementsConfig(ctx context.Context, s *store.Store, m ocispec.Manifest) (ocispec.Descriptor, error) {
	if !images.IsConfigType(m.Config.MediaType) {
		return m.Config, nil
	}
	raw, err := s.ReadBlob(ctx, m.Config.Digest)
	if err != nil {
		return m.Config, err
	}
	fields := map[string]json.RawMessage{}
	rootfs := ocispec.RootFS{}
	if err := errors.Join(json.Unmarshal(raw, &fields), json.Unmarshal(fields["rootfs"], &rootfs)); err != nil {
		return m.Config, fmt.Errorf("reading config %s: %w", m.Config.Digest, err)
	}
	rootfs.DiffIDs = rootfs.DiffIDs[:0]
	for _, l := range m.Layers {
		rootfs.DiffIDs = append(rootfs.DiffIDs, l.Digest)
	}
	if fields["rootfs"], err = json.Marshal(rootfs); err != nil {
		return m.Config, err
	}
	if raw, err = json.Marshal(fields); err != nil {
		return m.Config, err
	}
	return s.PutBlob(ctx, m.Config.MediaType, raw)
}

// replaced stores a changed document and returns its descriptor, with all else that the old one says.
func replaced(ctx context.Context, s *store.Store, desc ocispec.Descriptor, doc any) (ocispec.Descriptor, error) {
	raw, err := json.Marshal(doc)
	if err != nil {
		return desc, err
	}
	out, err := s.PutBlob(ctx, desc.MediaType, raw)
	if err != nil {
		return desc, err
	}
	desc.Digest, desc.Size = out.Digest, out.Size
	return desc, nil
}
