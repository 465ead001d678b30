package owners

import (
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// What a process asks of a file is answered by the kernel where the disk has it, and else with what is recorded. So the supervisor looks at each
// file that is asked for, and writes an answer only if it is another one than the kernel's: what goes wrong while it looks is the kernel's to say.

// statFlags are those of calls that ask, beside the ones that all calls have.
const statFlags = unix.AT_NO_AUTOMOUNT | unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC

// stat answers who owns a file, and what the disk cannot hold besides.
func (c *call) stat() error {
	if c.plain() || c.open() != nil {
		return errNative
	}
	var x unix.Statx_t
	flags := unix.AT_EMPTY_PATH | int(c.arg(c.flags))&statFlags
	if unix.Statx(c.object, "", flags, int(c.arg(c.mask))|unix.STATX_BASIC_STATS|unix.STATX_BTIME|unix.STATX_MNT_ID, &x) != nil {
		return errNative
	}
	r, differs := c.shown(&x)
	if !differs {
		return errNative
	}
	if c.mask == none {
		return c.giveStat(r)
	}
	if c.arg(c.mask)&unix.STATX_MNT_ID == 0 {
		x.Mask &^= unix.STATX_MNT_ID
	}
	x.Uid, x.Gid = r.UID, r.GID
	if r.Mode != 0 {
		x.Mode, x.Rdev_major, x.Rdev_minor = uint16(r.Mode), r.Major, r.Minor
	}
	return c.write(c.n.args[c.buffer], unsafe.Slice((*byte)(unsafe.Pointer(&x)), unsafe.Sizeof(x)))
}

// plain reports whether the kernel's answer is the right one, if that can be seen at a glance: most files have no record. The path is looked up as if it
// were this process's, and by a number that may be another process's by now: what is found decides no more than whether there is a second look.
func (c *call) plain() bool {
	if !c.s.rules.Root || c.s.rules.Fake || !c.s.rooted || len(c.s.below()) > 0 || c.s.hasLinks() {
		return false
	}
	process := c.s.names + strconv.Itoa(c.s.proc) + "/" + strconv.Itoa(int(c.n.pid)) + "/"
	begin, name := process+"cwd", ""
	if fd := int32(c.arg(c.dir)); c.dir != none && fd != unix.AT_FDCWD {
		begin = process + "fd/" + strconv.Itoa(int(fd))
	}
	if c.path != none && c.n.args[c.path] != 0 {
		var err error
		if name, err = c.readText(c.n.args[c.path], unix.PathMax); err != nil {
			return true
		}
		if _, own := ownFile(name); own {
			return false
		}
	}
	get := unix.Getxattr
	switch {
	case name == "" && (c.path == none || c.arg(c.flags)&unix.AT_EMPTY_PATH != 0):
		name = begin
	case name == "":
		return true
	case c.nofollow || c.arg(c.flags)&unix.AT_SYMLINK_NOFOLLOW != 0:
		get = unix.Lgetxattr
	}
	if name != begin && name[0] != '/' {
		name = begin + "/" + name
	}
	_, err := get(name, layer.OwnerRecord, nil)
	return err != nil && err != unix.ENAMETOOLONG // which the longer path may be
}

// giveStat writes the answer of the calls that are older than statx(2), whose fields are in the order of the architecture.
func (c *call) giveStat(r layer.Record) error {
	var st unix.Stat_t
	if unix.Fstat(c.object, &st) != nil {
		return errNative
	}
	st.Uid, st.Gid = r.UID, r.GID
	if r.Mode != 0 {
		st.Mode, st.Rdev = r.Mode, unix.Mkdev(r.Major, r.Minor)
	}
	return c.write(c.n.args[c.buffer], unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
}

// shown is what a file is to look like, and whether the kernel would say something else. What is mounted from elsewhere has records if slipway gave it some.
func (c *call) shown(x *unix.Statx_t) (r layer.Record, differs bool) {
	st := unix.Stat_t{Dev: unix.Mkdev(x.Dev_major, x.Dev_minor), Ino: x.Ino, Mode: uint32(x.Mode)}
	here := c.inPlace(x.Mnt_id, st.Dev)
	if !here && !hasAttributes(&st) {
		return r, false
	}
	r, found := c.find(&st, x.Mtime.Sec*1e9+int64(x.Mtime.Nsec))
	rules := &c.s.rules
	switch {
	case found && r.Mode != 0 && !sameType(r.Mode, st.Mode) && x.Size != 0: // as whoever reads the layer takes it
		return r, false
	case found:
		return r, true
	case !here || rules.Root && !rules.Fake:
		return r, false
	case !rules.Root && c.own(x):
		r.Owner = layer.Owner{UID: rules.UID, GID: rules.GID}
	}
	if rules.Fake { // of the disk's, the one user and the one group stand for others
		if x.Uid != c.s.uid {
			r.UID = x.Uid
		}
		if x.Gid != c.s.gid {
			r.GID = x.Gid
		}
	}
	return r, true
}

func sameType(a, b uint32) bool { return a&unix.S_IFMT == b&unix.S_IFMT }

// find looks for the record of an object, by its attributes or by where it is.
func (c *call) find(st *unix.Stat_t, mtime int64) (r layer.Record, found bool) {
	if r, found = c.s.fixed[Inode{st.Dev, st.Ino}]; found {
		return r, true
	}
	if hasAttributes(st) {
		var b [64]byte
		n, err := unix.Getxattr(c.objectPath(), layer.OwnerRecord, b[:])
		if err != nil {
			return r, false
		}
		return layer.ParseRecord(string(b[:n]))
	}
	if l, found := c.link(st); found {
		return l.Record, true
	}
	return c.linkBelow(mtime)
}

// own reports whether a file without a record was made by the process's user: since the process began, and neither in a layer below nor as a copy of what is there.
func (c *call) own(x *unix.Statx_t) bool {
	if c.enterRoot() != nil {
		return false
	}
	path, err := c.where()
	if err != nil {
		return false
	}
	for _, dir := range c.s.kept {
		if rest, ok := strings.CutPrefix(path, dir); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	if x.Mask&unix.STATX_BTIME != 0 && x.Btime.Sec*1e9+int64(x.Btime.Nsec) <= c.s.since {
		return false
	}
	return c.s.upper == nil || c.above(path)
}

// above reports whether what is at a path was made in overlayfs's upper directory: it is there, and no copy, nor a directory that is merged with others. Of what has
// no path there that is known, its age has to do: what was deleted while it is open, and what a caller with a root of its own sees.
func (c *call) above(path string) bool {
	if !c.s.rooted && c.s.firstRoot != inodeOf(c.root) {
		return true
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	for range 10 { // what is moved to and fro is somebody else's
		if path == "" {
			return false
		}
		fd, err := unix.Openat2(int(c.s.upper.Fd()), path, &how)
		if err == nil {
			defer unix.Close(fd)
			_, err = unix.Getxattr(c.s.names+strconv.Itoa(fd), layer.OverlayOrigin, nil)
			return err != nil
		}
		if strings.HasSuffix(path, " (deleted)") {
			return true
		}
		was := path
		if path, err = c.where(); err != nil || path == was {
			return false
		}
	}
	return false
}

// where is the path of the object in the thread's root, which is the caller's.
func (c *call) where() (string, error) {
	path, err := readlink(c.s.fds, strconv.Itoa(c.object))
	if len(path) > 0 && path[0] == '/' {
		path = path[1:]
	}
	return path, err
}
