package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// deviceNodes are the devices of a container. Each container has nodes of its own: what its root may do
// to them, with chmod or chown, nobody else sees.
var deviceNodes = []deviceNode{{"full", 1, 7}, {"null", 1, 3}, {"random", 1, 8}, {"tty", 5, 0}, {"urandom", 1, 9}, {"zero", 1, 5}}

// deviceNode is a device by its name in /dev.
type deviceNode struct {
	name         string
	major, minor uint32
}

// makeNodes makes the devices in a directory.
func makeNodes(dir int) error {
	for _, d := range deviceNodes {
		if err := unix.Mknodat(dir, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("making device node %s: %w", d.name, err)
		}
	}
	return nil
}

// deviceLinks are the other names in /dev.
var deviceLinks = []struct{ name, target string }{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},
}

// fillDev makes what is in an empty /dev.
func (b *bundle) fillDev(dev int) error {
	links := deviceLinks
	if kernelMemory() {
		links = append(links[:len(links):len(links)], struct{ name, target string }{"core", "/proc/kcore"})
	}
	for _, l := range links {
		if err := unix.Symlinkat(l.target, dev, l.name); err != nil {
			return fmt.Errorf("making the link /dev/%s: %w", l.name, err)
		}
	}
	if !b.nodesInDev() {
		return nil
	}
	if err := makeNodes(dev); err != nil {
		return err
	}
	return b.insecureNodes(dev)
}

// kernelMemory reports whether the kernel shows its memory.
var kernelMemory = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/kcore")
	return err == nil
})

// insecureNodes makes the nodes that an insecure container has besides.
func (b *bundle) insecureNodes(dev int) error {
	for _, d := range b.insecureDevices() {
		if err := makeDevice(dev, d); err != nil {
			return fmt.Errorf("making device node %s: %w", d.Path, err)
		}
	}
	return nil
}

// makeDevice makes a node in /dev, with the directories that it is in.
func makeDevice(dev int, d specs.LinuxDevice) error {
	name := strings.TrimPrefix(d.Path, "/dev/")
	for i, r := range name {
		if r != '/' {
			continue
		}
		if err := unix.Mkdirat(dev, name[:i], 0o755); err != nil && err != unix.EEXIST {
			return err
		}
	}
	kind := uint32(unix.S_IFCHR)
	if d.Type == "b" {
		kind = unix.S_IFBLK
	}
	if err := unix.Mknodat(dev, name, kind|0o666, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil || d.FileMode == nil {
		return err
	}
	if err := unix.Fchmodat(dev, name, uint32(*d.FileMode), 0); err != nil { // whatever the umask
		return err
	}
	return unix.Fchownat(dev, name, int(*d.UID), int(*d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// nodesInDev reports whether the nodes are made in the filesystem at /dev. Elsewhere they are bound from
// another place: one that is mounted nodev, to keep a process from the devices that it makes with its
// CAP_MKNOD, would not let it open these either; and in a user namespace nobody can make nodes.
func (b *bundle) nodesInDev() bool { return b.devices && !nested() }

// isDev reports whether a mount is a filesystem in memory at /dev, the container's own or the user's.
func isDev(m specs.Mount) bool { return m.Destination == "/dev" && m.Type == "tmpfs" }

// nodeMounts are the bind mounts of devices that mounts, which are all others, need.
func (b *bundle) nodeMounts(mounts []specs.Mount) (nodes []specs.Mount, err error) {
	if b.nodesInDev() || !slices.ContainsFunc(mounts, isDev) {
		return nil, nil
	}
	source := "/dev" // in a user namespace: nodes that are not its root's to change
	if !nested() {
		if source, err = b.spareNodes(); err != nil {
			return nil, err
		}
	}
	add := func(dest, source string) {
		if !slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Destination == dest }) {
			nodes = append(nodes, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"bind"}})
		}
	}
	for _, d := range deviceNodes {
		add(filepath.Join("/dev", d.name), filepath.Join(source, d.name))
	}
	for _, d := range b.insecureDevices() { // in a user namespace: those of the host that there are
		if _, err := os.Stat(d.Path); err == nil {
			add(d.Path, d.Path)
		}
	}
	return nodes, nil
}

// spareNodes makes nodes on the scratch filesystem.
func (b *bundle) spareNodes() (dir string, err error) {
	dir = filepath.Join(b.scratch, "devices")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a directory of device nodes: %w", err)
	}
	f, err := openRoot(dir)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return dir, makeNodes(f.fd)
}
