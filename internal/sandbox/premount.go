package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// premount mounts what needs none of the container's namespaces, below the root filesystem in
// the namespace of the calling thread, and returns the mounts that are left to the runtime. The
// runtime takes along what it finds mounted there. It could mount everything itself, but a
// mount takes it some hundred system calls, and this is a good part of a container's start.
func (b *bundle) premount(root *opened, mounts []specs.Mount) (rest []specs.Mount, err error) {
	for _, m := range mounts {
		if err := checkProcMount(m); err != nil {
			return nil, err
		}
		if b.inContainer(m) || within(m.Destination, rest) != "" {
			rest = append(rest, m)
			continue
		}
		if err := b.mountBelow(root, m); err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Destination, err)
		}
	}
	return rest, nil
}

// inContainer reports whether a mount is the runtime's: it shows something of a container's namespaces.
func (b *bundle) inContainer(m specs.Mount) bool {
	switch m.Type {
	case "bind":
		return m.Destination == "/dev" && b.foreign // a runtime must know of such a /dev, to leave it alone
	case "devpts": // in a user namespace its owners are those of who mounts it
		return b.ids != nil
	case "tmpfs", "sysfs": // sysfs shows the network, where this thread is
		return false
	case "cgroup":
		return cgroupNamespaces() || b.spec.hasCgroup() || len(ownCgroups()) == 0
	}
	return true
}

// mountBelow makes one mount.
func (b *bundle) mountBelow(root *opened, m specs.Mount) error {
	dest, err := mountTarget(root, m)
	if err != nil {
		return err
	}
	defer dest.Close()
	o := parseOptions(m.Options)
	if m.Type == "cgroup" {
		return b.mountCgroups(root, dest, m)
	}
	if m.Type == "bind" {
		return b.bindBelow(dest, m, o)
	}
	err = newFilesystem(m.Type, dest, o)
	if m.Type == "sysfs" && nested() && errors.Is(err, unix.EPERM) {
		return b.bindSys(dest, o.attrs)
	}
	if err != nil || !isDev(m) {
		return err
	}
	dev, err := openInRoot(root, m.Destination) // what is there now
	if err != nil {
		return err
	}
	return errors.Join(b.fillDev(dev.fd), dev.Close())
}

// bindBelow makes a bind mount.
func (b *bundle) bindBelow(dest *opened, m specs.Mount, o mountOptions) error {
	if len(m.UIDMappings) > 0 {
		o.ids = b.ids
	}
	mnt, err := cloneTree(m.Source, o)
	if err != nil {
		return err
	}
	if err = attach(mnt, dest.fd); err == nil {
		err = o.set(mnt, m.Source)
	}
	return errors.Join(err, unix.Close(mnt))
}

// mountTarget opens the destination inside of root, which is made if missing: this happens in other
// mounts, and where the changes of a container that ran before hide the layer of mount points. It
// stays, as Docker leaves it: nothing is removed from what a process can change. The kernel resolves
// the path without help; what pathrs does besides is only for what the kernel refuses.
func mountTarget(root *opened, m specs.Mount) (*opened, error) {
	if m.Type == "proc" || m.Type == "sysfs" || isDev(m) {
		return plainTarget(root, m.Destination)
	}
	dest, err := openInRoot(root, m.Destination)
	if errors.Is(err, os.ErrNotExist) {
		dest, err = makeInRoot(root, m.Destination, isFile(m))
	}
	if err == nil {
		return dest, nil
	}
	dest, err = withPathrs(root, func(root *os.File) (*os.File, error) { return pathrs.OpenatInRoot(root, m.Destination) })
	if !errors.Is(err, os.ErrNotExist) {
		return dest, err
	}
	if !isFile(m) {
		return makeDirs(root, m.Destination)
	}
	dir, err := makeDirs(root, filepath.Dir(m.Destination))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return makeFileAt(dir, filepath.Base(m.Destination))
}

// plainTarget opens a directory at the top of root, which is made if missing, and refuses a link in its place: what is
// hidden and read-only there, and what is written to there, would be elsewhere.
func plainTarget(root *opened, path string) (*opened, error) {
	name := filepath.Base(path)
	dir, err := openResolved(root, name, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, os.ErrNotExist) {
		dir, err = makeDirAt(root, name)
	}
	if err != nil {
		return nil, fmt.Errorf("the root filesystem's %s is not a directory: %w", path, err)
	}
	return dir, nil
}

// mountOptions are those of a mount in an OCI spec, sorted.
type mountOptions struct {
	attrs, recursive uint64 // of the mount, and of those below it: MOUNT_ATTR_*
	rbind            bool
	data             []string // of the filesystem
	ids              *idMap   // in which the owners of files are shown; nil: as they are
}

var attributes = map[string]uint64{
	"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV,
	"noexec": unix.MOUNT_ATTR_NOEXEC, "strictatime": unix.MOUNT_ATTR_STRICTATIME,
}

func parseOptions(options []string) (o mountOptions) {
	for _, option := range options {
		if attr, ok := attributes[option]; ok {
			o.attrs |= attr
		} else if attr, ok := attributes[strings.TrimPrefix(option, "r")]; ok {
			o.recursive |= attr
		} else if option == "rbind" {
			o.rbind = true
		} else if option != "bind" {
			o.data = append(o.data, option)
		}
	}
	return o
}

