package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// What a record has for a name may be anything: a store may be damaged, or come from somebody else. So a path that is made
// of one is in the store, and a file is opened without waiting for it, if it is one.

// nowhere is the name of nothing, in the place of one that would lead elsewhere.
const nowhere = "nowhere"

// part is a name as a part of a path.
func part(name string) string {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nowhere
	}
	return name
}

func (s *Store) blobPath(d digest.Digest) string {
	kind, encoded, _ := strings.Cut(string(d), ":")
	return filepath.Join(s.root, "blobs", part(kind), part(encoded))
}

// algorithm is that of a digest, or the usual one for what is none.
func algorithm(d digest.Digest) digest.Algorithm {
	if d.Validate() != nil {
		return digest.Canonical
	}
	return d.Algorithm()
}

// layerDir is the directory of what there is of a layer.
func (s *Store) layerDir(id layer.ID) string {
	return filepath.Join(s.root, "layers", part(string(id)))
}

// layerFS is the directory form of a layer.
func (s *Store) layerFS(id layer.ID) string { return filepath.Join(s.layerDir(id), "fs") }

// ContainerDir returns where the container's writable layer is: fs and work below it.
func (s *Store) ContainerDir(id string) string { return filepath.Join(s.root, "containers", part(id)) }

// readDir lists a directory. Of a link, or of what is no directory, nothing is the store's.
func readDir(path string) ([]os.DirEntry, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// errNotRegular is what is where a file of the store should be.
var errNotRegular = errors.New("it is no regular file")

// displace moves a directory away that is where a file of the store is to be: the store makes none there. It reports whether there was one.
func (s *Store) displace(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || !fi.IsDir() {
		return false
	}
	l, err := s.current()
	return err == nil && os.Rename(path, filepath.Join(l.dir, l.name())) == nil
}

// rename is [os.Rename] of a file to a name of the store.
func (s *Store) rename(from, to string) error {
	err := os.Rename(from, to)
	if err != nil && s.displace(to) {
		err = os.Rename(from, to)
	}
	return err
}

// openLock opens a file that is a lock, which is made if it is missing.
func (s *Store) openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil && s.displace(path) {
		f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	}
	return f, err
}

// OpenRegular opens a file for reading that is neither a link nor a pipe.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// maxRead bounds what is read of a file at once: of what layers take of those below them, or the names of all images.
const maxRead = 256 << 20

// readRegular reads such a file.
func readRegular(path string) ([]byte, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err == nil && len(data) > maxRead {
		err = &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has more than %d bytes", maxRead)}
	}
	return data, err
}
