package load

import (
	"context"
	"encoding/json"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// dockerImage is an entry of manifest.json.
type dockerImage struct {
	Config           string
	RepoTags, Layers []string
}

// readDocker reads what `docker save` wrote, by manifest.json. An image that index.json named already only
// gets its names from there.
func (l *loading) readDocker(ctx context.Context) error {
	const name = "manifest.json"
	f, err := l.file(name)
	if err != nil {
		return err
	}
	data, err := l.json(f, name)
	if err != nil {
		return err
	}
	var entries []dockerImage
	if err := json.Unmarshal(data, &entries); err != nil {
		return invalid("decoding %s: %w", name, err)
	}
	if len(entries) > maxManifests {
		return invalid("%s names %d images, more than %d", name, len(entries), maxManifests)
	}
	if len(entries) == 0 && len(l.found) == 0 {
		return invalid("%s names no image", name)
	}
	for _, e := range entries {
		if err := l.readDockerImage(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (l *loading) readDockerImage(ctx context.Context, e dockerImage) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if l.tags += len(e.RepoTags); l.tags > maxTags {
		return invalid("manifest.json gives more than %d names", maxTags)
	}
	var names []string
	for _, tag := range e.RepoTags {
		full, err := store.NormalizeName(tag)
		if err != nil {
			return invalid("manifest.json: %w", err)
		}
		names = append(names, full)
	}
	f, err := l.named(e.Config)
	if err != nil {
		return err
	}
	for i := range l.found {
		if slices.ContainsFunc(l.found[i].manifests, func(m manifest) bool { return m.id == f.digest }) {
			for _, n := range names {
				l.found[i].addName(n)
			}
			return nil
		}
	}
	m, err := l.assemble(ctx, e, f)
	if errors.Is(err, errUnwanted) && len(l.found) > 0 { // index.json has another platform's
		return nil
	}
	if err != nil {
		return err
	}
	img := found{manifests: []manifest{m}}
	l.merge(img, "")
	for _, n := range names {
		l.merge(img, n)
	}
	return nil
}

// named finds a file by the name that manifest.json has for it. Where the name is a digest, the content
// must have it.
func (l *loading) named(name string) (*file, error) {
	f, err := l.file(name)
	if err != nil {
		return nil, err
	}
	hex := strings.TrimSuffix(path.Base(name), ".json")
	if d := digest.NewDigestFromEncoded(digest.SHA256, hex); d.Validate() == nil && d != f.digest && !strings.HasSuffix(name, "/layer.tar") {
		return nil, invalid("the content of %s is %s", name, f.digest)
	}
	return f, nil
}

// assemble verifies an image and makes the manifest that the archive has not.
func (l *loading) assemble(ctx context.Context, e dockerImage, f *file) (manifest, error) {
	var m manifest
	data, err := l.json(f, e.Config)
	if err != nil {
		return m, err
	}
	config, platform, err := parseConfig(e.Config, data)
	if err != nil {
		return m, err
	}
	m.diffIDs, m.created, m.platform = config.RootFS.DiffIDs, config.Created, platform
	if !l.wants(m.platform) {
		return m, l.unwanted("the image")
	}
	// Docker's words.
	if got, want := len(e.Layers), len(m.diffIDs); got != want {
		return m, invalid("invalid manifest, layers length mismatch: expected %d, got %d", want, got)
	}
	m.id = f.digest
	m.layers = []ocispec.Descriptor{}
	for i, name := range e.Layers {
		desc, err := l.dockerLayer(ctx, name, m.diffIDs[i])
		if err != nil {
			return m, err
		}
		m.layers = append(m.layers, desc)
	}
	configDesc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: f.digest, Size: f.size}
	l.blobs[f.digest] = blob{path: f.path, desc: configDesc}
	out, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: configDesc, Layers: m.layers,
	})
	if err != nil {
		return m, err
	}
	m.desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(out), Size: int64(len(out))}
	l.blobs[m.desc.Digest] = blob{data: out, desc: m.desc}
	return m, nil
}

// dockerLayer verifies a layer, which is a plain tar in what Docker writes, and may be a compressed one.
func (l *loading) dockerLayer(ctx context.Context, name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	f, err := l.named(name)
	if err != nil {
		return desc, err
	}
	c, err := l.verifyLayer(ctx, f, name, diffID)
	if err != nil {
		return desc, err
	}
	switch c {
	case layer.Uncompressed:
		desc.MediaType = ocispec.MediaTypeImageLayer
	case layer.Gzip:
		desc.MediaType = ocispec.MediaTypeImageLayerGzip
	case layer.Zstd:
		desc.MediaType = ocispec.MediaTypeImageLayerZstd
	default:
		return desc, invalid("layer %s is compressed by %s: images have gzip, zstd or none", name, c)
	}
	desc.Digest, desc.Size = f.digest, f.size
	l.blobs[desc.Digest] = blob{path: f.path, desc: desc}
	return desc, nil
}
