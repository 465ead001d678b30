package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/load"
	"github.com/slipway-build/slipway/internal/store"
)

// What a bundle may have.
const (
	maxBundle        = 1 << 30 // bytes, unpacked
	maxBundleRecords = 1000
	maxBundleParts   = 10_000 // of one record
)

// bundleKind is what a bundle is, for errors.
const bundleKind = "records of builds, as history export writes them"

// Imported is a record that came in a bundle.
type Imported struct {
	ID    string
	There bool // it was there already
}

// importing is the reading of a bundle.
type importing struct {
	store  *store.Store
	layout *load.Layout
	dir    string   // for what is half-done
	ids    []string // of the records that are read, in the bundle's order
}

// ReadBundle brings the records of a bundle into the store, all of them or none, as ones that are imported. One that is there already stays
// as it is; when there is another one of the same ID, that is an error. Whatever is in a bundle is a claim of whoever wrote it: it
// is bounded, and what is shown of it is said to be imported. Errors that are the bundle's fault are [load.ErrInvalid].
func ReadBundle(ctx context.Context, st *store.Store, r io.Reader) (all []Imported, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("importing records of builds: %w", err)
		}
	}()
	dir, err := st.TempDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	im := &importing{store: st, dir: dir}
	blobs := filepath.Join(dir, "blobs")
	if err := os.Mkdir(blobs, 0o700); err != nil {
		return nil, err
	}
	if im.layout, err = load.ReadLayout(ctx, st, blobs, r, bundleKind, maxBundle); err != nil {
		return nil, err
	}
	if err := im.read(ctx); err != nil {
		return nil, err
	}
	for _, id := range im.ids {
		there, err := im.isThere(id)
		if err != nil {
			return nil, err
		}
		all = append(all, Imported{id, there})
	}
	for _, i := range all {
		if i.There {
			continue
		}
		if err := st.ImportBuild(i.ID, filepath.Join(dir, i.ID)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// read reads all records of a bundle.
func (im *importing) read(ctx context.Context) error {
	index, err := im.layout.Index()
	if err != nil {
		return err
	}
	var records []ocispec.Descriptor
	for _, d := range index.Manifests {
		if d.MediaType != ocispec.MediaTypeImageIndex {
			records = append(records, d)
			continue
		}
		var inner ocispec.Index
		if err := im.layout.JSON(ctx, d, &inner); err != nil {
			return err
		}
		records = append(records, inner.Manifests...)
	}
	if len(records) == 0 || len(records) > maxBundleRecords {
		return invalidBundle("it has %d records, want 1 to %d", len(records), maxBundleRecords)
	}
	seen := map[digest.Digest]bool{}
	for _, d := range records {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if err := im.record(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func invalidBundle(format string, args ...any) error {
	return fmt.Errorf("%w: %w", load.ErrInvalid, fmt.Errorf(format, args...))
}

// record reads one record into a directory of its ID.
func (im *importing) record(ctx context.Context, desc ocispec.Descriptor) error {
	var m ocispec.Manifest
	if err := im.layout.JSON(ctx, desc, &m); err != nil {
		return err
	}
	if m.Config.MediaType != typeRecord || m.Config.Size > maxClientFile || len(m.Layers) > maxBundleParts {
		return invalidBundle("%s is no record of a build: its config is %q, of %d bytes, and it has %d layers", desc.Digest, m.Config.MediaType, m.Config.Size, len(m.Layers))
	}
	rec := bundleRecord{BuildHistoryRecord: &controlapi.BuildHistoryRecord{}}
	if err := im.layout.JSON(ctx, m.Config, &rec); err != nil {
		return err
	}
	if err := checkRecord(rec.BuildHistoryRecord); err != nil {
		return invalidBundle("record %s: %w", m.Config.Digest, err)
	}
	dir := filepath.Join(im.dir, "record")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	r := &record{dir: &store.BuildDir{Path: dir}, rec: rec.BuildHistoryRecord, files: map[digest.Digest]string{}}
	own, err := im.files(ctx, m.Layers, r)
	if err == nil && !own {
		err = describeForeign(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", m.Config.Digest, err)
	}
	b, err := build.CheckRecord(dir)
	if err != nil {
		return invalidBundle("record %s: %w", m.Config.Digest, err)
	}
	if err := r.write(ctx, im.store); err != nil {
		return fmt.Errorf("record %s: %w", m.Config.Digest, err)
	}
	if err := os.Rename(dir, filepath.Join(im.dir, b.ID)); err != nil {
		return invalidBundle("record %s: there are two of build %s: %w", m.Config.Digest, b.ID, err)
	}
	im.ids = append(im.ids, b.ID)
	return nil
}

// checkRecord looks at a record in BuildKit's form, and takes out of it what cannot be written again.
func checkRecord(r *controlapi.BuildHistoryRecord) error {
	if !isName(r.Ref) {
		return fmt.Errorf("it has a ref of %d bytes, want 1 to %d", len(r.Ref), maxRef)
	}
	if err := r.CreatedAt.CheckValid(); err != nil {
		return fmt.Errorf("when it began: %w", err)
	}
	if r.CompletedAt == nil {
		r.CompletedAt = r.CreatedAt
	}
	if err := r.CompletedAt.CheckValid(); err != nil {
		return fmt.Errorf("when it ended: %w", err)
	}
	if r.Error != nil {
		r.Error.Details = nil // they are in the external error
	}
	r.Pinned, r.Generation = false, 0
	return nil
}

// files puts the files of a record into its directory: what BuildKit's form names, and what slipway has left, if it did.
func (im *importing) files(ctx context.Context, layers []ocispec.Descriptor, r *record) (own bool, err error) {
	for _, d := range layers {
		path, err := im.layout.File(ctx, d)
		if err != nil {
			return own, err
		}
		name := "content-" + d.Digest.Encoded()
		if d.MediaType == typeFile {
			if name = d.Annotations[ocispec.AnnotationTitle]; !build.IsRecordFile(name) {
				return own, invalidBundle("%q is no file of a record", name)
			}
			own = true
		} else {
			r.files[d.Digest] = name
		}
		if err := os.Link(path, filepath.Join(r.dir.Path, name)); err != nil && (d.MediaType == typeFile || !errors.Is(err, os.ErrExist)) {
			return own, err
		}
	}
	return own, nil
}

// isThere reports whether there is a record of an ID with the same files. It is an error if it has others.
func (im *importing) isThere(id string) (bool, error) {
	mine, theirs := filepath.Join(im.dir, id), filepath.Join(im.store.Root(), "builds", id)
	if _, err := os.Lstat(theirs); err != nil {
		return false, nil //nolint:nilerr // ImportBuild says what else is wrong
	}
	entries, err := os.ReadDir(mine)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !build.IsRecordFile(e.Name()) {
			continue
		}
		same, err := sameFiles(filepath.Join(mine, e.Name()), filepath.Join(theirs, e.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		if !same {
			return false, fmt.Errorf("there is a record of build %s already, with another %s: nothing is imported. To have the other one, remove this one first (history rm %s)", id, e.Name(), id)
		}
	}
	return true, nil
}

// sameFiles reports whether files have the same content.
func sameFiles(a, b string) (bool, error) {
	f, err := openKept(a)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := openKept(b)
	if err != nil {
		return false, err
	}
	defer g.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(f, x)
		m, gerr := io.ReadFull(g, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		for _, err := range []error{err, gerr} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if n < len(x) {
			return true, nil
		}
	}
}
