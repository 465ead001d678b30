package owners

import "golang.org/x/sys/unix"

const (
	arch    = unix.AUDIT_ARCH_X86_64
	fstatat = unix.SYS_NEWFSTATAT
)

// older adds the calls that only older architectures have.
func older(all map[int]layout, with func(kind, func(*layout)) layout) {
	all[unix.SYS_CHOWN] = with(chowns, func(l *layout) { l.path, l.uid, l.gid = 0, 1, 2 })
	all[unix.SYS_LCHOWN] = with(chowns, func(l *layout) { l.path, l.uid, l.gid, l.nofollow = 0, 1, 2, true })
	all[unix.SYS_MKNOD] = with(mknods, func(l *layout) { l.path, l.mode, l.device = 0, 1, 2 })
	all[unix.SYS_STAT] = with(stats, func(l *layout) { l.path, l.buffer = 0, 1 })
	all[unix.SYS_LSTAT] = with(stats, func(l *layout) { l.path, l.buffer, l.nofollow = 0, 1, true })
	for number, set := range map[int]func(*layout){
		unix.SYS_OPEN: func(l *layout) { l.path, l.flags, l.mode, l.opens = 0, 1, 2, true },
		unix.SYS_CREAT: func(l *layout) {
			l.path, l.mode, l.opens, l.fixed = 0, 1, true, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC
		},
		unix.SYS_MKDIR:   func(l *layout) { l.path, l.mode = 0, 1 },
		unix.SYS_SYMLINK: func(l *layout) { l.target, l.path = 0, 1 },
	} {
		all[number] = with(makes, set)
	}
	for number, set := range map[int]func(*layout){
		unix.SYS_UNLINK: func(l *layout) { l.path = 0 },
		unix.SYS_RMDIR:  func(l *layout) { l.path = 0 },
		unix.SYS_LINK:   func(l *layout) { l.path = 1 },
		unix.SYS_RENAME: func(l *layout) { l.path, l.path2 = 0, 1 },
	} {
		all[number] = with(alters, set)
	}
	all[unix.SYS_ACCESS] = with(asks, func(l *layout) { l.path, l.mode = 0, 1 })
	all[unix.SYS_CHMOD] = with(chmods, func(l *layout) { l.path, l.mode = 0, 1 })
}
