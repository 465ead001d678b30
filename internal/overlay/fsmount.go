package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mountNew mounts with fsopen(2) and friends.
func mountNew(target string, lower []string, upper, work string, opt Options) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen overlay", err)
	}
	defer unix.Close(fs)
	if err := configure(fs, lower, upper, work, opt); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return kernelSays(fs, os.NewSyscallError("fsconfig create", err))
	}
	attrs := 0
	if opt.NoDev {
		attrs |= unix.MOUNT_ATTR_NODEV
	}
	if opt.NoSuid {
		attrs |= unix.MOUNT_ATTR_NOSUID
	}
	if upper == "" {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return kernelSays(fs, os.NewSyscallError("fsmount", err))
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// configure names the directories and options.
func configure(fs int, lower []string, upper, work string, opt Options) error {
	var open handles
	defer open.close() // the kernel has looked the paths up by then
	set := func(key, dir string) error {
		name := dir
		if len(dir) > maxValue || strings.ContainsRune(dir, '\\') { // upperdir and workdir are unescaped
			var err error
			if name, err = open.path(dir); err != nil {
				return err
			}
		}
		if err := unix.FsconfigSetString(fs, key, name); err != nil {
			return kernelSays(fs, &os.PathError{Op: key, Path: dir, Err: err})
		}
		return nil
	}
	for i := len(lower) - 1; i >= 0; i-- { // the topmost comes first
		if err := set("lowerdir+", lower[i]); err != nil {
			return err
		}
	}
	if upper != "" {
		if err := set("upperdir", upper); err != nil {
			return err
		}
		if err := set("workdir", work); err != nil {
			return err
		}
		if !opt.Durable {
			if err := optional(unix.FsconfigSetFlag(fs, "volatile")); err != nil {
				return kernelSays(fs, fmt.Errorf("setting volatile: %w", err))
			}
		}
	}
	if opt.UserXattr { // which turns the others off
		if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
			return kernelSays(fs, fmt.Errorf("setting userxattr (this needs Linux 5.11): %w", err))
		}
		return nil
	}
	for _, key := range []string{"redirect_dir", "metacopy", "index"} {
		if err := optional(unix.FsconfigSetString(fs, key, "off")); err != nil {
			return kernelSays(fs, fmt.Errorf("setting %s=off: %w", key, err))
		}
	}
	return nil
}

// optional forgives a kernel that does not know a parameter.
func optional(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// kernelSays adds the messages that the kernel left on a filesystem context.
func kernelSays(fs int, err error) error {
	var said []string
	buf := make([]byte, 4096)
	for {
		n, rerr := unix.Read(fs, buf)
		if rerr != nil || n <= 0 {
			break
		}
		// "e overlay: text": the letter is the severity.
		_, text, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
		said = append(said, text)
	}
	if len(said) == 0 {
		return err
	}
	return fmt.Errorf("%w (kernel: %s)", err, strings.Join(said, "; "))
}
