package sandbox

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// The main thread stays with the main goroutine, from the start to the end of the program. We
// spoil threads (they enter mount namespaces) and let them end with their
// goroutines; but the main thread cannot end before the process. Spoilt, it would keep a dead
// container's mounts alive, and show them in /proc/self.
func init() { runtime.LockOSThread() }

// inMountNamespace calls f on an operating-system thread of its own that has a private copy of
// the mount namespace, and returns f's error. What f mounts is seen by no other thread or
// process but those that f starts, and the kernel drops it when they are gone, also after a
// crash. All of f must happen on its own goroutine; the thread dies with it, and with the thread
// the processes that asked for a parent-death signal.
func inMountNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so that Go ends the thread
		done <- unshareAnd(f)
	}()
	return <-done
}

func unshareAnd(f func() error) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a private mount namespace (this needs root): %w", err)
	}
	unix.Umask(0) // this thread's: what is made for a container has the mode that it is given
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making all mounts private: %w", err)
	}
	// The directory that slipway was started in may be gone, which runtimes do not like; what f needs is at absolute paths.
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("changing to /: %w", err)
	}
	return f()
}
