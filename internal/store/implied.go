package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Some layers have files without the directories above them: "tmp/x" and no "tmp". In a directory
// form there has to be a "tmp", and stacked on other layers it would give /tmp its own attributes
// in place of theirs. So the paths of such directories are kept beside the layer, and where the
// attributes differ, what is stacked is a variant of the directory: the same files by hard links,
// with the attributes of the layers below. Few layers need it.

func (s *Store) impliedFile(id layer.ID) string {
	return filepath.Join(s.root, "layers", string(id), "implied")
}

// putImplied keeps the implied directories of a layer that is being unpacked, if it has any, and
// its index then, which is what trees of it are made of.
func (s *Store) putImplied(id layer.ID, x *layer.Index) error {
	paths := x.Implied()
	if len(paths) == 0 {
		return nil
	}
	if err := s.putIndex(id, x); err != nil {
		return err
	}
	data, err := json.Marshal(paths)
	if err != nil {
		return fmt.Errorf("unpacking layer: %w", err)
	}
	return s.putBeside(s.impliedFile(id), data)
}

func (s *Store) impliedPaths(id layer.ID) ([]string, error) {
	data, err := os.ReadFile(s.impliedFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var paths []string
	if err == nil {
		err = json.Unmarshal(data, &paths)
	}
	if err != nil {
		return nil, fmt.Errorf("reading implied directories of layer %s: %w", id, err)
	}
	return paths, nil
}

// impliedFrom returns the directory to stack on lower for a layer whose directory form is dir.
func (s *Store) impliedFrom(id layer.ID, lower []string, dir string) (string, error) {
	paths, err := s.impliedPaths(id)
	if err != nil || len(paths) == 0 || len(lower) == 0 {
		return dir, err
	}
	below, own := LayerTree(lower), dirTree(dir)
	take := map[string]*layer.Entry{}
	h := sha256.New()
	for _, p := range paths {
		want, err := below.Lstat(p)
		if err != nil || !want.IsDir() {
			continue // nothing there to take attributes from
		}
		have, err := own.Lstat(p)
		if err != nil {
			return "", fmt.Errorf("stacking layer %s: %w", id, err)
		}
		if line := attributeLine(want); line != attributeLine(have) {
			take[p] = want
			fmt.Fprintln(h, line)
		}
	}
	if len(take) == 0 {
		return dir, nil
	}
	variant := dir + "-" + hex.EncodeToString(h.Sum(nil)[:8])
	if _, err := os.Lstat(variant); err == nil {
		return variant, nil
	}
	if err := s.makeVariant(dir, variant, take); err != nil {
		return "", fmt.Errorf("stacking layer %s: %w", id, err)
	}
	return variant, nil
}

func attributeLine(e *layer.Entry) string {
	xattrs, _ := json.Marshal(e.Xattrs) // strings always encode, keys are sorted
	return fmt.Sprintf("%q %o %d:%d %d %s", e.Path, e.Mode, e.UID, e.GID, e.ModTime.UnixNano(), xattrs)
}

// makeVariant makes a copy of a layer directory by hard links, in which some directories have
// other attributes.
func (s *Store) makeVariant(dir, variant string, take map[string]*layer.Entry) error {
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	w, err := layer.NewDirWriter(root)
	if err != nil {
		return err
	}
	err = layer.WalkLayer(dir, linkSink{DirWriter: w, from: dir, to: root, take: take})
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := os.Rename(root, variant); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// linkSink writes directories, with the attributes of take where it has some, and links all else.
type linkSink struct {
	*layer.DirWriter
	from, to string
	take     map[string]*layer.Entry
}

func (l linkSink) Add(e *layer.Entry) error {
	if !e.IsDir() {
		// WalkLayer shows no symbolic link on the way: both directories are ours alone.
		return os.Link(filepath.Join(l.from, e.Path), filepath.Join(l.to, e.Path))
	}
	if t := l.take[e.Path]; t != nil {
		c := *t
		c.Opaque = e.Opaque
		e = &c
	}
	return l.DirWriter.Add(e)
}
