//go:build !cgo

package isolation

import "golang.org/x/sys/unix"

// Enter returns an error.
func Enter(*Choice, []byte) error { return errNoCgo }

// Carried is nothing.
func Carried() ([]byte, error) { return nil, nil }

// Entry is how entering went.
type Entry struct {
	UID, GID int
	IDs      IDs
	Why      string
	Inside   bool
	Err      error
}

// Entered is nil: this process cannot enter anything.
func Entered() *Entry { return nil }

func tryNamespaces(int) (made, mounts error) { return unix.ENOSYS, nil }
