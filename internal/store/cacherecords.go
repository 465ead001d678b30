package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// The types of records, in BuildKit's words.
const (
	TypeRegular  = "regular"
	TypeInternal = "internal" // what is known of images and servers, and files of servers
	TypeLocal    = "source.local"
	TypeGit      = "source.git.checkout"
	TypeMount    = "exec.cachemount"
)

// CacheRecord is something that the build cache keeps, and that goes as a whole: a layer with all its blobs, a blob that
// is none of a layer, a cache mount, a git repository, or the digests of a build context's files.
type CacheRecord struct {
	ID          string // of the layer, the digest of the blob, or the name of the directory
	Type        string
	Parents     []string // records of layers below this one, in some image or result
	Created     time.Time
	LastUsed    time.Time
	Uses        int
	Size        int64 // bytes of the disk
	InUse       bool  // by a container, or by a process
	Shared      bool  // with an image: it stays without the cache
	Mutable     bool
	Description string

	base     bool // of an image that a reference was resolved to
	mount    bool
	rows     []rowKey // what keeps it in the cache
	children int      // records that have this one for a parent
	depth    int      // records below this one at most
}

// cacheState is what there is in the cache at some moment.
type cacheState struct {
	records []*CacheRecord
	of      map[string]*CacheRecord // by layerLine and blobLine of what they consist of
	idle    []idleRow
	byRow   map[rowKey][]*CacheRecord // when somebody has asked
}

// idleRow is a row that keeps nothing on the disk.
type idleRow struct {
	rowKey
	used time.Time
}

// CacheRecords lists the build cache. What images alone keep is no part of it; Shared ones are those that images keep as
// well. Directories that nobody has measured are walked.
func (s *Store) CacheRecords(ctx context.Context) ([]CacheRecord, error) {
	c, err := s.cacheState(ctx, manner{})
	if err != nil {
		return nil, fmt.Errorf("listing the build cache: %w", err)
	}
	all := make([]CacheRecord, len(c.records))
	for i, r := range c.records {
		all[i] = *r
	}
	return all, nil
}

// cacheState reads what there is. Others change it meanwhile: it is for choosing what to forget, and says of nothing
// that it may be deleted.
func (s *Store) cacheState(ctx context.Context, how manner) (*cacheState, error) {
	if err := s.readUses(ctx); err != nil && !IsFull(err) {
		return nil, err
	}
	c := &cacheState{of: map[string]*CacheRecord{}}
	steps := []func(context.Context, *cacheState) error{s.listLayers, s.listBlobs, s.findRows, func(ctx context.Context, c *cacheState) error { return s.findUsers(ctx, c, how) }}
	for _, step := range steps {
		if err := step(ctx, c); err != nil {
			return nil, err
		}
	}
	c.records = slices.DeleteFunc(c.records, func(r *CacheRecord) bool { return len(r.rows) == 0 && (r.Shared || r.InUse) })
	if err := s.measure(ctx, c); err != nil {
		return nil, err
	}
	mounts, err := s.mountRecords()
	if err != nil {
		return nil, err
	}
	for _, r := range append(mounts, s.contextRecords()...) {
		c.records = append(c.records, &r)
	}
	now := time.Now() // a clock that went wrong keeps nothing for ever
	for _, r := range c.records {
		if r.LastUsed.After(now) {
			r.LastUsed = now
		}
	}
	for i, r := range c.idle {
		if r.used.After(now) {
			c.idle[i].used = now
		}
	}
	return c, nil
}

