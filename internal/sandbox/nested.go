package sandbox

import (
	"os"
	"slices"
	"sync"

	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// slipway may be root of a user namespace only: its own, or that of the container that it is in. It does there what it does
// elsewhere. What the kernel keeps for root of the host is done in another way, which is named where that is; where the
// kernel alone can tell (a profile of seccomp, masks of a container), that is done first and the other way after its error.

// hostUserNS is the host's user namespace, which has the same number everywhere (PROC_USER_INIT_INO of Linux).
const hostUserNS = "user:[4026531837]"

// nested reports whether this process is in another user namespace than the host's. The IDs do not tell: a namespace may
// have all of them.
var nested = sync.OnceValue(func() bool {
	ns, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return userns.RunningInUserNS()
	}
	return ns != hostUserNS
})

// hasGroup reports whether a group is one of this process's user namespace.
func hasGroup(gid int) bool {
	if !nested() {
		return true
	}
	maps, err := user.CurrentProcessGIDMap()
	return err != nil || slices.ContainsFunc(maps, func(m user.IDMap) bool { return m.ID <= int64(gid) && int64(gid) < m.ID+m.Count })
}

// bindSys shows the /sys of this process where the kernel makes no new one: for the network of somebody else, or beside
// one of which parts are hidden. Those stay hidden, as the mounts below it come along.
func (b *bundle) bindSys(dest *opened, attrs uint64) error {
	return b.bindBelow(dest, specs.Mount{Source: "/sys"}, mountOptions{attrs: attrs, recursive: attrs, rbind: true})
}

// lockedFlags are those of the mount that a path is in, as flags of mount(2): who did not make it may not take them away.
func lockedFlags(fs *unix.Statfs_t) uintptr {
	return uintptr(fs.Flags) & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
}
