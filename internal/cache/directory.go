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

	"github.com/moby/buildkit/client/ociindex"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
)

// directory is a cache in an OCI image layout, as BuildKit's client keeps it: the manifest has a tag
// in index.json. Several processes may write to it at once.
type directory struct {
	path   string
	tag    string
	digest digest.Digest
	reset  bool
}

func (d *directory) blobPath(dgst digest.Digest) string {
	return filepath.Join(d.path, "blobs", string(dgst.Algorithm()), dgst.Encoded())
}

func (d *directory) resolve(context.Context) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{Digest: d.digest}
	if d.digest == "" {
		found, err := d.tagged()
		if err != nil {
			return desc, fmt.Errorf("local cache import at %s not found due to err: %w", d.path, err)
		}
		if found == nil {
			return desc, fmt.Errorf("local cache import at %s skipped: no digest found for tag %s", d.path, d.tag)
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
func (d *directory) tagged() (*ocispec.Descriptor, error) {
	// BuildKit's reader of the index waits for pipes, and takes whatever fits into memory.
	if _, err := layer.ReadRegular(filepath.Join(d.path, ocispec.ImageIndexFile), registry.MaxManifestSize); err != nil {
		return nil, err
	}
	var found *ocispec.Descriptor
	err := d.locked(unix.LOCK_SH, func() (err error) {
		found, err = ociindex.NewStoreIndex(d.path).Get(d.tag)
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

func (d *directory) open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return layer.OpenRegular(d.blobPath(desc.Digest))
}

func (d *directory) put(ctx context.Context, desc ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) (err error) {
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

func (d *directory) name(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error {
	if err := d.put(ctx, desc, bytesOpener(manifest)); err != nil {
		return err
	}
	return d.locked(unix.LOCK_EX, func() error {
		if err := ociindex.NewStoreIndex(d.path).Put(desc, ociindex.Tag(d.tag)); err != nil {
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
