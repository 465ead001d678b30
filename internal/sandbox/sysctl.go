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

// CheckSysctl refuses settings of the kernel that are not the container's alone.
func CheckSysctl(name string, network Network) error {
	switch {
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "":
		return fmt.Errorf("sysctl %q: want a name as net.core.somaxconn", name)
	case strings.HasPrefix(name, "net."):
		if network == NetworkHost {
			return fmt.Errorf("sysctl %q is not allowed in the host's network", name)
		}
		return nil
	case strings.HasPrefix(name, "fs.mqueue."), slices.Contains(ipcSysctls, name):
		return nil
	}
	return fmt.Errorf("sysctl %q is not in a namespace of the container's", name)
}

// checkSysctls is [CheckSysctl] of those of a spec whose network is what it will be.
func checkSysctls(spec *Spec) error {
	for name, value := range spec.Sysctls {
		if err := CheckSysctl(name, spec.Network); err != nil {
			return err
		}
		if strings.ContainsRune(value, 0) {
			return errors.New("a sysctl has a NUL character")
		}
	}
	return nil
}

// sysctls sets the settings of the kernel, before they cannot be written to any more.
func (in *inside) sysctls(all map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		what := fmt.Sprintf("setting the sysctl %s to %q", name, all[name])
		file := in.Add(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/sys/"+strings.ReplaceAll(name, ".", "/"), unix.O_WRONLY|unix.O_CLOEXEC)
		in.Add(what, unix.SYS_WRITE, file, all[name], len(all[name]))
		in.Add(what, unix.SYS_CLOSE, file)
	}
}
