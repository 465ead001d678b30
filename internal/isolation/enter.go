//go:build cgo

package isolation

// #include "enter.h"
import "C"

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Enter executes this program once more, in a user namespace with the IDs of c. It returns only an error. The process stays the same one, with
// its number, its arguments, and what it has open for programs that it starts. carried is what [Carried] gives it then.
func Enter(c *Choice, carried []byte) error {
	m, fd := c.enter, -1
	if len(carried) > 0 {
		f, err := unix.MemfdCreate("carried", 0)
		if err != nil {
			return os.NewSyscallError("memfd_create", err)
		}
		defer unix.Close(f)
		if n, err := unix.Pwrite(f, carried, 0); err != nil || n < len(carried) {
			return fmt.Errorf("writing to memory: %w", cmp.Or(err, io.ErrShortWrite))
		}
		fd = f
	}
	text := strings.Join([]string{fmt.Sprint(os.Getpid()), string(c.IDs), c.Why, m.uids, m.gids, m.uidProgram, m.gidProgram, m.setgroups, fmt.Sprint(fd)}, "\n")
	env := append(os.Environ(), C.VARIABLE+"="+text)
	return fmt.Errorf("executing this program again, to enter a user namespace: %w", unix.Exec("/proc/self/exe", os.Args, env))
}

// Entry is how entering went.
type Entry struct {
	UID, GID int // who this process was
	IDs      IDs // that were wanted
	Why      string
	Inside   bool // it is in the namespace
	Err      error
}

// Entered says how entering went; it is nil where this process was not asked to.
func Entered() *Entry {
	e := &C.entered
	if e.asked == 0 {
		return nil
	}
	entry := &Entry{UID: int(e.uid), GID: int(e.gid), IDs: IDs(C.GoString(e.ids)), Why: C.GoString(e.why), Inside: e.inside != 0}
	if e.step == C.DONE {
		return entry
	}
	what := map[C.enum_step]string{
		C.PREPARE: "preparing to enter a user namespace", C.NAMESPACE: "making a user namespace", C.UIDS: "mapping the users of a user namespace",
		C.GIDS: "mapping the groups of a user namespace", C.JOIN: "entering a user namespace", C.BECOME: "becoming root of a user namespace",
		C.MOUNTS: "making a mount namespace",
	}[e.step]
	err := error(unix.Errno(e.error))
	if e.error == 0 {
		err = errors.New(strings.Join(strings.Fields(C.GoString(&e.said[0])), " "))
	}
	entry.Err = fmt.Errorf("%s: %w", what, err)
	return entry
}

// Carried is what the process that entered was given by itself. It is read once.
func Carried() ([]byte, error) {
	if C.entered.asked == 0 || C.entered.carried < 0 {
		return nil, nil
	}
	f := os.NewFile(uintptr(C.entered.carried), "carried")
	C.entered.carried = -1
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
}

// tryNamespaces reports why namespaces cannot be made, or mounts in them not be changed.
func tryNamespaces(flags int) (made, mounts error) {
	var mount C.int
	n := C.probe(C.int(flags), &mount)
	switch {
	case n == 0:
		return nil, nil
	case mount != 0:
		return nil, unix.Errno(n)
	}
	return unix.Errno(n), nil
}
