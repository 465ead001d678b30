package isolation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// File is a file of the user's that may be out of reach inside. Data is nil where there is none.
type File struct {
	Path string
	Data []byte
}

// Gather reads files of the user's, outside.
func Gather(paths []string) (all []File) {
	for _, path := range paths {
		path, err := filepath.Abs(path)
		if err != nil {
			continue
		}
		data, _ := os.ReadFile(path) // what cannot be read outside is no loss
		all = append(all, File{path, data})
	}
	return all
}

// Show has this process, which has entered as another user than it was, see such files where they were: in memory, in place of the first
// directory on the way that it may not look into. Nobody else sees that mount, and what is written there goes with it.
func Show(files []File) error {
	var shown []string
	for _, f := range files {
		dir := closed(f.Path)
		if dir != "" {
			if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=16m"); err != nil {
				return &os.PathError{Op: "mount", Path: dir, Err: err}
			}
			shown = append(shown, dir)
		}
		below := func(dir string) bool { return strings.HasPrefix(f.Path, dir+"/") }
		if f.Data == nil || !slices.ContainsFunc(shown, below) {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(f.Path), 0o700), os.WriteFile(f.Path, f.Data, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// closed is the first directory on the way to a file that this process may not look into; "" is none.
func closed(path string) string {
	at := "/"
	for _, name := range strings.Split(filepath.Dir(path), "/") {
		at = filepath.Join(at, name)
		if errors.Is(unix.Access(at, unix.X_OK), unix.EACCES) {
			return at
		}
	}
	return ""
}
