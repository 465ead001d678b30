package imagetools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/attestation"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/ocilayout"
	"github.com/slipway-build/slipway/internal/registry"
)

// places are registries, and layouts: the texts of locations tell which. It is a [registry.Origin] and a
// [registry.Destination], and safe for concurrent use.
type places struct {
	*registry.Client

	mu    sync.Mutex
	about map[ocilayout.Dir]func() (map[digest.Digest][]ocispec.Descriptor, error) // referrers, by what they are about
}

func newPlaces(c *registry.Client) *places {
	return &places{Client: c, about: map[ocilayout.Dir]func() (map[digest.Digest][]ocispec.Descriptor, error){}}
}

// layoutAt is the location in a layout that a text says; false for a registry's.
func layoutAt(text string) (Location, bool) {
	l, err := ParseLocation(text)
	return l, err == nil && l.isLayout()
}

// Manifest is [registry.Client.Manifest]. Errors of a layout are ErrNotFound and ErrDataLoss as well.
func (p *places) Manifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	l, ok := layoutAt(ref)
	if !ok {
		return p.Client.Manifest(ctx, ref)
	}
	desc, err := l.find()
	if err != nil {
		return desc, nil, err
	}
	raw, err := p.Document(ctx, ref, desc, registry.MaxManifestSize)
	if err != nil {
		return desc, nil, err
	}
	if desc.MediaType, err = registry.DocumentType(desc.MediaType, raw); err != nil {
		return desc, nil, fmt.Errorf("manifest %s of %s %w", desc.Digest, ref, err)
	}
	return desc, raw, nil
}

// find is the descriptor of what a location in a layout names. One of a digest has no media type.
func (l Location) find() (desc ocispec.Descriptor, err error) {
	if l.digest != "" {
		f, err := l.dir.Open(l.digest)
		if err != nil {
			return desc, missing(l.String(), err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return desc, err
		}
		return ocispec.Descriptor{Digest: l.digest, Size: fi.Size()}, nil
	}
	found, err := l.dir.Find(l.tag)
	if err != nil {
		return desc, missing(l.String(), err)
	}
	if found == nil {
		return desc, missing(l.String(), fs.ErrNotExist)
	}
	return *found, found.Digest.Validate()
}

// missing makes an ErrNotFound of what is not there.
func missing(ref string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reference %s: %w", ref, errdefs.ErrNotFound)
	}
	return fmt.Errorf("reading %s: %w", ref, err)
}

// Document is [registry.Client.Document].
func (p *places) Document(ctx context.Context, ref string, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if _, ok := layoutAt(ref); !ok {
		return p.Client.Document(ctx, ref, desc, limit)
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("%s of %s has %d bytes, more than the limit of %d: %w", desc.Digest, ref, desc.Size, limit, errdefs.ErrOutOfRange)
	}
	r, err := p.Verified(ctx, ref, desc)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(r)
	return raw, errors.Join(err, r.Close())
}

// Verified is [registry.Client.Verified].
func (p *places) Verified(ctx context.Context, ref string, desc ocispec.Descriptor) (io.ReadCloser, error) {
	l, ok := layoutAt(ref)
	if !ok {
		return p.Client.Verified(ctx, ref, desc)
	}
	other := func() error {
		return fmt.Errorf("%s has other content for %s: %w", ref, desc.Digest, errdefs.ErrDataLoss)
	}
	f, err := l.dir.Open(desc.Digest)
	if err != nil {
		return nil, missing(ref+" ("+desc.Digest.String()+")", err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != desc.Size {
		return nil, errors.Join(other(), err, f.Close())
	}
	return registry.Verify(f, desc, other), nil
}

// Referrers is [registry.Client.Referrers].
func (p *places) Referrers(ctx context.Context, ref string, d digest.Digest, types ...string) ([]ocispec.Descriptor, error) {
	l, ok := layoutAt(ref)
	if !ok {
		return p.Client.Referrers(ctx, ref, d, types...)
	}
	p.mu.Lock()
	read := p.about[l.dir]
	if read == nil {
		read = sync.OnceValues(func() (map[digest.Digest][]ocispec.Descriptor, error) {
			r := &layoutReferrers{places: p, ref: ref, seen: map[digest.Digest]bool{}, about: map[digest.Digest]map[digest.Digest]ocispec.Descriptor{}}
			return r.read(ctx, l.dir)
		})
		p.about[l.dir] = read
	}
	p.mu.Unlock()
	all, err := read()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all[d]), func(r ocispec.Descriptor) bool { return !slices.Contains(types, r.ArtifactType) }), nil
}

