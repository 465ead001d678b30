package initproc

import (
	"sync"

	"golang.org/x/sys/unix"
)

var (
	hideMu sync.Mutex
	hidden bool
)

// Hide has nobody write to the files of this process in /proc but root of the host: others see them where containers have the
// same /proc.
func Hide() {
	hideMu.Lock()
	defer hideMu.Unlock()
	hidden = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) == nil // an old kernel has it with other words, which is no harm
}

// show has the files of a process with a user namespace be this one's to write to, which its IDs are: a process begins
// as what it is a copy of. The function ends that.
func show(namespaces int) func() {
	if namespaces&unix.CLONE_NEWUSER == 0 {
		return func() {}
	}
	hideMu.Lock()
	if hidden {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // as it began
	}
	return func() {
		if hidden {
			_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		}
		hideMu.Unlock()
	}
}
