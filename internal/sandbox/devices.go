package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// deviceRules are those of BuildKit and Docker: a process may make nodes of all devices, and open
// the harmless ones.
var deviceRules = []specs.LinuxDeviceCgroup{
	{Allow: false, Access: "rwm"},
	{Allow: true, Type: "c", Access: "m"},
	{Allow: true, Type: "b", Access: "m"},
	allowDevice(1, 3),    // null
	allowDevice(1, 5),    // zero
	allowDevice(1, 7),    // full
	allowDevice(1, 8),    // random
	allowDevice(1, 9),    // urandom
	allowDevice(5, 0),    // tty
	allowDevice(5, 1),    // console
	allowDevice(5, 2),    // ptmx
	allowDevice(136, -1), // pts/*
}

// allowDevice allows a character device; -1 is any minor number.
func allowDevice(major, minor int64) specs.LinuxDeviceCgroup {
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Access: "rwm"}
	if minor >= 0 {
		rule.Minor = &minor
	}
	return rule
}

// devicesCgroup is the directory of this process's own cgroup in the v1 hierarchy of devices; ""
// when there is none. In cgroup v2 rules for devices are BPF programs, and joining a cgroup takes
// longer than all else in a run: there, filesystems are mounted nodev.
func devicesCgroup() string {
	for _, c := range ownCgroups() {
		if c.name == "devices" || slices.Contains(c.aliases, "devices") {
			return c.path
		}
	}
	return ""
}

// guardPrefix begins the names of guards' cgroups.
const guardPrefix = "slipway-devices-"

// guard is a cgroup that guards the devices of one run.
type guard struct{ dir, parent string }

// guardTries bounds how often a guard is made when another process takes it for a dead one's.
const guardTries = 5

// guardDevices takes the calling thread, and with it the processes that it starts, into a new
// cgroup with the rules for devices. It moves a thread, not a process: that takes microseconds,
// where moving a process takes milliseconds.
func guardDevices(id string) (*guard, error) {
	parent := devicesCgroup()
	if parent == "" {
		return nil, errors.New("guarding devices: no cgroups (version 1) for devices")
	}
	sweepGuards()
	g := &guard{dir: filepath.Join(parent, guardPrefix+id), parent: parent}
	var err error
	for range guardTries {
		err = os.Mkdir(g.dir, 0o755)
		if err == nil {
			err = writeDeviceRules(g.dir, deviceRules)
		}
		if err == nil {
			err = moveThread(g.dir)
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	if err != nil {
		_ = os.Remove(g.dir) // it may not be there
		return nil, fmt.Errorf("guarding devices: %w", err)
	}
	return g, nil
}

// leave moves the thread back and removes the cgroup, in which all processes have ended.
func (g *guard) leave() error {
	if err := moveThread(g.parent); err != nil {
		return fmt.Errorf("leaving the cgroup of devices: %w", err)
	}
	err := unix.Rmdir(g.dir)
	for try := 0; errors.Is(err, unix.EBUSY) && try < removeTries; try++ {
		time.Sleep(removeWait)
		err = unix.Rmdir(g.dir)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) { // another process may have swept it meanwhile
		return &os.PathError{Op: "removing cgroup", Path: g.dir, Err: err}
	}
	return nil
}

// sweepGuards removes the guards that killed processes have left. One in use cannot be removed; one
// that is being made can, and is made again; one that is being left is to be removed anyway.
var sweepGuards = sync.OnceFunc(func() {
	left, _ := filepath.Glob(filepath.Join(devicesCgroup(), guardPrefix+"*")) // the pattern is fine
	for _, dir := range left {
		_ = unix.Rmdir(dir)
	}
})

// moveThread moves the calling thread into a cgroup of version 1.
func moveThread(dir string) error { return writeCgroup(filepath.Join(dir, "tasks"), "0") }

func writeCgroup(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// writeDeviceRules gives a cgroup of version 1 rules, the first of which denies everything. What
// this process may not allow, because its own cgroup denies it, stays denied.
func writeDeviceRules(dir string, rules []specs.LinuxDeviceCgroup) error {
	for _, rule := range rules {
		file := "devices.deny"
		if rule.Allow {
			file = "devices.allow"
		}
		err := writeCgroup(filepath.Join(dir, file), deviceRule(rule))
		if err != nil && !(rule.Allow && errors.Is(err, unix.EPERM)) {
			return err
		}
	}
	return nil
}

// deviceRule is a rule as the kernel reads it: "c 1:3 rwm", "a".
func deviceRule(rule specs.LinuxDeviceCgroup) string {
	if rule.Type == "" {
		return "a"
	}
	number := func(n *int64) string {
		if n == nil {
			return "*"
		}
		return fmt.Sprint(*n)
	}
	return strings.Join([]string{rule.Type, number(rule.Major) + ":" + number(rule.Minor), rule.Access}, " ")
}

// setDevices lets libcontainer give the cgroup of a container with limits the same rules. Its own
// way is a package that compiles BPF programs too.
var setDevices = sync.OnceFunc(func() {
	cgroups.DevicesSetV1 = func(path string, r *cgroups.Resources) error {
		if r.SkipDevices || len(r.Devices) == 0 {
			return nil
		}
		return writeDeviceRules(path, deviceRules)
	}
})
