// Package atomicfile puts files and directories in the place of others: who opens one sees the old or the new one, whole,
// whenever the process that writes is killed.
//
// # Caveats
//
// A crash of the machine is another matter. With Sync the content is on the disk before it gets the name, which leads to
// the old or to the new one then. Without, it may lead to a file that is empty or lacks a part: that is for what is verified
// when it is read, can be made again, or is the user's to sync. The name itself is never waited for.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options say how a file is written.
type Options struct {
	// Temporary is where it is until it is whole, on the same filesystem, and nobody else's: what is there is of a process that was
	// killed. "" is a hidden name beside it that nobody has, which such a process leaves.
	Temporary string
	Mode      fs.FileMode // and the umask
	Sync      bool        // see the package's caveats
}

// File is a file that has no name yet that others look for. Either Commit or Abort ends it.
type File struct {
	*os.File
	path         string
	sync, closed bool
	err          error // of what was written, once it is closed
}

// Create makes a file that Commit calls path.
func Create(path string, o Options) (*File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	name := o.Temporary
	if name == "" {
		name = filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text())
	}
	f, err := os.OpenFile(name, flags, o.Mode)
	if o.Temporary != "" && errors.Is(err, fs.ErrExist) {
		if err = os.Remove(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			f, err = os.OpenFile(name, flags, o.Mode)
		}
	}
	if err != nil {
		return nil, err
	}
	return &File{File: f, path: path, sync: o.Sync}, nil
}

// Commit gives the file its name, in the place of a file that has it. Where that fails it may be called again; a file that is
// not whole gets no name.
func (f *File) Commit() error {
	if !f.closed {
		if f.sync {
			f.err = f.Sync()
		}
		f.closed = true
		f.err = errors.Join(f.err, f.Close())
	}
	if f.err != nil {
		return f.err
	}
	return os.Rename(f.Name(), f.path)
}

// Abort drops the file.
func (f *File) Abort() {
	if !f.closed {
		f.Close()
	}
	os.Remove(f.Name())
}

// Write writes a file with what fill writes. When that fails, what was there stays.
func Write(path string, o Options, fill func(*os.File) error) error {
	f, err := Create(path, o)
	if err != nil {
		return err
	}
	if err = fill(f.File); err == nil {
		err = f.Commit()
	}
	if err != nil {
		f.Abort()
	}
	return err
}

// ReplaceDir puts a directory in the place of one that is there or not, and removes that. What is in it is the caller's to sync. Where the
// filesystem cannot exchange names, as some of networks, there is neither for a moment.
func ReplaceDir(fresh, dir string) error {
	err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return os.RemoveAll(fresh) // the old one
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	case !errors.Is(err, unix.ENOENT):
		return &os.LinkError{Op: "renameat2", Old: fresh, New: dir, Err: err}
	}
	return os.Rename(fresh, dir)
}
