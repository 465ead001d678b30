package isolation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// shiftedRoot is who this process becomes where a namespace cannot have its own user: the first of the others.
const shiftedRoot = 1

// Shifted reports whether this process becomes another user of the container than it is: then nothing belongs to it that was its own.
func (c *Choice) Shifted() bool {
	return c.IDs == Identity && c.Enters() && !strings.HasPrefix(c.enter.uids, "0 0 ")
}

// Prepare makes a directory that is not there yet for who this process becomes. Root without CAP_CHOWN cannot give a directory away, and the
// other user may not make one there: so it makes one in another directory, by their group, from which root takes it.
func (c *Choice) Prepare(dir string) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if err := os.MkdirAll(above, 0o755); err != nil {
		return err
	}
	between, err := os.MkdirTemp(above, ".slipway-")
	if err != nil {
		return err
	}
	defer os.Remove(between)
	made := filepath.Join(between, "made")
	err = os.Chmod(between, 0o770)
	if err == nil {
		err = asShifted(func() error { return errors.Join(unix.Mkdir(made, 0o770), unix.Chmod(made, 0o770)) })
	}
	if err == nil {
		err = os.Rename(made, dir)
	}
	if err == nil {
		err = asShifted(func() error { return unix.Chmod(dir, 0o700) })
	}
	if err != nil {
		return fmt.Errorf("making %s for user %d: %w", dir, shiftedRoot, err)
	}
	return nil
}

// asShifted calls f on a thread whose files are that user's.
func asShifted(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _ = unix.SetfsuidRetUid(shiftedRoot) // they tell what was before, and no error
	defer func() { _, _ = unix.SetfsuidRetUid(os.Geteuid()) }()
	if now, _ := unix.SetfsuidRetUid(-1); now != shiftedRoot {
		return unix.EPERM
	}
	return f()
}
