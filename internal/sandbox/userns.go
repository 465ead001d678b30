package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A process with a user namespace has other IDs on the host than it sees: its root is nobody there. What is
// on the disk has the owners that the process sees, as without one: layers and caches are shown to it through
// mounts that map them. What is made for one run alone, in memory, has the host's IDs. The thread that makes
// it is the namespace's root for all filesystems (its fsuid), with its own capabilities: so what it makes
// belongs to that root, and overlayfs, which makes files as who mounted it, can make them.

// idCount is how many IDs a namespace has: all that the tools of distributions give out, and nobody, 65534.
const idCount = 1 << 16

// firstID is the first of the host's IDs where /etc/subuid has none for slipway or root. It is beyond what
// useradd gives to users (up to 600100000), systemd to containers (to 1879048191) and FreeIPA and sssd to a
// domain's users (to 2000200000), and below what systemd keeps for foreign images (from 2147352576).
const firstID = 0x7f000000

// idMap says which IDs of the host those of a user namespace are. A nil one stands for the host's own.
type idMap struct {
	user.IdentityMapping
	uid, gid int      // of its root on the host
	ns       *os.File // a namespace with the mapping
}

// newIDMap makes a namespace whose mapping is that of all containers of this process.
func newIDMap() (*idMap, error) {
	if os.Geteuid() != 0 || nested() {
		return nil, errors.New("making a user namespace: this needs root of the host: --userns=host does without")
	}
	mapping, err := hostIDs("/etc", user.LoadIdentityMapping)
	if err != nil {
		return nil, fmt.Errorf("making a user namespace: %w", err)
	}
	m := &idMap{IdentityMapping: mapping}
	m.uid, m.gid = mapping.RootPair()
	m.ns, err = mount.GetUsernsFD(mappingText(mapping.UIDMaps), mappingText(mapping.GIDMaps))
	if err != nil {
		return nil, fmt.Errorf("making a user namespace: %w (--userns=host does without)", err)
	}
	return m, nil
}

// hostIDs are the IDs that /etc/subuid and /etc/subgid have for the user slipway, or else for root, or a
// range that nobody has. etc is /etc, load is user.LoadIdentityMapping.
func hostIDs(etc string, load func(name string) (user.IdentityMapping, error)) (user.IdentityMapping, error) {
	for _, name := range []string{"slipway", "root"} {
		m, err := load(name)
		if err != nil {
			continue // no such user, or no IDs for it
		}
		if countIDs(m.UIDMaps) < idCount || countIDs(m.GIDMaps) < idCount {
			return m, fmt.Errorf("/etc/subuid and /etc/subgid have less than %d IDs for %s", idCount, name)
		}
		return m, nil
	}
	all := []user.IDMap{{ID: 0, ParentID: firstID, Count: idCount}}
	if taken := takenID(etc); taken != "" {
		return user.IdentityMapping{}, fmt.Errorf("%s is among the %d IDs from %d that it would have: give others to root in /etc/subuid and /etc/subgid", taken, idCount, firstID)
	}
	return user.IdentityMapping{UIDMaps: all, GIDMaps: all}, nil
}

// takenID says who has one of the default IDs by the files in etc; "" is nobody. A file that cannot be read names nobody.
func takenID(etc string) string {
	in := func(first, count int64) bool { return first < firstID+idCount && first+count > firstID }
	users, err := user.ParsePasswdFileFilter(filepath.Join(etc, "passwd"), func(u user.User) bool { return in(int64(u.Uid), 1) })
	if err == nil && len(users) > 0 {
		return "user " + users[0].Name
	}
	groups, err := user.ParseGroupFileFilter(filepath.Join(etc, "group"), func(g user.Group) bool { return in(int64(g.Gid), 1) })
	if err == nil && len(groups) > 0 {
		return "group " + groups[0].Name
	}
	for _, file := range []string{"subuid", "subgid"} {
		ranges, err := user.ParseSubIDFileFilter(filepath.Join(etc, file), func(s user.SubID) bool { return in(s.SubID, s.Count) })
		if err == nil && len(ranges) > 0 {
			return "a range of " + ranges[0].Name + " in /etc/" + file
		}
	}
	return ""
}

func countIDs(maps []user.IDMap) (n int64) {
	for _, m := range maps {
		n += m.Count
	}
	return n
}

func mappingText(maps []user.IDMap) string {
	var parts []string
	for _, m := range maps {
		parts = append(parts, fmt.Sprintf("%d:%d:%d", m.ID, m.ParentID, m.Count))
	}
	return strings.Join(parts, ",")
}

// host are the host's IDs of an owner that a process sees.
func (m *idMap) host(uid, gid int) (int, int, error) {
	if m == nil {
		return uid, gid, nil
	}
	huid, hgid, err := m.ToHost(uid, gid)
	if err != nil {
		return -1, -1, fmt.Errorf("owner %d:%d is not in the user namespace (--userns=host does without): %w", uid, gid, err)
	}
	return huid, hgid, nil
}

