package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// A check looks at everything that the store has against what it claims, beside builds and collectors. It holds
// nothing and locks nothing while it reads: what it looks at may go at any time, and what is made meanwhile may be
// seen before its record. So nothing is said of a form whose record is gone when it was read, and of records and
// files nothing that is not seen in two looks, one after the other.
//
// What is mended is what nobody loses anything by: a form that can be had again, files that nobody knows of, cache.

// CheckOptions say how the store is checked.
type CheckOptions struct {
	// Quick looks at records and at whether files are there, with their sizes, and reads none.
	Quick bool
	// Repair mends what can be mended.
	Repair bool
	// Progress, unless nil, is told how many bytes were read, of how many. It is called by several goroutines.
	Progress func(done, total int64)
}

// Finding is something in the store that is not as it should be.
type Finding struct {
	Kind    string   `json:"kind"`            // of the subject: "blob", "layer", "image" and so on
	Subject string   `json:"subject"`         // a digest, an ID, a name, a path
	Of      []string `json:"of,omitempty"`    // images, containers and steps that it belongs to
	Problem string   `json:"problem"`         // what is wrong
	Files   []string `json:"files,omitempty"` // of a layer: the first that are not as they should be
	Means   string   `json:"means,omitempty"` // what that leads to
	Repair  string   `json:"repair"`          // what mends it
	Mended  bool     `json:"mended"`
	Failed  string   `json:"failed,omitempty"` // why it was not mended

	mend func(context.Context) error // nil: it cannot be mended
}

// CheckReport is what a check found.
type CheckReport struct {
	Findings   []Finding `json:"findings"`
	Blobs      int       `json:"blobs"`
	Layers     int       `json:"layers"`
	Results    int       `json:"results"`
	Memos      int       `json:"memos"`
	Images     int       `json:"images"`
	Containers int       `json:"containers"`
	Bytes      int64     `json:"bytes"` // that were read of blobs and directories
}

// Clean reports whether nothing is wrong any more.
func (r *CheckReport) Clean() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.Mended })
}

// checker is one check.
type checker struct {
	s      *Store
	opt    CheckOptions
	report CheckReport
	inv    inventory
	total  int64
	bytes  atomic.Int64

	mu    sync.Mutex // of what follows, and of report.Findings
	good  map[digest.Digest]bool
	bad   map[digest.Digest]bool // blobs whose content was read
	wrong map[layer.ID]bool      // layers whose directory is not what it should be
}

// inventory is what the store says that it has.
type inventory struct {
	blobs  map[digest.Digest]int64
	layers map[layer.ID]LayerInfo
	made   map[digest.Digest][]layerBlob // by diffID
}

// CheckAll checks the store.
func (s *Store) CheckAll(ctx context.Context, opt CheckOptions) (*CheckReport, error) {
	if opt.Repair && s.readOnly != "" {
		return nil, fmt.Errorf("mending the store: %w", s.readOnlyError())
	}
	c := &checker{s: s, opt: opt, good: map[digest.Digest]bool{}, bad: map[digest.Digest]bool{}, wrong: map[layer.ID]bool{}}
	c.report.Findings = []Finding{} // none, in JSON too
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("checking the store: %w", err)
	}
	return &c.report, nil
}

func (c *checker) run(ctx context.Context) error {
	if err := c.database(ctx); err != nil {
		return err
	}
	found, err := c.records(ctx)
	if err != nil {
		return err
	}
	c.report.Findings = append(c.report.Findings, found...)
	if !c.opt.Quick {
		if err := c.forms(ctx); err != nil {
			return err
		}
	}
	slices.SortStableFunc(c.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Subject, b.Subject))
	})
	c.report.Bytes = c.bytes.Load()
	if err := c.owners(ctx, c.report.Findings); err != nil {
		return err
	}
	if c.opt.Repair {
		return c.repair(ctx)
	}
	return nil
}

func (c *checker) add(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Findings = append(c.report.Findings, f)
}

