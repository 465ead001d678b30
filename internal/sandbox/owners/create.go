package owners

import (
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// For the kernel all processes of a step are one user, to whom everything belongs. What one that is not root may not do, as the owners and modes are
// recorded, is refused here, so that a step fails where it fails for root of the machine. That is no boundary: between the look and the call a file
// may become another one. What a process makes that has become somebody else is made here, and recorded as that one's.

const (
	mayWrite  = 2
	maySearch = 1
)

// allowed reports whether somebody has permissions, a sum of the above, on an object.
func (id *identity) allowed(r layer.Record, mode, want uint32) bool {
	if r.Mode != 0 {
		mode = r.Mode
	}
	switch {
	case id.users[1] == 0:
		return true
	case r.UID == id.users[1]:
		mode >>= 6
	case r.GID == id.groups[1] || slices.Contains(id.more, r.GID):
		mode >>= 3
	}
	return mode&want == want
}

// parent has c.object be the directory of the last name of a path, which is returned with what that is and what is recorded of it.
func (c *call) parent(name string) (base string, st unix.Stat_t, r layer.Record, err error) {
	dir, base := path.Split(name)
	if base == "" || base == "." || base == ".." {
		return "", st, r, errNative
	}
	if dir == "" {
		dir = "."
	}
	if c.object, err = c.lookup(dir, unix.O_DIRECTORY); err != nil {
		return "", st, r, errNative
	}
	if unix.Fstat(c.object, &st) != nil || !c.recorded(&st) {
		return "", st, r, errNative
	}
	if r, _, err = c.record(&st); err != nil {
		return "", st, r, errNative
	}
	return base, st, r, nil
}

// makes answers a call that makes something, or that opens a file to write to it.
func (c *call) makes() error {
	if c.s.rules.Root && len(c.s.identities) == 0 {
		return errNative
	}
	id, _ := c.identity()
	if first := c.s.rules.first(); id.users[1] == 0 && (!c.s.rules.Root || id.groups[1] == first.groups[1]) {
		return errNative
	}
	how, err := c.how()
	if err != nil {
		return errNative
	}
	name, err := c.readText(c.n.args[c.path], unix.PathMax)
	if err != nil {
		return errNative
	}
	if c.opens && how.Flags&unix.O_EXCL == 0 {
		if err := c.mayOpen(&id, name, how.Flags); err != unix.ENOENT {
			return err
		}
	}
	if c.opens && how.Flags&(unix.O_CREAT|unix.O_DIRECTORY|unix.O_PATH) != unix.O_CREAT {
		return errNative
	}
	if !c.opens && c.target == none && c.device == none { // a directory
		name = strings.TrimRight(name, "/")
	}
	base, st, r, err := c.parent(name)
	if err != nil {
		return errNative
	}
	var there unix.Stat_t
	if err := unix.Fstatat(c.object, base, &there, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
		return errNative
	}
	if !id.allowed(r, st.Mode, mayWrite|maySearch) {
		return unix.EACCES
	}
	if !c.s.rules.Root {
		return errNative // all that is new is recorded as the one user's
	}
	return c.making(base, how, id.makes(st.Mode, r))
}

// makes is whom something new belongs to that somebody makes in a directory.
func (id *identity) makes(dirMode uint32, dir layer.Record) layer.Owner {
	owner := layer.Owner{UID: id.users[1], GID: id.groups[1]}
	if dirMode&unix.S_ISGID != 0 {
		owner.GID = dir.GID
	}
	return owner
}

// asks refuses who asks whether he may write to what he would be refused to write to: programs decide by it where they put files.
func (c *call) asks() error {
	if c.s.rules.Root && len(c.s.identities) == 0 {
		return errNative
	}
	id, _ := c.identity()
	if c.arg(c.flags)&unix.AT_EACCESS == 0 {
		id.users[1], id.groups[1] = id.users[0], id.groups[0]
	}
	if id.users[1] == 0 || c.open() != nil {
		return errNative
	}
	var st unix.Stat_t
	if unix.Fstat(c.object, &st) != nil || !hasAttributes(&st) || !c.recorded(&st) {
		return errNative
	}
	if r, _, err := c.record(&st); err == nil && !id.allowed(r, st.Mode, mayWrite) {
		return unix.EACCES
	}
	return errNative
}

// alters answers a call that removes names or makes further ones.
func (c *call) alters() error {
	id, _ := c.identity()
	if id.users[1] == 0 {
		return errNative
	}
	for _, at := range [][2]int{{c.dir, c.path}, {c.dir2, c.path2}} {
		if at[1] == none {
			continue
		}
		c.close()
		c.object, c.root, c.dirfd = -1, -1, -1
		c.dir = at[0]
		name, err := c.readText(c.n.args[at[1]], unix.PathMax)
		if err != nil {
			return errNative
		}
		base, st, r, err := c.parent(strings.TrimRight(name, "/"))
		if err != nil {
			return errNative
		}
		if !id.allowed(r, st.Mode, mayWrite|maySearch) {
			return unix.EACCES
		}
		if st.Mode&unix.S_ISVTX != 0 && r.UID != id.users[1] && !c.owns(&id, base) {
			return unix.EPERM
		}
	}
	return errNative
}

// owns reports whether what has a name in the directory c.object belongs to somebody, or is not there.
func (c *call) owns(id *identity, base string) bool {
	fd, err := unix.Openat(c.object, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return true
	}
	_ = unix.Close(c.object)
	c.object = fd
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return true
	}
	r, _, err := c.record(&st)
	return err != nil || r.UID == id.users[1]
}