// listLayers makes a record of each layer and its blobs. Layers that share a blob are one.
func (s *Store) listLayers(ctx context.Context, c *cacheState) error {
	rows, err := s.db.QueryContext(ctx, "SELECT id,created,disk FROM layers ORDER BY created, id")
	if err != nil {
		return fmt.Errorf("reading layers: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var created, disk int64
		if err := rows.Scan(&id, &created, &disk); err != nil {
			return fmt.Errorf("reading layers: %w", err)
		}
		r := &CacheRecord{ID: id, Type: TypeRegular, Created: time.Unix(0, created), Size: disk}
		c.of[layerLine(layer.ID(id))] = r
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading layers: %w", err)
	}
	forms, err := s.layerForms(ctx)
	if err != nil {
		return err
	}
	for _, f := range forms {
		l, b := layerLine(f.id), blobLine(f.blob)
		if c.of[l] == nil {
			continue
		}
		if other := c.of[b]; other != nil && other != c.of[l] {
			c.merge(other, c.of[l])
		}
		c.of[b] = c.of[l]
	}
	for _, r := range c.of {
		c.records = append(c.records, r)
	}
	slices.SortFunc(c.records, func(a, b *CacheRecord) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	c.records = slices.Compact(c.records)
	return nil
}

// merge makes two records of layers one.
func (c *cacheState) merge(from, to *CacheRecord) {
	if from.Created.Before(to.Created) {
		to.ID, to.Created = from.ID, from.Created
	}
	for line, r := range c.of {
		if r == from {
			c.of[line] = to
		}
	}
}

// listBlobs makes records of the blobs that are none of layers.
func (s *Store) listBlobs(ctx context.Context, c *cacheState) error {
	all, err := column(s.db, "SELECT digest FROM blobs ORDER BY digest")
	if err != nil {
		return fmt.Errorf("reading blobs: %w", err)
	}
	for _, d := range all {
		if line := blobLine(digest.Digest(d)); c.of[line] == nil {
			r := &CacheRecord{ID: d, Type: TypeInternal}
			if fi, err := os.Lstat(s.blobPath(digest.Digest(d))); err == nil {
				r.Created = fi.ModTime()
			}
			c.of[line] = r
			c.records = append(c.records, r)
		}
	}
	return nil
}

// keptBy notes that a row keeps what the lines say, layers in the order in which they are stacked.
func (c *cacheState) keptBy(row rowKey, used time.Time, uses int, description string, stack []string, others ...string) {
	var below *CacheRecord
	var last *CacheRecord
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
	for i, line := range stack {
		r := note(line)
		if r == nil || r == below {
			continue
		}
		if below != nil && !slices.Contains(r.Parents, below.ID) {
			r.Parents = append(r.Parents, below.ID)
			below.children++
		}
		r.depth = max(r.depth, i)
		below, last = r, r
	}
	for _, line := range others {
		note(line)
	}
	if last != nil && last.Description == "" {
		last.Description = description
	}
	if len(known) == 0 {
		c.idle = append(c.idle, idleRow{row, used})
	}
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
		c.keptBy(row, used[row].when, used[row].times, r.describe(), stack, others...)
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

// findRef finds what a reference keeps: an image of each platform that is here.
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
	var stack, others []string
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
		for _, b := range p.blobs {
			if r := c.of[blobLine(b)]; r != nil && r.Type == TypeRegular && len(seen) < 3 {
				stack = append(stack, blobLine(b))
			} else {
				others = append(others, blobLine(b))
			}
		}
	}
	c.keptBy(row, u.when, u.times, "pulled from "+ref, stack, others...)
	for _, line := range slices.Concat(stack, others) {
		if r := c.of[line]; r != nil {
			r.base = true
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

// findUsers finds what images, containers and other processes keep as well.
func (s *Store) findUsers(ctx context.Context, c *cacheState, how manner) error {
	images, err := s.Images(ctx)
	if err != nil {
		return err
	}
	need := s.newReach()
	for _, img := range images {
		if err := need.addImage(ctx, img); err != nil {
			return err
		}
	}
	c.each(need, func(r *CacheRecord) { r.Shared = true })
	containers, err := s.Containers(ctx)
	if err != nil {
		return err
	}
	need = s.newReach()
	for _, k := range containers {
		need.addSnapshot(k.Snapshot)
		need.blobs[k.ImageID] = true
	}
	c.each(need, func(r *CacheRecord) { r.InUse = true })
	var own string
	s.mu.Lock()
	if s.lease != nil {
		own = s.lease.id
	}
	s.mu.Unlock()
	others, err := s.readLeases(how.sparesBut(own))
	if err != nil {
		return err
	}
	for line, r := range c.of {
		id, isLayer := strings.CutPrefix(line, layerLine(""))
		if others.said[line] || isLayer && others.useLayer(layer.ID(id)) {
			r.InUse = true
		}
	}
	return nil
}

// each calls f for the records of what a reach has.
func (c *cacheState) each(need *reach, f func(*CacheRecord)) {
	for id := range need.layers {
		if r := c.of[layerLine(id)]; r != nil {
			f(r)
		}
	}
	for d := range need.blobs {
		if r := c.of[blobLine(d)]; r != nil {
			f(r)
		}
	}
}

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
				size, err = diskUsage(filepath.Join(s.root, "layers", id))
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

// contextRecords describes the digests of the files of build contexts.
func (s *Store) contextRecords() []CacheRecord {
	entries, _ := os.ReadDir(filepath.Join(s.root, "contexts")) // which is made with the first one
	var all []CacheRecord
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		all = append(all, CacheRecord{ID: e.Name(), Type: TypeLocal, Created: fi.ModTime(), LastUsed: fi.ModTime(), Uses: 1,
			Size: diskBytes(fi), Mutable: true, Description: "digests of the files of a build context"})
	}
	return all
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
