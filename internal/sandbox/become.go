package sandbox

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// become has the process be what the container's program is to be, and executes it.
func (in *inside) become(p *specs.Process, filter []byte) error {
	in.becomeUser()
	if !p.NoNewPrivileges {
		in.confine(filter) // later it would not be allowed to: a profile of the user's has to let all that follows be done, as with runc
	}
	in.supervised()
	caps, err := newCapSets(p.Capabilities)
	if err != nil {
		return err
	}
	for _, c := range caps.unbounded() {
		in.Add("dropping a capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, int(c))
	}
	there := in.changeDir(p.Cwd)
	in.Add("keeping capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	in.groups(p.User.AdditionalGids)
	gid, uid := int(p.User.GID), int(p.User.UID)
	in.Add(fmt.Sprintf("setting the group %d", gid), unix.SYS_SETRESGID, gid, gid, gid)
	in.Add(fmt.Sprintf("setting the user %d", uid), unix.SYS_SETRESUID, uid, uid, uid)
	// Ambient capabilities that this process has itself go with the inheritable ones.
	in.Add("setting capabilities", unix.SYS_CAPSET, in.Bytes(capHead()), in.Bytes(caps.bytes()))
	for _, c := range caps.ambient {
		in.Add("setting an ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, int(c), 0, 0)
	}
	for _, errno := range noChange {
		in.Add(cwdWhat+p.Cwd, unix.SYS_CHDIR, p.Cwd).After(there, errno)
	}
	// The kernel has forgotten it with the user.
	in.Add("dying with slipway", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL))
	if p.NoNewPrivileges { // who has given them up may set filters whatever it is; one of the user's forbids nothing but the program then
		in.Add("giving up new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		in.confine(filter)
	}
	in.execute(p)
	return nil
}

// confine sets a seccomp filter, unless that is nil.
func (in *inside) confine(filter []byte) {
	if filter == nil {
		return
	}
	program := in.Words(len(filter)/8, in.Bytes(filter)) // struct sock_fprog
	in.Add("setting the seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, program)
}

// groups sets the groups of those that there are.
func (in *inside) groups(gids []uint32) {
	if !setsGroups() {
		return
	}
	var groups []byte
	for _, gid := range gids {
		if in.b.ids != nil || hasGroup(int(gid)) {
			groups = binary.NativeEndian.AppendUint32(groups, gid)
		}
	}
	in.Add("setting the groups", unix.SYS_SETGROUPS, len(groups)/4, in.Bytes(groups))
}

const cwdWhat = "changing to the working directory "

// noChange are the errors with which changeDir leaves the working directory to the program's own rights.
var noChange = []unix.Errno{unix.EACCES, unix.EPERM, unix.EBADF}

// changeDir changes to the working directory, which the container's user may not be able to, with rights that the
// container does not have. So no link of a /proc is followed there: that of the host, if it is mounted, leads to each
// directory of the host (CVE-2024-21626). Who may get there alone, or whoever has no openat2(2) (before Linux 5.6), changes to it
// later, when it can do no more than the container's program.
func (in *inside) changeDir(cwd string) *initproc.Call {
	how := in.Words(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, unix.RESOLVE_NO_MAGICLINKS)
	dir := in.Add(cwdWhat+cwd, unix.SYS_OPENAT2, unix.AT_FDCWD, cwd, how, unix.SizeofOpenHow).Forgive(unix.EACCES, unix.EPERM, unix.ENOSYS)
	return in.Add(cwdWhat+cwd, unix.SYS_FCHDIR, dir).Forgive(noChange...) // EBADF: it was not opened
}

// execWhat is what a call does that executes the container's program.
const execWhat = "executing the program"

// execute tries the program where it may be.
func (in *inside) execute(p *specs.Process) {
	paths := candidates(p.Args[0], p.Env)
	argv, env := in.Strings(p.Args), in.Strings(p.Env)
	for i, path := range paths {
		call := in.Add(execWhat, unix.SYS_EXECVE, path, argv, env)
		if i < len(paths)-1 {
			call.Forgive(unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP, unix.ENAMETOOLONG)
		}
	}
}

// candidates are the paths at which a command is looked for. What the PATH has that is not absolute is passed over.
func candidates(command string, env []string) (paths []string) {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	for _, kv := range slices.Backward(env) { // the last one counts
		if list, ok := strings.CutPrefix(kv, "PATH="); ok {
			for _, dir := range filepath.SplitList(list) {
				if filepath.IsAbs(dir) {
					paths = append(paths, filepath.Join(dir, command))
				}
			}
			break
		}
	}
	if len(paths) == 0 {
		paths = []string{"/dev/null/" + command} // which is nowhere
	}
	return paths
}

// capSets are the capabilities of a process.
type capSets struct {
	bounding, effective, permitted, inheritable, ambient []capability.Cap
}

func newCapSets(c *specs.LinuxCapabilities) (*capSets, error) {
	s := &capSets{}
	for _, set := range []struct {
		to    *[]capability.Cap
		names []string
	}{{&s.bounding, c.Bounding}, {&s.effective, c.Effective}, {&s.permitted, c.Permitted}, {&s.inheritable, c.Inheritable}, {&s.ambient, c.Ambient}} {
		for _, name := range set.names {
			i := slices.IndexFunc(capability.ListKnown(), func(c capability.Cap) bool { return capName(c) == name })
			if i < 0 {
				return nil, fmt.Errorf("unknown capability %s", name)
			}
			*set.to = append(*set.to, capability.ListKnown()[i])
		}
	}
	return s, nil
}

// unbounded are all capabilities of the kernel but the bounding ones.
func (s *capSets) unbounded() (all []capability.Cap) {
	last, err := capability.LastCap()
	if err != nil {
		last = 63 // more than there are
	}
	for c := capability.Cap(0); c <= last; c++ {
		if !slices.Contains(s.bounding, c) {
			all = append(all, c)
		}
	}
	return all
}

// capHead is a struct __user_cap_header_struct of the calling process.
func capHead() []byte {
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3), 0)
}

// bytes are two of struct __user_cap_data_struct.
func (s *capSets) bytes() (b []byte) {
	for half := range 2 {
		for _, set := range [][]capability.Cap{s.effective, s.permitted, s.inheritable} {
			var bits uint32
			for _, c := range set {
				if int(c)/32 == half {
					bits |= 1 << (c % 32)
				}
			}
			b = binary.NativeEndian.AppendUint32(b, bits)
		}
	}
	return b
}
