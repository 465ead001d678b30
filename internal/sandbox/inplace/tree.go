package inplace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Tree is a root filesystem in a directory of its own.
type Tree struct {
	m      *Machine
	path   string
	fd     int
	layers []held // that it is made of, base first
	now    *dir   // as it was found at the last scan
	newest int64  // time of change in it
	busy   bool
	broken bool // it is not known what is in it
}

// held is a directory that stays open, so that no other one gets its number.
type held struct {
	fd       int
	dev, ino uint64
}

// maxIdle is how many trees are kept that no step uses at the time.
const maxIdle = 4

func hold(path string) (h held, err error) {
	h.fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return h, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		unix.Close(h.fd)
		return h, os.NewSyscallError("fstat", err)
	}
	h.dev, h.ino = st.Dev, st.Ino
	return h, nil
}

// Tree gives a tree of layer directories, base first, to the caller alone: one that there is of all or the lower of them, with
// the others applied to it, or a new one. [Tree.Release] gives it back.
func (m *Machine) Tree(lower []string) (t *Tree, err error) {
	var want []held
	defer func() {
		if err != nil {
			for _, h := range want {
				unix.Close(h.fd)
			}
			err = fmt.Errorf("unpacking a root filesystem: %w", err)
		}
	}()
	for _, path := range lower {
		h, err := hold(path)
		if err != nil {
			return nil, err
		}
		want = append(want, h)
	}
	if t, err = m.take(want); err != nil {
		return nil, err
	}
	have := len(t.layers)
	if err = t.apply(lower[have:], have == 0); err != nil {
		t.broken = true
		t.Release()
		return nil, err
	}
	for _, h := range t.layers {
		unix.Close(h.fd)
	}
	t.layers = want
	return t, nil
}

// Mounted gives what a path in layers shows in a tree of its own, and where it is: the tree, or a file in it.
func (m *Machine) Mounted(lower []string, selector string) (t *Tree, path string, err error) {
	merged := m.merged(lower)
	from, err := layer.Resolve(merged, layer.Clean(selector), true)
	if err != nil {
		return nil, "", err
	}
	if from == "." {
		t, err = m.Tree(lower)
		if err != nil {
			return nil, "", err
		}
		top, err := merged.Lstat(".")
		if err == nil {
			err = t.add(top)
		}
		if err != nil {
			t.Drop()
		}
		return t, t.path, err
	}
	e, err := merged.Lstat(from)
	if err != nil {
		return nil, "", err
	}
	if t, err = m.take(nil); err != nil {
		return nil, "", err
	}
	t.broken = true // nobody else is to have it
	w, err := writer(t.path)
	if err == nil {
		err = layer.Walk(merged, from, func(e *layer.Entry) error {
			c := *e
			rel, err := filepath.Rel(filepath.Dir(from), e.Path)
			c.Path = rel
			return errors.Join(err, w.Add(&c))
		})
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Drop()
	}
	return t, filepath.Join(t.path, filepath.Base(e.Path)), err
}

// add writes one entry of the tree.
func (t *Tree) add(e *layer.Entry) error {
	w, err := writer(t.path)
	if err != nil {
		return err
	}
	return errors.Join(w.Add(e), w.Close())
}

// flavor is that of stores of processes that may not write trusted attributes, as those in whose containers this is needed.
const flavor = layer.User

// layer is what is in a layer directory.
func (m *Machine) layer(path string) layer.Tree {
	return layer.OpenDir(path, layer.DirOptions{Overlay: true, Immutable: true, Flavor: flavor, Records: flavor.Records(path)})
}

// writer writes to a directory of a tree, or of a layer. What the filesystem cannot hold is recorded.
func writer(path string) (*layer.DirWriter, error) {
	w, err := layer.NewDirWriter(path)
	if err == nil {
		w.SetFlavor(flavor, flavor.Records(path))
	}
	return w, err
}

// merged is the view of layer directories, base first.
func (m *Machine) merged(lower []string) layer.Tree {
	var trees []layer.Tree
	for _, path := range lower {
		trees = append(trees, m.layer(path))
	}
	return layer.Merged(trees)
}

// take finds the idle tree that has most of the layers, and nothing else, or makes an empty one.
func (m *Machine) take(want []held) (*Tree, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var best *Tree
	for _, t := range m.trees {
		if !t.busy && !t.broken && t.startsLike(want) && (best == nil || len(t.layers) > len(best.layers)) {
			best = t
		}
	}
	if best != nil {
		best.busy = true
		return best, nil
	}
	m.seq++
	name := strconv.Itoa(m.seq)
	if err := unix.Mkdirat(m.ownFD, name, 0o755); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := openDir(m.ownFD, name)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	t := &Tree{m: m, path: filepath.Join(m.opt.Dir, m.own, name), fd: fd, busy: true}
	m.trees = append(m.trees, t)
	return t, nil
}

// startsLike reports whether the tree is of the first of some layers.
func (t *Tree) startsLike(want []held) bool {
	if len(t.layers) > len(want) || len(t.layers) == 0 {
		return false
	}
	for i, h := range t.layers {
		if h.dev != want[i].dev || h.ino != want[i].ino {
			return false
		}
	}
	return true
}

