package inplace

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// placed is something that is at a path for the time of a step.
type placed struct {
	parent int
	at     string // the parent, relative to the root directory
	name   string
	stub   bool   // a directory above one
	source string // of a directory that was renamed into place
	st     stamp
	aside  string // the name in View.held of what was there
	was    stamp  // of that
}

// File puts a file with a short text at a path.
func (v *View) File(path, text string, mode uint32) error {
	return v.place(path, func(p *placed) error {
		fd, err := unix.Openat(p.parent, p.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, mode)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), path)
		_, err = f.WriteString(text)
		return errors.Join(err, unix.Fchmod(fd, mode), f.Close())
	})
}

// Secret puts a file at a path of which nothing is to be left. A step that moves it elsewhere, or gives it another name, fails.
func (v *View) Secret(path string, data []byte, mode uint32, uid, gid int) error {
	return v.place(path, func(p *placed) error {
		fd, err := unix.Openat(p.parent, p.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), path)
		if p.st, err = stampAt(p.parent, p.name); err == nil {
			v.secrets = append(v.secrets, secret{f, p.st, int64(len(data))})
			_, err = f.Write(data)
		}
		if err == nil && (uid != os.Geteuid() || gid != os.Getegid()) {
			err = unix.Fchown(fd, uid, gid)
			if os.Geteuid() != 0 && errors.Is(err, unix.EPERM) {
				err = nil // it is shown nevertheless, where this filesystem can have the record
				_ = unix.Fsetxattr(fd, layer.OwnerRecord, []byte(layer.Record{Owner: layer.Owner{UID: uint32(uid), GID: uint32(gid)}}.String()), 0)
			}
		}
		return errors.Join(err, unix.Fchmod(fd, mode&0o777))
	})
}

// secret is a file that is open, so that its content can be destroyed wherever it is.
type secret struct {
	file  *os.File
	stamp stamp
	size  int64
}

// destroy overwrites secrets.
func (v *View) destroy() error {
	var errs []error
	for _, s := range v.secrets {
		_, err := s.file.WriteAt(make([]byte, s.size), 0)
		errs = append(errs, err, s.file.Close())
	}
	return errors.Join(errs...)
}

// Link puts a symbolic link at a path.
func (v *View) Link(path, target string) error {
	return v.place(path, func(p *placed) error { return unix.Symlinkat(target, p.parent, p.name) })
}

// Directory puts an empty directory at a path.
func (v *View) Directory(path string, mode uint32) error {
	return v.place(path, func(p *placed) error {
		if err := unix.Mkdirat(p.parent, p.name, 0o700); err != nil {
			return err
		}
		fd, err := openDir(p.parent, p.name)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fchmod(fd, mode)
	})
}

// Bind renames a file or directory to a path. Where it is on another filesystem, a link to it is put there.
func (v *View) Bind(path, source string) error {
	v.binds = append(v.binds, bind{source, path})
	if err := v.m.write(journal{Step: true, Binds: v.binds}); err != nil {
		return err
	}
	return v.place(path, func(p *placed) (err error) {
		if p.st, err = stampAt(unix.AT_FDCWD, source); err != nil {
			return err
		}
		err = unix.Renameat2(unix.AT_FDCWD, source, p.parent, p.name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EXDEV) {
			if err := passable(source); err != nil {
				return err
			}
			return unix.Symlinkat(source, p.parent, p.name)
		}
		p.source = source
		return err
	})
}

// passable lets everybody through the directories above a path, as a mount would: a step may be a user's.
func passable(path string) error {
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		if st.Mode&0o011 == 0o011 || int(st.Uid) != os.Geteuid() {
			continue
		}
		if err := unix.Chmod(dir, st.Mode&0o7777|0o011); err != nil {
			return &os.PathError{Op: "chmod", Path: dir, Err: err}
		}
	}
	return nil
}

// place makes room at a path and has something made there. The directories above it are made if missing.
func (v *View) place(path string, put func(*placed) error) (err error) {
	path = filepath.Clean(path)
	defer func() {
		if err != nil {
			err = &os.PathError{Op: "mount", Path: path, Err: err}
		}
	}()
	p := placed{name: filepath.Base(path)}
	if p.parent, err = v.parent(filepath.Dir(path)); err != nil {
		return err
	}
	if p.at, err = v.pathOf(p.parent); err != nil {
		unix.Close(p.parent)
		return err
	}
	at := join(p.at, p.name)
	var st unix.Stat_t
	if err := unix.Fstat(p.parent, &st); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, setTime(p.parent, st.Mtim.Nano()))
		v.moved = append(v.moved, p.at)
	}()
	if v.m.stays[at] || v.m.through[at] {
		unix.Close(p.parent)
		return errors.New("something of slipway's or of the container's is there that cannot be put aside: mount it elsewhere")
	}
	err = v.putAside(&p)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		unix.Close(p.parent)
		return err
	}
	err = put(&p)
	v.placed = append(v.placed, p)
	return err
}

