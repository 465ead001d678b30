package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockRound has all times of the store jump, as if the clock had jumped the other way.
func clockRound(ctx context.Context, r *round) error {
	s := r.store(filepath.Join(r.dir, "store"))
	if err := s.stock(); err != nil {
		return err
	}
	for range 1 + r.rng.IntN(3) {
		by := time.Duration(r.rng.Int64N(int64(20*365*24*time.Hour))) - 10*365*24*time.Hour
		r.note("all times jump by %s", by)
		if err := errors.Join(s.jumpFiles(by), s.jumpRecords(by)); err != nil {
			return err
		}
		r.count.Add(1)
		for range 2 + r.rng.IntN(3) {
			d := s.pick()
			if r.rng.IntN(3) == 0 {
				d = deed{args: []string{oneOf(r, "builder", "image"), "prune", "-f", "--filter", "until=" + oneOf(r, "1s", "1h", "24h", "100000h")}}
			}
			c, err := s.do(ctx, d)
			if err == nil && !c.ok() {
				err = fmt.Errorf("it has to work: %s", c)
			}
			if err != nil {
				return err
			}
		}
	}
	return s.check(ctx)
}

// jumpFiles changes the times of the store's own files, not of what is in layers: that would change them.
func (s *store) jumpFiles(by time.Duration) error {
	return filepath.WalkDir(s.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.Split(strings.TrimPrefix(path, s.root+"/"), "/")
		if len(rel) > 2 && (rel[0] == "layers" || rel[0] == "containers" || rel[0] == "caches") && e.IsDir() {
			return fs.SkipDir
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		to := unix.NsecToTimespec(info.ModTime().Add(by).UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{to, to}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// jumpRecords changes all columns that are times.
func (s *store) jumpRecords(by time.Duration) error {
	return s.records(func(db *sql.DB) error {
		columns, err := times(db)
		for _, c := range columns {
			// Some are seconds, others nanoseconds.
			_, uerr := db.Exec(fmt.Sprintf("UPDATE %s SET %s=%s+CASE WHEN %s>1000000000000000 THEN ? ELSE ? END", c[0], c[1], c[1], c[1]), by.Nanoseconds(), int64(by.Seconds()))
			err = errors.Join(err, uerr)
		}
		return err
	})
}

// times are tables and columns.
func times(db *sql.DB) (found [][2]string, err error) {
	rows, err := db.Query("SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type='table' AND c.name IN ('created','used','tagged')")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c [2]string
		if err := rows.Scan(&c[0], &c[1]); err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	return found, rows.Err()
}
