package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// What a process uses of the cache, rows of results, memos and references, it writes down once, when it ends: a build
// that finds everything does not wait for a transaction. Whoever wants to know when something was used last reads what
// all have written into the records first. A process that is killed leaves no word of it, which only makes the cache
// older than it is.

// useLog are the rows that this process has used.
type useLog struct {
	mu   sync.Mutex
	rows map[rowKey]bool
}

func (s *Store) noteUse(table, key string) {
	s.used.mu.Lock()
	defer s.used.mu.Unlock()
	if s.used.rows == nil {
		s.used.rows = map[rowKey]bool{}
	}
	s.used.rows[rowKey{table, key}] = true
}

// takeUses returns what was used since it was called last.
func (s *Store) takeUses() [][2]string {
	s.used.mu.Lock()
	defer s.used.mu.Unlock()
	var rows [][2]string
	for r := range s.used.rows {
		rows = append(rows, [2]string{r.table, r.key})
	}
	s.used.rows = nil
	return rows
}

// writeUses writes down what this process has used. It is its lease's last word, and none that it would fail for.
func (s *Store) writeUses(l *lease) {
	rows := s.takeUses()
	if len(rows) == 0 {
		return
	}
	if data, err := json.Marshal(rows); err == nil {
		_ = os.WriteFile(filepath.Join(s.root, "used", l.id), data, 0o600)
	}
}

// readUses brings the records up to date with what processes have written down, and with what this one has used.
func (s *Store) readUses(ctx context.Context) error {
	if s.readOnly != "" {
		return nil
	}
	dir := filepath.Join(s.root, "used")
	entries, err := readDir(dir)
	if err != nil {
		return fmt.Errorf("reading what was used: %w", err)
	}
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(s.root, "tmp", e.Name()+".lock")); err == nil {
			continue // it is being written, or what was written is no whole
		}
		path := filepath.Join(dir, e.Name())
		data, rerr := readRegular(path)
		fi, serr := os.Lstat(path)
		if errors.Is(errors.Join(rerr, serr), os.ErrNotExist) {
			continue // another process was faster
		}
		var rows [][2]string
		if errors.Join(rerr, serr, json.Unmarshal(data, &rows)) == nil {
			if err := s.recordUses(ctx, rows, fi.ModTime()); err != nil {
				return err
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("reading what was used: %w", err)
		}
	}
	return s.recordUses(ctx, s.takeUses(), time.Now())
}

// recordUses records that rows were used, once. A time that is yet to come, of a clock that went wrong, is now.
func (s *Store) recordUses(ctx context.Context, rows [][2]string, when time.Time) error {
	if now := time.Now(); when.After(now) {
		when = now
	}
	const part = 250
	for len(rows) > 0 {
		some := rows[:min(part, len(rows))]
		rows = rows[len(some):]
		err := s.update(ctx, func(tx *sql.Tx) error {
			for _, r := range some {
				table := r[0]
				if table != "results" && table != "memo" && table != "refs" {
					continue
				}
				_, err := tx.Exec("UPDATE "+table+" SET used=max(used,?), uses=uses+1 WHERE "+keyOf(table)+"=?", when.UnixNano(), r[1])
				if err != nil {
					return fmt.Errorf("recording what was used: %w", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
