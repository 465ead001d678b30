package sandbox

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// slipway may be root of a user namespace only: its own, or that of the container that it is in. It does there what it does
// elsewhere. What the kernel keeps for root of the host is done in another way, which is named where that is; where the
// kernel alone can tell (a profile of seccomp, masks of a container), that is done first and the other way after its error.

// nested reports whether this process is in another user namespace than the host's.
func nested() bool { return userns.RunningInUserNS() }

// ownGroups are the groups of this process's user namespace.
var ownGroups = sync.OnceValues(user.CurrentProcessGIDMap)

// hasGroup reports whether a group is one of this process's user namespace.
func hasGroup(gid int) bool {
	if !nested() {
		return true
	}
	maps, err := ownGroups()
	return err != nil || slices.ContainsFunc(maps, func(m user.IDMap) bool { return m.ID <= int64(gid) && int64(gid) < m.ID+m.Count })
}

// setsGroups reports whether who is root here may change its groups. Where nobody gave the namespace more than one ID that is
// refused: a group may be there to take something away.
var setsGroups = sync.OnceValue(func() bool {
	if !nested() {
		return true
	}
	text, err := os.ReadFile("/proc/self/setgroups")
	return err != nil || strings.TrimSpace(string(text)) != "deny"
})

// notOwned forgives that a file cannot be given to who has no ID here: it stays slipway's.
func notOwned(err error) error {
	if nested() && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)) {
		return nil
	}
	return err
}

// boundProc reports whether containers have the /proc of this process, because the kernel makes no new one beside one of
// which parts are hidden, as in most containers. A container then sees processes of others there, by the numbers that they
// have outside. So that it gets nowhere by that, each one has a user namespace of its own, with the IDs of this one: its
// root has no rights over what is not in it, and nothing can be written to there.
var boundProc = sync.OnceValue(func() bool {
	return nested() && refusesProc()
})

// refusesProc has a process in a namespace of its own try to make a /proc.
func refusesProc() bool {
	null, err := openFile("/dev/null", unix.O_RDWR)
	if err != nil {
		return false
	}
	defer null.Close()
	var calls initproc.Calls
	newProc(&calls, "trying a /proc", mountOptions{})
	calls.Add("ending", unix.SYS_EXIT_GROUP, 0)
	message, err := calls.Message()
	if err != nil {
		return false
	}
	runtime.LockOSThread() // with which the process would end
	defer runtime.UnlockOSThread()
	process, err := initproc.Start([3]int{null.fd, null.fd, null.fd}, unix.CLONE_NEWNS|unix.CLONE_NEWPID)
	if err != nil {
		return false
	}
	if err = process.Send(message); err == nil {
		err = process.Executed()
	}
	_, _ = process.Wait(func() {})
	return errors.Is(err, unix.EPERM)
}

// hasUserNS reports whether the container has a user namespace of its own.
func (b *bundle) hasUserNS() bool { return b.ids != nil || !b.foreign && boundProc() }

// mapping are the IDs of the container's user namespace.
func (b *bundle) mapping() *idMap {
	if b.ids != nil {
		return b.ids
	}
	return sameIDs()
}

// sameIDs are those of this process.
var sameIDs = sync.OnceValue(func() *idMap {
	same := func(maps []user.IDMap, err error) []user.IDMap {
		for i := range maps {
			maps[i].ParentID = maps[i].ID
		}
		return maps // none is refused by the kernel
	}
	return &idMap{IdentityMapping: user.IdentityMapping{UIDMaps: same(user.CurrentProcessUIDMap()), GIDMaps: same(user.CurrentProcessGIDMap())}}
})

// bindSys shows the /sys of this process where the kernel makes no new one: for the network of somebody else, or beside
// one of which parts are hidden. Those stay hidden, as the mounts below it come along.
func (b *bundle) bindSys(dest *opened, attrs uint64) error {
	return b.bindBelow(dest, specs.Mount{Source: "/sys"}, mountOptions{attrs: attrs, recursive: attrs, rbind: true})
}

// lockedFlags are those of the mount that a path is in, as flags of mount(2): who did not make it may not take them away.
func lockedFlags(fs *unix.Statfs_t) uintptr {
	return uintptr(fs.Flags) & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
}
