package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Tagged reads the manifest that the tag of ref names, of at most [MaxManifestSize] bytes, in one request, where [Client.Manifest]
// needs two. The descriptor is that of what came. Errors are those of [Client.Resolve], ErrOutOfRange for a larger one, and ErrDataLoss
// for another one than the registry says that it is. now is the time that the registry gives with its answer, also with one that there is
// no such tag; zero where it gives none.
func (c *Client) Tagged(ctx context.Context, ref string) (desc ocispec.Descriptor, raw []byte, now time.Time, err error) {
	named, err := Parse(ref)
	if err != nil {
		return desc, nil, now, err
	}
	tagged, ok := named.(interface{ Tag() string })
	if !ok || isDigested(named) {
		return desc, nil, now, fmt.Errorf("%s has no tag: %w", ref, errdefs.ErrInvalidArgument)
	}
	op := newOperation(named, ocispec.Descriptor{})
	var missing error
	err = c.retry(ctx, op, func(ctx context.Context) error {
		err := c.anyHost(ctx, named, func(e *endpoint) (err error) {
			desc, raw, now, err = e.manifest(ctx, tagged.Tag())
			return err
		})
		if missing = nil; errdefs.IsNotFound(err) {
			missing, err = err, nil // an answer like others: the connection and the token are good
		}
		return err
	})
	if err = cmp.Or(err, missing); err != nil {
		return ocispec.Descriptor{}, nil, now, c.explain(ctx, op, err)
	}
	return desc, raw, now, nil
}

// manifestTypes are those that are read.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2ManifestList, "*/*",
}

func (e *endpoint) manifest(ctx context.Context, tag string) (desc ocispec.Descriptor, raw []byte, now time.Time, err error) {
	ctx, err = docker.ContextWithRepositoryScope(ctx, e.spec, false)
	if err != nil {
		return desc, nil, now, err
	}
	resp, err := e.authorized(ctx, request{method: http.MethodGet, url: e.url("manifests/" + tag), header: http.Header{"Accept": manifestTypes}})
	if err != nil {
		return desc, nil, now, err
	}
	defer drain(resp)
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = t
	}
	if err := wantStatus(resp, http.StatusOK); err != nil {
		if resp.StatusCode == http.StatusNotFound {
			err = fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
		}
		return desc, nil, now, err
	}
	raw, err = io.ReadAll(io.LimitReader(resp.Body, MaxManifestSize+1))
	switch {
	case err != nil:
		return desc, nil, now, err
	case len(raw) > MaxManifestSize:
		return desc, nil, now, fmt.Errorf("manifest %s of %s has more than %d bytes: %w", tag, e.spec.Locator, MaxManifestSize, errdefs.ErrOutOfRange)
	}
	desc = ocispec.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if said := digest.Digest(resp.Header.Get("Docker-Content-Digest")); said.Validate() == nil && said.Algorithm() == digest.SHA256 && said != desc.Digest {
		return desc, nil, now, errors.Join(fmt.Errorf("manifest %s of %s is said to be %s, and is %s", tag, e.spec.Locator, said, desc.Digest), errdefs.ErrDataLoss)
	}
	if desc.MediaType, err = DocumentType(desc.MediaType, raw); err != nil {
		return desc, nil, now, fmt.Errorf("manifest %s of %s %w", tag, e.spec.Locator, err)
	}
	return desc, raw, now, nil
}
