package load

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

const (
	// maxDepth is how deep indexes may be nested.
	maxDepth = 4
	// maxManifests is how many manifests an index may name.
	maxManifests = 1000
	// maxTags is how many names manifest.json may give, and maxLayers how many layers an image may have.
	maxTags   = 10_000
	maxLayers = 1000

	attestationType = "vnd.docker.reference.type"
	imageName       = "io.containerd.image.name"
)

// readLayout reads an OCI image layout by its index.json.
func (l *loading) readLayout(ctx context.Context) error {
	f, err := l.file(ocispec.ImageIndexFile)
	if err != nil {
		return err
	}
	data, err := l.json(f, ocispec.ImageIndexFile)
	if err != nil {
		return err
	}
	index, err := parseIndex(ocispec.ImageIndexFile, data)
	if err != nil {
		return err
	}
	read := map[digest.Digest]found{}
	for _, desc := range index.Manifests {
		if desc.Annotations[attestationType] != "" {
			continue
		}
		img, ok := read[desc.Digest]
		if !ok {
			if img, err = l.readTarget(ctx, desc); err != nil {
				return err
			}
			read[desc.Digest] = img
		}
		l.merge(img, layoutName(desc.Annotations))
	}
	return nil
}

// merge adds an image that was found, under a further name if it was found before; name may be "".
func (l *loading) merge(img found, name string) {
	at := -1
	for i, f := range l.found {
		if f.target() == img.target() {
			at = i
		}
	}
	if at < 0 {
		at = len(l.found)
		l.found = append(l.found, img)
	}
	l.found[at].addName(name)
}

func (f *found) addName(name string) {
	if name == "" {
		return
	}
	for _, n := range f.names {
		if n == name {
			return
		}
	}
	f.names = append(f.names, name)
}

func (f *found) target() string {
	if f.index != nil {
		return f.index.Digest.String()
	}
	return f.manifests[0].desc.Digest.String()
}

// layoutName is the full name that annotations in index.json give an image, or "". A reference name that is
// just a tag names no image, as containerd has it.
func layoutName(annotations map[string]string) string {
	name := annotations[imageName]
	if name == "" {
		if name = annotations[ocispec.AnnotationRefName]; !strings.ContainsAny(name, ":/") {
			return ""
		}
	}
	return normalize(name)
}

// normalize is the full form of a name with its tag; what is no name is "".
func normalize(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	if _, digested := ref.(reference.Digested); digested {
		return ""
	}
	full, err := store.NormalizeName(name)
	if err != nil {
		return ""
	}
	return full
}

// readTarget reads what a descriptor of index.json names: a manifest, or an index of manifests.
func (l *loading) readTarget(ctx context.Context, desc ocispec.Descriptor) (found, error) {
	desc.Annotations = nil
	out := found{read: map[digest.Digest]bool{}}
	isIndex, err := l.readTree(ctx, desc, &out, 0)
	if err != nil {
		return out, err
	}
	if len(out.manifests) == 0 {
		if len(l.platforms) > 0 {
			return out, l.unwanted(desc.Digest.String())
		}
		return out, invalid("of index %s no image is in the archive", desc.Digest)
	}
	if isIndex && len(l.platforms) != 1 {
		out.index = &desc
	}
	return out, nil
}

// readTree adds the manifests below a descriptor, and reports whether it is an index.
func (l *loading) readTree(ctx context.Context, desc ocispec.Descriptor, out *found, depth int) (isIndex bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if depth > maxDepth {
		return false, invalid("indexes are nested more than %d deep", maxDepth)
	}
	f, err := l.blobFile(ctx, desc)
	if err != nil {
		return false, err
	}
	data, err := l.json(f, desc.Digest.String())
	if err != nil {
		return false, err
	}
	var kind struct{ Manifests, Layers json.RawMessage }
	if err := json.Unmarshal(data, &kind); err != nil {
		return false, invalid("decoding manifest %s: %w", desc.Digest, err)
	}
	if kind.Manifests == nil {
		return false, l.readManifest(ctx, desc, data, out)
	}
	index, err := parseIndex(desc.Digest.String(), data)
	if err != nil {
		return true, err
	}
	for _, child := range index.Manifests {
		if out.read[child.Digest] {
			continue
		}
		out.read[child.Digest] = true
		switch {
		case !l.has(child.Digest): // of another platform, which was not saved
		case child.Annotations[attestationType] != "":
			err = l.readAttestation(ctx, child)
		case child.Platform == nil || l.wants(*child.Platform):
			_, err = l.readTree(ctx, child, out, depth+1)
		}
		if err != nil {
			return true, err
		}
		if len(out.manifests) > maxManifests {
			return true, invalid("index %s names more than %d manifests", desc.Digest, maxManifests)
		}
	}
	return true, nil
}

func parseIndex(name string, data []byte) (ocispec.Index, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return index, invalid("decoding %s: %w", name, err)
	}
	if len(index.Manifests) > maxManifests {
		return index, invalid("%s names %d manifests, more than %d", name, len(index.Manifests), maxManifests)
	}
	return index, nil
}

func parseManifest(desc ocispec.Descriptor, data []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return m, invalid("decoding manifest %s: %w", desc.Digest, err)
	}
	return m, nil
}

// readManifest adds an image.
func (l *loading) readManifest(ctx context.Context, desc ocispec.Descriptor, data []byte, out *found) error {
	m, err := parseManifest(desc, data)
	if err != nil {
		return err
	}
	f, err := l.blobFile(ctx, m.Config)
	if err != nil {
		return err
	}
	raw, err := l.json(f, m.Config.Digest.String())
	if err != nil {
		return err
	}
	config, platform, err := parseConfig(m.Config.Digest.String(), raw)
	if err != nil {
		return err
	}
	if !l.wants(platform) {
		return nil
	}
	if len(m.Layers) != len(config.RootFS.DiffIDs) {
		return invalid("manifest %s has %d layers, its config %d diff_ids", desc.Digest, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	for i, desc := range m.Layers {
		f, err := l.blobFile(ctx, desc)
		if err != nil {
			return err
		}
		if _, err := l.verifyLayer(ctx, f, desc.Digest.String(), config.RootFS.DiffIDs[i]); err != nil {
			return err
		}
	}
	out.manifests = append(out.manifests, manifest{desc: desc, diffIDs: config.RootFS.DiffIDs, created: config.Created, id: m.Config.Digest, layers: m.Layers, platform: platform})
	return nil
}

// readAttestation adds the blobs of an attestation, which is no filesystem.
func (l *loading) readAttestation(ctx context.Context, desc ocispec.Descriptor) error {
	f, err := l.blobFile(ctx, desc)
	if err != nil {
		return err
	}
	data, err := l.json(f, desc.Digest.String())
	if err != nil {
		return err
	}
	m, err := parseManifest(desc, data)
	if err != nil {
		return err
	}
	for _, part := range append(m.Layers, m.Config) {
		if _, err := l.blobFile(ctx, part); err != nil {
			return err
		}
	}
	return nil
}
