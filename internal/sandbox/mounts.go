package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultShmSize is the size of /dev/shm in bytes when none is given; it is Docker's.
const defaultShmSize = 64 << 20

// standardMounts are those of every container.
func standardMounts(spec *Spec, files generated, devices bool) []specs.Mount {
	shm := spec.ShmSize
	if shm == 0 {
		shm = defaultShmSize
	}
	dev := []string{"nosuid", "strictatime", "mode=755", "size=65536k"}
	readonly := []string{"ro"}
	if spec.Insecure {
		readonly = nil
	}
	if !devices {
		dev = append(dev, "nodev")
	}
	closed := []string{"nosuid", "noexec", "nodev"}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: closed},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: dev},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: ptsOptions()},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append(closed[:3:3], "mode=1777", formatSize(shm))},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: closed},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append(closed[:3:3], readonly...)},
	}
	if hostHasCgroups() {
		mounts = append(mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: append(closed[:3:3], readonly...)})
	}
	options := append(closed[:3:3], "bind")
	if !spec.Container || spec.Root.Upper == "" {
		options = append(options, "ro")
	}
	type file struct{ dest, source string }
	own := []file{{"/etc/resolv.conf", files.resolv}, {"/etc/hosts", files.hosts}}
	if spec.Container {
		own = append(own, file{"/etc/hostname", files.hostname})
	}
	for _, f := range own {
		mounts = append(mounts, specs.Mount{Destination: f.dest, Type: "bind", Source: f.source, Options: options})
	}
	return mounts
}

// ptsOptions are those of Docker; a terminal is of the group tty if there is one.
func ptsOptions() []string {
	options := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if !hasGroup(5) {
		return options
	}
	return append(options, "gid=5")
}

// withoutHidden leaves out the standard mounts that the user's own would hide: made below one of those,
// they would write to a directory of the host. /proc is the runtime's in any case.
func withoutHidden(standard []specs.Mount, own []Mount) []specs.Mount {
	return slices.DeleteFunc(standard, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o Mount) bool {
			dest := filepath.Clean(o.Dest)
			return dest != "/proc" && (m.Destination == dest || strings.HasPrefix(m.Destination, dest+"/"))
		})
	})
}

func tmpfsMount(dest string, m Mount, insecure bool) specs.Mount {
	mode := m.Tmpfs.Mode
	switch {
	case mode != 0:
	case dest == "/dev" && nested(): // the host's root has the nodes, which the kernel lets nobody else "create" in a directory of all
		mode = 0o755
	default:
		mode = 0o1777
	}
	options := []string{"nosuid", fmt.Sprintf("mode=%o", mode)}
	if !insecure {
		options = append(options, "nodev")
	}
	if m.Tmpfs.NoExec {
		options = append(options, "noexec")
	}
	if m.Tmpfs.Size > 0 {
		options = append(options, formatSize(m.Tmpfs.Size))
	}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	return specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// bindMount shows source, which must exist, with the mounts below it.
func bindMount(dest, source string, readOnly, devices bool) (specs.Mount, error) {
	if _, err := os.Stat(source); err != nil {
		return specs.Mount{}, fmt.Errorf("mount at %s: source %w", dest, err)
	}
	options := []string{"rbind"}
	add := func(option string) {
		options = append(options, option)
		if recursiveAttributes() {
			options = append(options, "r"+option)
		}
	}
	if !devices {
		add("nodev")
	}
	if readOnly {
		add("ro")
	}
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: options}, nil
}

// recursiveAttributes reports whether the kernel (Linux 5.12) can change a mount together with
// those below it.
var recursiveAttributes = sync.OnceValue(func() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return !errors.Is(err, unix.ENOSYS)
})

// cgroupNamespaces reports whether the runtime mounts cgroups in a namespace of the container: on a
// host with cgroup v2 alone, as in Docker. With v1 hierarchies that can not be mounted everywhere.
var cgroupNamespaces = sync.OnceValue(func() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && ownView()
})

// ownView reports whether the kernel has cgroup namespaces, in which a process sees its cgroups as the
// top ones, without the names of those above.
var ownView = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/self/ns/cgroup")
	return err == nil
})
