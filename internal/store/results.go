package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// Result is what one vertex gave.
type Result struct {
	// Outputs are the vertex's outputs by LLB output index. One that nobody can use is null.
	Outputs []layer.Snapshot `json:"outputs"`
	// Planned says that no layer was written, because nobody needed one: there are no outputs
	// here, and planning the operation again gives them.
	Planned bool `json:"planned,omitempty"`
	// Warm are directories of the result, or of what it stands on, whose files are in a cache and in none of the layers. Who looks a
	// result up says by its key that there may be such.
	Warm []WarmDir `json:"warm,omitempty"`
	// Created is when the result was made; history entries and image configs take it.
	Created time.Time `json:"created"`
	// Took is how long it took to make.
	Took time.Duration `json:"took"`
	// Lines are the labelled lines of the key, from which a later miss is explained; what is recorded of
	// them is [Store.Masked].
	Lines []string `json:"lines"`
}

// WarmDir is a directory whose files are in a cache.
type WarmDir struct {
	Dir string `json:"dir"` // absolute, without links
	// Cache is the id of the cache; "" where nobody who stands on the result has the directory.
	Cache string `json:"cache,omitempty"`
	// Made tells which one of that id it was: see [Cache.Made].
	Made   string `json:"made,omitempty"`
	UID    int    `json:"uid,omitempty"` // of the user of the step that had it first
	GID    int    `json:"gid,omitempty"`
	Locked bool   `json:"locked,omitempty"` // one step writes to it at a time
}

// Result looks a result up by its key. A record that is damaged, or whose layers are gone, is
// not an error: found is false and reason says what is wrong with it; reason is empty when there
// is no record.
func (s *Store) Result(ctx context.Context, key string) (r Result, found bool, reason string, err error) {
	var record string
	err = s.db.QueryRowContext(ctx, "SELECT record FROM results WHERE key=?", key).Scan(&record)
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, "", nil
	}
	if err != nil {
		return r, false, "", fmt.Errorf("looking for result: %w", err)
	}
	if err := json.Unmarshal([]byte(record), &r); err != nil {
		return r, false, fmt.Sprintf("its record is damaged: %v", err), nil
	}
	if _, err := s.holdLayers(slices.Concat(r.Outputs...)...); err != nil { // at once
		return r, false, "", err
	}
	for _, snap := range r.Outputs {
		if err := s.Check(ctx, snap); err != nil {
			if ctx.Err() != nil {
				return r, false, "", context.Cause(ctx)
			}
			return r, false, fmt.Sprintf("its files are gone: %v", err), nil
		}
	}
	s.noteUse("results", key)
	return r, true, "", nil
}

// PutResult records a result; slot is the place in the Dockerfile that made it. A result that is there already is replaced.
func (s *Store) PutResult(ctx context.Context, key, slot string, r Result) error {
	var err error
	if r.Lines, err = s.Masked(r.Lines); err != nil {
		return fmt.Errorf("recording result: %w", err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("recording result: %w", err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO results(key,slot,record,created,boot,used) VALUES(?,?,?,?,?,?)"+
			" ON CONFLICT(key) DO UPDATE SET slot=excluded.slot, record=excluded.record, created=excluded.created, boot=excluded.boot, used=excluded.used",
			key, slot, string(data), r.Created.UnixNano(), s.boot, time.Now().UnixNano())
		return err
	})
}

// Memo returns the value remembered under a key.
func (s *Store) Memo(ctx context.Context, key string) (string, bool, error) {
	var v string
	err := s.db.QueryRowContext(ctx, "SELECT value FROM memo WHERE key=?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("looking for memo: %w", err)
	}
	s.noteUse("memo", key)
	return v, true, nil
}

// PutMemo remembers a value under a key.
func (s *Store) PutMemo(ctx context.Context, key, value string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO memo(key,value,boot,used) VALUES(?,?,?,?)"+
			" ON CONFLICT(key) DO UPDATE SET value=excluded.value, boot=excluded.boot, used=excluded.used", key, value, s.boot, time.Now().UnixNano())
		return err
	})
}

// ForgetMemo forgets what is remembered under keys.
func (s *Store) ForgetMemo(ctx context.Context, keys ...string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		for _, key := range keys {
			if _, err := tx.Exec("DELETE FROM memo WHERE key=?", key); err != nil {
				return err
			}
		}
		return nil
	})
}

// ContextFile is where the digests of a build context's files are remembered; path is the
// context's. It holds nothing that cannot be found out again.
func (s *Store) ContextFile(path string) string {
	file, now := filepath.Join(s.root, "contexts", digest.FromString(path).Encoded()[:32]), time.Now()
	_ = os.Chtimes(file, now, now) // that is its last use
	return file
}

// ContextContents is where the contents of files are kept that somebody sent for a build context, beside its
// [Store.ContextFile]. They are one record of the cache.
func ContextContents(file string) string { return file + contentsSuffix }

const contentsSuffix = ".files"
