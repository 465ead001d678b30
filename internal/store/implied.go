package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Some layers have files without the directories above them: "tmp/x" and no "tmp". In a directory
// form there has to be a "tmp", and stacked on other layers it would give /tmp its own attributes
// in place of theirs. So the paths of such directories are kept beside the layer, and where the
// attributes differ, a directory form of nothing but these directories, with the attributes of the
// layers below, is stacked on top of it. Few layers need it.

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

// impliedOver returns the directory to stack on that of a layer, own, which itself is stacked on lower; "" when
// the layer implies no directory that looks different there.
func (s *Store) impliedOver(id layer.ID, lower []string, own string) (string, error) {
	paths, err := s.impliedPaths(id)
	if err != nil || len(paths) == 0 || len(lower) == 0 {
		return "", err
	}
	below, tree := LayerTree(lower), dirTree(own)
	take := map[string]*layer.Entry{}
	h := sha256.New()
	for _, p := range paths {
		want, err := below.Lstat(p)
		if err != nil || !want.IsDir() {
			continue // nothing there to take attributes from
		}
		have, err := tree.Lstat(p)
		if err != nil {
			return "", fmt.Errorf("stacking layer %s: %w", id, err)
		}
		if line := attributeLine(want); line != attributeLine(have) {
			take[p] = want
			fmt.Fprintln(h, line)
		}
	}
	if len(take) == 0 {
		return "", nil
	}
	over := filepath.Join(filepath.Dir(own), "over-"+hex.EncodeToString(h.Sum(nil)[:8]))
	if _, err := os.Lstat(over); err == nil {
		return over, nil
	}
	if err := s.makeOver(tree, over, take); err != nil {
		return "", fmt.Errorf("stacking layer %s: %w", id, err)
	}
	return over, nil
}

func attributeLine(e *layer.Entry) string {
	xattrs, _ := json.Marshal(e.Xattrs) // strings always encode, keys are sorted
	return fmt.Sprintf("%q %o %d:%d %d %s", e.Path, e.Mode, e.UID, e.GID, e.ModTime.UnixNano(), xattrs)
}

// makeOver makes the directory over of the directories take and those above them, which are as the layer own
// has them.
func (s *Store) makeOver(own layer.Tree, over string, take map[string]*layer.Entry) error {
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
	err = writeDirs(w, own, take)
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := os.Rename(root, over); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func writeDirs(w *layer.DirWriter, own layer.Tree, take map[string]*layer.Entry) error {
	all := map[string]bool{".": true}
	for p := range take {
		for ; p != "."; p = path.Dir(p) {
			all[p] = true
		}
	}
	for _, p := range slices.Sorted(maps.Keys(all)) { // parents come first
		e := take[p]
		if e == nil {
			var err error
			if e, err = own.Lstat(p); err != nil {
				return err
			}
		}
		bare := *e
		bare.Opaque = false // what is below is opaque, or is not
		if err := w.Add(&bare); err != nil {
			return err
		}
	}
	return nil
}
