package cache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
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

func (d *directory) blobPath(dgst digest.Digest) string {
	return filepath.Join(d.path, "blobs", string(dgst.Algorithm()), dgst.Encoded())
}

func (d inDirectory) resolve(context.Context) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{Digest: d.digest}
	if d.digest == "" {
		found, err := d.tagged()
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
	fi, err := os.Stat(d.blobPath(desc.Digest))
	if err != nil {
		return desc, fmt.Errorf("local cache import at %s skipped: digest %s unavailable: %w", d.path, desc.Digest, err)
	}
	desc.Size = fi.Size()
	return desc, nil
}

// tagged looks the tag up. BuildKit's lock of the index is not waited for, so that is done here.
func (d inDirectory) tagged() (*ocispec.Descriptor, error) {
	// BuildKit's reader of the index waits for pipes, and takes whatever fits into memory.
	if _, err := layer.ReadRegular(filepath.Join(d.path, ocispec.ImageIndexFile), registry.MaxManifestSize); err != nil {
		return nil, err
	}
	var found *ocispec.Descriptor
	err := d.locked(unix.LOCK_SH, func() (err error) {
		found, err = ociindex.NewStoreIndex(d.path).Get(d.label)
		return err
	})
	return found, err
}

// locked runs f while no other process of slipway has a lock that excludes it. The lock is on the
// directory itself. Others are known by index.json's own lock, of which f fails: it is tried again.
func (d *directory) locked(how int, f func() error) error {
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		err := unix.Flock(int(dir.Fd()), how)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil || time.Now().After(end) || errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, serr := os.Lstat(filepath.Join(d.path, ocispec.ImageIndexFile+".lock")); serr != nil {
			return err // nobody has it locked
		}
	}
}

func (d inDirectory) open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return layer.OpenRegular(d.blobPath(desc.Digest))
}

func (d inDirectory) put(ctx context.Context, desc ocispec.Descriptor, open opener) (err error) {
	path := d.blobPath(desc.Digest)
	if fi, err := os.Lstat(path); err == nil && fi.Size() == desc.Size {
		return nil
	}
	r, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return writeFile(path, r)
}

// writeFile writes a file that appears under its name when it is whole.
func writeFile(path string, r io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(path))), ".slipway-"+rand.Text())
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666) // and the umask
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync() // one that is there with its size is taken to be whole
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (d inDirectory) tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error {
	if err := d.put(ctx, desc, bytesOpener(manifest)); err != nil {
		return err
	}
	return d.locked(unix.LOCK_EX, func() error {
		if err := ociindex.NewStoreIndex(d.path).Put(desc, ociindex.Tag(d.label)); err != nil {
			return err
		}
		if !d.reset {
			return nil
		}
		return d.sweep()
	})
}

// sweep deletes the blobs that nothing in index.json leads to. A manifest that cannot be read ends
// it before anything is deleted.
func (d *directory) sweep() error {
	data, err := os.ReadFile(filepath.Join(d.path, ocispec.ImageIndexFile))
	if err != nil {
		return err
	}
	used := map[digest.Digest]bool{}
	if err := d.mark(data, used); err != nil {
		return fmt.Errorf("resetting the cache: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(d.path, "blobs", "*", "*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		dgst := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(f))), filepath.Base(f))
		if !used[dgst] {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
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
		sub, err := os.ReadFile(d.blobPath(m.Digest))
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
