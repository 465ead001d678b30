package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// keptBy notes that a row keeps what the lines say, of which the stacks are layers in the order in which they lie on each other.
func (c *cacheState) keptBy(row rowKey, used time.Time, uses int, description string, stacks [][]string, others ...string) {
	known := map[*CacheRecord]bool{}
	note := func(line string) *CacheRecord {
		r := c.of[line]
		if r == nil || known[r] {
			return r
		}
		known[r] = true
		r.rows = append(r.rows, row)
		r.Uses = max(r.Uses, uses)
		if used.After(r.LastUsed) {
			r.LastUsed = used
		}
		return r
	}
	for _, stack := range stacks {
		var below *CacheRecord
		for i, line := range stack {
			r := note(line)
			if r == nil || r == below {
				continue
			}
			if below != nil && !slices.Contains(r.below, below) && !below.standsOn(r) {
				r.Parents, r.below = append(r.Parents, below.ID), append(r.below, below)
				below.children++
			}
			r.depth = max(r.depth, i)
			below = r
		}
		if below != nil && below.Description == "" {
			below.Description = description
		}
	}
	for _, line := range others {
		note(line)
	}
	if len(known) == 0 {
		c.idle = append(c.idle, idleRow{row, used})
	}
}

// standsOn reports whether a record has another one for an ancestor. Results that graphs stack as they like have the same layers in any
// order, and more than once.
func (r *CacheRecord) standsOn(other *CacheRecord) bool {
	if other.children == 0 {
		return false
	}
	seen := map[*CacheRecord]bool{r: true}
	for todo := []*CacheRecord{r}; len(todo) > 0; {
		r, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if r == other {
			return true
		}
		for _, b := range r.below {
			if !seen[b] {
				seen[b], todo = true, append(todo, b)
			}
		}
	}
	return false
}

// findRows finds what each row of the cache keeps.
func (s *Store) findRows(ctx context.Context, c *cacheState) error {
	used, err := s.lastUses(ctx)
	if err != nil {
		return err
	}
	results, err := s.allResults(ctx)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(results)) {
		row, r := rowKey{"results", key}, results[key]
		var stack, others []string
		for i, snap := range r.Outputs {
			for _, id := range snap {
				if i == 0 {
					stack = append(stack, layerLine(id))
				} else {
					others = append(others, layerLine(id))
				}
			}
		}
		c.keptBy(row, used[row].when, used[row].times, r.describe(), [][]string{stack}, others...)
	}
	memos, err := s.memos(ctx)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(memos)) {
		row := rowKey{"memo", key}
		var lines []string
		for _, d := range digestIn().FindAllString(memos[key], -1) {
			lines = append(lines, blobLine(digest.Digest(d)))
		}
		for _, id := range layerIn().FindAllString(memos[key], -1) {
			lines = append(lines, layerLine(layer.ID(id)))
		}
		c.keptBy(row, used[row].when, used[row].times, "", nil, lines...)
	}
	for row, u := range used {
		if row.table == "refs" {
			if err := s.findRef(ctx, c, row, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// findRef finds what a reference keeps: an image of each platform that is here. Each is a stack of its own.
func (s *Store) findRef(ctx context.Context, c *cacheState, row rowKey, u use) error {
	var d string
	err := s.db.QueryRowContext(ctx, "SELECT digest FROM refs WHERE "+keyOf("refs")+"=?", row.key).Scan(&d)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading references: %w", err)
	}
	ref, _, _ := strings.Cut(row.key, "\t")
	targets := []digest.Digest{digest.Digest(d)}
	if _, pinned, ok := strings.Cut(ref, "@"); ok {
		targets = append(targets, digest.Digest(pinned))
	}
	var stacks [][]string
	var others []string
	for seen := map[digest.Digest]bool{}; len(targets) > 0; targets = targets[1:] {
		t := targets[0]
		if seen[t] {
			continue
		}
		seen[t] = true
		others = append(others, blobLine(t))
		p, err := s.readParts(t)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		targets = append(targets, p.manifests...)
		var stack []string
		for _, b := range p.blobs {
			if r := c.of[blobLine(b)]; r != nil && r.Type == TypeRegular {
				stack = append(stack, blobLine(b))
			} else {
				others = append(others, blobLine(b))
			}
		}
		stacks = append(stacks, stack)
	}
	c.keptBy(row, u.when, u.times, "pulled from "+ref, stacks, others...)
	for _, line := range append(others, slices.Concat(stacks...)...) {
		if r := c.of[line]; r != nil {
			r.Base = true
		}
	}
	return nil
}

// use is when and how often a row was used.
type use struct {
	when  time.Time
	times int
}

func (s *Store) lastUses(ctx context.Context) (map[rowKey]use, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT 'results',key,used,uses FROM results UNION ALL SELECT 'memo',key,used,uses FROM memo"+
		" UNION ALL SELECT 'refs',"+keyOf("refs")+",used,uses FROM refs")
	if err != nil {
		return nil, fmt.Errorf("reading what was used: %w", err)
	}
	defer rows.Close()
	all := map[rowKey]use{}
	for rows.Next() {
		var row rowKey
		var when int64
		var times int
		if err := rows.Scan(&row.table, &row.key, &when, &times); err != nil {
			return nil, fmt.Errorf("reading what was used: %w", err)
		}
		all[row] = use{time.Unix(0, when), times}
	}
	return all, rows.Err()
}

// describe tells what made a result.
func (r Result) describe() string {
	values := map[string]string{}
	for _, line := range r.Lines {
		label, value, _ := strings.Cut(line, " ")
		if values[label] == "" {
			values[label] = value
		}
	}
	switch values["operation"] {
	case "exec":
		return "mount / from exec " + values["command"]
	case "file":
		return values["action"]
	case "git":
		return "git checkout of " + values["commit"]
	case "image":
		return "image " + values["manifest"]
	}
	return values["operation"]
}
