package store

import (
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/slipway-build/slipway/internal/atomicfile"
)

// maskResults masks the lines of all results, which had values in them in version 1. Results whose
// records are damaged are no results, and go.
func (s *Store) maskResults(tx *sql.Tx) error {
	const page = 500
	for last := ""; ; {
		keys, err := column(tx, "SELECT key FROM results WHERE key > ? ORDER BY key LIMIT ?", last, page)
		if err != nil || len(keys) == 0 {
			return err
		}
		for _, key := range keys {
			if err := s.maskResult(tx, key); err != nil {
				return err
			}
		}
		last = keys[len(keys)-1]
	}
}

func (s *Store) maskResult(tx *sql.Tx, key string) error {
	var record []byte
	if err := tx.QueryRow("SELECT record FROM results WHERE key=?", key).Scan(&record); err != nil {
		return err
	}
	var r Result
	if json.Unmarshal(record, &r) != nil {
		_, err := tx.Exec("DELETE FROM results WHERE key=?", key)
		return err
	}
	var err error
	if r.Lines, err = s.Masked(r.Lines); err != nil {
		return err
	}
	if record, err = json.Marshal(r); err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE results SET record=? WHERE key=?", string(record), key)
	return err
}

// What records of builds said about values in version 1: JSON strings, up to their end.
var (
	toldValue = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`("(?:changed|no longer there): environment (?:\\")?[^=" ]+)=(?:[^"\\]|\\.)*"`)
	})
	passedArg = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`("--build-arg(?:=|",\s*")[^=" ]+)=(?:[^"\\]|\\.)*"`) })
)

// maskBuilds takes the values of arguments and environments out of the records of builds.
func (s *Store) maskBuilds() error {
	files, err := filepath.Glob(filepath.Join(s.root, "builds", "*", "record.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		old, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		masked := passedArg().ReplaceAll(toldValue().ReplaceAll(old, []byte(`$1"`)), []byte(`$1=..."`))
		if string(masked) == string(old) {
			continue
		}
		err = atomicfile.Write(file, atomicfile.Options{Temporary: file + ".new", Mode: 0o600}, func(f *os.File) error {
			_, err := f.Write(masked)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
