package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// A guard is cgroups of one run that cost next to nothing: the calling thread is moved, and with it the
// processes that it starts. To move a process takes milliseconds, as the kernel then waits for all others that
// fork; a thread takes microseconds. It can be done for what needs no more than the thread's cgroup at the time
// of the fork: the rules for devices of version 1, and the number of processes, in version 2 by a threaded
// cgroup.
type guard struct {
	id     string
	joined []joined
}

// joined is a cgroup that the thread was moved into, and that from which it came.
type joined struct{ dir, parent string }

// guardPrefix begins the names of guards' cgroups.
const guardPrefix = "slipway-guard-"

// guardTries bounds how often a guard is made when another process takes it for a dead one's, or what it needs away.
const guardTries = 100

// devicesCgroup is the directory of this process's own cgroup in the v1 hierarchy of devices; ""
// when there is none. In cgroup v2 rules for devices are BPF programs, which belong to cgroups of processes: there,
// filesystems are mounted nodev.
func devicesCgroup() string { return ownCgroupOf("devices") }

// ownCgroupOf is the directory of this process's own cgroup in the v1 hierarchy of a controller, or "".
func ownCgroupOf(controller string) string {
	for _, c := range ownCgroups() {
		if c.has(controller) {
			return c.path
		}
	}
	return ""
}

// unifiedCgroup is the directory of this process's own cgroup where there is only version 2, or "".
var unifiedCgroup = sync.OnceValue(func() string {
	paths, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil || !cgroups.IsCgroup2UnifiedMode() {
		return ""
	}
	return filepath.Join("/sys/fs/cgroup", paths[""])
})

// guardDevices keeps what the thread starts from opening devices but harmless ones.
func (g *guard) guardDevices() error {
	parent := devicesCgroup()
	if parent == "" {
		return errors.New("guarding devices: no cgroups (version 1) for devices")
	}
	err := g.join(parent, "tasks", func(dir string) error { return writeDeviceRules(dir, deviceRules) })
	if err != nil {
		return fmt.Errorf("guarding devices: %w", err)
	}
	return nil
}

// guardProcesses bounds how many processes and threads what the thread starts may have.
func (g *guard) guardProcesses(limit int64) error {
	text := strconv.FormatInt(limit, 10)
	err := errors.New("no cgroups for processes")
	if parent := ownCgroupOf("pids"); parent != "" {
		err = g.join(parent, "tasks", func(dir string) error { return writeCgroup(filepath.Join(dir, "pids.max"), text) })
	} else if parent := unifiedCgroup(); parent != "" {
		err = g.join(parent, "cgroup.threads", func(dir string) error { return limitThreads(parent, dir, text) })
	}
	if err != nil {
		return fmt.Errorf("limiting processes: %w", err)
	}
	return nil
}

// join makes a cgroup below parent and moves the thread there, by the file that takes threads.
func (g *guard) join(parent, threads string, limit func(dir string) error) error {
	sweepGuards(parent)
	j := joined{dir: filepath.Join(parent, guardPrefix+g.id), parent: parent}
	var err error
	for range guardTries {
		if err := os.Mkdir(j.dir, 0o755); err != nil {
			return err
		}
		err = limit(j.dir)
		if err == nil {
			err = writeCgroup(filepath.Join(j.dir, threads), "0")
		}
		if err == nil {
			g.joined = append(g.joined, j)
			return nil
		}
		_ = os.Remove(j.dir) // it may not be there
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	return err
}

// leave moves the thread back and removes the cgroups, in which all processes have ended.
func (g *guard) leave() error {
	var errs []error
	for _, j := range g.joined {
		errs = append(errs, j.leave())
	}
	return errors.Join(errs...)
}

func (j joined) leave() error {
	if err := j.back(); err != nil {
		return err
	}
	return removeCgroup(j.dir)
}

// back moves the calling thread back.
func (j joined) back() error {
	if err := writeCgroup(filepath.Join(j.parent, j.threads()), "0"); err != nil {
		return fmt.Errorf("leaving a cgroup: %w", err)
	}
	return nil
}

// threads is the name of the file that takes threads.
func (j joined) threads() string {
	if j.parent == unifiedCgroup() {
		return "cgroup.threads"
	}
	return "tasks"
}

var swept sync.Map // cgroup -> *sync.Once

// sweepGuards removes the guards that killed processes have left in a cgroup. One in use cannot be removed; one
// that is being made can, and is made again; one that is being left is to be removed anyway.
func sweepGuards(parent string) {
	once, _ := swept.LoadOrStore(parent, &sync.Once{})
	once.(*sync.Once).Do(func() {
		entries, _ := os.ReadDir(parent) // making one says what is wrong
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), guardPrefix) {
				_ = unix.Rmdir(filepath.Join(parent, e.Name()))
			}
		}
	})
}

func writeCgroup(path, text string) error {
	f, err := openFile(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(f.write(text), f.Close())
}
