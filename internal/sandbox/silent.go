package sandbox

import (
	"encoding/binary"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// silentFilter is the seccomp filter of a process without a network: Docker's, but that no sockets can be made which lead out
// of the machine, or to other processes of the container by its loopback.
func silentFilter() ([]byte, error) {
	caps, err := capabilities(false)
	if err != nil {
		return nil, err
	}
	profile, err := seccompFor(caps)
	if err != nil {
		return nil, err
	}
	profile.Syscalls = slices.Clone(profile.Syscalls)
	for i := range profile.Syscalls {
		profile.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(profile.Syscalls[i].Names), func(name string) bool {
			return name == "socket" || name == "socketcall" || strings.HasPrefix(name, "io_uring")
		})
	}
	profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{
		Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.AF_UNIX, Op: specs.OpEqualTo}},
	})
	program, err := compileFilter(profile)
	return append(otherFamilies(), program...), err
}

// otherFamilies is the beginning of a filter that has no address families but local ones, in the words of a machine without
// the others: what only is not permitted some programs do not expect.
func otherFamilies() (program []byte) {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	)
	for _, ins := range []unix.SockFilter{
		{Code: load, K: 4}, {Code: equal, K: nativeArch, Jf: 5},
		{Code: load, K: 0}, {Code: equal, K: unix.SYS_SOCKET, Jf: 3},
		{Code: load, K: 16}, {Code: equal, K: unix.AF_UNIX, Jt: 1}, // the lower half of the first argument
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
	} {
		program = binary.NativeEndian.AppendUint16(program, ins.Code)
		program = append(program, ins.Jt, ins.Jf)
		program = binary.NativeEndian.AppendUint32(program, ins.K)
	}
	return program
}

// nativeArch is the architecture of this program as filters know it.
var nativeArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
