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
	case sets, removes, gets:
		return c.xattr()
	case lists:
		return c.listXattr()
	case stats:
		return c.stat()
	case makes:
		return c.makes()
	case alters:
		return c.alters()
	case asks:
		return c.asks()
	case roots:
		c.s.rooted = false
		return errNative
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
	switch c.kind {
	case stats:
		flags &^= statFlags
	case asks:
		flags &^= unix.AT_EACCESS
	}
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return unix.EINVAL
	}
	if c.path == none || c.n.args[c.path] == 0 && flags&unix.AT_EMPTY_PATH != 0 && c.kind == stats { // since Linux 6.11
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
	err := c.openRoot()
	if err != nil {
		return -1, err
	}
	from := unix.AT_FDCWD // not used
	if !path.IsAbs(name) {
		if c.dirfd < 0 {
			c.dirfd, err = c.openProc(begin, 0)
		}
		if err == unix.ENOENT {
			return -1, unix.EBADF
		} else if err != nil {
			return -1, errNative
		}
		from = c.dirfd
	}
	if err := c.valid(); err != nil {
		return -1, err
	}
	if err := c.enter(); err != nil {
		return -1, err
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_PATH | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_MAGICLINKS}
	for range 100 {
		fd, err := unix.Openat2(from, name, &how)
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

// openRoot opens the caller's root, unless that is the thread's.
func (c *call) openRoot() (err error) {
	if c.s.rooted || c.root >= 0 {
		return nil
	}
	if c.root, err = c.openProc("root", unix.O_DIRECTORY); err != nil {
		return errNative
	}
	return nil
}

// enterRoot opens and enters it.
func (c *call) enterRoot() error {
	err := c.openRoot()
	if err == nil {
		err = c.valid()
	}
	if err == nil {
		err = c.enter()
	}
	return err
}

// enter has the thread have the caller's root.
func (c *call) enter() error {
	if c.s.rooted {
		return nil
	}
	if c.s.chroots {
		return c.s.chroot(c.root)
	}
	if !isRoot(c.root) {
		return errNative
	}
	return nil
}

// recorded reports whether the object belongs to what is recorded: the rest, as what is mounted from elsewhere, is not the layer's.
func (c *call) recorded(st *unix.Stat_t) bool {
	own, err := MountOf(c.object)
	return err == nil && c.inPlace(own.Mount, st.Dev)
}

// inPlace reports whether what is in a mount, on a device, belongs to what is recorded.
func (c *call) inPlace(mount, dev uint64) bool {
	if len(c.s.places) == 0 {
		var err error
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
		if p.Mount == mount || p.Mount == 0 && p.Dev == dev {
			return true
		}
	}
	return false
}

// byName has fn do something with the object by a path of it, which leads nowhere else.
func (c *call) byName(fn func(name string) error) error { return fn(c.objectPath()) }

// objectPath is a path of the object for this thread.
func (c *call) objectPath() string { return c.s.names + strconv.Itoa(c.object) }

// hasAttributes reports whether an object can have attributes of its own.
func hasAttributes(st *unix.Stat_t) bool {
	t := st.Mode & unix.S_IFMT
	return t == unix.S_IFREG || t == unix.S_IFDIR
}

// record is what the object is recorded as, or what it is without a record. found: it has one of its own.
func (c *call) record(st *unix.Stat_t) (r layer.Record, found bool, err error) {
	if !hasAttributes(st) {
		if l, found := c.link(st); found {
			return l.Record, true, nil
		}
		if r, below := c.linkBelow(st.Mtim.Nano()); below {
			return r, false, nil
		}
	} else if r, found = c.s.fixed[Inode{st.Dev, st.Ino}]; found {
		return r, true, nil
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
	var x unix.Statx_t
	if !c.s.rules.Root && unix.Statx(c.object, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &x) == nil && c.own(&x) {
		r.Owner = layer.Owner{UID: c.s.rules.UID, GID: c.s.rules.GID}
	}
	return r, false, nil
}

// link is the record of what cannot have attributes, if the processes gave it one.
func (c *call) link(st *unix.Stat_t) (l layer.LinkRecord, found bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	l, found = c.s.links[Inode{st.Dev, st.Ino}]
	return l, found && (l.Born == 0 || l.Born == layer.Born(c.object, "")) // else what had the number is gone
}

// linkBelow is the record that a layer has of what cannot have attributes; mtime is its time of modification in nanoseconds.
func (c *call) linkBelow(mtime int64) (r layer.Record, found bool) {
	below := c.s.below()
	if len(below) == 0 {
		return r, false
	}
	path, err := c.where()
	if err != nil {
		return r, false
	}
	return below.Link(path, mtime)
}

// unlock gives a file that was made so that nobody may read it the permissions without which it can have no record.
func (c *call) unlock(st *unix.Stat_t) error {
	return c.byName(func(name string) error { return unix.Chmod(name, st.Mode&0o7777|c.locked(st)) })
}

// save records what the object is.
func (c *call) save(st *unix.Stat_t, r layer.Record) error {
	if _, found := c.s.fixed[Inode{st.Dev, st.Ino}]; found {
		c.s.fixed[Inode{st.Dev, st.Ino}] = r
	}
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
	l := layer.LinkRecord{Record: r, Inode: st.Ino, Born: layer.Born(c.object, "")}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if l.Target, err = readlink(c.object, ""); err != nil {
			return err
		}
	}
	if l.Path, err = c.where(); err != nil {
		return err
	}
	return c.s.keep(Inode{st.Dev, st.Ino}, l)
}

func (s *Supervisor) hasLinks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.links) > 0
}

// maxHeld bounds the bytes of what is held of symbolic links and the like.
const maxHeld = 256 << 20

// keep holds the record of what cannot have attributes.
func (s *Supervisor) keep(i Inode, l layer.LinkRecord) error {
	size := func(l layer.LinkRecord) int { return len(l.Path) + len(l.Target) + 128 }
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held + size(l)
	if old, found := s.links[i]; found {
		held -= size(old)
	}
	if held > maxHeld {
		return unix.ENOSPC
	}
	s.held, s.links[i] = held, l
	return nil
}

func readlink(fd int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, b)
	return string(b[:max(n, 0)]), err
}
