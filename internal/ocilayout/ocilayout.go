// Package ocilayout keeps blobs, and names for manifests, in directories that are OCI image layouts, as BuildKit's clients do.
//
// # Invariants
//
// A blob has its name when it is whole and on the disk. Several processes may write to a directory at once: of slipway's,
// one changes index.json at a time, and BuildKit's lock of it is waited for.
//
// # Caveats
//
// What is in a directory is no more trusted than what registries send: digests are the caller's to verify. Pipes and
// devices are not read, and an index is not longer than a registry's.
package ocilayout

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/buildkit/client/ociindex"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/layer"
)

// MaxIndex is the size in bytes of the largest index.json that is read.
const MaxIndex = 4 << 20

// Dir is the path of a directory.
type Dir string

// BlobPath is where a blob is, whose digest is valid.
func (d Dir) BlobPath(dgst digest.Digest) string {
	return filepath.Join(string(d), ocispec.ImageBlobsDir, string(dgst.Algorithm()), dgst.Encoded())
}

// Open opens a blob.
func (d Dir) Open(dgst digest.Digest) (*os.File, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", dgst, err)
	}
	return layer.OpenRegular(d.BlobPath(dgst))
}

// Has reports whether a blob is there, by its size.
func (d Dir) Has(desc ocispec.Descriptor) bool {
	if desc.Digest.Validate() != nil {
		return false
	}
	fi, err := os.Lstat(d.BlobPath(desc.Digest))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == desc.Size
}

// Put writes a blob unless it is there; open is only called when it is not. The directory is made where it is missing.
func (d Dir) Put(ctx context.Context, desc ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) (err error) {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	if d.Has(desc) {
		return nil
	}
	r, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	path := d.BlobPath(desc.Digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, atomicfile.Options{
		Temporary: filepath.Join(string(d), ".slipway-"+rand.Text()), Mode: 0o666,
		Sync: true, // one that is there with its size is taken to be whole
	}, func(f *os.File) error {
		_, err := io.Copy(f, r)
		return err
	})
}

// Index reads index.json.
func (d Dir) Index() (index ocispec.Index, err error) {
	path := filepath.Join(string(d), ocispec.ImageIndexFile)
	data, err := layer.ReadRegular(path, MaxIndex)
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("%s: %w", path, err)
	}
	return index, nil
}

// Find looks a tag up; nil for none. BuildKit's lock of the index is not waited for by who reads it there, so that is done here.
func (d Dir) Find(tag string) (*ocispec.Descriptor, error) {
	// Nor does it mind pipes, or the size.
	if _, err := d.Index(); err != nil {
		return nil, err
	}
	var found *ocispec.Descriptor
	err := d.locked(unix.LOCK_SH, func() (err error) {
		found, err = ociindex.NewStoreIndex(string(d)).Get(tag)
		return err
	})
	return found, err
}

// Enter puts a descriptor into index.json, in the place of what has the tag; without a tag, unless it is there. then is called before
// somebody else can change it, and may be nil.
func (d Dir) Enter(desc ocispec.Descriptor, tag string, then func() error) error {
	return d.locked(unix.LOCK_EX, func() error {
		if err := d.enter(desc, tag); err != nil || then == nil {
			return err
		}
		return then()
	})
}

func (d Dir) enter(desc ocispec.Descriptor, tag string) error {
	index, err := d.Index()
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // what would be replaced is no index
		return err
	}
	to := ociindex.NewStoreIndex(string(d))
	if tag != "" {
		return to.Put(desc, ociindex.Tag(tag))
	}
	there := slices.ContainsFunc(index.Manifests, func(m ocispec.Descriptor) bool {
		return m.Digest == desc.Digest && maps.Equal(m.Annotations, desc.Annotations)
	})
	if there {
		return nil
	}
	return to.Put(desc)
}

// locked runs f while no other process of slipway has a lock that excludes it. The lock is on the
// directory itself. Others are known by index.json's own lock, of which f fails: it is tried again.
func (d Dir) locked(how int, f func() error) error {
	dir, err := os.Open(string(d))
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
		if _, serr := os.Lstat(filepath.Join(string(d), ocispec.ImageIndexFile+".lock")); serr != nil {
			return err // nobody has it locked
		}
	}
}
