package owners

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// unchanged is an owner that a call leaves as it is.
const unchanged = 0xffffffff

func (c *call) chown() error {
	if err := c.open(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(c.object, &st); err != nil {
		return err
	}
	if !c.recorded(&st) {
		return c.elsewhere()
	}
	uid, gid := c.arg(c.uid), c.arg(c.gid)
	old, found, err := c.record(&st)
	if err != nil {
		return err
	}
	if !c.may(old.Owner, uid, gid) {
		return unix.EPERM
	}
	if uid == unchanged && gid == unchanged {
		return nil
	}
	is := old
	if uid != unchanged {
		is.UID = uid
	}
	if gid != unchanged {
		is.GID = gid
	}
	if err := c.dropPrivileges(&st, &is); err != nil {
		return err
	}
	if found && is == old {
		return nil
	}
	return c.save(&st, is)
}

// elsewhere is what is answered of files that are not recorded: that it was done, to who is root.
func (c *call) elsewhere() error {
	if c.s.rules.Root {
		return nil
	}
	return unix.EPERM
}

// may reports whether the caller may change an owner.
func (c *call) may(old layer.Owner, uid, gid uint32) bool {
	id, _ := c.identity()
	if id.users[1] == 0 || uid == unchanged && gid == unchanged {
		return true
	}
	if old.UID != id.users[1] || uid != unchanged && uid != old.UID {
		return false
	}
	return gid == unchanged || gid == old.GID || gid == id.groups[1] || slices.Contains(id.more, gid)
}

// dropPrivileges takes from a file what the kernel takes from one that gets another owner, and makes one that slipway could not
// change one that it can.
func (c *call) dropPrivileges(st *unix.Stat_t, is *layer.Record) error {
	if !hasAttributes(st) {
		return nil
	}
	mode := st.Mode & 0o7777
	if is.Mode != 0 {
		mode = is.Mode & 0o7777
	}
	want := mode
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		if want &^= unix.S_ISUID; want&unix.S_IXGRP != 0 {
			want &^= unix.S_ISGID
		}
		if err := c.byName(func(name string) error {
			for _, attr := range []string{"security.capability", layer.HeldRecord + "security.capability"} {
				if err := unix.Removexattr(name, attr); err != nil && err != unix.ENODATA && err != unix.ENOTSUP && err != unix.EPERM {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if want == mode && want|c.locked(st) == st.Mode&0o7777 {
		return nil
	}
	return c.setMode(st, is, want)
}

// locked are the permissions that an object needs so that who has no capabilities can read and change it.
func (c *call) locked(st *unix.Stat_t) uint32 {
	switch {
	case !c.s.rules.Fake || !hasAttributes(st):
		return 0
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return 0o700
	}
	return 0o600
}

// setMode gives an object permissions, and notes in its record those that it cannot have.
func (c *call) setMode(st *unix.Stat_t, is *layer.Record, want uint32) error {
	disk := want | c.locked(st)
	err := c.byName(func(name string) error { return unix.Chmod(name, disk) })
	if err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if is.Mode != 0 {
		kind = is.Mode & unix.S_IFMT
	}
	switch {
	case disk != want || kind != st.Mode&unix.S_IFMT:
		is.Mode = kind | want
	default:
		is.Mode = 0
	}
	return nil
}

func (c *call) chmod() error {
	if err := c.open(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(c.object, &st); err != nil {
		return err
	}
	if !hasAttributes(&st) || !c.recorded(&st) {
		return errNative
	}
	old, found, err := c.record(&st)
	if err != nil {
		return err
	}
	if id, _ := c.identity(); id.users[1] != 0 && id.users[1] != old.UID {
		return unix.EPERM
	}
	if !c.s.rules.Fake {
		return errNative
	}
	is := old
	if err := c.setMode(&st, &is, c.arg(c.mode)&0o7777); err != nil {
		return err
	}
	if is == old || !found && is.Mode == 0 {
		return nil
	}
	return c.save(&st, is)
}

// mknod makes an empty file that stands for a device, or what is none.
func (c *call) mknod() error {
	mode, device := c.arg(c.mode), uint64(c.arg(c.device))
	if kind := mode & unix.S_IFMT; !c.s.rules.Root || kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return c.makes()
	}
	is := layer.Record{Major: unix.Major(device), Minor: unix.Minor(device)}
	id, _ := c.identity()
	if id.users[1] != 0 || mode&unix.S_IFMT == unix.S_IFCHR && device == 0 { // a whiteout, which overlayfs lets nobody make
		return unix.EPERM
	}
	name, err := c.readText(c.n.args[c.path], unix.PathMax)
	if err != nil {
		return err
	}
	base, st, dir, err := c.parent(name)
	if err != nil {
		return err
	}
	is.Owner = id.makes(st.Mode, dir)
	umask, err := c.umask()
	if err != nil {
		return err
	}
	is.Mode = mode & (unix.S_IFMT | 0o7777) &^ umask
	if err := unix.Mknodat(c.object, base, unix.S_IFREG|0o600, 0); err != nil {
		return err
	}
	made, err := unix.Openat(c.object, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = unix.Close(c.object)
	c.object = made
	if err := unix.Fstat(made, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 { // somebody has put something else there
		return unix.EEXIST
	}
	return c.save(&st, is)
}

// umask is that of the caller.
func (c *call) umask() (uint32, error) {
	fd, err := unix.Openat(c.s.proc, strconv.Itoa(int(c.n.pid))+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, errNative
	}
	f := os.NewFile(uintptr(fd), "status")
	defer f.Close()
	if err := c.valid(); err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "Umask:"); ok {
			umask, err := strconv.ParseUint(strings.TrimSpace(value), 8, 32)
			return uint32(umask), err
		}
	}
	return 0o022, nil
}
