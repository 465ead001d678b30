package store

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// measure finds out how much of the disk the records of layers and blobs take.
func (s *Store) measure(ctx context.Context, c *cacheState) error {
	wanted := map[*CacheRecord]bool{}
	for _, r := range c.records {
		wanted[r], r.Size = true, 0
	}
	var lines []string
	for line, r := range c.of {
		if wanted[r] {
			lines = append(lines, line)
		}
	}
	bytes, err := s.lineSizes(ctx, lines)
	for line, n := range bytes {
		c.of[line].Size += n
	}
	return err
}

// lineSizes finds out how much of the disk layers and blobs take, by layerLine and blobLine. What a layer's directory
// takes is recorded.
func (s *Store) lineSizes(ctx context.Context, lines []string) (map[string]int64, error) {
	known, err := s.knownSizes(ctx)
	if err != nil {
		return nil, err
	}
	bytes, measured := map[string]int64{}, map[string]int64{}
	for _, line := range lines {
		if id, ok := strings.CutPrefix(line, layerLine("")); ok {
			size, ok := known[id]
			if !ok {
				size, err = diskUsage(s.layerDir(layer.ID(id)))
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err == nil {
					measured[id] = size
				}
			}
			bytes[line] = size
			continue
		}
		d := digest.Digest(strings.TrimPrefix(line, blobLine("")))
		if fi, err := os.Lstat(s.blobPath(d)); err == nil {
			bytes[line] = diskBytes(fi)
		}
	}
	return bytes, s.recordSizes(ctx, measured)
}

// knownSizes are the bytes of the disk that directories of layers take, as they were measured.
func (s *Store) knownSizes(ctx context.Context) (map[string]int64, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT id,dir*disk FROM layers WHERE disk>=0 OR NOT dir")
	if err != nil {
		return nil, fmt.Errorf("reading layers: %w", err)
	}
	defer rows.Close()
	known := map[string]int64{}
	for rows.Next() {
		var id string
		var size int64
		if err := rows.Scan(&id, &size); err != nil {
			return nil, fmt.Errorf("reading layers: %w", err)
		}
		known[id] = size
	}
	return known, rows.Err()
}

func (s *Store) recordSizes(ctx context.Context, measured map[string]int64) error {
	if len(measured) == 0 || s.readOnly != "" {
		return nil
	}
	const part = 250
	for some := range slices.Chunk(slices.Sorted(maps.Keys(measured)), part) {
		err := s.update(ctx, func(tx *sql.Tx) error {
			for _, id := range some {
				if _, err := tx.Exec("UPDATE layers SET disk=? WHERE id=? AND dir=1", measured[id], id); err != nil {
					return fmt.Errorf("recording sizes of layers: %w", err)
				}
			}
			return nil
		})
		if err != nil && !IsFull(err) {
			return err
		}
	}
	return nil
}
