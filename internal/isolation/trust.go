package isolation

import (
	"os"
	"slices"
	"strconv"

	"github.com/moby/sys/userns"
)

// Trust are the users and groups that may own, or write to, what this process acts upon.
type Trust struct{ users, groups []uint32 }

// Trusted are this user, root, and who became root with sudo.
func Trusted() Trust {
	t := Trust{[]uint32{0, uint32(os.Geteuid())}, []uint32{0, uint32(os.Getegid())}}
	if os.Geteuid() == 0 {
		add := func(to *[]uint32, env string) {
			if id, err := strconv.ParseUint(os.Getenv(env), 10, 32); err == nil {
				*to = append(*to, uint32(id))
			}
		}
		add(&t.users, "SUDO_UID")
		add(&t.groups, "SUDO_GID")
	}
	// In a user namespace, what belongs to users outside of it, the machine's root among them, looks like this. What this
	// program enters itself it looks at before.
	if userns.RunningInUserNS() {
		if id, ok := sysctl("kernel/overflowuid"); ok {
			t.users = append(t.users, uint32(id))
		}
		if id, ok := sysctl("kernel/overflowgid"); ok {
			t.groups = append(t.groups, uint32(id))
		}
	}
	return t
}

// User reports whether a user is trusted.
func (t Trust) User(uid uint32) bool { return slices.Contains(t.users, uid) }

// Group reports whether a group is trusted.
func (t Trust) Group(gid uint32) bool { return slices.Contains(t.groups, gid) }
