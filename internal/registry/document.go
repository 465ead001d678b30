package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxConfigSize is the size in bytes of the largest image config that is accepted.
const MaxConfigSize = 8 << 20

// Manifest reads the manifest or index that ref names. What comes has the digest of the descriptor, and
// that of ref if it has one; the media type is what the document says of itself, where it does. A document that
// can be read both as a manifest and as an index is refused.
//
// Errors are those of [Client.Resolve], and ErrDataLoss for other content than the registry said.
func (c *Client) Manifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	desc, err := c.Resolve(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	fetch := desc
	if !isManifest(desc) {
		fetch.MediaType = ocispec.MediaTypeImageManifest // it is where manifests are, whatever the registry calls it
	}
	raw, err := c.Document(ctx, ref, fetch, MaxManifestSize)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if desc.MediaType, err = DocumentType(desc.MediaType, raw); err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("manifest %s of image %q %w", desc.Digest, ref, err)
	}
	return desc, raw, nil
}

// Document reads a small blob or manifest of the repository of ref whole: it has the digest and the size of
// desc, and not more than limit bytes.
//
// Errors are those of [Client.Fetch], ErrOutOfRange for a descriptor beyond the limit and ErrDataLoss for
// other content.
func (c *Client) Document(ctx context.Context, ref string, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("%s of image %q has %d bytes, more than the limit of %d: %w", desc.Digest, ref, desc.Size, limit, errdefs.ErrOutOfRange)
	}
	desc.URLs = nil
	r, err := c.Verified(ctx, ref, desc)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(r) // as many bytes as desc.Size at most
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return raw, nil
}

// Verified is [Client.Fetch] for what is used before its end was seen: the last bytes come only when the
// digest is right. Otherwise Read fails, with ErrDataLoss.
func (c *Client) Verified(ctx context.Context, ref string, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := c.Fetch(ctx, ref, desc)
	if err != nil {
		return nil, err
	}
	return Verify(r, desc, func() error {
		return fmt.Errorf("registry gave other content for %s of image %q: %w: what it holds is damaged; push the image again, or use another one",
			desc.Digest, ref, errdefs.ErrDataLoss)
	}), nil
}

// Verify is r with as many bytes as desc says, of which the last come only when the digest, which is valid, is right.
// Otherwise Read fails with what other returns.
func Verify(r io.ReadCloser, desc ocispec.Descriptor, other func() error) io.ReadCloser {
	return &verified{ReadCloser: r, other: other, left: desc.Size, verifier: desc.Digest.Verifier()}
}

type verified struct {
	io.ReadCloser
	other    func() error
	left     int64
	verifier digest.Verifier
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.verifier.Write(p[:n]) // a hash takes everything
	if v.left -= int64(n); (err == nil && v.left <= 0 || err == io.EOF) && !v.verifier.Verified() {
		return 0, v.other()
	}
	return n, err
}

// DocumentType finds out what a manifest or index is: what it says of itself, else what was said of it, else what its fields are. It may
// be another type than of a manifest or index. One that can be read as either is refused: who checks it as the one must not
// use it as the other. Errors are ErrDataLoss, and ErrNotImplemented for Docker's schema 1.
func DocumentType(said string, raw []byte) (string, error) {
	var doc struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", documentErrorf(errdefs.ErrDataLoss, "is no valid JSON: %v", err)
	}
	if doc.SchemaVersion == 1 || doc.FSLayers != nil {
		return "", documentErrorf(errdefs.ErrNotImplemented, "is of Docker's old schema 1, which nothing reads any more: push it again with a current tool")
	}
	isIndex, isManifest := doc.Manifests != nil, doc.Config != nil || doc.Layers != nil
	if isIndex && isManifest {
		return "", documentErrorf(errdefs.ErrDataLoss, "is both an index and an image manifest")
	}
	for _, mt := range []string{said, doc.MediaType} {
		if images.IsIndexType(mt) && isManifest || images.IsManifestType(mt) && isIndex {
			return "", documentErrorf(errdefs.ErrDataLoss, "is called %s but has the fields of another type", mt)
		}
	}
	switch {
	case doc.MediaType != "":
		return doc.MediaType, nil
	case images.IsIndexType(said) || images.IsManifestType(said):
		return said, nil
	case isIndex:
		return ocispec.MediaTypeImageIndex, nil
	case isManifest:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", documentErrorf(errdefs.ErrDataLoss, "is neither an image manifest nor an index (type %q)", said)
}

// documentError is what is wrong with a document, to be read after its name.
type documentError struct {
	text string
	kind error
}

func (e *documentError) Error() string { return e.text }
func (e *documentError) Unwrap() error { return e.kind }

func documentErrorf(kind error, format string, args ...any) error {
	return &documentError{fmt.Sprintf(format, args...), kind}
}

// Referrers lists the manifests of the repository of ref that say that they are about the manifest d, of
// some artifact types. A registry that knows none, or does not know of referrers at all, has none.
//
// Errors are those of [Client.Resolve].
func (c *Client) Referrers(ctx context.Context, ref string, d digest.Digest, types ...string) ([]ocispec.Descriptor, error) {
	named, err := Parse(ref)
	if err != nil {
		return nil, err
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("asking %s for referrers of %q: %w: %w", named, d, err, errdefs.ErrInvalidArgument)
	}
	op := newOperation(named, ocispec.Descriptor{})
	var all []ocispec.Descriptor
	err = c.retry(ctx, op, func(ctx context.Context) error {
		resolver, err := c.resolver(op.host, 0)
		if err != nil {
			return err
		}
		fetcher, err := resolver.Fetcher(ctx, named.String())
		if err != nil {
			return err
		}
		of, ok := fetcher.(remotes.ReferrersFetcher)
		if !ok {
			return nil
		}
		all, err = of.FetchReferrers(ctx, d, remotes.WithReferrerArtifactTypes(types...))
		return err
	})
	if err != nil {
		return nil, c.explain(ctx, op, err)
	}
	return all, nil
}
