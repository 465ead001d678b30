package sandbox

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// makeCgroup makes the container's cgroup, in which nothing is yet. Without limits a process gets none: its pid
// namespace finds and kills all of its children, and a dozen directories need not be made and removed.
func (b *bundle) makeCgroup() (err error) {
	config := &cgroups.Cgroup{Path: b.oci.Linux.CgroupsPath, Resources: b.cgroupResources()}
	if config.Path == "" {
		config.Name = b.spec.ID
	}
	if cgroups.IsCgroup2UnifiedMode() {
		b.cgroup, err = fs2.NewManager(config, "")
	} else {
		b.cgroup, err = fs.NewManager(config, nil)
	}
	if err != nil {
		return limiting(err)
	}
	if err := b.cgroup.Apply(-1); err != nil {
		return limiting(errors.Join(err, b.leaveCgroup()))
	}
	if pids, err := b.cgroup.GetAllPids(); err == nil && len(pids) > 0 {
		b.cgroup = nil // another container's, it seems: who it is of removes it
		return limiting(fmt.Errorf("there are processes in the cgroup %s", config.Path))
	}
	return nil
}

// leaveCgroup removes the cgroup. The library does not wait for long, and not for all at a time.
func (b *bundle) leaveCgroup() error {
	return removeCgroup(slices.Collect(maps.Values(b.cgroup.GetPaths()))...)
}

// enterCgroup has a process be limited.
func (b *bundle) enterCgroup(pid int) error {
	err := b.cgroup.Apply(pid)
	if err == nil {
		err = b.cgroup.Set(b.cgroupResources())
	}
	return limiting(err)
}

func limiting(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("limiting the container's resources: %w (limits and --cgroup-parent need cgroups that can be written to)", err)
}

// cgroupResources are the limits in the words of the cgroups library.
func (b *bundle) cgroupResources() *cgroups.Resources {
	r := b.spec.Resources
	res := &cgroups.Resources{
		Memory: r.Memory, MemorySwap: r.MemorySwap, CpuShares: r.CPUShares, CpuPeriod: r.CPUPeriod, CpuQuota: r.CPUQuota,
		CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
	}
	if b.guarded {
		res.Devices = []*devices.Rule{{}} // see setDevices
	}
	if r.CPUShares != 0 {
		res.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(r.CPUShares)
	}
	if pids := b.oci.Linux.Resources.Pids; pids != nil {
		res.PidsLimit = pids.Limit
	}
	return res
}

// cgroupDir is the directory of the cgroup of version 2 that the container is in.
func (b *bundle) cgroupDir() string {
	if b.cgroup != nil {
		return b.cgroup.Path("")
	}
	return unifiedCgroup()
}

// cgroupPath is the directory of the cgroup that the container is in.
func (b *bundle) cgroupPath(c ownCgroup) string {
	if b.cgroup != nil {
		for controller, path := range b.cgroup.GetPaths() {
			if c.has(strings.TrimPrefix(controller, "name=")) {
				return path
			}
		}
	}
	if c.has("devices") || c.has("pids") {
		guard := filepath.Join(c.path, guardPrefix+b.spec.ID) // this thread's
		if _, err := os.Lstat(guard); err == nil {
			return guard
		}
	}
	return c.path
}

// canMakeCgroups reports whether this process may make cgroups in all hierarchies of version 1. In one of version 2
// that holds processes, as this one's does, there is little that can be made.
var canMakeCgroups = sync.OnceValue(func() bool {
	readOnly := func(c ownCgroup) bool { return unix.Access(c.path, unix.W_OK) != nil }
	return ownCgroupOf("pids") != "" && !slices.ContainsFunc(ownCgroups(), readOnly) // the number of processes is bounded
})

// hostHasCgroups reports whether there is a cgroup filesystem to show to a container.
func hostHasCgroups() bool {
	mounts, err := os.ReadDir("/sys/fs/cgroup")
	return err == nil && len(mounts) > 0
}

// openCgroups lets the cgroups package open /sys/fs/cgroup, which it does once and for all, in
// the host's mount namespace: in that of a run it would be gone with it.
var openCgroups = sync.OnceFunc(func() {
	if f, err := cgroups.OpenFile("/sys/fs/cgroup", "cgroup.procs", os.O_RDONLY); err == nil {
		_ = f.Close()
	}
})

// removePatience bounds how long a cgroup may take to become empty: the kernel counts dead processes until they have been
// reaped, and somebody else's may be in it.
var removePatience = 10 * time.Second

// removeCgroups removes the cgroup path, which holds no live process, from all hierarchies.
func removeCgroups(path string) error {
	const top = "/sys/fs/cgroup"
	hierarchies, _ := os.ReadDir(top) // of version 1; with version 2 alone they are cgroups and their files
	dirs := []string{filepath.Join(top, path)}
	for _, h := range hierarchies {
		dirs = append(dirs, filepath.Join(top, h.Name(), path))
	}
	return removeCgroup(dirs...)
}

// removeCgroup removes directories of cgroups that hold no live process, with those below them; another process may have
// done it. All of them are tried before any is waited for.
func removeCgroup(dirs ...string) error {
	const longest = 100 * time.Millisecond
	deadline := time.Now().Add(removePatience)
	for wait := time.Millisecond; ; wait = min(2*wait, longest) {
		var errs []error
		dirs = slices.DeleteFunc(slices.Clone(dirs), func(dir string) bool {
			err := removeOnce(dir)
			if err != nil {
				errs = append(errs, &os.PathError{Op: "removing cgroup", Path: dir, Err: err})
			}
			return !errors.Is(err, unix.EBUSY)
		})
		err := errors.Join(errs...)
		if len(dirs) == 0 || time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}

// removeOnce removes a cgroup, with those below it.
func removeOnce(dir string) error {
	err := unix.Rmdir(dir)
	if errors.Is(err, unix.EBUSY) {
		below, _ := os.ReadDir(dir) // it may be gone
		for _, e := range below {
			if e.IsDir() {
				_ = removeOnce(filepath.Join(dir, e.Name())) // that the one above it stays tells
			}
		}
		err = unix.Rmdir(dir)
	}
	if err == nil {
		return nil
	}
	if _, lerr := os.Lstat(dir); errors.Is(lerr, iofs.ErrNotExist) || errors.Is(lerr, unix.ENOTDIR) {
		return nil // a read-only filesystem says that it is one
	}
	return err
}
