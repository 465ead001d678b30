package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// insecureDevices are the devices that an insecure container has besides the standard ones: those that a step has are
// BuildKit's (util/entitlements/security), and a container has all of the host as well, in the place of these, as in Docker.
func insecureDevices(container bool) []specs.LinuxDevice {
	devices := []specs.LinuxDevice{
		{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11},
		{Path: "/dev/cuse", Type: "c", Major: 10, Minor: 203},
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
		{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232},
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
		{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237},
	}
	for i := range freeLoop() + 8 {
		devices = append(devices, specs.LinuxDevice{Path: fmt.Sprintf("/dev/loop%d", i), Type: "b", Major: 7, Minor: int64(i)})
	}
	if !container {
		return devices
	}
	for _, d := range hostDevices(hostDev) {
		if i := slices.IndexFunc(devices, func(o specs.LinuxDevice) bool { return o.Path == d.Path }); i >= 0 {
			devices[i] = d // who may open it there, and nobody else
		} else {
			devices = append(devices, d)
		}
	}
	return devices
}

// insecureDevices are those of the bundle, which are looked for once; nil: it is not insecure.
func (b *bundle) insecureDevices() []specs.LinuxDevice {
	if b.nodes == nil && b.spec.Insecure {
		b.nodes = insecureDevices(b.spec.Container)
	}
	return b.nodes
}

// hostDev is where the host's devices are; a variable for tests.
var hostDev = "/dev"

// hostDevices are the devices in a directory of the host, as they are to be in /dev, without those that every container has of its own. What cannot be looked at
// is left out.
func hostDevices(dir string) (all []specs.LinuxDevice) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, dir), "/")
		if d.IsDir() {
			if slices.Contains([]string{"pts", "shm", "fd", "mqueue", "hugepages", ".lxc", ".lxd-mounts", ".udev"}, name) {
				return filepath.SkipDir
			}
			return nil
		}
		own := func(n deviceNode) bool { return n.name == name }
		if d.Type()&fs.ModeDevice == 0 || name == "console" || name == "ptmx" || slices.ContainsFunc(deviceNodes, own) {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR && st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return nil
		}
		kind, mode := "c", os.FileMode(st.Mode&0o777)
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			kind = "b"
		}
		all = append(all, specs.LinuxDevice{Path: "/dev/" + name, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &st.Uid, GID: &st.Gid})
		return nil
	})
	return all
}

// freeLoop is the number of a loop device that nobody uses; 0 when that cannot be found out.
func freeLoop() int {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	n, err := unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return 0
	}
	return n
}
