package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// toFormat2 makes a store of format 2 out of one of today's: steps of internal/store's schema.go, backwards.
var toFormat2 = []string{
	"DROP INDEX images_id", "DROP INDEX images_target",
	"DROP INDEX blobs_boot", "DROP INDEX layers_boot", "DROP INDEX results_boot", "DROP INDEX memo_boot",
	"ALTER TABLE results DROP COLUMN used", "ALTER TABLE results DROP COLUMN uses",
	"ALTER TABLE memo DROP COLUMN used", "ALTER TABLE memo DROP COLUMN uses",
	"ALTER TABLE refs DROP COLUMN used", "ALTER TABLE refs DROP COLUMN uses",
	"INSERT OR REPLACE INTO layer_blobs(diff_id,digest,media_type,size,level) SELECT diff_id,blob,media_type,blob_size,-1 FROM layers WHERE blob!=''",
	"ALTER TABLE layers DROP COLUMN blob", "ALTER TABLE layers DROP COLUMN media_type", "ALTER TABLE layers DROP COLUMN blob_size",
	"ALTER TABLE layers DROP COLUMN claimed", "ALTER TABLE layers DROP COLUMN disk",
	"PRAGMA user_version=2",
}

// upgradeRound upgrades an old store where there is no space for it, or kills who does. Nothing is lost by that, and the
// next command does it, or says what it needs.
func upgradeRound(ctx context.Context, r *round) error {
	small := filepath.Join(r.dir, "small")
	if err := errors.Join(os.Mkdir(small, 0o755), unix.Mount("tmpfs", small, "tmpfs", 0, "size=512m,nr_inodes=100000")); err != nil {
		return err
	}
	s := r.store(filepath.Join(small, "store"))
	if err := s.stock(); err != nil {
		return err
	}
	shared, err := s.makeOld()
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(small, &st); err != nil {
		return err
	}
	left := r.rng.Int64N(shared + shared/2)
	r.note("%d bytes are left of %d that copies take", left, shared)
	if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d,nr_inodes=100000", int64(st.Blocks-st.Bfree)*st.Bsize+left)); err != nil {
		return err
	}
	for range 1 + r.rng.IntN(3) {
		if err := s.tryUpgrade(ctx); err != nil {
			return err
		}
	}
	r.note("there is space again")
	if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=512m,nr_inodes=100000"); err != nil {
		return err
	}
	if _, err := s.must(ctx, "images"); err != nil {
		return err
	}
	if err := s.nothingShared(); err != nil {
		return err
	}
	return s.check(ctx)
}

// tryUpgrade does something, which upgrades the store if it can.
func (s *store) tryUpgrade(ctx context.Context) error {
	d := s.pick()
	var around []string
	if s.rng.IntN(2) == 0 {
		calls, n := s.writer(false), s.few(20)
		s.note("SIGKILL at the %d. of %s", n, calls)
		around = s.killAt(calls, n)
	}
	c, err := s.do(ctx, d, around...)
	if err != nil {
		return err
	}
	s.count.Add(1)
	if !c.ok() && !c.killed && !aboutSpace.MatchString(c.err) {
		return fmt.Errorf("it does not say that there is no space: %s", c)
	}
	return nil
}

// makeOld makes the store one of format 2, in which each layer shares its files with another one. It returns how many
// bytes copies of them take.
func (s *store) makeOld() (shared int64, err error) {
	forms, err := filepath.Glob(s.formOf("*"))
	if err != nil {
		return 0, err
	}
	err = s.records(func(db *sql.DB) error {
		db.SetMaxOpenConns(1) // which has the temporary table
		for i, form := range forms {
			dir := filepath.Dir(form)
			id := fmt.Sprintf("old-%d", i)
			if err := twin(dir, filepath.Join(filepath.Dir(dir), id)); err != nil {
				return err
			}
			if _, err := db.Exec("CREATE TEMP TABLE twin AS SELECT * FROM layers WHERE id=?", filepath.Base(dir)); err != nil {
				return err
			}
			for _, q := range []string{"UPDATE twin SET id='" + id + "'", "INSERT INTO layers SELECT * FROM twin", "DROP TABLE twin"} {
				if _, err := db.Exec(q); err != nil {
					return fmt.Errorf("%s: %w", q, err)
				}
			}
		}
		for _, q := range toFormat2 {
			if _, err := db.Exec(q); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	})
	seen := map[uint64]bool{} // busybox has hundreds of names
	for _, form := range forms {
		files, ferr := entries(form, isFile)
		err = errors.Join(err, ferr)
		for _, f := range files {
			var st unix.Stat_t
			if err = errors.Join(err, unix.Lstat(f, &st)); !seen[st.Ino] {
				seen[st.Ino] = true
				shared += (st.Size + 4095) &^ 4095
			}
		}
	}
	return shared, err
}

// twin copies the directory of a layer, which shares its regular files with the copy, and nothing else.
func twin(dir, to string) error {
	if out, err := exec.Command("cp", "-al", dir, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w: %s", dir, err, out)
	}
	links, err := entries(to, isLink)
	for _, link := range links {
		of := filepath.Join(dir, strings.TrimPrefix(link, to))
		info, lerr := os.Stat(filepath.Dir(of))
		if err = errors.Join(err, lerr, os.Remove(link), copyTree(of, link)); err != nil {
			break
		}
		err = os.Chtimes(filepath.Dir(link), info.ModTime(), info.ModTime())
	}
	return err
}

// nothingShared looks whether all names of a file of a layer are in that layer.
func (s *store) nothingShared() error {
	forms, err := filepath.Glob(s.formOf("*"))
	if err != nil {
		return err
	}
	for _, form := range forms {
		names := map[uint64]uint64{}
		files, err := entries(form, isFile)
		if err != nil {
			return err
		}
		stats := map[string]*syscall.Stat_t{}
		for _, f := range files {
			info, err := os.Lstat(f)
			if err != nil {
				return err
			}
			stats[f] = info.Sys().(*syscall.Stat_t)
			names[stats[f].Ino]++
		}
		for f, st := range stats {
			if names[st.Ino] != uint64(st.Nlink) {
				return &fs.PathError{Op: "upgrading", Path: f, Err: fmt.Errorf("it has %d names, %d of them in its layer: layers share it still", st.Nlink, names[st.Ino])}
			}
		}
	}
	return nil
}
