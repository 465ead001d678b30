package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// powerRound takes the power once or twice, in the middle of a command or right after it.
func powerRound(ctx context.Context, r *round) error {
	d := newDisk(r.dir, oneOf(r, here()...))
	r.note("%s", d.name)
	if err := d.make(); err != nil {
		return err
	}
	w, err := newWitness(r.dir)
	if err != nil {
		return err
	}
	s, err := r.beginning(filepath.Join(d.mount, "store"), oneOf(r, empty, bare, bare, full))
	if err == nil {
		err = tool("sync", "-f", d.mount)
	}
	for n := 1 + r.rng.IntN(2); n > 0 && err == nil; n-- {
		err = s.loss(ctx, d, w)
	}
	if err := errors.Join(err, w.close()); err != nil {
		return err
	}
	return s.check(ctx)
}

// loss does something, and takes the power.
func (s *store) loss(ctx context.Context, d *disk, w *witness) error {
	beside, err := s.buildOn(ctx)
	if err != nil {
		return err
	}
	defer beside()
	if err := w.begin(); err != nil {
		return err
	}
	for range s.rng.IntN(4) {
		if _, err := s.do(ctx, s.pick()); err != nil {
			return err
		}
	}
	written := s.rng.IntN(4)
	switch s.rng.IntN(5) {
	case 0: // right after a command
	case 1:
		_, err = s.killOne(ctx, s.pick())
	default: // what is to be on the disk before the records say so is not
		written = max(written, 1)
		err = s.killAtSync(ctx)
	}
	if err == nil {
		err = s.writeOut(written)
	}
	if err != nil {
		return err
	}
	s.note("the power is gone")
	beside()
	if w.undisturbed() {
		s.count.Add(1)
	} else {
		s.note("somebody has synced all disks meanwhile: little was lost")
	}
	if err := d.lose(); err != nil {
		return err
	}
	s.boot = filepath.Join(s.dir, "boot-"+rand.Text())
	id := strings.ToLower(rand.Text() + rand.Text())
	id = id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:32]
	return os.WriteFile(s.boot, []byte(id+"\n"), 0o444)
}

// killAtSync kills a build, or something else, in place of a sync: of the store's disk, of its records, or of any.
func (s *store) killAtSync(ctx context.Context) error {
	d := s.pick()
	if s.rng.IntN(4) > 0 {
		d = s.build()
	}
	if d.args[0] == "build" && !slices.Contains(d.args, "--no-cache") {
		d.args = slices.Insert(d.args, 1, "--no-cache")
	}
	calls, n, file := syncs, s.few(3), ""
	switch s.rng.IntN(5) {
	case 0, 1:
		calls, n = "syncfs", 1
	case 2:
		calls, n, file = "fsync,fdatasync", 1+s.rng.IntN(2), "meta.db-wal"
	case 3:
		calls, n, file = "fsync,fdatasync", 1, "meta.db"
	}
	s.note("SIGKILL at the %d. of %s %s", n, calls, file)
	around := s.killAt(calls, n)
	if file != "" {
		around = s.killAt(calls, n, filepath.Join(s.root, file))
	}
	_, err := s.do(ctx, d, around...)
	return err
}

// writeOut has something on the disk that nobody synced: the kernel writes out what it likes when it likes. What is
// there besides nothing but a sync tells.
func (s *store) writeOut(how int) error {
	var err error
	switch how {
	case 1, 2:
		s.note("the kernel has written the records out")
		err = errors.Join(syncFile(filepath.Join(s.root, "meta.db")), syncFile(filepath.Join(s.root, "meta.db-wal")))
	case 3:
		s.note("the kernel has written out parts of the records, and others")
		err = s.writeParts(filepath.Join(s.root, "meta.db-wal"))
	}
	if err != nil || how < 2 {
		return err
	}
	var there []string
	for _, place := range []string{"*", "*/*", "*/*/*", "layers/*/fs/*/*"} {
		found, err := filepath.Glob(filepath.Join(s.root, place))
		if err != nil {
			return err
		}
		there = append(there, found...)
	}
	for range min(s.rng.IntN(6), len(there)) {
		if err := syncFile(oneOf(s.round, there...)); err != nil {
			return err
		}
	}
	return nil
}

// syncFile syncs a file or a directory that is there.
func syncFile(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeParts writes some pages of a file out.
func (s *store) writeParts(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	const how = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	for range 1 + s.rng.IntN(8) {
		from := s.rng.Int64N(info.Size()) &^ 4095
		if err := unix.SyncFileRange(int(f.Fd()), from, 4096*(1+s.rng.Int64N(4)), how); err != nil {
			return os.NewSyscallError("sync_file_range", err)
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
	return sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it has not ended by itself
		_ = cmd.Wait()
	}), nil
}
