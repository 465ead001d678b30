package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/capability"
	"github.com/slipway-build/slipway/internal/hostfiles"
	"golang.org/x/sys/unix"
)

// A process that waits for others of the same build, as a frontend that is an image does, cannot have "/" meanwhile. It has its root filesystem by
// chroot(2), beside the steps: nothing can be mounted in it, so there is no /proc, and its /dev has what may be made there. What it changes is gone
// with it.

// mayRunAside reports an error where this process may not change a root directory.
func mayRunAside() error {
	own, err := ownCapabilities()
	if err == nil && (os.Geteuid() != 0 || !own.Get(capability.EFFECTIVE, capability.CAP_SYS_CHROOT)) {
		err = errors.New("without isolation (--isolation=none) one process has the root directory, and this one waits for others meanwhile, for which it needs CAP_SYS_CHROOT: " +
			`a frontend that is an image needs that, or another mode (or leave the line "# syntax=" out)`)
	}
	return err
}

// runAside runs a process beside those that run in "/".
func (r *placeRunner) runAside(ctx context.Context, spec *Spec, streams IO) error {
	if err := mayRunAside(); err != nil {
		return fmt.Errorf("running a process: %w", err)
	}
	lower, err := probeLayers(spec.Root)
	if err != nil {
		return err
	}
	t, err := r.machine.Tree(lower)
	if err != nil {
		return err
	}
	defer t.Drop()
	f, err := furnish(t.Path(), spec)
	if err == nil {
		p := &placing{r: r, spec: spec, streams: streams, root: t.Path()}
		err = p.execute(ctx, r.machine.Lock())
	} else {
		err = fmt.Errorf("preparing the root filesystem: %w", err)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return errors.Join(err, f.destroy())
}

// furnished are the files that were put into a root filesystem, of which nothing is to be left.
type furnished []*opened

// furnish puts into a root filesystem what a container has from outside. It is this process's alone.
func furnish(path string, spec *Spec) (f furnished, err error) {
	root, err := openRoot(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dev, err := makeDirs(root, "/dev")
	if err == nil {
		err = makeNodes(dev.fd)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EEXIST) { // no CAP_MKNOD, or the image has some
			err = nil
		}
		dev.Close()
	}
	if err != nil {
		return nil, err
	}
	done := hostfiles.Use()
	resolv, err := readOptional(hostResolvConf)
	done()
	if err != nil {
		return nil, err
	}
	mounts := append([]Mount{
		{Dest: "/etc/resolv.conf", File: &File{Data: []byte(resolv), Mode: 0o644}}, {Dest: "/etc/hosts", File: &File{Data: []byte(hostsFile(spec)), Mode: 0o644}},
	}, spec.Mounts...)
	for _, m := range mounts {
		var file *opened
		switch {
		case m.File != nil:
			if file, err = putFile(root, m.Dest, m.File); file != nil {
				f = append(f, file)
			}
		case m.Tmpfs != nil:
			err = putDir(root, m.Dest, cmp.Or(m.Tmpfs.Mode, 0o1777))
		default:
			err = errors.New("without isolation (--isolation=none) a process that waits for others has no other mounts than files and empty directories")
		}
		if err != nil {
			return f, fmt.Errorf("mount at %s: %w", m.Dest, err)
		}
	}
	return f, nil
}

// putDir makes a directory.
func putDir(root *opened, path string, mode uint32) error {
	dir, err := makeDirs(root, path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fchmodat(unix.AT_FDCWD, fmt.Sprint("/proc/self/fd/", dir.fd), mode, 0), dir.Close())
}

// putFile makes a file, in the place of what is there.
func putFile(root *opened, path string, f *File) (*opened, error) {
	dir, err := makeDirs(root, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := filepath.Base(path)
	if err := unix.Unlinkat(dir.fd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	fd, err := unix.Openat(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := &opened{fd, path}
	for data := f.Data; len(data) > 0 && err == nil; {
		var n int
		n, err = unix.Write(fd, data)
		data = data[max(n, 0):]
	}
	return file, errors.Join(err, unix.Fchown(fd, f.UID, f.GID), unix.Fchmod(fd, f.Mode&0o777))
}

// destroy overwrites the files: one may be a secret.
func (f furnished) destroy() error {
	var errs []error
	for _, file := range f {
		var st unix.Stat_t
		err := unix.Fstat(file.fd, &st)
		if err == nil {
			_, err = unix.Pwrite(file.fd, make([]byte, st.Size), 0)
		}
		errs = append(errs, err, file.Close())
	}
	return errors.Join(errs...)
}
