package main

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"

	_ "modernc.org/sqlite" // the database's driver
)

// records calls fn with the database of the store.
func (s *store) records(fn func(db *sql.DB) error) error {
	db, err := sql.Open("sqlite", filepath.Join(s.root, "meta.db"))
	if err != nil {
		return err
	}
	return errors.Join(fn(db), db.Close())
}

// noRecords looks whether a store that everything was pruned of has records.
func (s *store) noRecords() error {
	return s.records(func(db *sql.DB) error {
		for _, table := range []string{"blobs", "layers", "layer_blobs", "results", "memo", "images", "containers"} {
			var n int
			if err := db.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("after a prune of everything there are still %d records in %s", n, table)
			}
		}
		return nil
	})
}
