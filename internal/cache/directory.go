package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/ocilayout"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// directory is a cache in an OCI image layout, as BuildKit's client keeps it: the manifest has a tag
// in index.json. Several processes may write to it at once.
type directory struct {
	form
	path   string
	label  string        // the tag
	digest digest.Digest // takes precedence over the tag
	// reset deletes the blobs that no cache of the directory has.
	reset bool
}

func directoryTo(t *To, attrs map[string]string) (location, error) {
	d := &directory{path: attrs["dest"], label: tagOf(attrs)}
	if d.path == "" {
		return nil, errors.New("local cache exporter requires dest")
	}
	if err := parseBools(attrs, attrBool{"reset", "", &d.reset}); err != nil {
		return nil, err
	}
	var err error
	d.form, err = parseForm(t, attrs)
	return d, err
}

func directoryFrom(attrs map[string]string) (location, error) {
	d := &directory{path: attrs["src"], label: tagOf(attrs)}
	if d.path == "" {
		return nil, errors.New("local cache importer requires src")
	}
	if v := attrs["digest"]; v != "" {
		var err error
		if d.digest, err = digest.Parse(v); err != nil {
			return nil, err
		}
	}
	if d.label == "" && d.digest == "" {
		return nil, errors.New("local cache importer requires either explicit digest, \"latest\" tag or custom tag on index.json")
	}
	return d, nil
}

func tagOf(attrs map[string]string) string {
	if t, ok := attrs["tag"]; ok {
		return t
	}
	return "latest"
}

func (d *directory) title() string { return "exporting cache to client directory" }
func (d *directory) name() string  { return "local:" + d.path }

func (d *directory) where() string {
	path := d.path
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return fmt.Sprintf("%q %q %q", path, d.label, d.digest)
}

func (d *directory) open(s *store.Store, _ *registry.Client) (place, error) {
	if s == nil {
		return inDirectory{d}, nil
	}
	return inDirectory{d}, os.MkdirAll(d.path, 0o755)
}

// inDirectory is what is kept in a directory.
type inDirectory struct{ *directory }

func (d inDirectory) load(ctx context.Context, wanted platforms.MatchComparer, tell func(string)) (*contents, error) {
	return loadDocuments(ctx, d, wanted, tell)
}

func (d inDirectory) commit(ctx context.Context, x *exporting, held []ocispec.Descriptor) (ocispec.Descriptor, error) {
	return d.form.commit(ctx, d, x, held)
}

func (d *directory) dir() ocilayout.Dir { return ocilayout.Dir(d.path) }

func (d inDirectory) resolve(context.Context) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{Digest: d.digest}
	if d.digest == "" {
		found, err := d.dir().Find(d.label)
		if err != nil {
			return desc, fmt.Errorf("local cache import at %s not found due to err: %w", d.path, err)
		}
		if found == nil {
			return desc, fmt.Errorf("local cache import at %s skipped: no digest found for tag %s", d.path, d.label)
		}
		desc = *found
	}
	if err := desc.Digest.Validate(); err != nil {
		return desc, fmt.Errorf("local cache import at %s skipped: digest %q: %w", d.path, desc.Digest, err)
	}
	fi, err := os.Stat(d.dir().BlobPath(desc.Digest))
	if err != nil {
		return desc, fmt.Errorf("local cache import at %s skipped: digest %s unavailable: %w", d.path, desc.Digest, err)
	}
	desc.Size = fi.Size()
	return desc, nil
}

func (d inDirectory) open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return d.dir().Open(desc.Digest)
}

func (d inDirectory) put(ctx context.Context, desc ocispec.Descriptor, open opener) error {
	return d.dir().Put(ctx, desc, open)
}

func (d inDirectory) tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error {
	if err := d.put(ctx, desc, bytesOpener(manifest)); err != nil {
		return err
	}
	return d.dir().Enter(desc, d.label, func() error {
		if !d.reset {
			return nil
		}
		_, err := d.sweep(time.Time{})
		return err
	})
}

// sweep deletes the blobs that nothing in index.json, and no entry, leads to, unless they were written since a time; zero: whenever they were. It
// gives their size in bytes. A manifest that cannot be read ends it before anything is deleted.
func (d *directory) sweep(since time.Time) (freed int64, err error) {
	used := map[digest.Digest]bool{}
	data, err := os.ReadFile(filepath.Join(d.path, ocispec.ImageIndexFile))
	if err == nil {
		err = d.mark(data, used)
	} else if errors.Is(err, fs.ErrNotExist) { // there are entries alone
		err = nil
	}
	if err != nil {
		return 0, fmt.Errorf("resetting the cache: %w", err)
	}
	entries, err := filepath.Glob(filepath.Join(d.path, namesDir, "*"))
	if err != nil {
		return 0, err
	}
	for _, f := range entries {
		if data, err := os.ReadFile(f); err == nil { // one that cannot be read, or is none, is nobody's
			d.mark(data, used) //nolint:errcheck // likewise
		}
	}
	files, err := filepath.Glob(filepath.Join(d.path, "blobs", "*", "*"))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		dgst := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(f))), filepath.Base(f))
		fi, err := os.Lstat(f)
		if used[dgst] || err != nil || !since.IsZero() && fi.ModTime().After(since) {
			continue
		}
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, err
		}
		freed += fi.Size()
	}
	return freed, nil
}

// mark adds what a manifest or index refers to.
func (d *directory) mark(data []byte, used map[digest.Digest]bool) error {
	var doc struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	if doc.Config != nil {
		used[doc.Config.Digest] = true
	}
	for _, l := range doc.Layers {
		used[l.Digest] = true
	}
	for _, m := range doc.Manifests {
		if used[m.Digest] {
			continue
		}
		used[m.Digest] = true
		if !isManifest(m.MediaType) {
			continue // the layers and the config of a cache as an index
		}
		sub, err := os.ReadFile(d.dir().BlobPath(m.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			continue // damaged before
		}
		if err == nil {
			err = d.mark(sub, used)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
