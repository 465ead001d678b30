package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// In version 2 a guard can limit processes only while the cgroup above it, which is slipway's own, passes the controller
// on. A slipway turns that on where it is off, and off again at its end, for as long as it is on that cgroup is another
// one for everybody ("domain threaded"). Not after each run: it takes longer than the guard. Other slipways in the cgroup
// do the same at any time, without a word between them:
//
//   - Each guard passes the controller on itself. The kernel does not turn it off above then (EBUSY).
//   - An extended attribute of the cgroup says that a slipway turned it on, and whoever leaves may turn it off.

// pidsMark is that attribute.
const pidsMark = "user.slipway.pids"

// passedOn: this process has used what is to be turned off at its end.
var passedOn atomic.Bool

// limitThreads makes a new cgroup a threaded one with a limit of processes. The error is ENOENT when something
// took it, or the controller, away meanwhile.
func limitThreads(parent, dir, limit string) error {
	passedOn.Store(true)
	if err := writeCgroup(filepath.Join(dir, "cgroup.type"), "threaded"); err != nil {
		return err
	}
	on, err := passesPids(parent)
	if err == nil && !on {
		if err := passPids(parent, "+pids"); err != nil {
			return errors.New("the controller for processes cannot be had here: " + err.Error()) // and not later either
		}
		_ = unix.Setxattr(parent, pidsMark, []byte("1"), 0) // without it (before Linux 5.7) it stays on
	}
	if err == nil {
		err = passPids(dir, "+pids")
	}
	if err != nil {
		return err
	}
	return writeCgroup(filepath.Join(dir, "pids.max"), limit)
}

// restorePids turns the controller off again if a slipway turned it on and nobody uses it.
func restorePids(parent string) error {
	for range guardTries {
		if _, err := unix.Getxattr(parent, pidsMark, nil); err != nil || hasOthers(parent) {
			return nil //nolint:nilerr // it was on before, or somebody else turned it off
		}
		err := passPids(parent, "-pids")
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
			return nil // another slipway uses it, and will turn it off
		}
		if err != nil {
			return err
		}
		_ = unix.Removexattr(parent, pidsMark) // another one may have done it
		on, err := passesPids(parent)
		if err != nil || !on {
			return err
		}
		// Another one has turned it on before the mark was removed, which was its own.
		if err := unix.Setxattr(parent, pidsMark, []byte("1"), 0); err != nil {
			return &os.PathError{Op: "marking cgroup", Path: parent, Err: err}
		}
	}
	return nil
}

// passesPids reports whether a cgroup passes the controller for processes on to those below.
func passesPids(dir string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	return slices.Contains(strings.Fields(string(text)), "pids"), err
}

func passPids(dir, how string) error {
	return writeCgroup(filepath.Join(dir, "cgroup.subtree_control"), how)
}

// hasOthers reports whether somebody else has cgroups below one.
func hasOthers(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.IsDir() && !strings.HasPrefix(e.Name(), guardPrefix)
	})
}
