package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// withoutCgroup takes a container's cgroup away before it is started. A process without limits
// needs none: its pid namespace finds and kills all of its children, and on a host with cgroup
// v1 a dozen directories need not be made and removed. libcontainer has no switch for it, so the
// manager, an interface value, is replaced in place; if a future version hides it elsewhere, the
// container simply gets a cgroup.
func withoutCgroup(c *libcontainer.Container, config *cgroups.Cgroup) bool {
	field := reflect.ValueOf(c).Elem().FieldByName("cgroupManager")
	if !field.IsValid() || field.Type() != reflect.TypeFor[cgroups.Manager]() {
		return false
	}
	*(*cgroups.Manager)(field.Addr().UnsafePointer()) = noCgroup{config}
	return true
}

// noCgroup is the manager of a container that stays in its parent's cgroup.
type noCgroup struct{ config *cgroups.Cgroup }

func (noCgroup) Apply(int) error                                     { return nil }
func (noCgroup) AddPid(string, int) error                            { return nil }
func (noCgroup) GetPids() ([]int, error)                             { return nil, nil }
func (noCgroup) GetAllPids() ([]int, error)                          { return nil, nil }
func (noCgroup) GetStats() (*cgroups.Stats, error)                   { return cgroups.NewStats(), nil }
func (noCgroup) Stats(*cgroups.StatsOptions) (*cgroups.Stats, error) { return cgroups.NewStats(), nil }
func (noCgroup) Freeze(cgroups.FreezerState) error                   { return nil }
func (noCgroup) Destroy() error                                      { return nil }
func (noCgroup) Path(string) string                                  { return "" }
func (noCgroup) Set(*cgroups.Resources) error                        { return nil }
func (noCgroup) GetPaths() map[string]string                         { return nil }
func (n noCgroup) GetCgroups() (*cgroups.Cgroup, error)              { return n.config, nil }
func (noCgroup) GetFreezerState() (cgroups.FreezerState, error)      { return cgroups.Undefined, nil }
func (noCgroup) Exists() bool                                        { return false }
func (noCgroup) OOMKillCount() (uint64, error)                       { return 0, nil }

// oomKills counts the processes of a container that the kernel killed for memory. It is 0 when
// the container has no memory cgroup.
func oomKills(c *libcontainer.Container) uint64 {
	state, err := c.State()
	if err != nil {
		return 0
	}
	count, path := fs.OOMKillCount, state.CgroupPaths["memory"]
	if cgroups.IsCgroup2UnifiedMode() {
		count, path = fs2.OOMKillCount, state.CgroupPaths[""]
	}
	if path == "" {
		return 0
	}
	n, err := count(path)
	if err != nil {
		return 0
	}
	return n
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

// removeTries and removeWait bound the waiting for a cgroup to become empty: the kernel counts
// dead processes until they have been reaped.
const (
	removeTries = 500
	removeWait  = 10 * time.Millisecond
)

// removeCgroups removes the cgroup path, which holds no live process, from all hierarchies.
func removeCgroups(path string) error {
	const top = "/sys/fs/cgroup"
	hierarchies, _ := os.ReadDir(top) // of version 1; there may be none
	dirs := []string{filepath.Join(top, path)}
	for _, h := range hierarchies {
		dirs = append(dirs, filepath.Join(top, h.Name(), path))
	}
	var errs []error
	for _, dir := range dirs {
		if _, err := os.Lstat(dir); err == nil { // what is not there cannot be removed from a read-only filesystem
			errs = append(errs, removeCgroup(dir))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes one directory of a cgroup, which holds no live process; another process may have done it.
func removeCgroup(dir string) error {
	err := unix.Rmdir(dir)
	for try := 0; errors.Is(err, unix.EBUSY) && try < removeTries; try++ {
		time.Sleep(removeWait)
		err = unix.Rmdir(dir)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "removing cgroup", Path: dir, Err: err}
	}
	return nil
}
