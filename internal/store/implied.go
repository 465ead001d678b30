package store

import (
	"bytes"
	"context"
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
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Some layers are not the same on whatever they are stacked ([layer.Stacking]). They have files without the
// directories above them: "tmp/x" and no "tmp". In a directory form there has to be a "tmp", and stacked on
// other layers it would give /tmp its own attributes in place of theirs. Or they have hard links to files of
// layers below, of which a directory form has nothing. So what depends on the layers below is kept beside the layer,
// and a directory form of nothing but that is stacked on top of it: the directories with the attributes of the
// layers below, and the files that are linked to under both names, as overlayfs copies them up when a process makes
// such a link. Few layers need it.

func (s *Store) stackingFile(id layer.ID) string {
	return filepath.Join(s.layerDir(id), "implied")
}

// putStacking keeps what a layer that was read takes of those below it. A layer without the file takes nothing, so
// the file is on the disk before there is an index or a directory form: after a crash none of these is there alone.
func (s *Store) putStacking(id layer.ID, st layer.Stacking) error {
	if st.Empty() {
		return nil
	}
	data, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("unpacking layer: %w", err)
	}
	return s.putBeside(s.stackingFile(id), bytes.NewReader(data), durable)
}

// stacking tells what a layer takes of those below it. Where that was damaged, the layer is read once more.
func (s *Store) stacking(ctx context.Context, id layer.ID) (layer.Stacking, error) {
	if s.seen(id) != nil {
		return layer.Stacking{}, nil
	}
	st, err := s.keptStacking(id)
	if err == nil {
		return st, nil
	}
	v, err := s.once(ctx, "stacking:"+string(id), func(ctx context.Context) (any, error) {
		info, err := s.Layer(ctx, id)
		if err != nil {
			return nil, err
		}
		blobs, err := s.presentBlobs(ctx, info)
		if err != nil {
			return nil, err
		}
		if len(blobs) == 0 {
			return nil, fmt.Errorf("no blob of it is in the store: %w", ErrNotFound)
		}
		st, err := s.readLayerBlob(ctx, blobs[0].Descriptor, info.DiffID, discardSink{})
		if err := s.settle(ctx, info, err); err != nil {
			return nil, err
		}
		if st.Empty() {
			// Another process may have been quicker.
			if err := os.Remove(s.stackingFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return st, err
			}
			return st, nil
		}
		return st, s.putStacking(id, st)
	})
	if err != nil {
		return st, fmt.Errorf("reading what layer %s takes of those below it: %w", id, err)
	}
	return v.(layer.Stacking), nil
}

