package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Draft is a layer that is being made, in directory form. FS is its overlay-native directory and
// Work an empty directory beside it for overlayfs. Commit or Abort ends it; Abort after Commit
// does nothing.
type Draft struct {
	FS, Work string

	s    *Store
	dir  string
	id   layer.ID
	done bool
}

// NewLayer starts a layer.
func (s *Store) NewLayer() (*Draft, error) {
	l, err := s.current()
	if err != nil {
		return nil, err
	}
	return s.draft(l, layer.ID(l.name()))
}

func (s *Store) draft(l *lease, id layer.ID) (*Draft, error) {
	d := &Draft{s: s, id: id, dir: filepath.Join(l.dir, l.name())}
	d.FS, d.Work = filepath.Join(d.dir, "fs"), filepath.Join(d.dir, "work")
	for _, dir := range []string{d.dir, d.FS, d.Work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, fmt.Errorf("making layer: %w", err)
		}
	}
	return d, nil
}

// Commit makes the layer part of the store. Nobody may write to it afterwards.
func (d *Draft) Commit(ctx context.Context) (layer.ID, error) {
	if err := d.record(ctx, LayerInfo{ID: d.id, Dir: true, Size: -1, Created: time.Now()}); err != nil {
		return "", fmt.Errorf("committing layer: %w", err)
	}
	return d.id, nil
}

// record makes the directory the layer's directory form, and records it with what is known of the layer. Both
// happen in one transaction, so that of several processes that make the same form one places it, and the record
// alone tells whether it is whole: a directory without one is what a crash left.
func (d *Draft) record(ctx context.Context, info LayerInfo) error {
	defer d.Abort() // of what is left in it
	if err := context.Cause(ctx); err != nil {
		return err
	}
	size, err := d.withinLimit(ctx)
	if err != nil {
		return err
	}
	// A context that ends would end the transaction, and with it the lock, while the directory is placed.
	ctx = context.WithoutCancel(ctx)
	var placed bool
	d.s.wrote.Store(true)
	err = d.s.update(ctx, func(tx *sql.Tx) (err error) {
		if placed, err = d.place(tx); err != nil {
			return err
		}
		return d.s.putLayer(tx, info)
	})
	if err != nil && placed {
		err = errors.Join(err, d.s.update(ctx, d.takeBack))
	}
	if err == nil && size >= 0 { // it need not be measured again
		err = d.s.recordSizes(ctx, map[string]int64{string(d.id): size})
	}
	return err
}

// withinLimit is [Store.withinLimit] for what a process may have written, and how much that is, or -1 where there is no limit.
func (d *Draft) withinLimit(ctx context.Context) (size int64, err error) {
	if d.s.limit == nil {
		return -1, nil
	}
	if size, err = diskUsage(d.FS); err != nil {
		return -1, fmt.Errorf("measuring the layer: %w", err)
	}
	d.s.grown(size)
	return size, d.s.withinLimit(ctx)
}

// place renames the directory to where the layer's directory form is looked for, unless one is recorded.
func (d *Draft) place(tx *sql.Tx) (placed bool, err error) {
	fs := d.s.layerFS(d.id)
	if err := os.Mkdir(filepath.Dir(fs), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false, err
	}
	err = os.Rename(d.FS, fs)
	if errors.Is(err, os.ErrExist) {
		if recorded, err := dirRecorded(tx, d.id); err != nil || recorded {
			return false, err
		}
		err = os.Rename(fs, filepath.Join(d.dir, "unrecorded"))
		if err == nil {
			err = os.Rename(d.FS, fs)
		}
	}
	if err != nil {
		return false, err
	}
	return true, d.s.moveRecords(d.FS, fs)
}

// takeBack undoes place when nothing was recorded: no sweep finds the directory as long as this process lives.
func (d *Draft) takeBack(tx *sql.Tx) error {
	if recorded, err := dirRecorded(tx, d.id); err != nil || recorded {
		return err // another process has replaced it by its own
	}
	fs := d.s.layerFS(d.id)
	return errors.Join(os.Rename(fs, d.FS), d.s.moveRecords(fs, d.FS), removeEmpty(filepath.Dir(fs)))
}

// dirRecorded reports whether the directory form of a layer is recorded.
func dirRecorded(tx *sql.Tx, id layer.ID) (recorded bool, err error) {
	err = tx.QueryRow("SELECT EXISTS(SELECT 1 FROM layers WHERE id=? AND dir=1)", string(id)).Scan(&recorded)
	return recorded, err
}

// removeEmpty removes a directory unless there is something in it.
func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// Abort drops the layer.
func (d *Draft) Abort() {
	if !d.done {
		d.done = true
		d.remove()
	}
}

// remove removes what is left of the draft: mostly what overlayfs leaves in an empty directory, of which the names are
// known.
func (d *Draft) remove() {
	own := filepath.Join(d.Work, "work")
	_ = unix.Unlink(filepath.Join(own, "incompat/volatile/dirty"))
	for _, left := range []string{filepath.Join(own, "incompat/volatile"), filepath.Join(own, "incompat"), own, d.Work} {
		_ = unix.Rmdir(left)
	}
	if err := unix.Rmdir(d.dir); err != nil && !errors.Is(err, unix.ENOENT) {
		os.RemoveAll(d.dir)
	}
}

