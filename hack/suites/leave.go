package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// process is one that this one started, or that one of those did.
type process struct {
	pid, parent int
	name        string
	zombie      bool
}

// descendants are all of them, those that lost their parents included.
func descendants() (all []process) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	children := map[int][]process{}
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it ended
		}
		// "PID (NAME) STATE PPID ...", and the name may have anything in it
		begin, end := bytes.IndexByte(data, '('), bytes.LastIndex(data, []byte(") "))
		if begin < 0 || end < begin {
			continue
		}
		fields := strings.Fields(string(data[end+2:]))
		p := process{name: string(data[begin+1 : end]), zombie: fields[0] == "Z"}
		p.pid, _ = strconv.Atoi(filepath.Base(dir))
		p.parent, _ = strconv.Atoi(fields[1])
		children[p.parent] = append(children[p.parent], p)
	}
	for next := []int{os.Getpid()}; len(next) > 0; next = next[1:] {
		for _, p := range children[next[0]] {
			all = append(all, p)
			next = append(next, p.pid)
		}
	}
	return all
}

// reap takes the orphans that have ended from the table of processes.
func reap(but int) {
	for _, p := range descendants() {
		if p.zombie && p.parent == os.Getpid() && p.pid != but {
			unix.Wait4(p.pid, nil, unix.WNOHANG, nil) //nolint:errcheck // it is gone, or will be the next time
		}
	}
}

// end kills all that was started, but for one process, until nothing is left.
func end(but int) {
	for range 100 {
		left := false
		for _, p := range descendants() {
			if p.pid != but && !p.zombie {
				left = true
				unix.Kill(p.pid, unix.SIGKILL) //nolint:errcheck // it may have ended
			}
		}
		reap(but)
		if !left {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leave removes what the run made, and what daemons that were killed left.
func (p *place) leave(out io.Writer) {
	end(0)
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
	if err != nil {
		fmt.Fprintln(out, "suites:", err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil {
			fmt.Fprintf(out, "suites: unmounting %s: %v\n", mounts[i].Mountpoint, err)
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		fmt.Fprintln(out, "suites:", err)
	}
}
