package owners

import (
	"sync"

	"golang.org/x/sys/unix"
)

// kind is what a supervised call does.
type kind int

const (
	chowns kind = iota
	chmods
	mknods
	sets    // an attribute
	removes // one
	gets    // one
	lists   // the names of all
	whoami  // the caller's IDs, asked for or set
	stats   // who owns what
	roots   // the caller gets another root, or sees other mounts
	makes   // something new, or opens it to write to it
	alters  // names: removes them, or makes further ones
	asks    // whether a file may be written to
)

// none is an argument that a call does not have.
const none = -1

// layout says which arguments a system call has, by their numbers.
type layout struct {
	kind            kind
	dir, path       int // none: the working directory; none: dir is the file itself
	uid, gid, flags int
	mode, device    int
	name, value     int // of an attribute; behind the value, or the list of names, come its size and flags
	buffer, mask    int // of the answer, and what is asked for (statx)
	dir2, path2     int // of a second file
	target          int // of a symbolic link
	nofollow        bool
	// Of makes: files are opened, with flags that the call does not say, or that are in memory with the rest (openat2).
	opens bool
	fixed uint64
	howAt int
	// Of whoami: which of the IDs is asked for, or all three (3), or how many arguments there are of what is set; 4: further groups.
	get, group bool
	which      int
}

// supervised are the calls that the supervisor is told of.
var supervised = sync.OnceValue(func() map[int]layout {
	no := layout{dir: none, path: none, uid: none, gid: none, flags: none, mode: none, device: none, name: none, value: none,
		buffer: none, mask: none, dir2: none, path2: none, target: none, howAt: none}
	with := func(k kind, set func(*layout)) layout {
		l := no
		l.kind = k
		set(&l)
		return l
	}
	all := map[int]layout{
		unix.SYS_FCHOWN:   with(chowns, func(l *layout) { l.dir, l.uid, l.gid = 0, 1, 2 }),
		unix.SYS_FCHOWNAT: with(chowns, func(l *layout) { l.dir, l.path, l.uid, l.gid, l.flags = 0, 1, 2, 3, 4 }),
		unix.SYS_MKNODAT:  with(mknods, func(l *layout) { l.dir, l.path, l.mode, l.device = 0, 1, 2, 3 }),

		unix.SYS_SETXATTR:     with(sets, func(l *layout) { l.path, l.name, l.value = 0, 1, 2 }),
		unix.SYS_LSETXATTR:    with(sets, func(l *layout) { l.path, l.name, l.value, l.nofollow = 0, 1, 2, true }),
		unix.SYS_FSETXATTR:    with(sets, func(l *layout) { l.dir, l.name, l.value = 0, 1, 2 }),
		unix.SYS_REMOVEXATTR:  with(removes, func(l *layout) { l.path, l.name = 0, 1 }),
		unix.SYS_LREMOVEXATTR: with(removes, func(l *layout) { l.path, l.name, l.nofollow = 0, 1, true }),
		unix.SYS_FREMOVEXATTR: with(removes, func(l *layout) { l.dir, l.name = 0, 1 }),

		unix.SYS_GETXATTR:   with(gets, func(l *layout) { l.path, l.name, l.value = 0, 1, 2 }),
		unix.SYS_LGETXATTR:  with(gets, func(l *layout) { l.path, l.name, l.value, l.nofollow = 0, 1, 2, true }),
		unix.SYS_FGETXATTR:  with(gets, func(l *layout) { l.dir, l.name, l.value = 0, 1, 2 }),
		unix.SYS_LISTXATTR:  with(lists, func(l *layout) { l.path, l.value = 0, 1 }),
		unix.SYS_LLISTXATTR: with(lists, func(l *layout) { l.path, l.value, l.nofollow = 0, 1, true }),
		unix.SYS_FLISTXATTR: with(lists, func(l *layout) { l.dir, l.value = 0, 1 }),

		unix.SYS_FCHMOD:    with(chmods, func(l *layout) { l.dir, l.mode = 0, 1 }),
		unix.SYS_FCHMODAT:  with(chmods, func(l *layout) { l.dir, l.path, l.mode = 0, 1, 2 }),
		unix.SYS_FCHMODAT2: with(chmods, func(l *layout) { l.dir, l.path, l.mode, l.flags = 0, 1, 2, 3 }),

		unix.SYS_FSTAT: with(stats, func(l *layout) { l.dir, l.buffer = 0, 1 }),
		fstatat:        with(stats, func(l *layout) { l.dir, l.path, l.buffer, l.flags = 0, 1, 2, 3 }),
		unix.SYS_STATX: with(stats, func(l *layout) { l.dir, l.path, l.flags, l.mask, l.buffer = 0, 1, 2, 3, 4 }),
	}
	files(all, with)
	for _, w := range []struct {
		user, group, which int
		get                bool
	}{
		{unix.SYS_GETUID, unix.SYS_GETGID, 0, true}, {unix.SYS_GETEUID, unix.SYS_GETEGID, 1, true}, {unix.SYS_GETRESUID, unix.SYS_GETRESGID, 3, true},
		{unix.SYS_SETUID, unix.SYS_SETGID, 1, false}, {unix.SYS_SETREUID, unix.SYS_SETREGID, 2, false}, {unix.SYS_SETRESUID, unix.SYS_SETRESGID, 3, false},
	} {
		all[w.user] = with(whoami, func(l *layout) { l.get, l.which = w.get, w.which })
		all[w.group] = with(whoami, func(l *layout) { l.get, l.which, l.group = w.get, w.which, true })
	}
	all[unix.SYS_GETGROUPS] = with(whoami, func(l *layout) { l.get, l.which = true, 4 })
	all[unix.SYS_SETGROUPS] = with(whoami, func(l *layout) { l.which = 4 })
	older(all, with)
	return all
})