// LayerInfo is what the store knows of a layer.
type LayerInfo struct {
	ID     layer.ID
	DiffID digest.Digest // empty until a blob was made or pulled
	// Blob is the one from elsewhere that the layer is the content of; it is zero for a layer that was made here.
	Blob ocispec.Descriptor
	// Claimed says that nobody has seen yet that the blob's content has the diffID: it is what came with it.
	Claimed bool
	Dir     bool  // the directory form is here
	Size    int64 // bytes of the regular files' content; -1 when not known
	Created time.Time
}

// Layer describes a layer. Unknown ids are ErrNotFound.
func (s *Store) Layer(ctx context.Context, id layer.ID) (LayerInfo, error) {
	info, err := s.recordedLayer(ctx, id)
	if p := s.plan(id); p != nil && errors.Is(err, ErrNotFound) {
		return LayerInfo{ID: id, Size: -1, Created: p.created}, nil
	}
	return info, err
}

// recordedLayer is [Store.Layer] for what others know too. It keeps the layer, see hold.go.
func (s *Store) recordedLayer(ctx context.Context, id layer.ID) (LayerInfo, error) {
	var diff string
	var created int64
	info := LayerInfo{ID: id}
	if _, err := s.holdLayers(id); err != nil {
		return info, err
	}
	err := s.db.QueryRowContext(ctx, "SELECT diff_id,blob,media_type,blob_size,claimed,dir,size,created FROM layers WHERE id=?", string(id)).
		Scan(&diff, &info.Blob.Digest, &info.Blob.MediaType, &info.Blob.Size, &info.Claimed, &info.Dir, &info.Size, &created)
	if errors.Is(err, sql.ErrNoRows) {
		// It was collected, or it turned out not to be what its image had said of it: another process may
		// have found that out while this one had its id.
		return info, fmt.Errorf("layer %s is not in the store any more, pull or build what it belongs to again: %w", id, ErrNotFound)
	}
	if err != nil {
		return info, fmt.Errorf("reading layer %s: %w", id, err)
	}
	info.DiffID, info.Created = digest.Digest(diff), time.Unix(0, created)
	return info, nil
}

// Check returns why a snapshot cannot be used any more, or nil.
func (s *Store) Check(ctx context.Context, snap layer.Snapshot) error {
	for _, id := range snap {
		info, err := s.Layer(ctx, id)
		if err != nil {
			return err
		}
		if info.Dir {
			if _, err := os.Lstat(s.layerFS(id)); err == nil {
				continue
			}
		}
		blobs, err := s.layerBlobs(ctx, info)
		if err != nil {
			return err
		}
		if len(blobs) == 0 {
			return fmt.Errorf("layer %s has neither files nor a blob: %w", id, ErrNotFound)
		}
	}
	return nil
}

// Dir returns the directory form of a layer and unpacks it from its blob when it is missing.
func (s *Store) Dir(ctx context.Context, id layer.ID) (string, error) {
	fs := s.layerFS(id)
	if s.seenDir(id) != nil {
		return fs, nil
	}
	info, err := s.Layer(ctx, id)
	if err != nil {
		return "", err
	}
	if info.Dir {
		if _, err := os.Lstat(fs); err == nil {
			s.sawDir(info)
			return fs, nil
		}
	}
	ctx, within := s.Limited(ctx) // a blob may be much smaller than its files
	_, err = s.once(ctx, "dir:"+string(id), func(ctx context.Context) (any, error) { return nil, s.makeDir(ctx, id) })
	return fs, ofLayer(info, within(err))
}

// makeDir makes the directory form of a layer.
func (s *Store) makeDir(ctx context.Context, id layer.ID) error {
	info, err := s.Layer(ctx, id) // another call may have made it in the meantime
	if err != nil {
		return err
	}
	if _, err := os.Lstat(s.layerFS(id)); err == nil && info.Dir {
		return nil
	}
	if p, done := s.usePlan(id); p != nil {
		defer done()
		return s.writePlan(ctx, p, info)
	}
	return s.unpack(ctx, info)
}

// Dirs returns the directories that show a snapshot when they are stacked, base first: the directory form of each
// layer, once, and now and then one more on top of it (implied.go). Missing ones are made at the same time.
func (s *Store) Dirs(ctx context.Context, snap layer.Snapshot) ([]string, error) {
	snap = snap.Distinct()
	if _, err := s.holdLayers(snap...); err != nil { // at once
		return nil, err
	}
	forms := make([]string, len(snap))
	g, gctx := errgroup.WithContext(ctx)
	for i, id := range snap {
		g.Go(func() (err error) {
			forms[i], err = s.Dir(gctx, id)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(forms))
	for i, id := range snap {
		over, err := s.over(ctx, id, dirs, forms[i])
		if err != nil {
			if info, ierr := s.Layer(ctx, id); ierr == nil {
				err = ofLayer(info, err)
			}
			return nil, err
		}
		dirs = append(dirs, forms[i])
		if over != "" {
			dirs = append(dirs, over)
		}
	}
	return dirs, nil
}
