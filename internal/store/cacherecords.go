package store

import (
	"cmp"
	"context"
	"fmt"
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
	Parents     []string // records of layers below this one, in some image or result; none of them stands on this one
	Created     time.Time
	LastUsed    time.Time
	Uses        int
	Size        int64 // bytes of the disk
	InUse       bool  // by a container, or by a process
	Shared      bool  // with an image: it stays without the cache
	Base        bool  // of an image that a reference was resolved to
	Mutable     bool
	Description string

	mount    bool
	rows     []rowKey       // what keeps it in the cache
	below    []*CacheRecord // the Parents
	children int            // records that have this one for a parent
	depth    int            // records below this one at most
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
	return s.cacheRecords(ctx, manner{})
}

// CacheRecordsBeside is [Store.CacheRecords] for a process that works meanwhile: what it uses itself is in use as well.
func (s *Store) CacheRecordsBeside(ctx context.Context) ([]CacheRecord, error) {
	return s.cacheRecords(ctx, manner{working: true})
}

func (s *Store) cacheRecords(ctx context.Context, how manner) ([]CacheRecord, error) {
	c, err := s.cacheState(ctx, how)
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
		need.addSnapshot(k.layers())
		need.blobs[k.ImageID] = true
	}
	c.each(need, func(r *CacheRecord) { r.InUse = true })
	others, err := s.readOthers(how)
	if err != nil {
		return err
	}
	for line, r := range c.of {
		r.InUse = r.InUse || others.use(line)
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

// contextRecords describes what is kept of build contexts: the digests of their files, and the contents of those that
// clients sent.
func (s *Store) contextRecords() []CacheRecord {
	entries, _ := readDir(filepath.Join(s.root, "contexts")) // which is made with the first one
	var all []CacheRecord
	for _, e := range entries { // in the order of their names: contents come after the digests
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		id, contents := strings.CutSuffix(e.Name(), contentsSuffix)
		if n := len(all); contents && n > 0 && all[n-1].ID == id {
			all[n-1].Size += diskBytes(fi)
			all[n-1].Description = contentsDescription
			continue
		}
		r := CacheRecord{ID: id, Type: TypeLocal, Created: fi.ModTime(), LastUsed: fi.ModTime(), Uses: 1,
			Size: diskBytes(fi), Mutable: true, Description: "digests of the files of a build context"}
		if contents {
			r.Description = contentsDescription
		}
		all = append(all, r)
	}
	return all
}

const contentsDescription = "files of a client's build context"
