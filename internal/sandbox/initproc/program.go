package initproc

// #cgo CFLAGS: -O2 -fno-stack-protector
// #include "first.h"
import "C"

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Prepare makes what all first processes need.
func Prepare() { _, _ = sealed() } // whoever needs it gets the error

// sealed is the program of first processes and watchdogs as a file that nobody can change in any way, whatever becomes of
// the container: its processes can have themselves executed by the path /proc/self/exe, and open what they are then
// (CVE-2019-5736). It is alone in a read-only filesystem that is mounted nowhere, and is nothing but that program.
var sealed = sync.OnceValues(func() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) { // nothing can be mounted here
		return sealedMemory()
	}
	if err != nil {
		return nil, fmt.Errorf("opening a tmpfs: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("making a tmpfs: %w", os.NewSyscallError("fsconfig", err))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, fmt.Errorf("mounting a tmpfs: %w", os.NewSyscallError("fsmount", err))
	}
	defer unix.Close(mnt)
	if err := writeProgram(mnt); err != nil {
		return nil, err
	}
	err = unix.FsconfigSetFlag(fs, "ro")
	if err == nil {
		err = unix.FsconfigReconfigure(fs)
	}
	if err != nil {
		return nil, fmt.Errorf("making a tmpfs read-only: %w", os.NewSyscallError("fsconfig", err))
	}
	fd, err := unix.Openat(mnt, programName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	// Above those that a new process has at fixed numbers.
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 16)
	if err = errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd)); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(high), programName), nil
})

// sealedMemory is the program as a file in memory. Its content cannot be changed; its mode can, by who may open it.
func sealedMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate(programName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(programName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), programName)
	defer f.Close()
	if _, err := f.Write(program()); err != nil {
		return nil, err
	}
	if err := f.Chmod(0o555); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	// A descriptor that nobody can write through, as execve wants it, above those that a new process has at fixed numbers.
	own, err := os.Open(fmt.Sprint("/proc/self/fd/", fd))
	if err != nil {
		return nil, err
	}
	defer own.Close()
	high, err := unix.FcntlInt(own.Fd(), unix.F_DUPFD_CLOEXEC, 16)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(high), programName), nil
}

// programName is that of the file.
const programName = "slipway-init"

func writeProgram(dir int) error {
	fd, err := unix.Openat(dir, programName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o555)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), programName)
	_, err = f.Write(program())
	return errors.Join(err, f.Chmod(0o555), f.Close()) // whatever the umask is
}

// program is the section of this program with what program.c has, as a program of its own.
func program() []byte {
	start := unsafe.Pointer(&C.__start_first_program)
	size := uintptr(unsafe.Pointer(&C.__stop_first_program)) - uintptr(start)
	entry := uintptr(unsafe.Pointer(&C.first_entry)) - uintptr(start)
	const place, headers = 0x400000, 64 + 2*56 // where it is in memory
	total := headers + uint64(size)
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: place + headers + uint64(entry),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	}
	var b bytes.Buffer
	for _, part := range []any{
		head,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: place, Paddr: place, Filesz: total, Memsz: total, Align: 0x10000},
		elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	} {
		_ = binary.Write(&b, binary.LittleEndian, part) // into memory
	}
	b.Write(unsafe.Slice((*byte)(start), size))
	return b.Bytes()
}
