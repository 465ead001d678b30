package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// deviceNodes are the devices of a container. Each container has nodes of its own: what its root may do
// to them, with chmod or chown, nobody else sees. libcontainer masks files with /dev/null, so that it
// holds for masks too.
var deviceNodes = []struct {
	name         string
	major, minor uint32
}{{"full", 1, 7}, {"null", 1, 3}, {"random", 1, 8}, {"tty", 5, 0}, {"urandom", 1, 9}, {"zero", 1, 5}}

// makeNodes makes the devices in a directory. It runs on a thread with a umask of its own.
func makeNodes(dir int) error {
	defer unix.Umask(unix.Umask(0))
	for _, d := range deviceNodes {
		if err := unix.Mknodat(dir, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("making device node %s: %w", d.name, err)
		}
	}
	return nil
}

// nodesInDev reports whether the nodes are made in the filesystem at /dev. Elsewhere they are bound from
// another place: one that is mounted nodev, to keep a process from the devices that it makes with its
// CAP_MKNOD, would not let it open these either; and in a user namespace nobody can make nodes.
func (b *bundle) nodesInDev() bool { return b.devices && !userns.RunningInUserNS() }

// isDev reports whether a mount is a filesystem in memory at /dev, the container's own or the user's.
func isDev(m specs.Mount) bool { return m.Destination == "/dev" && m.Type == "tmpfs" }

// nodeMounts are the bind mounts of devices that mounts, which are all others, need.
func (b *bundle) nodeMounts(mounts []specs.Mount) (nodes []specs.Mount, err error) {
	if b.nodesInDev() || !slices.ContainsFunc(mounts, isDev) {
		return nil, nil
	}
	source := "/dev" // in a user namespace: nodes that are not its root's to change
	if !userns.RunningInUserNS() {
		if source, err = b.spareNodes(); err != nil {
			return nil, err
		}
	}
	for _, d := range deviceNodes {
		dest := filepath.Join("/dev", d.name)
		if slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Destination == dest }) {
			continue
		}
		nodes = append(nodes, specs.Mount{Destination: dest, Type: "bind", Source: filepath.Join(source, d.name), Options: []string{"bind"}})
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
	return dir, makeNodes(int(f.Fd()))
}
