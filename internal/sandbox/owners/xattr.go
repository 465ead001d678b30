package owners

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// maxValue is the longest value of an attribute, as in the kernel.
const maxValue = 64 << 10

// xattr answers a call about an attribute that it names.
func (c *call) xattr() error {
	name, err := c.readText(c.n.args[c.name], 256)
	if err == unix.ENAMETOOLONG {
		return unix.ERANGE
	}
	if err != nil {
		return err
	}
	own := strings.HasPrefix(name, layer.RecordPrefix)
	held := !own && layer.KeepsXattr(name) && !strings.HasPrefix(name, "user.") // if the disk refused it
	switch {
	case c.kind == gets && (!held || c.hides(name)):
		return errNative
	case c.kind == gets:
		return c.getXattr(name)
	case !c.s.rules.Root && own: // it would say what chown may not
		return unix.EPERM
	case c.s.rules.Root && !held:
		return errNative
	}
	// Who is not root might say another name by the time that the kernel reads it: nothing of that is left to it.
	if err := c.open(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(c.object, &st); err != nil {
		return err
	}
	if !c.s.rules.Root && !c.canWrite(&st, name) {
		return unix.EPERM
	}
	if c.kind == removes {
		return c.removeXattr(&st, name)
	}
	return c.setXattr(&st, name)
}

// canWrite reports whether a user may set an attribute: those of users, of files that are the user's.
func (c *call) canWrite(st *unix.Stat_t, name string) bool {
	r, _, err := c.record(st)
	return err == nil && r.UID == c.s.rules.UID && strings.HasPrefix(name, "user.")
}

func (c *call) setXattr(st *unix.Stat_t, name string) error {
	size, flags := c.n.args[c.value+1], int(c.arg(c.value+2))
	if size > maxValue {
		return unix.E2BIG
	}
	value := make([]byte, size)
	if err := errors.Join(c.readAll(c.n.args[c.value], value), c.valid()); err != nil { // what was read is the caller's
		return err
	}
	return c.byName(func(object string) error {
		err := unix.Setxattr(object, name, value, flags)
		if (err == unix.EPERM || err == unix.EINVAL || err == unix.ENOTSUP) && c.s.rules.Root && hasAttributes(st) && c.recorded(st) {
			err = unix.Setxattr(object, layer.HeldRecord+name, value, flags)
		}
		return err
	})
}

func (c *call) removeXattr(st *unix.Stat_t, name string) error {
	return c.byName(func(object string) error {
		err := unix.Removexattr(object, name)
		if err != nil && c.s.rules.Root && hasAttributes(st) {
			if unix.Removexattr(object, layer.HeldRecord+name) == nil {
				return nil
			}
		}
		return err
	})
}

// hides reports whether an attribute is one that the kernel shows to root alone.
func (c *call) hides(name string) bool {
	id, _ := c.identity()
	return id.users[1] != 0 && strings.HasPrefix(name, "trusted.")
}

// getXattr gives the value of an attribute that the disk refused to hold; all others, and what is wrong with the call, are the kernel's to tell.
func (c *call) getXattr(name string) error {
	if c.open() != nil {
		return errNative
	}
	var value []byte
	err := c.byName(func(object string) (err error) {
		value, err = attribute(func(b []byte) (int, error) { return unix.Getxattr(object, layer.HeldRecord+name, b) })
		return err
	})
	if err != nil {
		return errNative
	}
	return c.giveValue(value)
}

// listXattr names the attributes of a file, with those that the disk refused to hold.
func (c *call) listXattr() error {
	if c.open() != nil {
		return errNative
	}
	var list []byte
	err := c.byName(func(object string) (err error) {
		list, err = attribute(func(b []byte) (int, error) { return unix.Listxattr(object, b) })
		return err
	})
	if err != nil {
		return errNative
	}
	names := strings.SplitAfter(string(list), "\x00")
	n := len(list)
	for _, name := range names {
		if held, ok := strings.CutPrefix(name, layer.HeldRecord); ok && !slices.Contains(names, held) && !c.hides(held) {
			list = append(list, held...)
		}
	}
	if len(list) == n {
		return errNative
	}
	return c.giveValue(list)
}

// attribute reads with a system call that tells how much there is to one who has no room for it.
func attribute(read func([]byte) (int, error)) ([]byte, error) {
	n, err := read(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	b := make([]byte, n)
	n, err = read(b)
	return b[:max(n, 0)], err
}

// giveValue answers with a value, or with its size who has no room for any.
func (c *call) giveValue(value []byte) error {
	c.result = int64(len(value))
	switch size := c.n.args[c.value+1]; {
	case size == 0:
		return nil
	case size < uint64(len(value)):
		return unix.ERANGE
	}
	return c.write(c.n.args[c.value], value)
}
