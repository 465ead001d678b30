//go:build cgo && seccomp && amd64

package sandbox

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// runFilter asks a compiled filter about one system call, as the kernel would.
func runFilter(t *testing.T, program []byte, arch, call uint32, args ...uint64) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for p := program; len(p) > 0; p = p[8:] {
		raw = append(raw, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.NativeEndian.Uint32(p[4:]),
		})
	}
	instructions, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter has unknown instructions")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	// struct seccomp_data, in the byte order of packets.
	data := binary.BigEndian.AppendUint32(nil, call)
	data = binary.BigEndian.AppendUint32(data, arch)
	data = append(data, make([]byte, 8)...)
	for i := range 6 {
		var arg uint64
		if i < len(args) {
			arg = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(arg)) // low half first
		data = binary.BigEndian.AppendUint32(data, uint32(arg>>32))
	}
	ret, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(ret)
}

func TestCompileFilter(t *testing.T) {
	program, err := newFilter("")()
	if err != nil {
		t.Fatal(err)
	}
	const (
		amd64, i386 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
		allow       = unix.SECCOMP_RET_ALLOW
		eperm       = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys      = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	for _, c := range []struct {
		name       string
		arch, call uint32
		args       []uint64
		want       uint32
	}{
		{"read", amd64, unix.SYS_READ, nil, allow},
		{"execve", amd64, unix.SYS_EXECVE, nil, allow},
		{"chroot", amd64, unix.SYS_CHROOT, nil, allow}, // Docker's capabilities have it
		{"mount", amd64, unix.SYS_MOUNT, nil, eperm},
		{"unshare", amd64, unix.SYS_UNSHARE, nil, eperm},
		{"init_module", amd64, unix.SYS_INIT_MODULE, nil, eperm},
		{"keyctl", amd64, unix.SYS_KEYCTL, nil, eperm},
		{"clone of a process", amd64, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, allow},
		{"clone of a user namespace", amd64, unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER}, eperm},
		{"clone3", amd64, unix.SYS_CLONE3, nil, enosys},
		{"personality 0", amd64, unix.SYS_PERSONALITY, []uint64{0}, allow},
		{"personality 8", amd64, unix.SYS_PERSONALITY, []uint64{8}, allow},
		{"personality other", amd64, unix.SYS_PERSONALITY, []uint64{0x400000}, eperm},
		{"vsock", amd64, unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, eperm},
		{"inet socket", amd64, unix.SYS_SOCKET, []uint64{unix.AF_INET}, allow},
		{"newer than the profile", amd64, 9999, nil, enosys},
		{"x32 read", amd64, x32Bit, nil, allow},
		{"x32 newer than the profile", amd64, x32Bit + 9999, nil, enosys},
		{"i386 read", i386, 3, nil, allow},
		{"i386 mount", i386, 21, nil, eperm},
		{"i386 newer than the profile", i386, 9999, nil, enosys},
		{"another architecture", unix.AUDIT_ARCH_S390X, 3, nil, unix.SECCOMP_RET_KILL_THREAD},
	} {
		if got := runFilter(t, program, c.arch, c.call, c.args...); got != c.want {
			t.Errorf("%s: got %#x, want %#x", c.name, got, c.want)
		}
	}
}
