//go:build cgo && seccomp

package sandbox

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// seccompCompiled reports whether this program can compile seccomp filters.
const seccompCompiled = true

// compileFilter translates a seccomp profile to the kernel's language. The program does what
// runc's does: a system call that is newer than all of the profile fails with ENOSYS, so that C
// libraries fall back to an older one, where the profile would have it fail with EPERM.
func compileFilter(profile *specs.LinuxSeccomp) ([]byte, error) {
	def, err := filterAction(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	filter, err := libseccomp.NewFilter(def)
	if err != nil {
		return nil, fmt.Errorf("making a seccomp filter: %w", err)
	}
	defer filter.Release()
	archs, err := filterArchs(profile)
	if err != nil {
		return nil, err
	}
	for _, arch := range archs {
		if err := filter.AddArch(arch); err != nil {
			return nil, fmt.Errorf("adding architecture %s to the seccomp filter: %w", arch, err)
		}
	}
	// A tree instead of a list of comparisons; an old libseccomp cannot, and is slower at run time.
	_ = filter.SetOptimize(2)
	for _, call := range profile.Syscalls {
		action, err := filterAction(call.Action, call.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if action == def {
			continue // libseccomp refuses rules that change nothing
		}
		for _, name := range call.Names {
			if err := addRule(filter, name, action, call.Args); err != nil {
				return nil, fmt.Errorf("adding system call %s to the seccomp filter: %w", name, err)
			}
		}
	}
	program, err := export(filter)
	if err != nil {
		return nil, err
	}
	if def != libseccomp.ActAllow && def != libseccomp.ActLog { // with these, what it does not name is not forbidden, however new
		program = append(newerCalls(profile, archs), program...)
	}
	if len(program) > maxProgram {
		return nil, fmt.Errorf("the seccomp profile is too large: its filter has more than %d instructions", unix.BPF_MAXINSNS)
	}
	return program, nil
}

// maxProgram is how long a filter may be, in bytes.
const maxProgram = 8 * unix.BPF_MAXINSNS

// addRule allows or refuses one system call. Names that libseccomp does not know are of other
// kernels.
func addRule(filter *libseccomp.ScmpFilter, name string, action libseccomp.ScmpAction, args []specs.LinuxSeccompArg) error {
	call, err := libseccomp.GetSyscallFromName(name)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if len(args) == 0 {
		return filter.AddRule(call, action)
	}
	var conds []libseccomp.ScmpCondition
	seen := map[uint]bool{}
	repeated := false
	for _, arg := range args {
		op, ok := filterOperators[arg.Op]
		if !ok {
			return fmt.Errorf("unknown operator %s", arg.Op)
		}
		cond, err := libseccomp.MakeCondition(arg.Index, op, arg.Value, arg.ValueTwo)
		if err != nil {
			return err
		}
		conds = append(conds, cond)
		repeated = repeated || seen[arg.Index]
		seen[arg.Index] = true
	}
	if !repeated {
		return filter.AddRuleConditional(call, action, conds)
	}
	// Several conditions on the same argument are alternatives, as runc reads them.
	for _, cond := range conds {
		if err := filter.AddRuleConditional(call, action, []libseccomp.ScmpCondition{cond}); err != nil {
			return err
		}
	}
	return nil
}

var filterOperators = map[specs.LinuxSeccompOperator]libseccomp.ScmpCompareOp{
	specs.OpEqualTo: libseccomp.CompareEqual, specs.OpNotEqual: libseccomp.CompareNotEqual,
	specs.OpGreaterThan: libseccomp.CompareGreater, specs.OpGreaterEqual: libseccomp.CompareGreaterEqual,
	specs.OpLessThan: libseccomp.CompareLess, specs.OpLessEqual: libseccomp.CompareLessOrEqual,
	specs.OpMaskedEqual: libseccomp.CompareMaskedEqual,
}

func filterAction(action specs.LinuxSeccompAction, errno *uint) (libseccomp.ScmpAction, error) {
	switch action {
	case specs.ActAllow:
		return libseccomp.ActAllow, nil
	case specs.ActLog:
		return libseccomp.ActLog, nil
	case specs.ActKill, specs.ActKillThread:
		return libseccomp.ActKillThread, nil
	case specs.ActKillProcess:
		return libseccomp.ActKillProcess, nil
	case specs.ActTrap:
		return libseccomp.ActTrap, nil
	case specs.ActErrno:
		code := uint(unix.EPERM)
		if errno != nil {
			code = *errno
		}
		return libseccomp.ActErrno.SetReturnCode(int16(code)), nil
	}
	return libseccomp.ActInvalid, fmt.Errorf("unknown seccomp action %s", action)
}

// filterArchs are the profile's architectures and the native one.
func filterArchs(profile *specs.LinuxSeccomp) ([]libseccomp.ScmpArch, error) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, fmt.Errorf("finding the native seccomp architecture: %w", err)
	}
	archs := []libseccomp.ScmpArch{native}
	for _, name := range profile.Architectures {
		arch, err := libseccomp.GetArchFromString(strings.ToLower(strings.TrimPrefix(string(name), "SCMP_ARCH_")))
		if err != nil {
			return nil, fmt.Errorf("finding seccomp architecture %s: %w", name, err)
		}
		if !slices.Contains(archs, arch) {
			archs = append(archs, arch)
		}
	}
	return archs, nil
}

