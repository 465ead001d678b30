package conformance

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fixedTime is what every file of a context has for a modification time.
var fixedTime = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// commands are those of the sections setup and again; paths are in the context.
var commands = map[string]struct {
	usage string
	run   func(d *Dir, args []string) error
}{
	"mkdir": {"DIR [MODE]", func(d *Dir, a []string) error {
		if err := os.MkdirAll(d.path(a[0]), 0o755); err != nil || len(a) == 1 {
			return err
		}
		return unix.Chmod(d.path(a[0]), number(a[1], 8))
	}},
	"chmod": {"MODE PATH", func(d *Dir, a []string) error { return unix.Chmod(d.path(a[1]), number(a[0], 8)) }},
	"chown": {"UID GID PATH", func(d *Dir, a []string) error {
		return os.Lchown(d.path(a[2]), int(number(a[0], 10)), int(number(a[1], 10)))
	}},
	"symlink": {"TARGET PATH", func(d *Dir, a []string) error { return os.Symlink(a[0], d.path(a[1])) }},
	"link":    {"OLD NEW", func(d *Dir, a []string) error { return os.Link(d.path(a[0]), d.path(a[1])) }},
	"fifo":    {"PATH", func(d *Dir, a []string) error { return unix.Mkfifo(d.path(a[0]), 0o644) }},
	"device": {"PATH c|b MAJOR MINOR", func(d *Dir, a []string) error {
		kind := uint32(unix.S_IFCHR)
		if a[1] == "b" {
			kind = unix.S_IFBLK
		}
		return unix.Mknod(d.path(a[0]), kind|0o644, int(unix.Mkdev(number(a[2], 10), number(a[3], 10))))
	}},
	"socket": {"PATH", func(d *Dir, a []string) error { return unix.Mknod(d.path(a[0]), unix.S_IFSOCK|0o644, 0) }},
	"xattr": {"PATH NAME TEXT|0xHEX", func(d *Dir, a []string) error {
		value := []byte(a[2])
		if digits, ok := strings.CutPrefix(a[2], "0x"); ok {
			var err error
			if value, err = hex.DecodeString(digits); err != nil {
				return err
			}
		}
		return unix.Lsetxattr(d.path(a[0]), a[1], value, 0)
	}},
	"mtime": {"PATH TIME", func(d *Dir, a []string) error {
		when, err := time.Parse(time.RFC3339, a[1])
		if err != nil {
			return err
		}
		return touch(d.path(a[0]), when)
	}},
	"archive": {"PATH NAME none|gzip|bzip2|xz|zstd", func(d *Dir, a []string) error { return d.archive(a[0], a[1], a[2]) }},
	"write":   {"PATH TEXT", func(d *Dir, a []string) error { return os.WriteFile(d.path(a[0]), []byte(a[1]), 0o644) }},
	"rename":  {"OLD NEW", func(d *Dir, a []string) error { return os.Rename(d.path(a[0]), d.path(a[1])) }},
	"remove":  {"PATH", func(d *Dir, a []string) error { return os.RemoveAll(d.path(a[0])) }},
}

func (d *Dir) path(p string) string { return filepath.Join(d.Context, p) }

// number is 0 for what is none: what is made of it shows.
func number(s string, base int) uint32 {
	n, _ := strconv.ParseUint(s, base, 32)
	return uint32(n)
}

// Run runs commands in the context. With fix, all that was not given a time gets the same one.
func (d *Dir) Run(lines []string, fix bool) error {
	var times []string
	for _, line := range lines {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case fix && strings.HasPrefix(line, "mtime "):
			times = append(times, line)
		default:
			if err := d.run(line); err != nil {
				return fmt.Errorf("running %q: %w", line, err)
			}
		}
	}
	if !fix {
		return nil
	}
	err := filepath.WalkDir(d.Context, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, touch(p, fixedTime))
	})
	return errors.Join(err, d.Run(times, false))
}

func (d *Dir) run(line string) error {
	args := strings.Fields(line)
	c, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("there is no such command")
	}
	want := strings.Fields(c.usage)
	if len(args)-1 > len(want) || len(args)-1 < len(want)-strings.Count(c.usage, "[") {
		return fmt.Errorf("usage: %s %s", args[0], c.usage)
	}
	return c.run(d, args[1:])
}

func touch(p string, when time.Time) error {
	t := unix.NsecToTimespec(when.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}
