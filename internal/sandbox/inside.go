package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// inside is what the first process of a container does, in its namespaces, before it executes the container's program:
// a list of system calls. Everything is decided here, outside; and what can be done outside was done (premount).
type inside struct {
	initproc.Calls
	b     *bundle
	trees map[string]*initproc.Call // of the host, by where they are to be mounted
}

// calls are those for a bundle with what is left to be mounted; filter is the compiled seccomp filter, or nil.
func (b *bundle) calls(filter []byte) (*inside, error) {
	in := &inside{b: b, trees: map[string]*initproc.Call{}}
	p := b.oci.Process
	in.Add("starting a session", unix.SYS_SETSID)
	in.signals()
	if b.hasUserNS() { // made by its root, who then has /dev/mqueue
		in.Add("making an IPC namespace", unix.SYS_UNSHARE, unix.CLONE_NEWIPC)
	}
	if b.hasCgroupView() {
		in.Add("making a cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	// Not the session's keys of who started us. The keyring has no name by which another container could join it.
	in.keyring()
	in.keepProc()
	in.enterRoot()
	if err := in.mounts(); err != nil {
		return nil, err
	}
	in.Add("setting the umask", unix.SYS_UMASK, 0o022)
	in.streams()
	in.Add("setting the host name", unix.SYS_SETHOSTNAME, b.oci.Hostname, len(b.oci.Hostname))
	if b.oci.Domainname != "" {
		in.Add("setting the domain name", unix.SYS_SETDOMAINNAME, b.oci.Domainname, len(b.oci.Domainname))
	}
	in.sysctls(b.oci.Linux.Sysctl)
	in.closePaths()
	in.Add("unmounting the null device", unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	in.Add("changing to /", unix.SYS_CHDIR, "/")
	return in, in.become(p, filter)
}

// hasCgroupView reports whether the container has a cgroup namespace. Other hierarchies than that of version 2 are mounted,
// where a namespace makes it see no more than what is there.
func (b *bundle) hasCgroupView() bool { return cgroupNamespaces() || ownView() && b.cgroup == nil }

// keyring gives the process one of its own, unless it is in a container where nobody gets to any key.
func (in *inside) keyring() {
	in.Add("making a keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, nil).Forgive(unix.ENOSYS, unix.EPERM)
}

// signals has the process ignore none that this one was told to ignore, as nohup does and a shell for what is in the
// background: what a step does is not to depend on how slipway was started. Handlers end with the program anyway.
func (in *inside) signals() {
	byDefault := in.Bytes(make([]byte, 32)) // struct sigaction of the kernel
	for ignored := ignoredSignals(); ignored != 0; ignored &= ignored - 1 {
		in.Add("resetting a signal", unix.SYS_RT_SIGACTION, bits.TrailingZeros64(ignored)+1, byDefault, nil, 8)
	}
}

// ignoredSignals are those that this process ignores; signal 1 is bit 0.
func ignoredSignals() uint64 {
	status, _ := os.ReadFile("/proc/thread-self/status")
	_, rest, _ := strings.Cut(string(status), "\nSigIgn:")
	line, _, _ := strings.Cut(rest, "\n")
	ignored, _ := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return ignored
}

// enterRoot has the container's root be the process's, and unmounts the host's: what is still needed of it was taken along
// as detached mounts. For from a path, by a link, one would come to it as long as it is there. The null device's directory
// is the working directory, and lies on the root.
func (in *inside) enterRoot() {
	root := in.b.rootfs
	if in.b.hasUserNS() {
		// What a user namespace has inherited is locked. This is not, and shows all of it.
		in.Add("binding the root filesystem", unix.SYS_MOUNT, root, root, nil, unix.MS_BIND|unix.MS_REC, nil)
	}
	host := in.Add("opening the host's root", unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	null := in.tree("taking along a null device", filepath.Dir(in.b.null))
	for _, m := range in.b.oci.Mounts {
		switch what := "mounting " + m.Destination; m.Type {
		case "bind":
			in.trees[m.Destination] = in.tree(what, m.Source)
		case "cgroup":
			in.trees[m.Destination] = in.tree(what, in.b.cgroupDir()).Forgive(unix.ENOENT, unix.EACCES, unix.EPERM)
		case "proc": // a user namespace may have it only where it sees the host's
			in.trees[m.Destination] = in.proc(what, parseOptions(m.Options))
		}
	}
	in.Add("changing to the root filesystem", unix.SYS_CHDIR, root)
	pivot := in.Add(rootWhat, unix.SYS_PIVOT_ROOT, ".", ".").Forgive(unix.EPERM)
	in.Add("changing to the host's root", unix.SYS_FCHDIR, host).After(pivot, 0)
	in.Add("unmounting the host's root", unix.SYS_UMOUNT2, ".", unix.MNT_DETACH).After(pivot, 0)
	in.moveRoot(pivot, host)
	in.attach("mounting a null device", null, "/", 0)
	in.Add("changing to the null device", unix.SYS_FCHDIR, null)
	in.Add("making the null device read-only", unix.SYS_MOUNT, nil, ".", nil, unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, nil)
	in.Add("closing the null device", unix.SYS_CLOSE, null)
	in.Add("closing the host's root", unix.SYS_CLOSE, host)
}

const rootWhat = "changing the root filesystem"

// moveRoot has the root filesystem cover the host's where pivot_root(2) is refused, as in containers with Docker's profile.
// What is covered is out of reach for who may not unmount. What tells and changes most is unmounted before, where it may be.
func (in *inside) moveRoot(pivot, host *initproc.Call) {
	root := in.Add(rootWhat, unix.SYS_OPENAT, unix.AT_FDCWD, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).After(pivot, unix.EPERM)
	in.Add(rootWhat, unix.SYS_FCHDIR, host).After(pivot, unix.EPERM)
	for _, name := range []string{"proc", "sys", "dev"} {
		in.Add(rootWhat, unix.SYS_UMOUNT2, name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW).After(pivot, unix.EPERM).Forgive(unix.EINVAL, unix.ENOENT, unix.ENOTDIR, unix.EBUSY)
	}
	in.Add(rootWhat, unix.SYS_FCHDIR, root).After(pivot, unix.EPERM)
	in.Add(rootWhat, unix.SYS_CLOSE, root).After(pivot, unix.EPERM)
	in.Add(rootWhat, unix.SYS_MOUNT, ".", "/", nil, unix.MS_MOVE, nil).After(pivot, unix.EPERM)
	in.Add(rootWhat, unix.SYS_CHROOT, ".").After(pivot, unix.EPERM)
}

// tree is a copy of what is mounted somewhere, for attach.
func (in *inside) tree(what, path string) *initproc.Call {
	return in.Add(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
}

func (in *inside) proc(what string, o mountOptions) *initproc.Call {
	if boundProc() {
		return in.tree(what, "/proc")
	}
	return newProc(&in.Calls, what, o)
}

// newProc makes a /proc of the namespaces that the calls are made in.
func newProc(in *initproc.Calls, what string, o mountOptions) *initproc.Call {
	fs := in.Add(what, unix.SYS_FSOPEN, "proc", unix.FSOPEN_CLOEXEC)
	in.Add(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, "source", "proc", 0) // as mounts are told
	in.Add(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, nil, nil, 0)
	tree := in.Add(what, unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, int(o.attrs))
	in.Add(what, unix.SYS_CLOSE, fs)
	return tree
}

// attach mounts a tree at a path that is no link, unless flags say that it may be one.
func (in *inside) attach(what string, tree *initproc.Call, path string, flags int) *initproc.Call {
	return in.Add(what, unix.SYS_MOVE_MOUNT, tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH|flags)
}

// mounts mounts what is left.
func (in *inside) mounts() error {
	for _, m := range in.b.oci.Mounts {
		if err := in.mount(m); err != nil {
			return err
		}
	}
	return nil
}

// flagsOf are attributes of a mount as flags of mount(2).
func flagsOf(attrs uint64) (flags int) {
	for attr, flag := range map[uint64]int{
		unix.MOUNT_ATTR_RDONLY: unix.MS_RDONLY, unix.MOUNT_ATTR_NOSUID: unix.MS_NOSUID, unix.MOUNT_ATTR_NODEV: unix.MS_NODEV,
		unix.MOUNT_ATTR_NOEXEC: unix.MS_NOEXEC, unix.MOUNT_ATTR_STRICTATIME: unix.MS_STRICTATIME,
	} {
		if attrs&attr != 0 {
			flags |= flag
		}
	}
	return flags
}

func (in *inside) mount(m specs.Mount) error {
	o := parseOptions(m.Options)
	what := "mounting " + m.Destination
	switch m.Type {
	case "bind":
		if len(m.UIDMappings) > 0 {
			return fmt.Errorf("mount at %s: with a user namespace it cannot be there (--userns=host does without)", m.Destination)
		}
		in.attach(what, in.trees[m.Destination], m.Destination, unix.MOVE_MOUNT_T_SYMLINKS)
		in.Add(what, unix.SYS_CLOSE, in.trees[m.Destination])
		switch flags := flagsOf(o.attrs); {
		case flags != 0 && recursiveAttributes(): // it keeps those of the source
			in.Add(what, unix.SYS_MOUNT_SETATTR, unix.AT_FDCWD, m.Destination, 0, in.Words(int(o.attrs), 0, 0, 0), mountAttrSize)
		case flags != 0:
			in.Add(what, unix.SYS_MOUNT, nil, m.Destination, nil, unix.MS_BIND|unix.MS_REMOUNT|flags, nil)
		}
		if o.recursive != 0 {
			in.Add(what, unix.SYS_MOUNT_SETATTR, unix.AT_FDCWD, m.Destination, unix.AT_RECURSIVE, in.Words(int(o.recursive), 0, 0, 0), mountAttrSize)
		}
	case "proc":
		in.attach(what, in.trees[m.Destination], m.Destination, 0)
		if profile := in.b.oci.Process.ApparmorProfile; profile != "" {
			in.appArmor(in.trees[m.Destination], profile)
		}
		in.Add(what, unix.SYS_CLOSE, in.trees[m.Destination])
		if boundProc() {
			in.closeProc(m.Destination, o.attrs)
		}
	case "cgroup":
		flags := flagsOf(o.attrs)
		mount := in.Add(what, unix.SYS_MOUNT, "cgroup", m.Destination, "cgroup2", flags, nil).Forgive(unix.EPERM, unix.EBUSY)
		for _, errno := range []unix.Errno{unix.EPERM, unix.EBUSY} { // not everywhere a user namespace may
			in.attach(what, in.trees[m.Destination], m.Destination, 0).After(mount, errno)
			in.Add(what, unix.SYS_MOUNT, nil, m.Destination, nil, unix.MS_BIND|unix.MS_REMOUNT|flags, nil).After(mount, errno)
		}
		in.Add(what, unix.SYS_CLOSE, in.trees[m.Destination]).Forgive(unix.EBADF)
	default:
		in.Add(what, unix.SYS_MOUNT, m.Source, m.Destination, m.Type, flagsOf(o.attrs), strings.Join(o.data, ","))
	}
	return nil
}

// closeProc has nothing be written to a /proc in which others have files, too: some of them belong to whoever has the ID of
// the process that they are of, whatever its rights are.
func (in *inside) closeProc(path string, attrs uint64) {
	if !in.b.spec.Insecure {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	what := "closing " + path
	set := in.Add(what, unix.SYS_MOUNT_SETATTR, unix.AT_FDCWD, path, unix.AT_RECURSIVE, in.Words(int(attrs), 0, 0, 0), mountAttrSize).Forgive(unix.ENOSYS)
	in.Add(what, unix.SYS_MOUNT, nil, path, nil, unix.MS_BIND|unix.MS_REMOUNT|flagsOf(attrs), nil).After(set, unix.ENOSYS)
}

// mountAttrSize is that of struct mount_attr.
const mountAttrSize = 32

// lxcfs are the files of /proc that may be covered: those that LXCFS emulates.
var lxcfs = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
	"/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// checkProcMount refuses what would be taken for something of /proc, as runc does: what it covers there is for the
// container's protection. What is to be at /proc itself is covered by it.
func checkProcMount(m specs.Mount) error {
	if strings.HasPrefix(m.Destination, "/proc/") && !slices.Contains(lxcfs, m.Destination) {
		return fmt.Errorf("mount at %s: it cannot be inside /proc", m.Destination)
	}
	return nil
}

// streams makes the terminal, or opens the container's own null device: slipway's has a path on the host, which
// /proc/self/fd would tell.
func (in *inside) streams() {
	owner := int(in.b.oci.Process.User.UID)
	if in.b.spec.Terminal {
		in.terminal()
	} else if slices.Contains(in.b.given[:], false) {
		path := filepath.Base(in.b.null)
		if in.b.ownDev {
			path = "/dev/null"
		}
		null := in.Add("opening /dev/null", unix.SYS_OPENAT, unix.AT_FDCWD, path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		for fd, given := range in.b.given {
			if !given {
				in.Add("opening /dev/null", unix.SYS_DUP3, null, fd, 0)
			}
		}
		in.Add("closing /dev/null", unix.SYS_CLOSE, null)
	}
	if owner == 0 {
		return
	}
	for fd, given := range in.b.given {
		if given || in.b.spec.Terminal {
			in.Add("giving the streams to the user", unix.SYS_FCHOWN, fd, owner, -1).Forgive(unix.EPERM, unix.EROFS, unix.EINVAL)
		}
	}
}

// terminal makes the container's terminal and sends the other end of it.
func (in *inside) terminal() {
	const what = "making the terminal"
	master := in.Add(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	in.Add(what, unix.SYS_IOCTL, master, unix.TIOCSPTLCK, in.Words(0))
	if size := in.b.oci.Process.ConsoleSize; size != nil { // before anything is executed that may ask for it
		in.Add(what, unix.SYS_IOCTL, master, unix.TIOCSWINSZ, in.Bytes(winsize(size)))
	}
	slave := in.Add(what, unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY) // O_CLOEXEC would be seen in F_GETFL for ever
	if in.b.rootfs != "" {                                                                     // the first process's is the container's console
		console := in.Add(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/console", unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o666)
		tree := in.Add(what, unix.SYS_OPEN_TREE, slave, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		in.Add(what, unix.SYS_MOVE_MOUNT, tree, "", console, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		in.Add(what, unix.SYS_CLOSE, tree)
		in.Add(what, unix.SYS_CLOSE, console)
	}
	const first = initproc.Socket + 1 // the number of master: nothing else is open
	in.Add(what, unix.SYS_SENDMSG, initproc.Socket, in.message(first), 0)
	for fd := range 3 {
		in.Add(what, unix.SYS_DUP3, slave, fd, 0)
	}
	in.Add(what, unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	in.Add(what, unix.SYS_CLOSE, slave)
	in.Add(what, unix.SYS_CLOSE, master)
}

// winsize is a size as the kernel has it.
func winsize(size *specs.Box) (b []byte) {
	for _, n := range []uint{size.Height, size.Width, 0, 0} {
		b = binary.NativeEndian.AppendUint16(b, uint16(n))
	}
	return b
}

// message is a struct msghdr with one byte and a descriptor.
func (in *inside) message(fd int) initproc.Place {
	rights := unix.UnixRights(fd)
	iov := in.Words(in.Text("t"), 1)
	return in.Words(0, 0, iov, 1, in.Bytes(rights), len(rights), 0)
}

// appArmor has the program be executed with a profile. That is said to a file of the filesystem that the kernel has just
// made for it: by a path it might be said to something that only looks like it.
func (in *inside) appArmor(proc *initproc.Call, profile string) {
	path := "self/attr/apparmor/exec"
	if _, err := os.Stat("/proc/" + path); err != nil {
		path = "self/attr/exec"
	}
	text := "exec " + profile
	what := "setting the AppArmor profile " + profile
	file := in.Add(what, unix.SYS_OPENAT, proc, path, unix.O_WRONLY|unix.O_CLOEXEC)
	in.Add(what, unix.SYS_WRITE, file, text, len(text))
	in.Add(what, unix.SYS_CLOSE, file)
}

// closePaths makes paths read-only, and hides others: a directory by an empty one, a file by a null device that is the
// container's own. Both are where the null device is, and read-only as that is.
func (in *inside) closePaths() {
	for _, path := range in.b.oci.Linux.ReadonlyPaths {
		what := "making " + path + " read-only"
		bind := in.Add(what, unix.SYS_MOUNT, path, path, nil, unix.MS_BIND|unix.MS_REC, nil).Forgive(unix.ENOENT)
		// They are in /proc, which is mounted with these flags.
		in.Add(what, unix.SYS_MOUNT, nil, path, nil, unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, nil).After(bind, 0)
	}
	for _, path := range in.b.oci.Linux.MaskedPaths {
		what := "masking " + path
		mask := in.Add(what, unix.SYS_MOUNT, filepath.Base(in.b.null), path, nil, unix.MS_BIND, nil).Forgive(unix.ENOENT, unix.ENOTDIR)
		in.Add(what, unix.SYS_MOUNT, emptyName, path, nil, unix.MS_BIND, nil).After(mask, unix.ENOTDIR)
	}
}

// prepareInside makes what the calls expect to be there.
func (b *bundle) prepareInside() (err error) {
	back, err := b.ids.become()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	root, err := openRoot(b.rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	rest := b.oci.Mounts
	b.oci.Mounts = nil
	for _, m := range rest {
		switch {
		case m.Type == "cgroup" && !cgroupNamespaces(): // now there is the container's
			err = b.mountBelow(root, m)
		case within(m.Destination, rest) == "":
			var target *opened
			if target, err = mountTarget(root, m); err == nil {
				err = target.Close()
			}
		}
		if err != nil {
			return fmt.Errorf("mounting %s: %w", m.Destination, err)
		}
		if m.Type != "cgroup" || cgroupNamespaces() {
			b.oci.Mounts = append(b.oci.Mounts, m)
		}
	}
	if cwd := filepath.Join("/", b.spec.Cwd); b.cwdInMount && within(cwd, rest) == "" {
		dir, err := makeDirs(root, cwd)
		if err != nil {
			return fmt.Errorf("making working directory %s: %w", cwd, err)
		}
		return dir.Close()
	}
	return nil
}

// emptyName is that of the empty directory beside the null device.
const emptyName = "empty"

// makeNull makes a null device for what is to be empty or nowhere, which is none of the host's, and an empty directory
// for the same, in a directory of their own.
func (b *bundle) makeNull() error {
	dir := filepath.Join(b.scratch, "nowhere")
	b.null = filepath.Join(dir, "null")
	for _, path := range []string{dir, filepath.Join(dir, emptyName)} {
		if err := unix.Mkdir(path, 0o755); err != nil {
			return &os.PathError{Op: "mkdir", Path: path, Err: err}
		}
	}
	if !nested() {
		if err := unix.Mknod(b.null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			return &os.PathError{Op: "mknod", Path: b.null, Err: err}
		}
		return nil
	}
	// In a user namespace nobody can make one, nor change the host's.
	if err := unix.Mknod(b.null, unix.S_IFREG|0o600, 0); err != nil {
		return &os.PathError{Op: "mknod", Path: b.null, Err: err}
	}
	if err := unix.Mount("/dev/null", b.null, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "mount", Path: b.null, Err: err}
	}
	return nil
}
