//go:build linux && (amd64 || arm64)

package heap

import "golang.org/x/sys/unix"

// populate has a frame of nearly 4 MiB, and asks the kernel for MADV_POPULATE_WRITE of its lowest pages, so many bytes of them.
//
//go:noescape
func populate(bytes, page uintptr)

func madvise(from, bytes uintptr) {
	unix.Syscall(unix.SYS_MADVISE, from, bytes, unix.MADV_POPULATE_WRITE)
}
