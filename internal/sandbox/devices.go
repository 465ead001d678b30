package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

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

// writeDeviceRules gives a cgroup of version 1 rules, the first of which denies everything. What
// this process may not allow, because its own cgroup denies it, stays denied.
func writeDeviceRules(dir string, rules []specs.LinuxDeviceCgroup) error {
	deny, err := openFile(filepath.Join(dir, "devices.deny"), unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer deny.Close()
	allow, err := openFile(filepath.Join(dir, "devices.allow"), unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer allow.Close()
	for _, rule := range rules {
		if !rule.Allow {
			err = deny.write(deviceRule(rule))
		} else if err = allow.write(deviceRule(rule)); errors.Is(err, unix.EPERM) {
			err = nil
		}
		if err != nil {
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

// setDevices lets the cgroups library give the cgroup of a container with limits the same rules. Its own
// way is a package that compiles BPF programs too.
var setDevices = sync.OnceFunc(func() {
	cgroups.DevicesSetV1 = func(path string, r *cgroups.Resources) error {
		if len(r.Devices) == 0 {
			return nil
		}
		return writeDeviceRules(path, deviceRules)
	}
})