// cloneTree is a bind mount that is not attached yet.
func cloneTree(source string, o mountOptions) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if o.rbind {
		flags |= unix.AT_RECURSIVE
	}
	mnt, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	if err := o.ids.shift(mnt, source, o.rbind); err != nil {
		return -1, errors.Join(err, unix.Close(mnt))
	}
	return mnt, nil
}

// set gives an attached bind mount its attributes.
func (o *mountOptions) set(mnt int, source string) error {
	for _, change := range []struct {
		attrs uint64
		flags uint
	}{{o.attrs, unix.AT_EMPTY_PATH}, {o.recursive, unix.AT_EMPTY_PATH | unix.AT_RECURSIVE}} {
		if change.attrs == 0 {
			continue
		}
		err := setAttributes(mnt, change.flags, change.attrs)
		if err != nil {
			return &os.PathError{Op: "setting the attributes of the mount of", Path: source, Err: err}
		}
	}
	return nil
}

// setAttributes sets attributes of an attached mount, of which mnt is the top directory; before Linux 5.12 not of those
// below it.
func setAttributes(mnt int, flags uint, attrs uint64) error {
	if recursiveAttributes() {
		return unix.MountSetattr(mnt, "", flags, &unix.MountAttr{Attr_set: attrs})
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(mnt, &fs); err != nil {
		return err
	}
	return unix.Mount("", fmt.Sprint("/proc/self/fd/", mnt), "", uintptr(unix.MS_BIND|unix.MS_REMOUNT|flagsOf(attrs))|lockedFlags(&fs), "")
}

// newFilesystem mounts a fresh filesystem at dest.
func newFilesystem(kind string, dest *opened, o mountOptions) error {
	err := unix.Mount(kind, fmt.Sprint("/proc/self/fd/", dest.fd), kind, uintptr(flagsOf(o.attrs)), strings.Join(o.data, ","))
	if err != nil {
		return fmt.Errorf("mounting a %s: %w", kind, err)
	}
	return nil
}

// attach shows a detached mount at dest.
func attach(mnt, dest int) error {
	err := unix.MoveMount(mnt, "", dest, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// mountCgroups shows the own cgroup of each v1 hierarchy below dest, which is what is at m's destination, as runc does.
func (b *bundle) mountCgroups(root, dest *opened, m specs.Mount) error {
	o := parseOptions(m.Options)
	if err := newFilesystem("tmpfs", dest, mountOptions{attrs: o.attrs &^ unix.MOUNT_ATTR_RDONLY, data: []string{"mode=755"}}); err != nil {
		return err
	}
	top, err := openInRoot(root, m.Destination) // what is there now
	if err != nil {
		return err
	}
	defer top.Close()
	for _, c := range ownCgroups() {
		if err := unix.Mkdirat(top.fd, c.name, 0o755); err != nil {
			return fmt.Errorf("making the directory of cgroup %s: %w", c.name, err)
		}
		for _, alias := range c.aliases {
			if err := unix.Symlinkat(c.name, top.fd, alias); err != nil {
				return fmt.Errorf("naming cgroup %s %s: %w", c.name, alias, err)
			}
		}
		place := fmt.Sprintf("/proc/self/fd/%d/%s", top.fd, c.name)
		err := unix.Mount(b.cgroupPath(c), place, "", unix.MS_BIND, "")
		if err == nil && !recursiveAttributes() {
			err = unix.Mount("", place, "", uintptr(unix.MS_BIND|unix.MS_REMOUNT|flagsOf(o.attrs)), "")
		}
		if err != nil {
			return fmt.Errorf("mounting cgroup %s: %w", c.name, err)
		}
	}
	return os.NewSyscallError("mount_setattr", setAttributes(top.fd, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.attrs))
}

// ownCgroup is this process's cgroup in one v1 hierarchy.
type ownCgroup struct {
	name    string   // of the hierarchy's directory, such as "cpu,cpuacct"
	aliases []string // of it: "cpu", "cpuacct"
	path    string   // on the host
}

// has reports whether the hierarchy is that of a controller.
func (c *ownCgroup) has(controller string) bool {
	return c.name == controller || slices.Contains(c.aliases, controller)
}

// ownCgroups are those of all v1 hierarchies below /sys/fs/cgroup; empty if there are none, or
// they cannot be found.
var ownCgroups = sync.OnceValue(func() (own []ownCgroup) {
	paths, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup"))
	if err != nil {
		return nil
	}
	for _, m := range mounts {
		name, ok := strings.CutPrefix(m.Mountpoint, "/sys/fs/cgroup/")
		if !ok || strings.Contains(name, "/") {
			continue
		}
		c := ownCgroup{name: name, path: m.Mountpoint}
		if strings.Contains(name, ",") {
			c.aliases = strings.Split(name, ",")
		}
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			if path, ok := paths[option]; ok {
				rel, err := filepath.Rel(m.Root, path)
				if err == nil && filepath.IsLocal(rel) {
					c.path = filepath.Join(m.Mountpoint, rel)
				}
			}
		}
		own = append(own, c)
	}
	return own
})