func (s *Store) keptStacking(id layer.ID) (st layer.Stacking, err error) {
	data, err := readRegular(s.stackingFile(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return st, nil
	case err != nil:
	case bytes.HasPrefix(data, []byte("[")): // as written before layers could have links
		err = json.Unmarshal(data, &st.Dirs)
	default:
		err = json.Unmarshal(data, &st)
	}
	return st, err
}

// over returns the directory to stack on that of a layer, own, which itself is stacked on lower; "" when the
// layer takes nothing of those.
func (s *Store) over(ctx context.Context, id layer.ID, lower []string, own string) (string, error) {
	st, err := s.stacking(ctx, id)
	if err != nil || st.Empty() {
		return "", err
	}
	o := &over{below: s.stacked(lower), own: s.dirTree(own), both: s.stacked(append(slices.Clone(lower), own)),
		dirs: map[string]*layer.Entry{}, placed: map[string]string{}}
	hash, err := o.collect(st)
	if err != nil {
		return "", fmt.Errorf("stacking layer %s: %w", id, err)
	}
	if len(o.dirs) == 0 && len(o.files) == 0 {
		return "", nil
	}
	dir := filepath.Join(filepath.Dir(own), s.overPrefix()+hash)
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	if err := s.makeOver(o, dir); err != nil {
		return "", fmt.Errorf("stacking layer %s: %w", id, err)
	}
	return dir, nil
}

// overPrefix begins the names of what is stacked on layers. It tells the boot: no record knows of these directories,
// so one of an earlier boot may not be whole, and is made again.
func (s *Store) overPrefix() string { return "over-" + digest.FromString(s.boot).Encoded()[:8] + "-" }

// overName is the name of a directory that is stacked on a layer. Those of slipways that did not tell the boot are
// left alone, as a container may have them.
var overName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^over-[0-9a-f]{8}-[0-9a-f]{16}([.]owners)?$") })

// dropOldOvers removes what was stacked on a layer before this boot.
func (s *Store) dropOldOvers(home string) {
	entries, _ := os.ReadDir(home)
	for _, e := range entries {
		if overName().MatchString(e.Name()) && !strings.HasPrefix(e.Name(), s.overPrefix()) {
			_ = os.RemoveAll(filepath.Join(home, e.Name())) // what stays is tried again
		}
	}
}

// over is what is stacked on a layer.
type over struct {
	below, own, both layer.Tree
	dirs             map[string]*layer.Entry // with attributes other than the layer's own
	way              []*layer.Entry          // all directories that are written, parents first
	files            []*layer.Entry          // in the order in which they are written
	placed           map[string]string       // which of the files below are among files, and under which name first
}

// collect finds out what is needed, and returns a hash of all that will be written.
func (o *over) collect(st layer.Stacking) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, "over 2")
	for _, p := range st.Dirs {
		want, err := o.below.Lstat(p)
		if err != nil || !want.IsDir() {
			continue // nothing there to take attributes from
		}
		have, err := o.own.Lstat(p)
		if err != nil {
			return "", err
		}
		if attributeLine(want) != attributeLine(have) {
			o.dirs[p] = want
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st.Links)) {
		if err := o.link(name, st.Links[name]); err != nil {
			return "", fmt.Errorf("hard link %q to %q: %w", "/"+name, "/"+st.Links[name], err)
		}
	}
	if err := o.collectWay(); err != nil {
		return "", err
	}
	for _, e := range o.way {
		fmt.Fprintln(h, attributeLine(e))
	}
	for _, e := range o.files {
		sum, err := digest.Digest(""), error(nil)
		if e.Content != nil {
			if sum, err = layer.HashContent(e); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(h, "%s %q %v %d:%d %s\n", attributeLine(e), e.Link, e.Hardlink, e.Major, e.Minor, sum)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// link adds a hard link to a file of the layers below, and the file too where it still shows.
func (o *over) link(name, target string) error {
	target, err := layer.Resolve(o.below, target, false)
	if err != nil {
		return err
	}
	e, err := o.below.Lstat(target)
	if err != nil {
		return err
	}
	if e.IsDir() {
		return errors.New("is a directory")
	}
	c := *e
	c.Dev, c.Inode, c.Nlink = 0, 0, 0
	first, ok := o.placed[target]
	if !ok {
		if first = name; o.shows(target) {
			first = target
		}
		o.placed[target] = first
		c.Path = first
		o.files = append(o.files, &c)
	}
	if first == name {
		return nil
	}
	l := c
	l.Path, l.Hardlink, l.Link, l.Size, l.Content = name, true, first, 0, nil
	o.files = append(o.files, &l)
	return nil
}

// shows reports whether a file of the layers below is one with the layer on top, too.
func (o *over) shows(path string) bool {
	if _, err := o.own.Lstat(path); err == nil {
		return false
	}
	_, err := o.both.Lstat(path)
	return err == nil
}

func attributeLine(e *layer.Entry) string {
	xattrs, _ := json.Marshal(e.Xattrs) // strings always encode, keys are sorted
	return fmt.Sprintf("%q %o %d:%d %d %s", e.Path, e.Mode, e.UID, e.GID, e.ModTime.UnixNano(), xattrs)
}

// makeOver makes the directory at dir.
func (s *Store) makeOver(o *over, dir string) error {
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	w, err := s.DirWriter(root)
	if err != nil {
		return err
	}
	err = o.write(w)
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	s.dropOldOvers(filepath.Dir(dir))
	if err := s.moveRecords(root, dir); err != nil {
		return err
	}
	if err := os.Rename(root, dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// collectWay finds the directories, and those above them and above the files, as they are with the layer on top.
func (o *over) collectWay() error {
	all := map[string]bool{".": true}
	add := func(p string) {
		for ; p != "."; p = path.Dir(p) {
			all[p] = true
		}
	}
	for p := range o.dirs {
		add(p)
	}
	for _, e := range o.files {
		add(path.Dir(e.Path))
	}
	for _, p := range slices.Sorted(maps.Keys(all)) { // parents come first
		e := o.dirs[p]
		if e == nil {
			var err error
			if e, err = o.both.Lstat(p); err != nil {
				return err
			}
		}
		bare := *e
		bare.Opaque = false // what is below is opaque, or is not
		o.way = append(o.way, &bare)
	}
	return nil
}

// write hands on the directories and the files.
func (o *over) write(w *layer.DirWriter) error {
	for _, e := range slices.Concat(o.way, o.files) {
		if err := w.Add(e); err != nil {
			return err
		}
	}
	return nil
}
