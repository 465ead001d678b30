package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// AddSources remembers that a repository, "docker.io/library/alpine", has blobs, whether or not they
// are here. It is a hint: the repository may lose them at any time.
func (s *Store) AddSources(ctx context.Context, repository string, blobs ...digest.Digest) error {
	if known, err := s.knowsSources(ctx, repository, blobs); err != nil || known {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		for _, d := range blobs {
			if _, err := tx.Exec("INSERT INTO blob_sources(digest,repository) VALUES(?,?) ON CONFLICT DO NOTHING", d.String(), repository); err != nil {
				return fmt.Errorf("remembering where blobs are: %w", err)
			}
		}
		return nil
	})
}

// knowsSources reports whether all of it is recorded, so that nothing is to be written.
func (s *Store) knowsSources(ctx context.Context, repository string, blobs []digest.Digest) (bool, error) {
	for _, d := range blobs {
		var there bool
		err := s.db.QueryRowContext(ctx, "SELECT EXISTS(SELECT 1 FROM blob_sources WHERE digest=? AND repository=?)", d.String(), repository).Scan(&there)
		if err != nil {
			return false, fmt.Errorf("looking for where blobs are: %w", err)
		}
		if !there {
			return false, nil
		}
	}
	return true, nil
}

// Sources returns the repositories that have had a blob.
func (s *Store) Sources(ctx context.Context, d digest.Digest) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT repository FROM blob_sources WHERE digest=? ORDER BY repository", d.String())
	if err != nil {
		return nil, fmt.Errorf("looking for where blob %s is: %w", d, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var r string
		if err := rows.Scan(&r); err != nil {
			return nil, fmt.Errorf("looking for where blob %s is: %w", d, err)
		}
		all = append(all, r)
	}
	return all, rows.Err()
}
