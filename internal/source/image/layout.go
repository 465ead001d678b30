package imagesource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
)

// Layout is an OCI image layout, as an image source beside the registries: a directory, or a client's. What is in it is no
// more trusted than what registries send.
type Layout interface {
	// Open opens a blob. One that is not there is fs.ErrNotExist. Who reads it compares it with its digest.
	Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
	// Name tells layouts apart, in errors and where builds share what they read.
	Name() string
}

// Layouts are the image layouts that a build may read.
type Layouts interface {
	// Layout returns one by its ID, and by the session that has it; "" is any.
	Layout(session, id string) (Layout, error)
}

// LayoutDirs are layouts in directories, by their IDs.
type LayoutDirs map[string]LayoutDir

// Layout implements [Layouts].
func (l LayoutDirs) Layout(_, id string) (Layout, error) {
	d, ok := l[id]
	if !ok {
		return nil, fmt.Errorf("the build has no OCI layout %q", id)
	}
	return d, nil
}

// LayoutDir is a directory as a [Layout].
type LayoutDir struct{ Dir string }

// Name implements [Layout].
func (l LayoutDir) Name() string { return l.Dir }

// Open implements [Layout].
func (l LayoutDir) Open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	return layer.OpenRegular(l.path(d))
}

// Find returns the digest of the image that the layout calls ref, or of the only one that it has.
// The rule is that of docker buildx.
func (l LayoutDir) Find(ref string) (digest.Digest, error) {
	data, err := layer.ReadRegular(filepath.Join(l.Dir, ocispec.ImageIndexFile), registry.MaxManifestSize)
	if err != nil {
		return "", fmt.Errorf("reading OCI layout: %w", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return "", fmt.Errorf("reading OCI layout: %s: %w", filepath.Join(l.Dir, ocispec.ImageIndexFile), err)
	}
	for _, key := range []string{"io.containerd.image.name", ocispec.AnnotationRefName} {
		for _, m := range index.Manifests {
			if m.Annotations[key] == ref {
				return m.Digest, m.Digest.Validate()
			}
		}
	}
	if len(index.Manifests) == 1 {
		return index.Manifests[0].Digest, index.Manifests[0].Digest.Validate()
	}
	return "", fmt.Errorf("the layout has %d images, none of them named %q", len(index.Manifests), ref)
}

// SchemeLayout begins what names an image in a directory: oci-layout://DIR[:TAG][@DIGEST].
const SchemeLayout = "oci-layout://"

// SplitLayout splits oci-layout://DIR[:TAG][@DIGEST]. The tag is latest unless there is one.
func SplitLayout(name string) (dir, tag string, pinned digest.Digest) {
	dir, d, _ := strings.Cut(strings.TrimPrefix(name, SchemeLayout), "@")
	dir, tag, ok := strings.Cut(dir, ":")
	if !ok {
		tag = "latest"
	}
	return dir, tag, digest.Digest(d)
}

// FindLayout finds the image that such a name is of. The rules are those of docker buildx.
func FindLayout(name string) (l LayoutDir, tag string, d digest.Digest, err error) {
	l.Dir, tag, d = SplitLayout(name)
	if err = d.Validate(); d == "" {
		d, err = l.Find(tag)
	}
	if err != nil {
		err = fmt.Errorf("oci-layout reference %q could not be resolved: %w", name, err)
	}
	return l, tag, d, err
}

// path is the file of a blob, whose digest is valid.
func (l LayoutDir) path(d digest.Digest) string {
	return filepath.Join(l.Dir, ocispec.ImageBlobsDir, string(d.Algorithm()), d.Encoded())
}

// ResolveLayout finds the image that ref, which has a digest, is for a platform in the layout, and
// copies its manifest and config into the store. No registry is asked.
func (s *Source) ResolveLayout(ctx context.Context, l Layout, ref string, platform ocispec.Platform) (*Image, error) {
	pinned, ok := pinnedDigest(ref)
	if !ok {
		return nil, fmt.Errorf("reading OCI layout %s: %s has no digest", l.Name(), ref)
	}
	if err := s.copyDocuments(ctx, l, pinned, map[digest.Digest]bool{}); err != nil {
		return nil, fmt.Errorf("reading OCI layout %s: %w", l.Name(), err)
	}
	img, err := s.Resolve(ctx, ref, platform, ResolveLocal)
	if err != nil {
		return nil, fmt.Errorf("reading OCI layout %s: %w", l.Name(), err)
	}
	return img, nil
}

// copyDocuments copies an index or a manifest, and those that it names, each once. A layout may lack what
// other platforms need.
func (s *Source) copyDocuments(ctx context.Context, l Layout, d digest.Digest, seen map[digest.Digest]bool) error {
	if seen[d] {
		return nil
	}
	seen[d] = true
	raw, err := s.copyDocument(ctx, l, d, registry.MaxManifestSize)
	if err != nil {
		return err
	}
	var doc struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return nil // Resolve says what is wrong
	}
	for _, m := range doc.Manifests {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.copyDocuments(ctx, l, m.Digest, seen); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if doc.Config != nil {
		_, err = s.copyDocument(ctx, l, doc.Config.Digest, registry.MaxConfigSize)
	}
	return err
}

func (s *Source) copyDocument(ctx context.Context, l Layout, d digest.Digest, limit int64) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d, err)
	}
	f, err := l.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("blob %s has more than the limit of %d bytes", d, limit)
	}
	if got := d.Algorithm().FromBytes(data); got != d {
		return nil, fmt.Errorf("the content of blob %s is %s", d, got)
	}
	if s.store.HasBlob(d) {
		return data, nil
	}
	return data, s.store.WriteBlob(ctx, ocispec.Descriptor{Digest: d, Size: int64(len(data))}, bytes.NewReader(data))
}

// PullLayout is PullLayer for an image of a layout.
func (s *Source) PullLayout(ctx context.Context, l Layout, img *Image, i int, progress Progress) error {
	desc := img.Manifest.Layers[i]
	if err := s.copyBlob(ctx, l, desc, progress); err != nil {
		return fmt.Errorf("copying layer %d of %d (%s) from OCI layout %s: %w", i+1, len(img.Manifest.Layers), desc.Digest, l.Name(), err)
	}
	return nil
}

// copyBlob copies a blob unless the store has it.
func (s *Source) copyBlob(ctx context.Context, l Layout, desc ocispec.Descriptor, progress Progress) error {
	if s.store.HasBlob(desc.Digest) {
		return nil
	}
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	f, err := l.Open(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.store.WriteBlob(ctx, desc, &meter{r: f, layer: desc, progress: progress}); err != nil {
		return err
	}
	progress(desc, desc.Size, desc.Size)
	return nil
}

func pinnedDigest(ref string) (digest.Digest, bool) {
	named, err := registry.Parse(ref)
	if err != nil {
		return "", false
	}
	pinned, ok := named.(interface{ Digest() digest.Digest })
	if !ok {
		return "", false
	}
	return pinned.Digest(), true
}
