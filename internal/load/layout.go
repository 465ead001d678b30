package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

// Layout is an archive of an OCI image layout whose files are in a directory. What is read of it has the digest and the size that it is
// asked for by; what it means is a claim of whoever wrote it.
type Layout struct{ a *archive }

// ReadLayout reads an archive, which may be compressed, to its end, and puts its files into dir, which is the caller's. kind is what
// such archives are, for errors. One of more than most bytes, unpacked, is [ErrInvalid], as all is that is the archive's fault.
func ReadLayout(ctx context.Context, s *store.Store, dir string, r io.Reader, kind string, most int64) (*Layout, error) {
	a, err := spool(ctx, s, dir, r, spooling{kind: kind, most: most})
	if errors.Is(err, errTooLong) {
		return nil, invalid("the archive has more than %d bytes, unpacked", most)
	}
	if err != nil {
		return nil, err
	}
	if _, ok := a.files[ocispec.ImageIndexFile]; !ok {
		return nil, invalid("the archive has no %s: it is none of %s", ocispec.ImageIndexFile, kind)
	}
	return &Layout{a}, nil
}

// Index is index.json.
func (l *Layout) Index() (ocispec.Index, error) {
	f, err := l.a.file(ocispec.ImageIndexFile)
	if err != nil {
		return ocispec.Index{}, err
	}
	data, err := l.a.json(f, ocispec.ImageIndexFile)
	if err != nil {
		return ocispec.Index{}, err
	}
	return parseIndex(ocispec.ImageIndexFile, data)
}

// JSON decodes a blob.
func (l *Layout) JSON(ctx context.Context, desc ocispec.Descriptor, into any) error {
	f, err := l.a.blob(ctx, desc)
	if err != nil {
		return err
	}
	data, err := l.a.json(f, desc.Digest.String())
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return &invalidError{fmt.Errorf("decoding %s: %w", desc.Digest, err)}
	}
	return nil
}

// File is where a blob is, which is read-only.
func (l *Layout) File(ctx context.Context, desc ocispec.Descriptor) (path string, err error) {
	f, err := l.a.blob(ctx, desc)
	if err != nil {
		return "", err
	}
	return f.path, nil
}
