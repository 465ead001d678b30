// Package overlay mounts layer directories on top of each other with the kernel's overlayfs.
//
// # Structure
//
// [Mount] makes one call of mount(2) with all directories in its option string, if these fit into a page and
// need no escaping of ':' and ','. Else it prefers the mount API of Linux 6.7 (one fsconfig call per layer), which has no
// limit on the length of all paths together. Older kernels get an option string in which
// every directory is named by a file descriptor of ours, which is short. Both take a few hundred layers (the kernel's own limit is 500).
//
// # Caveats
//
// A mount is visible in the mount namespace of the calling thread; who wants it private unshares
// that first. The caller owns all directories.
package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Options are the choices for one mount.
type Options struct {
	// NoDev and NoSuid make device nodes and set-ID bits below the mount ineffective.
	NoDev, NoSuid bool
	// Durable asks the kernel to sync the upper directory when the mount ends. Without it the
	// mount is "volatile": its end costs nothing, the caller syncs what it wants to keep, and
	// the work directory cannot be used for a second mount.
	Durable bool
	// UserXattr has overlayfs keep what it notes of a directory in attributes user.overlay.*, as everybody may write them,
	// and not in trusted.overlay.*, which are for root of the host alone. An upper directory is of the one or the other kind
	// for ever.
	UserXattr bool
}

// maxValue is the longest string that fsconfig(2) takes, without its terminating zero.
const maxValue = 255

// Mount shows the directories of lower, base first, at the directory target. Changes go to
// upper, which needs the empty directory work on the same filesystem. If upper is "" the mount
// is read-only; a read-only mount of a single directory is a bind mount, in which overlayfs's
// whiteouts show as the device nodes that they are.
func Mount(target string, lower []string, upper, work string, opt Options) error {
	switch {
	case len(lower) == 0:
		return fmt.Errorf("mounting layers at %s: no lower directory", target)
	case upper != "" && work == "":
		return fmt.Errorf("mounting layers at %s: upper directory %s comes without a work directory", target, upper)
	case upper == "" && len(lower) == 1:
		if err := Bind(lower[0], target, true, opt); err != nil {
			return fmt.Errorf("mounting layer %s at %s: %w", lower[0], target, err)
		}
		return nil
	}
	err := mount(target, lower, upper, work, opt)
	if err == nil && upper != "" {
		err = writable(target, work)
	}
	return wrap(err, target, lower)
}

// mount tries the ways that there are.
func mount(target string, lower []string, upper, work string, opt Options) error {
	if plain(append([]string{upper, work}, lower...)) {
		// Of a full disk the first attempt tells: it leaves something behind with which others fail for another reason.
		err := mountOld(target, lower, upper, work, opt, direct)
		if err == nil || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return err
		}
	}
	err := mountNew(target, lower, upper, work, opt)
	if err == nil || !tryOlder(err) {
		return err
	}
	var open handles
	defer open.close()
	if old := mountOld(target, lower, upper, work, opt, open.path); old != nil {
		return errors.Join(err, old)
	}
	return nil
}

// writable undoes a mount that the kernel has made read-only, as it does without a word where it could not make its directory in work.
func writable(target, work string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Flags&unix.ST_RDONLY == 0 {
		return err
	}
	err := os.Mkdir(filepath.Join(work, "try"), 0o700) // fails for the same reason
	if err == nil {
		err = errors.New("the kernel has mounted it read-only")
	}
	return errors.Join(err, unix.Unmount(target, unix.MNT_DETACH))
}

// plain reports whether paths fit into one option string as they are.
func plain(paths []string) bool {
	length := 0
	for _, p := range paths {
		length += len(p) + 1
		if strings.ContainsAny(p, `\:,`) {
			return false
		}
	}
	return length < os.Getpagesize()-256 // with room for the options' names
}

func direct(dir string) (string, error) { return dir, nil }

// Bind shows the file or directory source, with all mounts below it, at target.
func Bind(source, target string, readOnly bool, opt Options) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return &os.PathError{Op: "bind mount", Path: source, Err: err}
	}
	flags := opt.flags()
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if flags == 0 {
		return nil
	}
	// Flags that the source's mount has already may be locked: they are asked for again.
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return errors.Join(&os.PathError{Op: "statfs", Path: target, Err: err}, unix.Unmount(target, unix.MNT_DETACH))
	}
	const keep = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME
	flags |= uintptr(st.Flags) & keep
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
		return errors.Join(&os.PathError{Op: "remount", Path: target, Err: err}, unix.Unmount(target, unix.MNT_DETACH))
	}
	return nil
}

// flags are the options as flags of mount(2).
func (o Options) flags() (flags uintptr) {
	if o.NoDev {
		flags |= unix.MS_NODEV
	}
	if o.NoSuid {
		flags |= unix.MS_NOSUID
	}
	return flags
}

// tryOlder tells whether an error of the new API may come from a kernel that lacks it, or lacks
// one of the parameters.
func tryOlder(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) ||
		errors.Is(err, unix.EOPNOTSUPP)
}

func wrap(err error, target string, lower []string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mounting %d layers at %s: %w", len(lower), target, err)
}

// handles are O_PATH descriptors, through which a directory has a short name.
type handles []int

// path opens dir and returns a name of it that is valid until close.
func (h *handles) path(dir string) (string, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	*h = append(*h, fd)
	return "/proc/self/fd/" + strconv.Itoa(fd), nil
}

func (h *handles) close() {
	for _, fd := range *h {
		_ = unix.Close(fd) // an O_PATH descriptor has nothing to lose
	}
}

// mountOld mounts with mount(2), first with all options, then with those that every kernel has. name gives what a
// directory is called in them.
func mountOld(target string, lower []string, upper, work string, opt Options, name func(string) (string, error)) error {
	names := make([]string, len(lower))
	for i, dir := range lower {
		n, err := name(dir)
		if err != nil {
			return err
		}
		names[len(lower)-1-i] = n // the option lists the topmost first
	}
	data := "lowerdir=" + strings.Join(names, ":")
	flags := opt.flags()
	if upper == "" {
		flags |= unix.MS_RDONLY
	} else {
		u, err := name(upper)
		if err != nil {
			return err
		}
		w, err := name(work)
		if err != nil {
			return err
		}
		data += ",upperdir=" + u + ",workdir=" + w
	}
	var err error
	for _, extra := range extras(upper != "" && !opt.Durable, opt.UserXattr) {
		if len(data)+len(extra) >= os.Getpagesize() {
			return fmt.Errorf("this kernel takes the options of a mount in one page of %d bytes only: use fewer layers or Linux 6.7", os.Getpagesize())
		}
		if err = unix.Mount("overlay", target, "overlay", flags, data+extra); !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	if err != nil {
		return &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// extras are the optional options, the most wanted set first. All but volatile are defaults of
// the kernel that its configuration may have changed, and that would make upper directories
// unreadable for anybody but this very mount. With userxattr the kernel has them off, and refuses to be told so. Without it
// a mount in a user namespace would be made, but no directory could be removed there.
func extras(volatile, userXattr bool) []string {
	const plain, user = ",redirect_dir=off,metacopy=off,index=off", ",userxattr"
	switch {
	case userXattr && volatile:
		return []string{user + ",volatile", user}
	case userXattr:
		return []string{user}
	}
	if volatile {
		return []string{plain + ",volatile", plain, ",redirect_dir=off", ""}
	}
	return []string{plain, ",redirect_dir=off", ""}
}
