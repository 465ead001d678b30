// Package load brings images into the store that come as files: docker archives and OCI archives, and
// tar archives of a root filesystem.
//
// # Structure
//
// [Load] reads an archive once, from beginning to end, into files of the store's temporary directory
// (spool.go), as what says what the archive is may come last. Then it reads what the archive says of itself:
// index.json of an OCI layout (oci.go) or manifest.json of `docker save` (docker.go), verifies everything
// that these name, and only then makes it part of the store. An archive with anything wrong leaves nothing.
//
// [ReadLayout] gives whoever knows what else is in an OCI layout what is there, verified (layout.go).
//
// [Import] makes an image of a tar archive of files (import.go).
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// ErrInvalid marks an archive that is no image archive, is damaged, or means harm.
var ErrInvalid = errors.New("invalid archive")

// invalid makes an error that is ErrInvalid.
func invalid(format string, args ...any) error {
	return &invalidError{fmt.Errorf(format, args...)}
}

type invalidError struct{ error }

func (e *invalidError) Unwrap() []error { return []error{e.error, ErrInvalid} }

// loading is one call of Load.
type loading struct {
	*archive
	platforms []ocispec.Platform // what is wanted; none is everything

	blobs    map[digest.Digest]blob  // to be kept
	verified map[digest.Digest]int64 // bytes of the files of layers, by diffID
	layers   map[content]layer.Compression
	found    []found
	tags     int // names that manifest.json gives
}

// content is a layer's file that was seen to have the diffID.
type content struct{ file, diffID digest.Digest }

// blob is a verified file of the archive.
type blob struct {
	path string // "" when the store is to keep data
	data []byte
	desc ocispec.Descriptor
}

// manifest is a verified image manifest.
type manifest struct {
	desc     ocispec.Descriptor
	diffIDs  []digest.Digest
	created  *time.Time
	id       digest.Digest
	layers   []ocispec.Descriptor
	platform ocispec.Platform
}

// found is an image of the archive.
type found struct {
	names     []string // normalised
	index     *ocispec.Descriptor
	manifests []manifest
	read      map[digest.Digest]bool // what the index names, each once
}

// Options are what Load is told besides the archive.
type Options struct {
	// Platforms are those of which images are wanted. None is all that are in the archive; of an index
	// only the manifests for these are taken.
	Platforms []ocispec.Platform
	// Unnamed has the images stay without records: they are there for this process, and go with what nothing needs.
	Unnamed bool
	// Progress, unless nil, is told how much of a large file of the archive was read.
	Progress func(name string, current, total int64)
}

// Load brings the images of an archive, which may be compressed, into the store, and names them. Those that
// have no names are returned under their IDs.
//
// The archive is read as a stream: memory does not grow with it. Errors that are the archive's fault are
// [ErrInvalid]; then nothing is left in the store.
func Load(ctx context.Context, s *store.Store, r io.Reader, opts Options) (_ []store.Image, err error) {
	ctx, within := s.Limited(ctx)
	defer func() { err = within(err) }()
	dir, err := s.TempDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	a, err := spool(ctx, s, dir, r, spooling{kind: ofImages, progress: opts.Progress})
	if err != nil {
		return nil, fmt.Errorf("loading images: %w", err)
	}
	l := &loading{archive: a, platforms: opts.Platforms, blobs: map[digest.Digest]blob{}, verified: map[digest.Digest]int64{}, layers: map[content]layer.Compression{}}
	if err := l.read(ctx); err != nil {
		return nil, fmt.Errorf("loading images: %w", err)
	}
	images, err := l.keep(ctx)
	if err == nil && !opts.Unnamed {
		err = s.SetImages(ctx, images...)
	}
	if err != nil {
		return nil, fmt.Errorf("loading images: %w", err)
	}
	return images, nil
}

// read finds and verifies the images.
func (l *loading) read(ctx context.Context) error {
	_, oci := l.files[ocispec.ImageIndexFile]
	_, docker := l.files["manifest.json"]
	_, old := l.files["repositories"]
	switch {
	case oci:
		if err := l.readLayout(ctx); err != nil {
			return err
		}
	case !docker && old:
		return invalid("the archive is of the form that Docker wrote before version 1.10: load and save it with a newer one")
	case !docker:
		return invalid("the archive has neither a manifest.json nor an index.json: it holds no image (a filesystem is brought in by import)")
	}
	if docker {
		return l.readDocker(ctx)
	}
	return nil
}

// keep makes what was found part of the store.
func (l *loading) keep(ctx context.Context) ([]store.Image, error) {
	for _, b := range l.blobs {
		if l.store.HasBlob(b.desc.Digest) {
			continue
		}
		var err error
		if b.path == "" {
			_, err = l.store.PutBlob(ctx, b.desc.MediaType, b.data)
		} else {
			err = l.store.AdoptBlob(ctx, b.path, b.desc)
		}
		if err != nil {
			return nil, err
		}
	}
	var images []store.Image
	for _, f := range l.found {
		img, err := l.record(ctx, f)
		if err != nil {
			return nil, err
		}
		names := f.names
		if len(names) == 0 {
			names = []string{img.ID.String()}
		}
		for _, name := range names {
			img.Name = name
			images = append(images, img)
		}
	}
	return images, nil
}

// record makes the layers of an image, and its record without a name.
func (l *loading) record(ctx context.Context, f found) (store.Image, error) {
	var img store.Image
	best := bestFor(f.manifests)
	for i, m := range f.manifests {
		var snap layer.Snapshot
		for j, desc := range m.layers {
			diffID := m.diffIDs[j]
			id, err := l.store.BlobLayer(ctx, diffID, desc)
			if err != nil {
				return img, err
			}
			if err := l.store.Verified(ctx, id, l.verified[diffID]); err != nil {
				return img, err
			}
			snap = append(snap, id)
		}
		if i != best {
			continue
		}
		img = store.Image{Manifest: m.desc, Index: f.index, ID: m.id, Layers: snap, Size: -1}
		img.Manifest.Platform = &m.platform
		if m.created != nil {
			img.Created = *m.created
		}
	}
	return img, nil
}

// bestFor chooses the manifest for this machine, or else the first.
func bestFor(all []manifest) int {
	best, match := 0, platforms.Default()
	for i, m := range all {
		if match.Match(m.platform) && (!match.Match(all[best].platform) || match.Less(m.platform, all[best].platform)) {
			best = i
		}
	}
	return best
}

// wants reports whether a platform was asked for.
func (l *loading) wants(p ocispec.Platform) bool {
	return len(l.platforms) == 0 || slices.ContainsFunc(l.platforms, func(w ocispec.Platform) bool { return platforms.OnlyStrict(w).Match(p) })
}

// errUnwanted marks an image that is for other platforms than those that were asked for.
var errUnwanted = errors.New("not for the platforms that are wanted")

// unwanted is the error about an image that is for other platforms.
func (l *loading) unwanted(what string) error {
	var names []string
	for _, p := range l.platforms {
		names = append(names, platforms.FormatAll(p))
	}
	return invalid("%s is %w: %s", what, errUnwanted, strings.Join(names, ", "))
}
