package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ipcSysctls are the settings of the kernel that each IPC namespace has of its own, besides those of fs.mqueue; they are runc's.
var ipcSysctls = []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}

const (
	// maxSysctls is how many there may be, and maxSysctl how long a value is, in bytes: the kernel takes no more than a page.
	maxSysctls = 100
	maxSysctl  = 4095
)

// CheckSysctls refuses settings of the kernel that are not the container's alone, or that it cannot have in a user namespace of its own: there, what is not of its
// network belongs to others before Linux 5.19.
func CheckSysctls(all map[string]string, network Network, userNS bool) error {
	if len(all) > maxSysctls {
		return fmt.Errorf("more than %d sysctls", maxSysctls)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		switch {
		case !sysctlName(name):
			return fmt.Errorf("sysctl %q: want a name as net.core.somaxconn", name)
		case len(all[name]) > maxSysctl || strings.ContainsRune(all[name], 0):
			return fmt.Errorf("sysctl %q: its value has more than %d bytes, or a NUL character", name, maxSysctl)
		case isNet(name) && network == NetworkHost:
			return fmt.Errorf("sysctl %q is not allowed in the host's network", name)
		case isNet(name):
		case !strings.HasPrefix(name, "fs.mqueue.") && !slices.Contains(ipcSysctls, name):
			return fmt.Errorf("sysctl %q is not in a namespace of the container's", name)
		case userNS:
			return fmt.Errorf("sysctl %q cannot be set in a user namespace", name)
		}
	}
	return nil
}

// sysctlName reports whether a name is one in the form that is its only one: with dots, and nothing empty between them.
func sysctlName(name string) bool {
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == "" && !slices.Contains(strings.Split(name, "."), "")
}

// isNet reports whether a setting is of a network.
func isNet(name string) bool { return strings.HasPrefix(name, "net.") }

// ReachesHost reports whether a setting that a network has of its own does something to the host: its kernel loads modules by it, has its logs written to, or
// has it for all networks (those of net.netfilter, some before Linux 5.12).
func ReachesHost(sysctl string) bool {
	switch sysctl {
	case "net.ipv4.tcp_congestion_control", "net.ipv4.tcp_allowed_congestion_control", "net.core.default_qdisc":
		return true
	}
	return strings.HasPrefix(sysctl, "net.netfilter.")
}

// setSysctls sets those of the network that the calling thread is in. The container itself may not be able to: its /proc may be read-only, and
// the network belongs to slipway's user namespace.
func setSysctls(spec *Spec) error {
	if err := CheckSysctls(spec.Sysctls, spec.Network, spec.UserNS); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Sysctls)) {
		if !isNet(name) {
			continue
		}
		f, err := openFile(sysctlPath(name), unix.O_WRONLY)
		if err == nil {
			err = errors.Join(f.write(spec.Sysctls[name]), f.Close())
		}
		if err != nil {
			return fmt.Errorf("setting the sysctl %s to %q: %w", name, spec.Sysctls[name], err)
		}
	}
	return nil
}

// otherSysctls are those that a container sets itself: all but the network's.
func (s *Spec) otherSysctls() map[string]string {
	others := map[string]string{}
	for name, value := range s.Sysctls {
		if !isNet(name) {
			others[name] = value
		}
	}
	return others
}

func sysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

// sysctls sets the settings of the kernel, before they cannot be written to any more.
func (in *inside) sysctls(all map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		what := fmt.Sprintf("setting the sysctl %s to %q", name, all[name])
		file := in.Add(what, unix.SYS_OPENAT, unix.AT_FDCWD, sysctlPath(name), unix.O_WRONLY|unix.O_CLOEXEC)
		in.Add(what, unix.SYS_WRITE, file, all[name], len(all[name]))
		in.Add(what, unix.SYS_CLOSE, file)
	}
}