// putAside moves what is at a path to where it does not show.
func (v *View) putAside(p *placed) error {
	if v.held < 0 {
		made, err := v.m.makeDir(v.m.ownFD, "aside")
		if err != nil {
			return err
		}
		v.held = made.fd
	}
	as := p.name
	for i := 0; ; i++ {
		err := rename(p.parent, p.name, v.held, as)
		switch {
		case err == nil:
			p.aside = as
			return nil
		case !errors.Is(err, unix.EEXIST):
			return err
		}
		as = p.name[:min(len(p.name), 200)] + "." + strconv.Itoa(i)
	}
}

// in is how paths of mounts are resolved: as a process sees them, but not in what is mounted in the container.
const in = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// parent opens a directory, which is made with those above it if missing.
func (v *View) parent(path string) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: in}
	fd, err := unix.Openat2(v.m.root, path, how)
	switch {
	case errors.Is(err, unix.EXDEV):
		return -1, errors.New("it is in what is mounted in the container, where nothing can be put")
	case !errors.Is(err, unix.ENOENT) || path == "/":
		return fd, err
	}
	up, err := v.parent(filepath.Dir(path))
	if err != nil {
		return -1, err
	}
	p := placed{parent: up, name: filepath.Base(path), stub: true}
	if p.at, err = v.pathOf(up); err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(up, &st); err != nil {
		return -1, err
	}
	if err := unix.Mkdirat(up, p.name, 0o755); err != nil {
		return -1, err // a link that leads nowhere
	}
	v.placed, v.moved = append(v.placed, p), append(v.moved, p.at)
	fd, err = openDir(up, p.name)
	if err == nil {
		err = errors.Join(unix.Fchmod(fd, 0o755), setTime(up, st.Mtim.Nano()))
	}
	if err == nil && v.Above != nil && os.Geteuid() == 0 {
		if err = unix.Fchown(fd, int(v.Above.UID), int(v.Above.GID)); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			err = nil // nobody has that ID here
		}
	}
	return fd, err
}

// pathOf is the path of an open directory in the root directory.
func (v *View) pathOf(fd int) (string, error) {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	return filepath.Rel(v.m.real, path)
}

// unplace takes away what was put, and what is in its place by now.
func (v *View) unplace() error {
	errs := []error{v.destroy()}
	for i := len(v.placed) - 1; i >= 0; i-- {
		p := &v.placed[i]
		if err := v.take(p); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: "/" + join(p.at, p.name), Err: err})
		}
		unix.Close(p.parent)
	}
	v.placed = nil
	if v.held >= 0 {
		unix.Close(v.held)
		v.held = -1
	}
	return errors.Join(errs...)
}

func (v *View) take(p *placed) error {
	var st unix.Stat_t
	if err := unix.Fstat(p.parent, &st); err != nil {
		return err
	}
	if _, ok := v.before[p.at]; !ok {
		before, err := stampAt(p.parent, "")
		if err != nil {
			return err
		}
		v.before[p.at] = before
	}
	now, err := stampAt(p.parent, p.name)
	switch {
	case errors.Is(err, unix.ENOENT):
		err = nil
	case err != nil:
	case p.stub: // with something in it, it is the step's
		if err = unix.Unlinkat(p.parent, p.name, unix.AT_REMOVEDIR); errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
			err = nil
		}
	case p.source != "" && now.is(&p.st):
		err = unix.Renameat2(p.parent, p.name, unix.AT_FDCWD, p.source, unix.RENAME_NOREPLACE)
	default:
		err = v.m.discard(p.parent, p.name)
	}
	if err == nil && p.source != "" && unix.Access(p.source, unix.F_OK) != nil { // the step removed it, or moved it
		err = v.m.again(p)
	}
	if err == nil && p.aside != "" {
		err = v.putBack(p)
	}
	return errors.Join(err, setTime(p.parent, st.Mtim.Nano()))
}

// putBack has what was put aside be there again. It may have changed by another name that it has.
func (v *View) putBack(p *placed) error {
	st, err := stampAt(v.held, p.aside)
	if err != nil {
		return err
	}
	path := join(p.at, p.name)
	if e := v.t.now.find(path); e != nil && st == p.was {
		st = e.stamp
	}
	v.before[path] = st
	return rename(v.held, p.aside, p.parent, p.name)
}

// discard removes something of the root directory, with what is in it.
func (m *Machine) discard(parent int, name string) error {
	if err := unix.Unlinkat(parent, name, 0); !errors.Is(err, unix.EISDIR) {
		return err
	}
	as := "gone-" + rand.Text()[:10]
	if err := rename(parent, name, m.ownFD, as); err != nil {
		return err
	}
	return layer.RemoveAll(filepath.Join(m.opt.Dir, m.own, as))
}

// again makes a directory where one was that a step has removed or moved elsewhere.
func (m *Machine) again(p *placed) error {
	if !p.st.isDir() {
		return nil
	}
	if err := os.Mkdir(p.source, 0o700); err != nil {
		return err
	}
	return errors.Join(os.Chown(p.source, int(p.st.uid), int(p.st.gid)), unix.Chmod(p.source, p.st.mode&0o7777))
}
