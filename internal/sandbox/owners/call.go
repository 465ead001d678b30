package owners

import (
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// call is a call that waits for its answer.
type call struct {
	s *Supervisor
	n *notification
	layout

	result int64 // of the call when it succeeds

	object int // what the call is about; O_PATH
	root   int // the caller's
	dirfd  int // where its path begins
}

func (c *call) close() {
	for _, fd := range []int{c.object, c.root, c.dirfd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// arg is an argument of the call as a number of 32 bits; absent gives 0.
func (c *call) arg(i int) uint32 {
	if i == none {
		return 0
	}
	return uint32(c.n.args[i])
}

func (c *call) do() error {
	switch c.kind {
	case chowns:
		return c.chown()
	case chmods:
		return c.chmod()
	case mknods:
		return c.mknod()
	case sets, removes:
		return c.xattr()
	case whoami:
		var err error
		c.result, err = c.whoami()
		return err
	}
	return errNative
}

// open finds the object that the call is about.
func (c *call) open() error {
	flags := c.arg(c.flags)
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return unix.EINVAL
	}
	if c.path == none {
		return c.openFile(int32(c.arg(c.dir)))
	}
	name, err := c.readText(c.n.args[c.path], unix.PathMax)
	if err != nil {
		return err
	}
	if name == "" {
		switch {
		case flags&unix.AT_EMPTY_PATH == 0:
			return unix.ENOENT
		case int32(c.arg(c.dir)) == unix.AT_FDCWD:
			name = "."
		default:
			return c.openFile(int32(c.arg(c.dir)))
		}
	}
	if fd, ok := ownFile(name); ok && !c.nofollow && flags&unix.AT_SYMLINK_NOFOLLOW == 0 {
		return c.openFile(fd)
	}
	if c.nofollow || flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		c.object, err = c.lookup(name, unix.O_NOFOLLOW)
	} else {
		c.object, err = c.lookup(name, 0)
	}
	return err
}

// ownFile reports which descriptor of the caller a path names by what all systems have for that: programs give their streams to users.
func ownFile(name string) (fd int32, ok bool) {
	switch name {
	case "/dev/stdin":
		return 0, true
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if number, found := strings.CutPrefix(name, dir); found {
			n, err := strconv.ParseUint(number, 10, 31)
			return int32(n), err == nil
		}
	}
	return 0, false
}

// openFile opens what a descriptor of the caller is of.
func (c *call) openFile(fd int32) (err error) {
	if fd < 0 {
		return unix.EBADF
	}
	c.object, err = c.openProc("fd/"+strconv.Itoa(int(fd)), 0)
	switch err {
	case nil:
		return c.valid()
	case unix.ENOENT:
		return unix.EBADF
	}
	return errNative
}

// lookup opens a path as the caller means it: from its working directory or descriptor, in its root, which no link leads out of. Links that
// only the kernel can make, those of /proc, would be this process's: they are not followed.
func (c *call) lookup(name string, flags int) (int, error) {
	begin := "cwd"
	if fd := int32(c.arg(c.dir)); c.dir != none && fd != unix.AT_FDCWD {
		if fd < 0 {
			fd = 0x7fffffff
		}
		begin = "fd/" + strconv.Itoa(int(fd))
	}
	var err error
	if c.root, err = c.openProc("root", unix.O_DIRECTORY); err != nil {
		return -1, errNative
	}
	if !path.IsAbs(name) {
		if c.dirfd, err = c.openProc(begin, 0); err == unix.ENOENT {
			return -1, unix.EBADF
		} else if err != nil {
			return -1, errNative
		}
	}
	if err := c.valid(); err != nil {
		return -1, err
	}
	if err := c.enter(); err != nil {
		return -1, err
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_PATH | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_MAGICLINKS}
	for range 100 {
		fd, err := unix.Openat2(unix.AT_FDCWD, name, &how)
		switch err {
		case unix.EAGAIN, unix.EINTR:
			continue
		case unix.ELOOP: // a loop, or a link of /proc
			return -1, errNative
		case unix.ENOSYS, unix.EPERM: // a kernel without openat2, or a filter around slipway: nothing else is safe
			return -1, errNative
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

// enter has the thread have the caller's root and its working directory, or the directory that the call names.
func (c *call) enter() error {
	if c.s.chroots {
		if err := unix.Fchdir(c.root); err != nil {
			return err
		}
		if err := unix.Chroot("."); err != nil {
			return err
		}
	} else if !c.sameRoot() {
		return errNative
	}
	if c.dirfd >= 0 {
		return unix.Fchdir(c.dirfd)
	}
	return nil
}

// sameRoot reports whether the caller has the root of this thread, which cannot change it.
func (c *call) sameRoot() bool {
	var own, theirs unix.Stat_t
	return unix.Stat("/", &own) == nil && unix.Fstat(c.root, &theirs) == nil && own.Dev == theirs.Dev && own.Ino == theirs.Ino
}

// recorded reports whether the object belongs to what is recorded: the rest, as what is mounted from elsewhere, is not the layer's.
func (c *call) recorded(st *unix.Stat_t) bool {
	own, err := MountOf(c.object)
	if err != nil {
		return false
	}
	if len(c.s.places) == 0 {
		if c.root < 0 {
			if c.root, err = c.openProc("root", unix.O_DIRECTORY); err != nil || c.valid() != nil {
				return false
			}
		}
		first, err := MountOf(c.root)
		if err != nil {
			return false
		}
		c.s.places = []Place{first}
	}
	for _, p := range c.s.places {
		if p.Mount == own.Mount || p.Mount == 0 && p.Dev == st.Dev {
			return true
		}
	}
	return false
}

// byName has fn do something with the object by a path of it, which leads nowhere else.
func (c *call) byName(fn func(name string) error) error {
	if err := unix.Fchdir(c.s.fds); err != nil {
		return err
	}
	return fn(strconv.Itoa(c.object))
}

// hasAttributes reports whether an object can have attributes of its own.
func hasAttributes(st *unix.Stat_t) bool {
	t := st.Mode & unix.S_IFMT
	return t == unix.S_IFREG || t == unix.S_IFDIR
}

// record is what the object is recorded as, or what it is without a record.
func (c *call) record(st *unix.Stat_t) (r layer.Record, found bool, err error) {
	if !hasAttributes(st) {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		if l, found := c.s.links[Inode{st.Dev, st.Ino}]; found {
			return l.Record, true, nil
		}
	} else {
		var b [64]byte
		var n int
		read := func(name string) (err error) {
			n, err = unix.Getxattr(name, layer.OwnerRecord, b[:])
			return err
		}
		if err = c.byName(read); err == unix.EACCES && c.s.rules.Fake {
			if err = c.unlock(st); err == nil {
				defer func(mode uint32) {
					if r.Mode == 0 {
						r.Mode = mode
					}
				}(st.Mode)
				err = c.byName(read)
			}
		}
		switch err {
		case nil:
			if r, found = layer.ParseRecord(string(b[:n])); found {
				return r, true, nil
			}
		case unix.ENODATA, unix.ERANGE, unix.ENOTSUP:
		default:
			return r, false, err
		}
	}
	if !c.s.rules.Root {
		r.Owner = layer.Owner{UID: c.s.rules.UID, GID: c.s.rules.GID} // what it makes is its own
	}
	return r, false, nil
}

// unlock gives a file that was made so that nobody may read it the permissions without which it can have no record.
func (c *call) unlock(st *unix.Stat_t) error {
	return c.byName(func(name string) error { return unix.Chmod(name, st.Mode&0o7777|c.locked(st)) })
}

// save records what the object is.
func (c *call) save(st *unix.Stat_t, r layer.Record) error {
	if hasAttributes(st) {
		return c.byName(func(name string) error { return unix.Setxattr(name, layer.OwnerRecord, []byte(r.String()), 0) })
	}
	// It is to be part of the layer: overlayfs copies it for a change of its owner, that to the one it has.
	if err := unix.Fchownat(c.object, "", -1, -1, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if err := unix.Fstat(c.object, st); err != nil {
		return err
	}
	l := layer.LinkRecord{Record: r, Inode: st.Ino}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if l.Target, err = readlink(c.object, ""); err != nil {
			return err
		}
	}
	// The thread's root is the caller's, so the path is one in it.
	if l.Path, err = readlink(c.s.fds, strconv.Itoa(c.object)); err != nil {
		return err
	}
	l.Path = strings.TrimPrefix(l.Path, "/")
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.links[Inode{st.Dev, st.Ino}] = l
	return nil
}

func readlink(fd int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, b)
	return string(b[:max(n, 0)]), err
}