// database has SQLite look at its file.
func (c *checker) database(ctx context.Context) error {
	pragma := "integrity_check"
	if c.opt.Quick {
		pragma = "quick_check"
	}
	said, err := c.column(ctx, "PRAGMA "+pragma+"(20)")
	if err != nil {
		return err
	}
	if len(said) == 1 && said[0] == "ok" {
		return nil
	}
	c.add(Finding{Kind: "database", Subject: "meta.db", Problem: strings.Join(said, "; "), Means: "records may be lost",
		Repair: "make its indexes again", mend: func(ctx context.Context) error {
			if _, err := c.s.db.ExecContext(ctx, "REINDEX"); err != nil {
				return err
			}
			said, err := c.column(ctx, "PRAGMA integrity_check(20)")
			if err == nil && (len(said) != 1 || said[0] != "ok") {
				err = errors.New("its tables are damaged, not only its indexes: save what is needed of the images, and use another --root")
			}
			return err
		}})
	return nil
}

func (c *checker) column(ctx context.Context, query string, args ...any) ([]string, error) {
	var all []string
	err := c.each(ctx, func(rows *sql.Rows) error {
		var v string
		err := rows.Scan(&v)
		all = append(all, v)
		return err
	}, query, args...)
	return all, err
}

// each calls fn for each row.
func (c *checker) each(ctx context.Context, fn func(*sql.Rows) error, query string, args ...any) error {
	rows, err := c.s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("reading records: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return fmt.Errorf("reading records: %w", err)
		}
	}
	return rows.Err()
}

// load reads what the store says that it has.
func (c *checker) load(ctx context.Context) error {
	inv := inventory{blobs: map[digest.Digest]int64{}, layers: map[layer.ID]LayerInfo{}, made: map[digest.Digest][]layerBlob{}}
	c.total = 0
	err := c.each(ctx, func(rows *sql.Rows) error {
		var l LayerInfo
		err := rows.Scan(&l.ID, &l.DiffID, &l.Blob.Digest, &l.Blob.MediaType, &l.Blob.Size, &l.Claimed, &l.Dir, &l.Size)
		inv.layers[l.ID] = l
		if l.Dir {
			c.total += max(l.Size, 0)
		}
		return err
	}, "SELECT id,diff_id,blob,media_type,blob_size,claimed,dir,size FROM layers")
	if err != nil {
		return err
	}
	err = c.each(ctx, func(rows *sql.Rows) error {
		var diff digest.Digest
		var b layerBlob
		err := rows.Scan(&diff, &b.Digest, &b.MediaType, &b.Size, &b.level)
		inv.made[diff] = append(inv.made[diff], b)
		return err
	}, "SELECT diff_id,digest,media_type,size,level FROM layer_blobs ORDER BY digest")
	if err != nil {
		return err
	}
	err = c.each(ctx, func(rows *sql.Rows) error {
		var d digest.Digest
		var size int64
		err := rows.Scan(&d, &size)
		inv.blobs[d] = size
		c.total += size
		return err
	}, "SELECT digest,size FROM blobs")
	c.inv = inv
	c.report.Blobs, c.report.Layers = len(inv.blobs), len(inv.layers)
	return err
}

// known are the blobs that a layer may be held as, as [Store.knownBlobs] tells.
func (inv *inventory) known(l LayerInfo) []digest.Digest {
	var all []digest.Digest
	if l.Blob.Digest != "" {
		all = append(all, l.Blob.Digest)
	}
	if l.DiffID != "" && !l.Claimed {
		for _, b := range inv.made[l.DiffID] {
			if b.Digest != l.Blob.Digest {
				all = append(all, b.Digest)
			}
		}
	}
	return all
}

// packed reports whether the layer's directory, packed, has its diffID: a layer that was made here, of which a plain
// tar was.
func (inv *inventory) packed(l LayerInfo) bool {
	return l.Blob.Digest == "" && l.DiffID != "" &&
		slices.ContainsFunc(inv.made[l.DiffID], func(b layerBlob) bool { return b.Digest == l.DiffID })
}

// parallel calls fn for all of it, on as many cores as there are.
func parallel[T any](ctx context.Context, all []T, fn func(context.Context, T) error) error {
	g, gctx := newGroup(ctx, runtime.GOMAXPROCS(0))
	for _, v := range all {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return fn(gctx, v) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}
