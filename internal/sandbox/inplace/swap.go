package inplace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/hostfiles"
	"github.com/slipway-build/slipway/internal/layer"
)

// View is a tree in the root directory.
type View struct {
	m       *Machine
	t       *Tree
	lock    int // the open file that is locked
	unlock  func()
	show    func()          // the machine's own files to the rest of this process
	host    int             // a directory with what is the container's own
	device  map[string]bool // what is in the directories of devices
	placed  []placed
	secrets []secret
	owner   layer.Owner                 // whom what is new belongs to, where that cannot be seen
	links   map[uint64]layer.LinkRecord // what owners of links are, by their inodes
	held    int                         // a directory for what was in the place of something
	heldAt  string
	binds   []bind
	moved   []string // relative paths of what was renamed or changed here
	before  stamps   // what these were when the step had ended
	Hidden  []string // paths of the tree that cannot be shown
	begun   bool     // the container's own files are being moved
	inside  bool     // what is in the root directory, and does not stay, is the step's
}

// Enter shows a tree in the root directory. Until [View.Leave] nobody else does.
func (m *Machine) Enter(ctx context.Context, t *Tree) (v *View, err error) {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	v = &View{m: m, t: t, before: stamps{}, held: -1, host: -1, show: hostfiles.Hide()}
	if v.lock, v.unlock, err = m.lock(ctx); err != nil {
		v.show()
		m.turn <- struct{}{}
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("showing a step its root filesystem: %w", err), v.Leave())
		}
	}()
	if err := m.recover(); err != nil { // of another process that died meanwhile
		return v, err
	}
	if err := m.lookAround(); err != nil {
		return v, err
	}
	if err := m.write(journal{}); err != nil {
		return v, err
	}
	host, err := m.makeDir(m.dir, hostName)
	if err != nil {
		return v, err
	}
	v.host = host.fd
	v.begun = true
	if err = m.hostOut(m.root, host.fd, "."); err == nil {
		err = m.write(journal{Step: true})
		v.inside = err == nil
	}
	if err == nil {
		err = v.stepIn(t.fd, m.root, ".")
	}
	if err == nil {
		v.device, err = m.devices()
	}
	return v, err
}

// Leave puts everything back where it was.
func (v *View) Leave() error {
	m := v.m
	var out error // of what has to be before the container's own comes back
	var errs []error
	if v.inside {
		errs = append(errs, v.unplace(), m.dropDevices(v.device))
		if out = m.stepOut(m.root, v.t.fd, ".", v.before); out == nil {
			out = m.write(journal{})
		}
	}
	if out == nil && v.begun {
		out = m.hostIn()
	}
	if v.host >= 0 {
		unix.Close(v.host)
	}
	v.unlock()
	v.show()
	m.turn <- struct{}{}
	if err := errors.Join(append(errs, out)...); err != nil {
		v.t.broken = true
		return fmt.Errorf("putting back the container's own files: %w", err)
	}
	return nil
}

// deviceDirs are mounts of the container's that steps write to, and which are to be as they were afterwards.
var deviceDirs = []string{"dev", "dev/shm", "dev/mqueue"}

// devices lists what is in those directories.
func (m *Machine) devices() (map[string]bool, error) {
	all := map[string]bool{}
	for _, dir := range deviceDirs {
		if !m.stays["dev"] {
			return nil, nil // it is no mount, and goes with the step
		}
		fd, err := openDir(m.root, dir)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, moving(dir, err)
		}
		names, err := readNames(fd)
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all[join(dir, name)] = true
		}
	}
	return all, nil
}

// dropDevices removes what was not in them before. A file that is new and in use by somebody else is no step's: the name of
// what slipway makes there begins with its own.
func (m *Machine) dropDevices(before map[string]bool) error {
	if before == nil {
		return nil
	}
	now, err := m.devices()
	if err != nil {
		return err
	}
	for path := range now {
		if before[path] || strings.HasPrefix(filepath.Base(path), "slipway-") {
			continue
		}
		if err := layer.RemoveAll(filepath.Join(m.opt.Root, path)); err != nil {
			return err
		}
	}
	return nil
}

// Owned says whom new files belong to where there are not enough IDs, and what the step said of links and the like.
func (v *View) Owned(owner layer.Owner, links []layer.LinkRecord) {
	v.owner, v.links = owner, map[uint64]layer.LinkRecord{}
	for _, l := range links {
		v.links[l.Inode] = l
	}
}

