package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	policyimage "github.com/moby/policy-helpers/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
)

// maxAttestations is how many bytes are read to answer one question about the attestations of an image: they are held in memory.
const maxAttestations = 64 << 20

// attestations are what the repository of an image has of its attestations and their signatures, for a policy to judge: nothing of it
// is verified here but that it is what its digests say. The rules are BuildKit's. An image that is no index has none,
// which is an answer: who gets none at all asks again.
func (c *Client) attestations(ctx context.Context, ref string, img *imagesource.Image, opt *sourceresolver.ResolveImageOpt) (*sourceresolver.AttestationChain, error) {
	none := &sourceresolver.AttestationChain{Root: img.Root}
	if img.Root == img.Digest {
		return none, nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	from := &attesting{reg: c.opt.Run.Images().Registry(), ref: named.Name() + "@" + img.Root.String(), left: maxAttestations}
	root, _, err := from.reg.Manifest(ctx, from.ref)
	if err != nil {
		return nil, err
	}
	if root.MediaType != ocispec.MediaTypeImageIndex {
		return none, nil
	}
	platform := c.opt.Platform
	if opt.Platform != nil {
		platform = *opt.Platform
	}
	sc, err := policyimage.ResolveSignatureChain(ctx, from, root, &platform)
	if err != nil {
		return nil, err
	}
	chain := &sourceresolver.AttestationChain{Root: root.Digest, Blobs: map[digest.Digest]sourceresolver.Blob{}}
	read := []ocispec.Descriptor{root}
	if m := sc.ImageManifest; m != nil {
		chain.ImageManifest = m.Digest
	}
	if m := sc.AttestationManifest; m != nil {
		chain.AttestationManifest = m.Digest
		read = append(read, m.Descriptor)
	}
	if m := sc.SignatureManifest; m != nil {
		chain.SignatureManifests = []digest.Digest{m.Digest}
		manifest, err := sc.OCIManifest(ctx, m)
		if err != nil {
			return nil, err
		}
		read = append(append(read, m.Descriptor), manifest.Layers...)
	}
	if err := from.add(ctx, chain, read); err != nil || chain.AttestationManifest == "" {
		return chain, err
	}
	return chain, from.addStatements(ctx, chain, opt.ResolveAttestations)
}

// attesting reads the repository of an image.
type attesting struct {
	reg  *registry.Client
	ref  string
	left int64 // how much may still be read
}

var _ policyimage.ReferrersProvider = (*attesting)(nil)

func (a *attesting) read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > a.left {
		return nil, fmt.Errorf("the attestations of %s have more than %d bytes", a.ref, maxAttestations)
	}
	data, err := a.reg.Document(ctx, a.ref, desc, a.left)
	a.left -= int64(len(data))
	return data, err
}

func (a *attesting) add(ctx context.Context, chain *sourceresolver.AttestationChain, descs []ocispec.Descriptor) error {
	for _, desc := range descs {
		if _, ok := chain.Blobs[desc.Digest]; ok {
			continue
		}
		data, err := a.read(ctx, desc)
		if err != nil {
			return err
		}
		chain.Blobs[desc.Digest] = sourceresolver.Blob{Descriptor: desc, Data: data}
	}
	return nil
}

// addStatements adds the attestations of the types that are asked for.
func (a *attesting) addStatements(ctx context.Context, chain *sourceresolver.AttestationChain, types []string) error {
	var manifest ocispec.Manifest
	if err := json.Unmarshal(chain.Blobs[chain.AttestationManifest].Data, &manifest); err != nil {
		return fmt.Errorf("unmarshaling attestation manifest %s: %w", chain.AttestationManifest, err)
	}
	var wanted []ocispec.Descriptor
	for _, l := range manifest.Layers {
		if t := l.Annotations["in-toto.io/predicate-type"]; t != "" && slices.Contains(types, t) {
			wanted = append(wanted, l)
		}
	}
	return a.add(ctx, chain, wanted)
}

// ReaderAt implements [content.Provider].
func (a *attesting) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	data, err := a.read(ctx, desc)
	return inMemory{bytes.NewReader(data)}, err
}

// FetchReferrers implements [remotes.ReferrersFetcher].
func (a *attesting) FetchReferrers(ctx context.Context, d digest.Digest, opts ...remotes.FetchReferrersOpt) ([]ocispec.Descriptor, error) {
	var config remotes.FetchReferrersConfig
	for _, o := range opts {
		if err := o(ctx, &config); err != nil {
			return nil, err
		}
	}
	return a.reg.Referrers(ctx, a.ref, d, config.ArtifactTypes...)
}

// inMemory is a [content.ReaderAt].
type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }
