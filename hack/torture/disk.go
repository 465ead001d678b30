package main

import (
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

// The model of a loss of power. A store is on a filesystem of its own, in a file on a tmpfs. Its file has what was
// written out; what nobody synced stays in the kernel's memory, as this writes out by itself only after half a minute,
// and a journal is committed only after five. So a copy of the file is what a loss leaves, and it is mounted, which
// replays the journal. What is lost depends on the filesystem:
//
//	ext4               a sync of any file commits all names made before it, but not the data of others: files have no bytes
//	ext4, writeback    the same, where data comes after names also by the journal
//	ext4, allocated    (nodelalloc) they have their sizes, and zeros or what was on the disk before
//	btrfs              a sync of a file writes that file and its name, and neither names nor renames beside it
//
// What the kernel writes out of itself at any time is the round's choice (writeOut), and what a disk does with writes
// that it was not told to flush is no part of the model.

// filesystem is one that a disk may have.
type filesystem struct {
	name string
	size int64
	mkfs []string // command, which the file follows
	with string   // mount options
}

var (
	ext4  = []string{"mkfs.ext4", "-q", "-F", "-N", "8192", "-J", "size=4", "-E", "lazy_itable_init=0,nodiscard"}
	btrfs = []string{"mkfs.btrfs", "-q", "-f", "-m", "single", "-d", "single"}

	filesystems = []filesystem{
		{"ext4", 192 << 20, ext4, "commit=300,data=ordered"},
		{"ext4, writeback", 192 << 20, ext4, "commit=300,data=writeback"},
		{"ext4, allocated", 192 << 20, ext4, "commit=300,data=writeback,nodelalloc"},
		{"btrfs", 256 << 20, btrfs, "commit=300"},
	}
)

// needDisk says why no filesystem can be mounted from a file.
func needDisk() error {
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fmt.Errorf("there are no loop devices: %w", err)
	}
	dir, err := os.MkdirTemp("", "slipway-torture-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := newDisk(dir, filesystems[0])
	if err := d.make(); err != nil {
		return err
	}
	return d.unmount()
}

// here are the filesystems that this machine has.
func here() (have []filesystem) {
	kernel, _ := os.ReadFile("/proc/filesystems") // without it there is ext4, or needDisk says why not
	for _, fs := range filesystems {
		kind := strings.TrimPrefix(fs.mkfs[0], "mkfs.")
		if _, err := exec.LookPath(fs.mkfs[0]); err == nil && strings.Contains(string(kernel), "\t"+kind+"\n") {
			have = append(have, fs)
		}
	}
	return have
}

// disk is a filesystem in a file.
type disk struct {
	filesystem
	file, mount string
}

func newDisk(dir string, fs filesystem) *disk {
	return &disk{fs, filepath.Join(dir, "disk"), filepath.Join(dir, "mount")}
}

func (d *disk) make() error {
	f, err := os.Create(d.file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(d.size), f.Close(), os.Mkdir(d.mount, 0o755)); err != nil {
		return err
	}
	if err := tool(d.mkfs[0], slices.Concat(d.mkfs[1:], []string{d.file})...); err != nil {
		return err
	}
	return d.attach()
}

func (d *disk) attach() error { return tool("mount", "-o", "loop,"+d.with, d.file, d.mount) }

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
	// A container of another round may see the mount for a moment still, and btrfs mounts no copy beside its original.
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if err := d.attach(); err == nil || time.Now().After(end) { // replays the journal
			return err
		}
	}
}

func tool(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// witness is a file on a disk that nobody syncs but who syncs all disks of the machine: then nothing is lost.
type witness struct {
	disk *disk
	file *os.File
}

func newWitness(dir string) (*witness, error) {
	at := filepath.Join(dir, "witness")
	if err := os.Mkdir(at, 0o755); err != nil {
		return nil, err
	}
	d := newDisk(at, filesystems[0])
	d.size = 16 << 20
	if err := d.make(); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(d.mount, "file"))
	if err != nil {
		return nil, errors.Join(err, d.unmount())
	}
	return &witness{d, f}, nil
}

// begin has something to be lost.
func (w *witness) begin() error {
	_, err := w.file.WriteAt(make([]byte, 4096), 0)
	return err
}

// undisturbed reports whether it is still to be lost. A kernel before 6.5 does not tell.
func (w *witness) undisturbed() bool {
	var cached unix.Cachestat_t
	err := unix.Cachestat(uint(w.file.Fd()), &unix.CachestatRange{}, &cached, 0)
	return err != nil || cached.Dirty > 0
}

func (w *witness) close() error { return errors.Join(w.file.Close(), w.disk.unmount()) }