// Lock is a descriptor that is to be open as long as a process uses the view.
func (v *View) Lock() int { return v.lock }

// Stays reports whether something of the container's is at a path that cannot be put aside.
func (v *View) Stays(path string) bool { return v.m.stays[strings.TrimPrefix(path, "/")] }

// Has reports whether the tree has a directory at a path.
func (v *View) Has(path string) bool {
	e := v.t.now.find(strings.TrimPrefix(path, "/"))
	return e != nil && e.dir != nil
}

// Host reads a short file of the container's own; one that is missing is empty.
func (v *View) Host(path string) (string, error) {
	fd, err := unix.Openat2(v.host, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	return string(text), err
}

// hostOut moves what is in a directory, but what stays, to another one.
func (m *Machine) hostOut(from, to int, at string) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		if m.stays[path] {
			continue
		}
		err := error(unix.EXDEV)
		if !m.through[path] {
			err = rename(from, name, to, name)
		}
		switch {
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EACCES) && (isMountPoint(from, name) || !mayChange(from, name)):
			m.stays[path] = true // something is mounted there, or it is somebody else's who lets nobody move what is in it
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EACCES): // a directory of somebody else's does not move elsewhere
			err = m.hostOutOf(from, to, name, path)
			if err != nil {
				return err
			}
		case err != nil:
			return moving(path, err)
		}
	}
	return nil
}

// isMountPoint reports whether something is mounted at a name. The kernel says so before anything else only to who may write there.
func isMountPoint(dir int, name string) bool {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// mayChange reports whether this process may move what is in a directory.
func mayChange(dir int, name string) bool {
	return unix.Faccessat(dir, name, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil
}

func moving(path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: "move", Path: "/" + path, Err: err}
}

// lookAround notes how the directories look that stay, and of which only what is in them is moved.
func (m *Machine) lookAround() error {
	for _, path := range append(slices.Collect(maps.Keys(m.through)), ".") {
		fd, err := openDir(m.root, path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return moving(path, err)
		}
		m.looks[path], err = lookOf(fd)
		unix.Close(fd)
		if err != nil {
			return moving(path, err)
		}
	}
	return nil
}

// hostOutOf moves what is in a directory that cannot be moved itself: something in it stays, or it is of a lower layer of the
// container's overlay filesystem. In the latter case it has moved when it is empty.
func (m *Machine) hostOutOf(from, to int, name, path string) error {
	src, err := openDir(from, name)
	if err != nil {
		return moving(path, err)
	}
	defer unix.Close(src)
	l, err := lookOf(src)
	if err != nil {
		return moving(path, err)
	}
	dst, err := m.makeLike(to, name, l)
	if err != nil {
		return moving(path, err)
	}
	defer unix.Close(dst)
	if err := m.hostOut(src, dst, path); err != nil {
		return err
	}
	if err := setTime(dst, l.Mtime); err != nil || m.through[path] {
		return moving(path, err)
	}
	err = unix.Unlinkat(from, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		m.through[path], m.looks[path] = true, l
		err = m.write(journal{})
	}
	return moving(path, err)
}

// makeLike makes a directory that looks like another one from the beginning.
func (m *Machine) makeLike(at int, name string, l look) (int, error) {
	made, err := m.makeDir(m.ownFD, "new")
	if err != nil {
		return -1, err
	}
	if err = l.apply(made.fd); err == nil {
		err = rename(m.ownFD, made.name, at, name)
	}
	if err != nil {
		unix.Close(made.fd)
		return -1, err
	}
	return made.fd, nil
}

// hostIn puts back what is the container's own. It does the rest of it when that was begun before.
func (m *Machine) hostIn() error {
	host, err := openDir(m.dir, hostName)
	if err == nil {
		err = m.merge(host, m.root, ".")
		unix.Close(host)
		if err == nil {
			err = unix.Unlinkat(m.dir, hostName, unix.AT_REMOVEDIR)
		}
	} else if errors.Is(err, unix.ENOENT) {
		err = nil // it was put back before
	}
	if err == nil {
		err = m.lookAgain()
	}
	if err != nil {
		return err
	}
	err = unix.Unlinkat(m.dir, journalName, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// lookAgain has the directories that stay look as they did.
func (m *Machine) lookAgain() error {
	for path, l := range m.looks {
		fd, err := openDir(m.root, path)
		if errors.Is(err, unix.ENOENT) { // the step has removed it, with what was to stay
			continue
		}
		if err == nil {
			err = l.apply(fd)
			unix.Close(fd)
		}
		if err != nil {
			return moving(path, err)
		}
	}
	clear(m.looks)
	return nil
}

// merge moves everything in a directory to another one. Directories that both have become one, which looks like the first.
func (m *Machine) merge(from, to int, at string) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		err := rename(from, name, to, name)
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EXDEV) {
			err = m.mergeInto(from, to, name, path)
		}
		if err != nil {
			return moving(path, err)
		}
	}
	return nil
}

