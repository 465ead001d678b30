package inplace

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Settle ends what is done before a step: what was moved is noted as it is now, and every further change of a file shows in
// the time of its change.
func (v *View) Settle() error {
	var newest int64
	moved := stamps{}
	for _, path := range v.moved {
		st, err := stampAt(v.m.root, path)
		if errors.Is(err, unix.ENOENT) {
			continue // put aside
		}
		if err != nil {
			return moving(path, err)
		}
		newest = max(newest, st.ctime)
		moved[path] = st
		// Something else may be there for the time of the step. A directory that stays is in the place of the tree's.
		if e := v.t.now.find(path); e != nil && (st.is(&e.stamp) || v.m.through[path]) {
			e.stamp = st
		}
	}
	for i := range v.placed {
		if p := &v.placed[i]; p.aside != "" {
			st, err := stampAt(v.held, p.aside)
			if err != nil {
				return moving(p.at, err)
			}
			p.was = st
			moved["aside "+p.aside] = st
		}
	}
	if linked := moved.linked(); len(linked) > 0 {
		v.t.now.relabel(linked)
	}
	if v.m.fineClock() {
		return nil
	}
	newest = max(newest, v.t.newest)
	for range coarseTicks { // not for ever: a file may be from the future
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil || now.Nano() > newest {
			return os.NewSyscallError("clock_gettime", err)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// coarseTicks is how many milliseconds a tick of the clock has at most with which the kernel stamps files.
const coarseTicks = 12

// tryFineClock finds out whether the filesystem gives each change a time of its own once somebody has looked at the last one
// (Linux 6.13).
func (m *Machine) tryFineClock() bool {
	const name = "clock"
	fd, err := unix.Openat(m.ownFD, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false
	}
	defer func() {
		unix.Close(fd)
		_ = unix.Unlinkat(m.ownFD, name, 0)
	}()
	var last int64
	for i := range uint32(6) {
		st, err := stampAt(m.ownFD, name)
		if err != nil || st.ctime <= last || unix.Fchmod(fd, 0o600|i&1) != nil {
			return false
		}
		last = st.ctime
	}
	return true
}