// how is what the call says of the file: its mode, and with which flags it is opened.
func (c *call) how() (how unix.OpenHow, err error) {
	if c.howAt == none {
		return unix.OpenHow{Flags: c.fixed | uint64(c.arg(c.flags)), Mode: uint64(c.arg(c.mode)) &^ unix.S_IFMT}, nil
	}
	var b [unsafe.Sizeof(how)]byte
	n, err := c.read(c.n.args[c.howAt], b[:])
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	how = unix.OpenHow{Flags: word(0), Mode: word(1), Resolve: word(2)}
	if how.Resolve != 0 {
		err = errNative
	}
	return how, err
}

// mayOpen refuses to open a file to write to it whom its record does not allow it; ENOENT: there is none.
func (c *call) mayOpen(id *identity, name string, flags uint64) error {
	follow := 0
	if flags&unix.O_NOFOLLOW != 0 {
		follow = unix.O_NOFOLLOW
	}
	var err error
	if c.object, err = c.lookup(name, follow); err != nil {
		if err == unix.ENOENT {
			return err
		}
		return errNative
	}
	var st unix.Stat_t
	if unix.Fstat(c.object, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || !c.recorded(&st) {
		return errNative
	}
	r, _, err := c.record(&st)
	if err == nil && flags&(unix.O_WRONLY|unix.O_RDWR|unix.O_TRUNC) != 0 && !id.allowed(r, st.Mode, mayWrite) {
		return unix.EACCES
	}
	return errNative
}

// making makes what the call says, as somebody's.
func (c *call) making(base string, how unix.OpenHow, owner layer.Owner) error {
	umask, err := c.umask()
	if err != nil {
		return err
	}
	dir, mode, closes := c.object, uint32(how.Mode)&0o7777&^umask, uint32(how.Flags)&unix.O_CLOEXEC
	c.object = -1
	defer unix.Close(dir)
	if err := c.valid(); err != nil {
		return err
	}
	opened := -1
	switch {
	case c.opens:
		how.Flags |= unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		how.Mode, how.Resolve = 0o600, unix.RESOLVE_BENEATH
		if opened, err = unix.Openat2(dir, base, &how); err != nil {
			return errNative
		}
		defer unix.Close(opened)
		c.object, err = unix.Openat(c.s.proc, "self/fd/"+strconv.Itoa(opened), unix.O_PATH|unix.O_CLOEXEC, 0)
	case c.target != none:
		var target string
		if target, err = c.readText(c.n.args[c.target], unix.PathMax); err == nil {
			err = c.valid() // what was read is the caller's
		}
		if err == nil {
			err = unix.Symlinkat(target, dir, base)
		}
	case c.device != none:
		err = unix.Mknodat(dir, base, c.arg(c.mode)&unix.S_IFMT|0o600, 0)
	default:
		err = unix.Mkdirat(dir, base, 0o700)
	}
	if err == nil && opened < 0 {
		c.object, err = unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	if err := c.give(mode, owner); err != nil {
		return err
	}
	if c.opens {
		return c.send(opened, closes)
	}
	return nil
}

// give gives what was just made its permissions and its owner.
func (c *call) give(mode uint32, owner layer.Owner) error {
	var st unix.Stat_t
	if err := unix.Fstat(c.object, &st); err != nil {
		return err
	}
	is := layer.Record{Owner: owner}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := c.setMode(&st, &is, mode|st.Mode&unix.S_ISGID); err != nil { // which a directory has of the one above
			return err
		}
	}
	return c.save(&st, is)
}

// addition is struct seccomp_notif_addfd.
type addition struct {
	id                            uint64
	flags, from, number, numFlags uint32
}

const ioctlAdd = 0x40182103 // SECCOMP_IOCTL_NOTIF_ADDFD

// errSent says that the call has been answered.
var errSent = errors.New("it has been answered")

// send gives the caller a descriptor, with flags, which is what its call gives.
func (c *call) send(fd int, flags uint32) error {
	a := addition{id: c.n.id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, from: uint32(fd), numFlags: flags}
	if err := c.s.ioctl(ioctlAdd, unsafe.Pointer(&a)); err != nil {
		return err
	}
	return errSent
}