// Path is where the tree is while it is not shown.
func (t *Tree) Path() string { return t.path }

// apply puts layers on what the tree has.
func (t *Tree) apply(lower []string, empty bool) error {
	if len(lower) == 0 && !empty {
		return nil
	}
	w, err := writer(t.path)
	if err != nil {
		return err
	}
	if empty {
		err = layer.WriteTree(t.m.merged(lower), w)
	} else {
		w.OnTop()
		for _, path := range lower {
			if err == nil {
				err = layer.WriteTree(t.m.layer(path), w)
			}
		}
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	t.now, t.newest, err = scan(t.fd)
	return err
}

// Release gives a tree back. It is kept for who has the same layers.
func (t *Tree) Release() {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.busy = false
	idle := 0
	for i := len(t.m.trees) - 1; i >= 0; i-- {
		o := t.m.trees[i]
		if o.busy {
			continue
		}
		if idle++; o.broken || idle > maxIdle {
			o.close()
			_ = layer.RemoveAll(o.path) // otherwise it goes with the process's directory
			t.m.trees = append(t.m.trees[:i], t.m.trees[i+1:]...)
		}
	}
}

// Drop gives a tree back that nobody will use.
func (t *Tree) Drop() {
	t.broken = true
	t.Release()
}

func (t *Tree) close() {
	unix.Close(t.fd)
	for _, h := range t.layers {
		unix.Close(h.fd)
	}
}

// Save writes what changed since the tree was given, or saved, to an overlay-native directory, which becomes the last layer
// that the tree is of. lower are the directories of the other ones.
func (t *Tree) Save(lower []string, upper string, v *View) (err error) {
	defer func() {
		if err != nil {
			t.broken = true
			err = fmt.Errorf("writing the layer of what the step changed: %w", err)
		}
	}()
	now, newest, err := scan(t.fd)
	if err != nil {
		return err
	}
	base, live := t.m.merged(lower), layer.OpenDir(t.path, layer.DirOptions{Flavor: flavor, Records: flavor.Records(t.path)})
	d := &differ{named: map[uint64]bool{}, same: func(path string) (bool, error) {
		b, err := base.Lstat(path)
		if err != nil {
			return false, nil //nolint:nilerr // there is nothing, for one
		}
		l, err := live.Lstat(path)
		if err != nil {
			return false, err
		}
		return layer.Same(b, l)
	}}
	if v != nil {
		d.before, d.linked = v.before, v.before.linked()
		d.links = v.links
		d.secrets = map[uint64]stamp{}
		for _, s := range v.secrets {
			d.secrets[s.stamp.ino] = s.stamp
		}
	}
	diff := &changed{live: live, top: d.changes(t.now, now, ".")}
	if v != nil {
		diff.owner, diff.links = v.owner, v.links
		o := &owning{owner: v.owner, now: now, linked: map[uint64]stamp{}}
		if err := o.record(t.fd, diff.top, "."); err != nil {
			return err
		}
		newest = max(newest, o.newest)
	}
	if d.found != "" {
		return fmt.Errorf("the step has made a secret that it was given a file of the image, %q: copy what the image is to have instead", d.found)
	}
	if diff.top, err = d.dropLinked(diff.top, t.now, now, "."); err != nil {
		return err
	}
	w, err := writer(upper)
	if err != nil {
		return err
	}
	w.Anew()
	if err := errors.Join(layer.WriteTree(diff, w), w.Close()); err != nil {
		return err
	}
	if err := layer.DropUnchanged(upper, flavor, base); err != nil {
		return err
	}
	top, err := hold(upper)
	if err != nil {
		return err
	}
	t.layers = append(t.layers, top)
	err = t.forget(diff.top, t.now, now, top.fd, ".")
	t.now, t.newest = now, newest
	return err
}

// forget gives directories their times back whose change is in no layer: of what was made in them nothing is left.
func (t *Tree) forget(all []change, old, now *dir, upper int, path string) error {
	for i := range all {
		c := &all[i]
		was, is := old.find(c.name), now.find(c.name)
		if was == nil || is == nil || !was.stamp.isDir() || !is.stamp.isDir() || c.opaque {
			continue
		}
		below, err := -1, error(unix.ENOENT)
		if upper >= 0 {
			below, err = openDir(upper, c.name)
		}
		gone := errors.Is(err, unix.ENOENT)
		if err == nil || gone {
			err = t.forget(c.below, was.dir, is.dir, below, join(path, c.name))
		}
		if below >= 0 {
			unix.Close(below)
		}
		if err == nil && gone {
			err = t.restore(was, is, join(path, c.name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// restore gives a directory the time back that it had.
func (t *Tree) restore(was, is *entry, path string) error {
	if was.stamp.mtime == is.stamp.mtime {
		return nil
	}
	fd, err := unix.Openat2(t.fd, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := setTime(fd, was.stamp.mtime); err != nil {
		return err
	}
	is.stamp, err = stampAt(fd, "")
	return err
}