// files adds the calls that make files, and that change where they are.
func files(all map[int]layout, with func(kind, func(*layout)) layout) {
	for number, set := range map[int]func(*layout){
		unix.SYS_OPENAT:    func(l *layout) { l.dir, l.path, l.flags, l.mode, l.opens = 0, 1, 2, 3, true },
		unix.SYS_OPENAT2:   func(l *layout) { l.dir, l.path, l.howAt, l.opens = 0, 1, 2, true },
		unix.SYS_TRUNCATE:  func(l *layout) { l.path, l.opens, l.fixed = 0, true, unix.O_WRONLY },
		unix.SYS_MKDIRAT:   func(l *layout) { l.dir, l.path, l.mode = 0, 1, 2 },
		unix.SYS_SYMLINKAT: func(l *layout) { l.target, l.dir, l.path = 0, 1, 2 },
	} {
		all[number] = with(makes, set)
	}
	all[unix.SYS_FACCESSAT] = with(asks, func(l *layout) { l.dir, l.path, l.mode = 0, 1, 2 })
	all[unix.SYS_FACCESSAT2] = with(asks, func(l *layout) { l.dir, l.path, l.mode, l.flags = 0, 1, 2, 3 })
	for number, set := range map[int]func(*layout){
		unix.SYS_UNLINKAT:  func(l *layout) { l.dir, l.path = 0, 1 },
		unix.SYS_LINKAT:    func(l *layout) { l.dir, l.path = 2, 3 },
		unix.SYS_RENAMEAT:  func(l *layout) { l.dir, l.path, l.dir2, l.path2 = 0, 1, 2, 3 },
		unix.SYS_RENAMEAT2: func(l *layout) { l.dir, l.path, l.dir2, l.path2 = 0, 1, 2, 3 },
	} {
		all[number] = with(alters, set)
	}
	for _, number := range []int{unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_MOVE_MOUNT} {
		all[number] = with(roots, func(*layout) {})
	}
}