func (m *Machine) mergeInto(from, to int, name, path string) error {
	src, err := openDir(from, name)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := openDir(to, name)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	l, err := lookOf(src)
	if err != nil {
		return err
	}
	if err := m.merge(src, dst, path); err != nil {
		return err
	}
	if err := l.apply(dst); err != nil {
		return err
	}
	return unix.Unlinkat(from, name, unix.AT_REMOVEDIR)
}

// stepIn moves what is in a directory of the tree into the root directory's.
func (v *View) stepIn(from, to int, at string) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		switch {
		case v.m.stays[path]:
			v.hide(from, name, path)
		case v.m.through[path]:
			if err := v.stepInto(from, to, name, path); err != nil {
				return moving(path, err)
			}
		default:
			if err := rename(from, name, to, name); err != nil {
				return moving(path, err)
			}
			v.moved = append(v.moved, path)
		}
	}
	return nil
}

// hide notes that something of the tree cannot be seen, unless it is an empty directory.
func (v *View) hide(from int, name, path string) {
	fd, err := openDir(from, name)
	if err == nil {
		names, err := readNames(fd)
		unix.Close(fd)
		if err == nil && len(names) == 0 {
			return
		}
	}
	if path != "dev" && path != "proc" && path != "sys" { // which are hidden in any container
		v.Hidden = append(v.Hidden, "/"+path)
	}
}

// stepInto shows a directory of the tree in one of the root directory that stays.
func (v *View) stepInto(from, to int, name, path string) error {
	src, err := openDir(from, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errors.New("the image has no directory there, and something of slipway's or of the container's is below it: put that elsewhere")
	}
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := openDir(to, name)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	l, err := lookOf(src)
	if err != nil {
		return err
	}
	if err := v.stepIn(src, dst, path); err != nil {
		return err
	}
	v.moved = append(v.moved, path)
	return l.apply(dst)
}

// stepOut moves what is in the root directory or one below it, but what stays, to a directory, and notes what it was before.
func (m *Machine) stepOut(from, to int, at string, before stamps) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		if m.stays[path] {
			continue
		}
		if before != nil {
			st, err := stampAt(from, name)
			if err != nil {
				return moving(path, err)
			}
			before[path] = st
		}
		if m.through[path] {
			if err := m.stepOutThrough(from, to, name, path, before); err != nil {
				return moving(path, err)
			}
			continue
		}
		err := rename(from, name, to, name)
		if errors.Is(err, unix.EBUSY) {
			m.stays[path] = true
			continue
		}
		if err != nil {
			return moving(path, err)
		}
	}
	return nil
}

// stepOutThrough moves what is in a directory that stays. The tree has such a directory only if it had one, or if there is
// something in it.
func (m *Machine) stepOutThrough(from, to int, name, path string, before stamps) error {
	src, err := openDir(from, name)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	names, err := readNames(src)
	if err != nil {
		return err
	}
	movable := false
	for _, n := range names {
		movable = movable || !m.stays[join(path, n)]
	}
	dst, err := openDir(to, name)
	switch {
	case errors.Is(err, unix.ENOENT) && !movable:
		return nil
	case errors.Is(err, unix.ENOENT):
		made, merr := m.makeDir(to, name)
		dst, err = made.fd, merr
	}
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	l, err := lookOf(src)
	if err != nil {
		return err
	}
	if err := m.stepOut(src, dst, path, before); err != nil {
		return err
	}
	return l.apply(dst)
}
