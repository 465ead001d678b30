package isolation

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Where a store is on an overlay, as a container's root is, the kernel lets no other overlay have its changes there: what a step changes is in
// memory until it has ended.

// leastRoom is how much memory there has to be for that, in bytes, so that it is chosen before steps in place: more than what most installations of
// packages or modules write, and what a container with 2 GB has.
const leastRoom = 900 << 20

// Room is how much memory what one more step changes may fill, in bytes: half of what is left to this container, as a step needs some for
// itself. 0 says that memory cannot hold it (before Linux 6.6).
func Room() int64 {
	if !holdsAttributes() {
		return 0
	}
	return roomIn("/proc/meminfo", "/sys/fs/cgroup")
}

// roomIn reads those files and directories.
func roomIn(meminfo, cgroups string) int64 {
	left := int64(math.MaxInt64)
	if available, ok := field(meminfo, "MemAvailable:"); ok {
		left = available << 10
	}
	for _, c := range []struct{ dir, limit, usage, cache, shared string }{
		{cgroups, "memory.max", "memory.current", "file", "shmem"},
		{filepath.Join(cgroups, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"},
	} {
		limit, ok := number(filepath.Join(c.dir, c.limit))
		usage, ok2 := number(filepath.Join(c.dir, c.usage))
		if !ok || !ok2 {
			continue
		}
		cache, _ := field(filepath.Join(c.dir, "memory.stat"), c.cache) // of files on disks, which can be had back
		shared, _ := field(filepath.Join(c.dir, "memory.stat"), c.shared)
		left = min(left, limit-usage+cache-shared)
	}
	return max(left/2, 1)
}

// number is what a file holds; there is none in a file that says "max".
func number(path string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n, err == nil
}

// field is the number after a word in a file of lines.
func field(path, word string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == word {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// holdsAttributes reports whether files in memory can have attributes of users, which overlays need that root of the machine did not mount.
func holdsAttributes() bool {
	fd, err := unix.MemfdCreate("attributes", unix.MFD_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !errors.Is(unix.Fsetxattr(fd, "user.slipway", []byte("x"), 0), unix.ENOTSUP)
}
