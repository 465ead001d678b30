package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// needLoop says why no filesystem can be mounted from a file.
func needLoop() error {
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fmt.Errorf("there are no loop devices: %w", err)
	}
	dir, err := os.MkdirTemp("", "slipway-torture-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &disk{file: filepath.Join(dir, "disk"), mount: filepath.Join(dir, "mount"), data: "ordered"}
	if err := d.make(); err != nil {
		return err
	}
	return d.unmount()
}

// disk is an ext4 filesystem in a file on a tmpfs. The file has what was written out: what nobody synced stays in
// the kernel's memory, as it writes out by itself only after a while.
type disk struct{ file, mount, data string }

func (d *disk) make() error {
	f, err := os.Create(d.file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(192<<20), f.Close(), os.Mkdir(d.mount, 0o755)); err != nil {
		return err
	}
	if err := tool("mkfs.ext4", "-q", "-F", "-N", "8192", "-J", "size=4", "-E", "lazy_itable_init=0,nodiscard", d.file); err != nil {
		return err
	}
	return d.attach()
}

func (d *disk) attach() error {
	return tool("mount", "-o", "loop,commit=300,data="+d.data, d.file, d.mount)
}

// unmount waits until those that were killed are gone.
func (d *disk) unmount() error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Unmount(d.mount, unix.UMOUNT_NOFOLLOW)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// lose takes the power: what is left is what the file had at this moment.
func (d *disk) lose() error {
	left := d.file + ".left"
	if err := tool("cp", "--sparse=always", d.file, left); err != nil {
		return err
	}
	if err := d.unmount(); err != nil { // writes the rest into the file, which goes
		return err
	}
	if err := os.Rename(left, d.file); err != nil {
		return err
	}
	return d.attach() // replays the journal
}

func tool(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// powerRound takes the power once or twice, in the middle of a command or right after it.
func powerRound(ctx context.Context, r *round) error {
	d := &disk{file: filepath.Join(r.dir, "disk"), mount: filepath.Join(r.dir, "mount"), data: oneOf(r, "ordered", "writeback")}
	r.note("ext4, data=%s", d.data)
	if err := d.make(); err != nil {
		return err
	}
	s, err := r.stocked(filepath.Join(d.mount, "store"))
	if err != nil {
		return err
	}
	if err := tool("sync", "-f", d.mount); err != nil {
		return err
	}
	for range 1 + r.rng.IntN(2) {
		if err := s.loss(ctx, d); err != nil {
			return err
		}
	}
	return s.check(ctx)
}

// loss does something, and takes the power.
func (s *store) loss(ctx context.Context, d *disk) error {
	beside, err := s.buildOn(ctx)
	if err != nil {
		return err
	}
	for range s.rng.IntN(4) {
		if _, err := s.do(ctx, s.pick()); err != nil {
			return err
		}
	}
	written := s.rng.IntN(2) == 0
	switch s.rng.IntN(3) {
	case 0: // right after a command
	case 1:
		if _, err := s.killOne(ctx, s.pick()); err != nil {
			return err
		}
	case 2: // what is to be on the disk before the records say so is not
		written = true
		d := s.build()
		if !slices.Contains(d.args, "--no-cache") {
			d.args = slices.Insert(d.args, 1, "--no-cache")
		}
		if _, err := s.do(ctx, d, s.killAt(syncs, oneOf(s.round, 1, 1, 1, 2))...); err != nil {
			return err
		}
	}
	if written {
		if err := s.writeOut(); err != nil {
			return err
		}
	}
	s.note("the power is gone")
	s.count.Add(1)
	beside()
	if err := d.lose(); err != nil {
		return err
	}
	s.boot = filepath.Join(s.dir, "boot-"+rand.Text())
	id := strings.ToLower(rand.Text() + rand.Text())
	id = id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:32]
	return os.WriteFile(s.boot, []byte(id+"\n"), 0o444)
}

// writeOut has the records on the disk: the kernel writes out what it likes when it likes, and nothing but a sync says
// what else is there.
func (s *store) writeOut() error {
	s.note("the kernel has written the records out")
	for _, name := range []string{"meta.db", "meta.db-wal"} {
		f, err := os.Open(filepath.Join(s.root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// buildOn has, in every second loss, a build that goes on beside all else: the one who closes a database last
// writes it out, and here nobody does. kill ends it.
func (s *store) buildOn(ctx context.Context) (kill func(), err error) {
	if s.rng.IntN(2) == 0 {
		return func() {}, nil
	}
	s.note("beside a build that does not end")
	dir := filepath.Join(s.dir, "endless")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	text := "FROM busybox\nRUN echo begun && sleep 100000\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := s.program(ctx, nil, "build", "--no-cache", "--progress=plain", dir)
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			return nil, errors.Join(errors.New("the build beside has ended"), cmd.Wait())
		}
		if strings.HasSuffix(lines.Text(), " begun") {
			break
		}
	}
	return func() {
		_ = cmd.Process.Kill() // it has not ended by itself
		_ = cmd.Wait()
	}, nil
}
