package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// audit looks at the store as it was left, before anybody repairs by the way what he meets: no record may speak of
// what is not there, or not whole. It reads a copy of the records, so that slipway finds them as they were.
func (s *store) audit(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(s.root, "meta.db")); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was done in an empty store
	}
	boot, err := s.bootID()
	if err != nil {
		return err
	}
	copied := filepath.Join(s.dir, "records")
	if err := s.copyRecords(copied); err != nil {
		return err
	}
	of := *s
	of.root = copied
	err = of.records(func(db *sql.DB) error { return errors.Join(s.auditBlobs(db, boot), s.auditDirs(db, boot)) })
	if err := errors.Join(err, os.RemoveAll(copied)); err != nil {
		return fmt.Errorf("a record came before what it speaks of: %w", err)
	}
	return s.checkAll(ctx)
}

// bootID is the boot that slipway sees.
func (s *store) bootID() (string, error) {
	file := s.boot
	if file == "" {
		file = "/proc/sys/kernel/random/boot_id"
	}
	id, err := os.ReadFile(file)
	return strings.TrimSpace(string(id)), err
}

func (s *store) copyRecords(to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"meta.db", "meta.db-wal"} {
		data, err := os.ReadFile(filepath.Join(s.root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err = errors.Join(err, os.WriteFile(filepath.Join(to, name), data, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// auditBlobs looks at the files of the blobs of which slipway will believe the records: those of this boot, and those
// that are said to be on the disk.
func (s *store) auditBlobs(db *sql.DB, boot string) error {
	return each(db, "SELECT digest, size FROM blobs WHERE boot IN ('', ?)", boot, func(rows *sql.Rows) error {
		var digest string
		var size int64
		if err := rows.Scan(&digest, &size); err != nil {
			return err
		}
		hash := sha256.New()
		f, err := os.Open(filepath.Join(s.root, "blobs", strings.Replace(digest, ":", "/", 1)))
		if err != nil {
			return err
		}
		n, err := io.Copy(hash, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); n != size || got != digest {
			return fmt.Errorf("blob %s of %d bytes has %d, and is %s", digest, size, n, got)
		}
		return nil
	})
}

// auditDirs looks for the directories of layers.
func (s *store) auditDirs(db *sql.DB, boot string) error {
	return each(db, "SELECT id FROM layers WHERE dir=1 AND boot IN ('', ?)", boot, func(rows *sql.Rows) error {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if fi, err := os.Lstat(filepath.Join(s.root, "layers", id, "fs")); err != nil || !fi.IsDir() {
			return fmt.Errorf("the directory of layer %s: %w", id, errors.Join(err, errors.New("has to be there")))
		}
		return nil
	})
}

// each calls fn with every row that a query about a boot gives. A store may have been left before its tables were made.
func each(db *sql.DB, query, boot string, fn func(*sql.Rows) error) error {
	rows, err := db.Query(query, boot)
	if noTable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// noTable reports whether the store was left before its tables were made.
func noTable(err error) bool { return err != nil && strings.Contains(err.Error(), "no such table") }

// finding is what system check says of something.
type finding struct {
	Kind, Subject, Problem string
	Files                  []string
}

// harmless are the kinds of what a process leaves that dies anywhere: files that no record knows of, and copies of
// records that are written after them. remade are those of what nobody syncs, as it is made again when it is gone.
var (
	harmless = []string{"leftover", "orphan", "cache mount", "index.json"}
	remade   = []string{"index", "blob record", "reference"}
)

// checkAll has slipway look at everything itself, directories and indexes too.
func (s *store) checkAll(ctx context.Context) error {
	found, err := s.findings(ctx)
	if err != nil {
		return err
	}
	for _, f := range found {
		if !slices.Contains(harmless, f.Kind) && (s.boot == "" || !slices.Contains(remade, f.Kind)) {
			return fmt.Errorf("system check finds: %s %s: %s %q", f.Kind, f.Subject, f.Problem, f.Files)
		}
	}
	return nil
}

// findings are those of system check.
func (s *store) findings(ctx context.Context, flags ...string) ([]finding, error) {
	c := s.exec(ctx, nil, append([]string{"system", "check", "--format", "json"}, flags...)...)
	if err := s.sane(c); err != nil && c.code != 1 { // which is no failure, and says nothing more
		return nil, err
	}
	var report struct{ Findings []finding }
	if err := json.Unmarshal([]byte(c.out), &report); err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	return report.Findings, nil
}
