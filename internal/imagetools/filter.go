package imagetools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/attestation"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// attestationArtifact is the type of a manifest that holds attestations (BuildKit's image exporter).
const attestationArtifact = "application/vnd.docker.attestation.manifest.v1+json"

// maxEntries is how many manifests an index may have that an image is made of.
const maxEntries = 1000

// filter leaves the wanted platforms of an image, with their attestations, and finds where its parts come from.
type filter struct {
	*places
	img     *Image
	sources []*source

	from     map[digest.Digest]*source            // by what they have
	platform platforms.Matcher                    // what is wanted
	subjects map[digest.Digest]ocispec.Descriptor // by the attestations about them that are in the index
}

func (f *filter) run(ctx context.Context, wanted []ocispec.Platform) error {
	f.platform = platforms.All
	if len(wanted) > 0 {
		f.platform = platforms.Any(wanted...)
	}
	if !images.IsIndexType(f.img.Desc.MediaType) {
		return f.single()
	}
	var index ocispec.Index
	if err := json.Unmarshal(f.img.Raw, &index); err != nil {
		return fmt.Errorf("failed to parse index: %w", err)
	}
	if len(index.Manifests) > maxEntries {
		return fmt.Errorf("an index of %d manifests: more than %d are not taken: %w", len(index.Manifests), maxEntries, errdefs.ErrOutOfRange)
	}
	if err := f.findSources(); err != nil {
		return err
	}
	f.findSubjects(index.Manifests)
	var left []ocispec.Descriptor
	for _, d := range index.Manifests {
		_, about := f.subjects[d.Digest]
		if !about && !f.matches(d) {
			continue
		}
		left = append(left, d)
		f.img.parts = append(f.img.parts, f.part(d))
	}
	if len(left) == 0 {
		return errors.New("none of the manifests match the provided platforms")
	}
	added, err := f.attestations(ctx, left)
	if err != nil || len(left) == len(index.Manifests) && len(added) == 0 {
		return err // all of it is wanted, and the index stays as it is
	}
	index.Manifests = append(left, added...)
	return f.img.set(index, f.img.Desc.Annotations)
}

// single is what there is to do without an index.
func (f *filter) single() error {
	d := f.img.Desc
	if d.Platform == nil {
		return errors.New("cannot filter platforms from a manifest without platform information")
	}
	if !f.platform.Match(*d.Platform) {
		return fmt.Errorf("input platform %s does not match any of the provided platforms", platforms.Format(*d.Platform))
	}
	f.img.parts = []part{{desc: d, from: f.sources[0].ref.String(), raw: f.img.Raw}}
	return nil
}

func (f *filter) matches(d ocispec.Descriptor) bool {
	return d.Platform == nil || f.platform.Match(*d.Platform)
}

// findSources finds which source has what. The last one that names a manifest is asked for it.
func (f *filter) findSources() error {
	f.from = map[digest.Digest]*source{}
	for _, s := range f.sources {
		f.from[s.desc.Digest] = s
		if !images.IsIndexType(s.desc.MediaType) {
			continue
		}
		var index ocispec.Index
		if err := json.Unmarshal(s.raw, &index); err != nil {
			return fmt.Errorf("reading the index of %s: %w", s.ref, err)
		}
		for _, d := range index.Manifests {
			f.from[d.Digest] = s
		}
	}
	return nil
}

func (f *filter) sourceOf(d digest.Digest) *source {
	if s, ok := f.from[d]; ok {
		return s
	}
	return f.sources[0]
}

// part is something that the image names.
func (f *filter) part(d ocispec.Descriptor) part {
	s := f.sourceOf(d.Digest)
	p := part{desc: d, from: s.ref.String()}
	if s.desc.Digest == d.Digest {
		p.raw = s.raw
	}
	return p
}

// findSubjects finds the attestations in an index that are about a wanted manifest of it.
func (f *filter) findSubjects(manifests []ocispec.Descriptor) {
	byDigest := map[digest.Digest]ocispec.Descriptor{}
	for _, d := range manifests {
		byDigest[d.Digest] = d
	}
	f.subjects = map[digest.Digest]ocispec.Descriptor{}
	for _, d := range manifests {
		if d.Annotations[attestation.DockerAnnotationReferenceType] != attestation.DockerAnnotationReferenceTypeDefault {
			continue
		}
		about := digest.Digest(d.Annotations[attestation.DockerAnnotationReferenceDigest])
		if subject, ok := byDigest[about]; ok && f.matches(subject) {
			f.subjects[d.Digest] = subject
		}
	}
}

// attestations finds, for manifests of which the index has none, those that the registry has as referrers.
func (f *filter) attestations(ctx context.Context, manifests []ocispec.Descriptor) (added []ocispec.Descriptor, err error) {
	attested := map[digest.Digest]bool{}
	for about, subject := range f.subjects {
		attested[about], attested[subject.Digest] = true, true
	}
	found := make([][]ocispec.Descriptor, len(manifests))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReads)
	for n, d := range manifests {
		if attested[d.Digest] || !f.matches(d) {
			continue
		}
		attested[d.Digest] = true
		g.Go(func() (err error) {
			found[n], err = f.Referrers(ctx, f.sourceOf(d.Digest).ref.String(), d.Digest, attestationArtifact)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for n, d := range manifests {
		at := slices.IndexFunc(found[n], func(r ocispec.Descriptor) bool { _, known := f.subjects[r.Digest]; return !known })
		if at < 0 {
			continue
		}
		r := asAttestation(found[n][at], d.Digest)
		added = append(added, r)
		f.img.parts = append(f.img.parts, part{desc: r, from: f.sourceOf(d.Digest).ref.String()})
	}
	return added, nil
}

// asAttestation is a referrer as an index has it.
func asAttestation(r ocispec.Descriptor, about digest.Digest) ocispec.Descriptor {
	all := map[string]string{}
	maps.Copy(all, r.Annotations)
	all[attestation.DockerAnnotationReferenceType] = attestation.DockerAnnotationReferenceTypeDefault
	all[attestation.DockerAnnotationReferenceDigest] = about.String()
	r.Annotations, r.ArtifactType = all, ""
	r.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	return r
}
