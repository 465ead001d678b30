package owners

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_X86_64

// older adds the calls that only older architectures have.
func older(all map[int]layout, with func(kind, func(*layout)) layout) {
	all[unix.SYS_CHOWN] = with(chowns, func(l *layout) { l.path, l.uid, l.gid = 0, 1, 2 })
	all[unix.SYS_LCHOWN] = with(chowns, func(l *layout) { l.path, l.uid, l.gid, l.nofollow = 0, 1, 2, true })
	all[unix.SYS_MKNOD] = with(mknods, func(l *layout) { l.path, l.mode, l.device = 0, 1, 2 })
	all[unix.SYS_CHMOD] = with(chmods, func(l *layout) { l.path, l.mode = 0, 1 })
}
