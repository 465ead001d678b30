// Package owners lets processes change owners of files where there are not enough IDs for that: in a user namespace with one ID,
// or without one and without capabilities.
//
// # Structure
//
// A seccomp filter ([Rules.Program]) answers what has an answer without looking at anything, and tells a [Supervisor] of the rest: calls that change
// owners, make devices or set attributes (change.go), that ask who owns what (stat.go), that make files (create.go), and that ask who the process is
// (identity.go). The supervisor finds the file that the caller means (call.go), records on it what it should be (package layer, Record), and answers as
// the kernel would answer root. No call is changed and then let through.
//
// # Caveats
//
// Programs of another architecture than slipway's (32-bit ones) are not supervised: they get the kernel's answers. Each supervised call takes
// as long as some ten others.
package owners

import (
	"encoding/binary"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Rules say what processes are told.
type Rules struct {
	// UID and GID are the one user and the one group that the processes can be.
	UID, GID uint32
	// Groups are those that such a user has besides.
	Groups []uint32
	// Root: the processes are root for themselves, and may change every owner. Otherwise they are a user of the image, whom only what
	// a user may do is answered.
	Root bool
	// Fake: the processes are not root for the kernel either, and are told that they are. Permissions are supervised as well,
	// because these may not lock out who has no capabilities.
	Fake bool
}

// Actions of the filter.
const (
	allow  = unix.SECCOMP_RET_ALLOW
	notify = unix.SECCOMP_RET_USER_NOTIF
	zero   = unix.SECCOMP_RET_ERRNO // the call gives 0 and does nothing
	absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	denied = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
)

// assembler collects instructions of a filter.
type assembler []unix.SockFilter

const (
	load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	mask  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	ret   = unix.BPF_RET | unix.BPF_K
)

func (a *assembler) add(code uint16, k uint32, jt, jf uint8) {
	*a = append(*a, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
}

// on appends the instructions of one system call, of which the last returns. What they leave in the accumulator counts no more.
func (a *assembler) on(number int, body assembler) {
	a.add(equal, uint32(number), 0, uint8(len(body)))
	*a = append(*a, body...)
}

func returns(action uint32) assembler { return assembler{{Code: ret, K: action}} }

// arg is where the lower half of an argument is.
func arg(i int) uint32 {
	const args = 16
	at := uint32(args + 8*i)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big endian
		at += 4
	}
	return at
}

// unless gives the action other unless each of the first n arguments is the ID, or -1 where that means no change.
func unless(id uint32, n int, other uint32) (body assembler) {
	for i := range n {
		body.add(load, arg(i), 0, 0)
		if n > 1 {
			body.add(equal, id, 2, 0)
			body.add(equal, 0xffffffff, 1, 0)
		} else {
			body.add(equal, id, 1, 0)
		}
		body.add(ret, other, 0, 0)
	}
	body.add(ret, allow, 0, 0)
	return body
}

// otherArch answers calls of another architecture. Who is not root could say by them what is refused otherwise.
func (r Rules) otherArch() (body assembler) {
	if !r.Root {
		body.add(load, 0, 0, 0)
		// setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr, setxattrat and removexattrat of x86 and of ARM, and io_uring_setup
		for _, number := range []uint32{226, 227, 228, 235, 236, 237, 463, 466, 425} {
			body.add(equal, number, 0, 1)
			body.add(ret, denied, 0, 0)
		}
	}
	body.add(ret, allow, 0, 0)
	return body
}

// when says of which of a call's arguments the supervisor is told; nil: of none.
func (r Rules) when(l layout) assembler {
	switch l.kind {
	case whoami:
		if !r.Root && !r.Fake && !(l.get && l.which == 4) { // the kernel knows
			return nil
		}
	case chmods:
		if r.Root && !r.Fake {
			return nil
		}
	case alters:
		if r.Root {
			return nil
		}
	case makes:
		switch {
		case !l.opens || l.flags == none:
		case r.Root:
			return hasBits(l.flags, unix.O_CREAT)
		default:
			return hasBits(l.flags, unix.O_CREAT|unix.O_WRONLY|unix.O_RDWR|unix.O_TRUNC)
		}
	case asks:
		return hasBits(l.mode, unix.W_OK)
	case stats:
		if l.mask != none {
			return hasBits(l.mask, unix.STATX_TYPE|unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID)
		}
	}
	return returns(notify)
}

// hasBits notifies of calls of which an argument has one of some bits.
func hasBits(argument int, bits uint32) (body assembler) {
	body.add(load, arg(argument), 0, 0)
	body.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, bits, 0, 1)
	body.add(ret, notify, 0, 0)
	body.add(ret, allow, 0, 0)
	return body
}

// Flags are those of seccomp(2) with which the filter is installed. A signal does not have a call that is being answered made again, where the kernel
// can see to that (Linux 5.19): what was done for it would be done twice.
var Flags = sync.OnceValue(func() int {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0)
	if errno == unix.EFAULT { // it knows the flags, and looks for the filter
		return flags | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	return flags
})

// Program is the filter in the kernel's language: an array of struct sock_filter.
func (r Rules) Program() []byte {
	var a assembler
	const x32Bit = 0x40000000
	a.add(load, 4, 0, 0) // the architecture
	other := r.otherArch()
	a.add(equal, arch, uint8(len(other)), 0)
	a = append(a, other...)
	a.add(load, 0, 0, 0) // the call's number
	a.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, x32Bit, 0, 1)
	if r.Root {
		a.add(ret, allow, 0, 0)
	} else {
		a.add(ret, absent, 0, 0)
	}
	for _, number := range slices.Sorted(maps.Keys(supervised())) {
		if body := r.when(supervised()[number]); body != nil {
			a.on(number, body)
		}
	}
	// There are older ones; and what is done by way of a ring nobody is told of.
	for _, number := range []int{unix.SYS_SETXATTRAT, unix.SYS_REMOVEXATTRAT, unix.SYS_GETXATTRAT, unix.SYS_LISTXATTRAT, unix.SYS_IO_URING_SETUP} {
		a.on(number, returns(absent))
	}
	r.identity(&a)
	a.add(ret, allow, 0, 0)
	var out []byte
	for _, ins := range a {
		out = binary.NativeEndian.AppendUint16(out, ins.Code)
		out = append(out, ins.Jt, ins.Jf)
		out = binary.NativeEndian.AppendUint32(out, ins.K)
	}
	return out
}

// identity answers calls about the caller's own IDs that are not supervised.
func (r Rules) identity(a *assembler) {
	if r.Root {
		for _, number := range []int{unix.SYS_SETFSUID, unix.SYS_SETFSGID} {
			a.on(number, returns(zero))
		}
		if r.Fake {
			a.on(unix.SYS_CAPSET, returns(zero))
		}
		return
	}
	for _, c := range []struct {
		uid, gid, args int
	}{
		{unix.SYS_SETUID, unix.SYS_SETGID, 1}, {unix.SYS_SETREUID, unix.SYS_SETREGID, 2},
		{unix.SYS_SETRESUID, unix.SYS_SETRESGID, 3}, {unix.SYS_SETFSUID, unix.SYS_SETFSGID, 1},
	} {
		a.on(c.uid, unless(r.UID, c.args, denied))
		a.on(c.gid, unless(r.GID, c.args, denied))
	}
}
