// Package owners lets processes change owners of files where there are not enough IDs for that: in a user namespace with one ID,
// or without one and without capabilities.
//
// # Structure
//
// A seccomp filter ([Rules.Program]) answers what has an answer without looking at anything, and tells a [Supervisor] of the rest: calls that change
// owners, make devices or set attributes. The supervisor finds the file that the caller means, records on it what it should
// be (package layer, Record), and answers as the kernel would answer root. No call is changed and then let through.
//
// # Caveats
//
// stat(2) tells the process what the disk has: everything belongs to the one ID. Programs of another architecture than
// slipway's (32-bit ones) are not supervised: they get the kernel's answers.
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

// devices notifies of devices that are made, whose mode is an argument.
func devices(mode int) (body assembler) {
	body.add(load, arg(mode), 0, 0)
	body.add(mask, unix.S_IFMT, 0, 0)
	body.add(equal, unix.S_IFCHR, 1, 0)
	body.add(equal, unix.S_IFBLK, 0, 1)
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
	a.add(equal, arch, 1, 0)
	a.add(ret, allow, 0, 0)
	a.add(load, 0, 0, 0) // the call's number
	a.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, x32Bit, 0, 1)
	a.add(ret, allow, 0, 0)
	for _, number := range slices.Sorted(maps.Keys(supervised())) {
		switch k := supervised()[number].kind; {
		case k == whoami && !r.Root || k == chmods && !r.Fake:
		case k == mknods && r.Root:
			a.on(number, devices(supervised()[number].mode))
		case k == mknods:
		default:
			a.on(number, returns(notify))
		}
	}
	for _, number := range []int{unix.SYS_SETXATTRAT, unix.SYS_REMOVEXATTRAT} { // there are older ones
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
		for _, number := range []int{unix.SYS_SETGROUPS, unix.SYS_SETFSUID, unix.SYS_SETFSGID} {
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
