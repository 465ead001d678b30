package inplace

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// owning records in a tree whom files belong to that a step of somebody else than root has made, so that later steps see it.
type owning struct {
	owner  layer.Owner
	now    *dir             // as which the tree was seen, and is to be seen
	linked map[uint64]stamp // files with several names, as they are then
	newest int64            // time of change
}

// record records what was made in an open directory and below it. Links and the like have records beside the layer.
func (o *owning) record(fd int, all []change, path string) error {
	if o.owner == (layer.Owner{}) {
		return nil
	}
	err := o.dir(fd, all, path)
	if len(o.linked) > 0 {
		o.now.relabel(o.linked)
	}
	return err
}

func (o *owning) dir(fd int, all []change, path string) error {
	for i := range all {
		c := &all[i]
		name := join(path, c.name)
		e := o.now.find(name)
		if c.gone || e == nil || !e.stamp.isDir() && (!c.made || e.stamp.mode&unix.S_IFMT != unix.S_IFREG) {
			continue
		}
		if c.made {
			if err := o.file(fd, c.name, e); err != nil {
				return moving(name, err)
			}
		}
		if len(c.below) == 0 {
			continue
		}
		sub, err := openDir(fd, c.name)
		if err != nil {
			return moving(name, err)
		}
		err = o.dir(sub, c.below, name)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

// file records the owner of a file or a directory that has no record.
func (o *owning) file(dir int, name string, e *entry) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	is, needs := layer.Record{Owner: o.owner}, uint32(0o600)
	if e.stamp.isDir() {
		needs = 0o700
	}
	if e.stamp.mode&needs != needs { // as its attributes could not be written
		is.Mode = e.stamp.mode
		if err := unix.Chmod(path, e.stamp.mode&0o7777|needs); err != nil {
			return err
		}
	}
	err = unix.Setxattr(path, layer.OwnerRecord, []byte(is.String()), unix.XATTR_CREATE)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if e.stamp, err = stampAt(fd, ""); err == nil {
		o.newest = max(o.newest, e.stamp.ctime)
		if e.stamp.links > 1 {
			o.linked[e.stamp.ino] = e.stamp
		}
	}
	return err
}