// export gets the program out of libseccomp.
func export(filter *libseccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("exporting the seccomp filter: %w", os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), "seccomp")
	err = filter.ExportBPF(f)
	var program []byte
	if err == nil {
		program, err = io.ReadAll(io.NewSectionReader(f, 0, maxProgram+1))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("exporting the seccomp filter: %w", err)
	}
	return program, nil
}

// x32Bit marks the system calls of the x32 interface, which has the architecture of x86-64.
const x32Bit = 0x40000000

// auditArchs are the numbers by which filters know architectures. One that is missing here has
// no special answer for newer calls.
var auditArchs = map[libseccomp.ScmpArch]uint32{
	libseccomp.ArchAMD64: unix.AUDIT_ARCH_X86_64, libseccomp.ArchX86: unix.AUDIT_ARCH_I386,
	libseccomp.ArchARM64: unix.AUDIT_ARCH_AARCH64, libseccomp.ArchARM: unix.AUDIT_ARCH_ARM,
	libseccomp.ArchPPC64LE: unix.AUDIT_ARCH_PPC64LE, libseccomp.ArchRISCV64: unix.AUDIT_ARCH_RISCV64,
	libseccomp.ArchS390X: unix.AUDIT_ARCH_S390X, libseccomp.ArchS390: unix.AUDIT_ARCH_S390,
}

// newerCalls is the beginning of a program that answers ENOSYS to calls with a higher number
// than all of the profile.
func newerCalls(profile *specs.LinuxSeccomp, archs []libseccomp.ScmpArch) []byte {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		above = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
		bits  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	const noSuchCall = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	program := []unix.SockFilter{{Code: load, K: 4}} // the architecture
	slices.SortFunc(archs, func(a, b libseccomp.ScmpArch) int { return cmp.Compare(a, b) })
	for _, arch := range archs {
		audit, ok := auditArchs[arch]
		last := lastCall(profile, arch)
		if !ok || last == 0 {
			continue
		}
		lastX32 := uint32(0xffffffff)
		if arch == libseccomp.ArchAMD64 && slices.Contains(archs, libseccomp.ArchX32) {
			lastX32 = lastCall(profile, libseccomp.ArchX32)
		}
		program = append(program,
			unix.SockFilter{Code: equal, K: audit, Jf: 6}, // another architecture: to the next one
			unix.SockFilter{Code: load, K: 0},             // the call's number
			unix.SockFilter{Code: bits, K: x32Bit, Jt: 1},
			unix.SockFilter{Code: above, K: last, Jt: 1, Jf: 2},
			unix.SockFilter{Code: above, K: lastX32, Jf: 1},
			unix.SockFilter{Code: ret, K: noSuchCall},
			unix.SockFilter{Code: load, K: 4}, // for the next architecture, which will not match
		)
	}
	var out []byte
	for _, ins := range program {
		out = binary.NativeEndian.AppendUint16(out, ins.Code)
		out = append(out, ins.Jt, ins.Jf)
		out = binary.NativeEndian.AppendUint32(out, ins.K)
	}
	return out
}

// lastCall is the highest number of a call in the profile.
func lastCall(profile *specs.LinuxSeccomp, arch libseccomp.ScmpArch) (last uint32) {
	for _, call := range profile.Syscalls {
		for _, name := range call.Names {
			if n, err := libseccomp.GetSyscallFromNameByArch(name, arch); err == nil && n > 0 {
				last = max(last, uint32(n))
			}
		}
	}
	return last
}
