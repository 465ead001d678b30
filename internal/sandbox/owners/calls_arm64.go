package owners

import "golang.org/x/sys/unix"

const (
	arch    = unix.AUDIT_ARCH_AARCH64
	fstatat = unix.SYS_FSTATAT
)

// older adds the calls that only older architectures have.
func older(map[int]layout, func(kind, func(*layout)) layout) {}