// layoutReferrers finds which manifests of a layout are about others: those that index.json or an index says it of, and those that say it.
type layoutReferrers struct {
	*places
	ref   string
	seen  map[digest.Digest]bool
	about map[digest.Digest]map[digest.Digest]ocispec.Descriptor
	bytes int64
}

func (r *layoutReferrers) read(ctx context.Context, dir ocilayout.Dir) (map[digest.Digest][]ocispec.Descriptor, error) {
	index, err := dir.Index()
	if err != nil {
		return nil, missing(r.ref, err)
	}
	for _, d := range index.Manifests {
		if subject := d.Annotations[images.AnnotationManifestSubject]; subject != "" {
			r.add(digest.Digest(subject), d)
			continue
		}
		if err := r.walk(ctx, d, 0); err != nil {
			return nil, err
		}
	}
	all := map[digest.Digest][]ocispec.Descriptor{}
	for subject, list := range r.about {
		all[subject] = slices.SortedFunc(maps.Values(list), func(a, b ocispec.Descriptor) int {
			return strings.Compare(a.Digest.String(), b.Digest.String())
		})
	}
	return all, nil
}

func (r *layoutReferrers) add(subject digest.Digest, d ocispec.Descriptor) {
	if r.about[subject] == nil {
		r.about[subject] = map[digest.Digest]ocispec.Descriptor{}
	}
	r.about[subject][d.Digest] = d
}

// walk looks at a manifest or index, and at what an index names. What is not there, as other platforms may not be, is passed over.
func (r *layoutReferrers) walk(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if r.seen[d.Digest] || !images.IsIndexType(d.MediaType) && !images.IsManifestType(d.MediaType) {
		return nil
	}
	r.seen[d.Digest] = true
	r.bytes += min(max(0, d.Size), maxDocumentBytes+1)
	if depth > maxNesting || len(r.seen) > maxDocuments || r.bytes > maxDocumentBytes {
		return fmt.Errorf("%s has more than %d manifests, or %d bytes of them: %w", r.ref, maxDocuments, maxDocumentBytes, errdefs.ErrOutOfRange)
	}
	if subject := d.Annotations[attestation.DockerAnnotationReferenceDigest]; subject != "" {
		r.add(digest.Digest(subject), d)
	}
	raw, err := r.Document(ctx, r.ref, d, registry.MaxManifestSize)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var doc struct {
		Subject   *ocispec.Descriptor  `json:"subject"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("reading manifest %s of %s: %w", d.Digest, r.ref, err)
	}
	if doc.Subject != nil {
		r.add(doc.Subject.Digest, d)
	}
	for _, m := range doc.Manifests {
		if err := r.walk(ctx, m, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// Has is [registry.Client.Has]. A layout may lack what a manifest names.
func (p *places) Has(ctx context.Context, ref string, desc ocispec.Descriptor) (bool, error) {
	if _, ok := layoutAt(ref); ok {
		return false, nil
	}
	return p.Client.Has(ctx, ref, desc)
}

// Push is [registry.Client.Push]. In a layout it gives no names.
func (p *places) Push(ctx context.Context, ref string, content registry.Content) (registry.Pushed, error) {
	l, ok := layoutAt(ref)
	if !ok {
		return p.Client.Push(ctx, ref, content)
	}
	if l.dir.Has(content.Desc) {
		return registry.Pushed{Existed: true}, nil
	}
	if err := l.dir.Put(ctx, content.Desc, content.Open); err != nil {
		return registry.Pushed{}, fmt.Errorf("writing %s to %s: %w", content.Desc.Digest, ref, err)
	}
	return registry.Pushed{}, nil
}

// enter names what was copied into a layout, and the artifacts about it that nothing names.
func (i *Image) enter(l Location, about map[digest.Digest][]ocispec.Descriptor) error {
	desc := i.Desc
	desc.Annotations = maps.Clone(desc.Annotations)
	for _, name := range []string{ocispec.AnnotationRefName, images.AnnotationImageName} { // of where it comes from
		delete(desc.Annotations, name)
	}
	tag := l.tag
	if l.digest != "" {
		tag = ""
	}
	if err := l.dir.Enter(desc, tag, nil); err != nil {
		return fmt.Errorf("writing the index of %s: %w", l, err)
	}
	named := map[digest.Digest]bool{i.Desc.Digest: true}
	for _, p := range i.parts {
		named[p.desc.Digest] = true
	}
	for _, subject := range slices.Sorted(maps.Keys(about)) {
		for _, d := range about[subject] {
			if named[d.Digest] {
				continue
			}
			if d.Annotations = maps.Clone(d.Annotations); d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			d.Annotations[images.AnnotationManifestSubject] = subject.String()
			if err := l.dir.Enter(d, "", nil); err != nil {
				return fmt.Errorf("writing the index of %s: %w", l, err)
			}
		}
	}
	return nil
}