// become has the calling thread make files as the namespace's root until back is called. It keeps its
// capabilities, which the kernel takes away with the user.
func (m *idMap) become() (back func() error, err error) {
	if m == nil {
		return func() error { return nil }, nil
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return nil, os.NewSyscallError("capget", err)
	}
	set := func(uid, gid int) error {
		// These calls tell what was before, and no error.
		_, _ = unix.SetfsgidRetGid(gid)
		_, _ = unix.SetfsuidRetUid(uid)
		now, _ := unix.SetfsuidRetUid(-1)
		if now != uid {
			return fmt.Errorf("becoming user %d: %w", uid, unix.EPERM)
		}
		return os.NewSyscallError("capset", unix.Capset(&head, &caps[0]))
	}
	return func() error { return set(0, 0) }, set(m.uid, m.gid)
}

// shift has a detached mount of path show owners as the namespace has them.
func (m *idMap) shift(mnt int, path string, recursive bool) error {
	if m == nil {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(mnt, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(m.ns.Fd())})
	if err != nil {
		return fmt.Errorf("mapping the owners of files in %s for a user namespace: %w (the kernel cannot do that with its filesystem, or not at all: --userns=host does without)", path, err)
	}
	return nil
}

// describe completes the description of a container.
func (m *idMap) describe(linux *specs.Linux) {
	if m == nil {
		return
	}
	linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	linux.UIDMappings, linux.GIDMappings = ociMapping(m.UIDMaps), ociMapping(m.GIDMaps)
}

// write gives the user namespace of a process its IDs.
func (m *idMap) write(pid int) error {
	for file, maps := range map[string][]user.IDMap{"uid_map": m.UIDMaps, "gid_map": m.GIDMaps} {
		text := strings.NewReplacer(":", " ", ",", "\n").Replace(mappingText(maps))
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), []byte(text), 0); err != nil {
			return fmt.Errorf("mapping the IDs of a user namespace: %w", err)
		}
	}
	return nil
}

func ociMapping(maps []user.IDMap) (all []specs.LinuxIDMapping) {
	for _, m := range maps {
		all = append(all, specs.LinuxIDMapping{ContainerID: uint32(m.ID), HostID: uint32(m.ParentID), Size: uint32(m.Count)})
	}
	return all
}

// shifted is root with directories whose owners are the namespace's.
func (b *bundle) shifted(root Root) (Root, error) {
	if b.ids == nil {
		return root, nil
	}
	lower := root.Lower
	root.Lower = nil
	for _, dir := range lower {
		shown, err := b.shift(dir)
		if err != nil {
			return root, err
		}
		root.Lower = append(root.Lower, shown)
	}
	if root.Upper == "" {
		return root, nil
	}
	// Overlayfs wants both of one mount.
	above := filepath.Dir(root.Upper)
	for !strings.HasPrefix(root.Work, strings.TrimSuffix(above, "/")+"/") {
		above = filepath.Dir(above)
	}
	shown, err := b.shift(above)
	root.Upper = filepath.Join(shown, strings.TrimPrefix(root.Upper, above))
	root.Work = filepath.Join(shown, strings.TrimPrefix(root.Work, above))
	return root, err
}

// shift shows a directory of the host elsewhere, with owners that are the namespace's.
func (b *bundle) shift(dir string) (string, error) {
	if shown, ok := b.shown[dir]; ok {
		return shown, nil
	}
	mnt, err := cloneTree(dir, mountOptions{ids: b.ids})
	if err != nil {
		return "", err
	}
	shown := filepath.Join(b.scratch, fmt.Sprint("shown-", len(b.shown)))
	if err := os.Mkdir(shown, 0o711); err != nil {
		return "", errors.Join(err, unix.Close(mnt))
	}
	err = unix.MoveMount(mnt, "", unix.AT_FDCWD, shown, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err = errors.Join(os.NewSyscallError("move_mount", err), unix.Close(mnt)); err != nil {
		return "", fmt.Errorf("showing %s: %w", dir, err)
	}
	b.shown[dir] = shown
	return shown, nil
}

// uncover moves the scratch filesystem to where the namespace's root, who goes to the root filesystem by its
// path, gets: the directories above it may be open to the host's root alone. Nothing is lost: only this
// thread, and what it starts, sees that it now covers the first of them.
func (b *bundle) uncover() error {
	if b.ids == nil {
		return nil
	}
	closed := ""
	for dir := filepath.Dir(b.scratch); dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 == 0 {
			closed = dir
		}
	}
	if closed == "" {
		return nil
	}
	if err := unix.Mount(b.scratch, closed, "", unix.MS_MOVE, ""); err != nil {
		return &os.PathError{Op: "moving a mount to", Path: closed, Err: err}
	}
	for i, m := range b.oci.Mounts {
		rest, ok := strings.CutPrefix(m.Source, b.scratch+"/")
		switch {
		case ok:
			b.oci.Mounts[i].Source = filepath.Join(closed, rest)
		case m.Type == "bind" && strings.HasPrefix(m.Source, closed+"/"):
			return fmt.Errorf("mount at %s: with a user namespace it cannot be there (--userns=host does without)", m.Destination)
		}
	}
	b.scratch, b.rootfs = closed, filepath.Join(closed, filepath.Base(b.rootfs))
	b.oci.Root.Path = b.rootfs
	return nil
}
