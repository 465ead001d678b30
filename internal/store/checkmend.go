package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

func newGroup(ctx context.Context, n int) (*errgroup.Group, context.Context) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(n)
	return g, gctx
}

// repair mends what was found, and then what the records say of things that are not there any more.
func (c *checker) repair(ctx context.Context) error {
	all := c.report.Findings
	todo := all
	for range 4 { // results of a layer, which is of a blob
		for i := range todo {
			if err := c.mend(ctx, &todo[i]); err != nil {
				return err
			}
		}
		left, err := c.records(ctx)
		if err != nil {
			return err
		}
		if err := c.owners(ctx, left); err != nil {
			return err
		}
		start := len(all)
		for _, f := range left {
			if i := slices.IndexFunc(all, f.same); i >= 0 {
				if all[i].Mended {
					all[i].Mended, all[i].Failed = false, "it is still so"
				}
				continue
			}
			all = append(all, f)
		}
		if todo = all[start:]; len(todo) == 0 {
			break
		}
	}
	c.report.Findings = all
	return nil
}

// mend mends one thing.
func (c *checker) mend(ctx context.Context, f *Finding) error {
	if f.mend == nil {
		f.Failed = "it cannot be mended"
		return nil
	}
	err := f.mend(ctx)
	if f.Mended = err == nil; err != nil {
		f.Failed = err.Error()
	}
	return context.Cause(ctx)
}

// errInUse says that others use what would have to go.
var errInUse = errors.New("another process uses it: try again when that has ended")

// takeAway moves files away, and deletes them, unless they are needed: with the gate shut, as a collector does. fn,
// which may be nil, forgets the records of them first.
func (c *checker) takeAway(ctx context.Context, paths []string, needed func(others) (bool, error), fn func(*sql.Tx) error) error {
	own, err := c.s.current()
	if err != nil {
		return err
	}
	trash, err := c.s.TempDir()
	if err != nil {
		return err
	}
	move := func() error {
		for i, path := range paths {
			err := os.Rename(path, filepath.Join(trash, fmt.Sprint(i)))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err = c.moveShut(ctx, own, move, needed, fn)
		if !errors.Is(err, errGate) || time.Now().After(end) || ctx.Err() != nil {
			return errors.Join(err, os.RemoveAll(trash))
		}
	}
}

func (c *checker) moveShut(ctx context.Context, own *lease, move func() error, needed func(others) (bool, error), fn func(*sql.Tx) error) (err error) {
	open := func() error { return nil }
	defer func() { err = errors.Join(err, open()) }()
	err = c.s.update(ctx, func(tx *sql.Tx) error {
		unlock, err := c.s.gate.shut()
		if err != nil {
			return err
		}
		open = unlock
		o, err := c.s.readLeases(own.id)
		if err != nil {
			return err
		}
		if used, err := needed(o); err != nil || used {
			return errors.Join(err, errInUse)
		}
		if fn == nil {
			return nil
		}
		return fn(tx)
	})
	if err != nil {
		return err
	}
	return move()
}

// mendBlob forgets a blob that is not what it should be, and packs it again where that gives it.
func (c *checker) mendBlob(ctx context.Context, d digest.Digest) error {
	err := c.takeAway(ctx, []string{c.s.blobPath(d)}, func(o others) (bool, error) { return o.useBlob(d), nil }, func(tx *sql.Tx) error {
		return deleteRows(tx, "blobs", "digest", []digest.Digest{d})
	})
	if err != nil {
		return err
	}
	_, err = c.packBlob(ctx, d)
	return err
}

// packBlob makes a blob again that is the plain tar of a layer's directory.
func (c *checker) packBlob(ctx context.Context, d digest.Digest) (packed bool, _ error) {
	for id, info := range c.inv.layers {
		if info.DiffID == d && info.Dir && info.Blob.Digest == "" && !c.isWrong(id) {
			_, err := c.s.packAgain(ctx, info)
			return err == nil, err
		}
	}
	return false, nil
}

func (c *checker) isWrong(id layer.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrong[id]
}

// keeps returns which of the images and containers need a layer. A record of one that cannot be read may need anything.
func (c *checker) keeps(ctx context.Context, id layer.ID) ([]string, error) {
	l := &survey{checker: c}
	if err := l.readNames(ctx); err != nil {
		return nil, err
	}
	var all []string
	for _, f := range l.named.damaged {
		if f.mend == nil {
			all = append(all, f.Kind+" "+f.Subject)
		}
	}
	for _, img := range l.named.images {
		need := c.s.newReach()
		if err := errors.Join(need.addImage(ctx, img), need.close(ctx)); err != nil {
			return nil, err
		}
		if need.hasLayer(id) {
			all = append(all, "image "+img.Name)
		}
	}
	for _, ct := range l.named.containers {
		if slices.Contains(ct.layers(), id) {
			all = append(all, "container "+ct.Name)
		}
	}
	return all, nil
}

// dropLayer forgets a layer that nothing can be made of, and the cache that needs it; what is named is kept as it is, and
// nobody else gets it.
func (c *checker) dropLayer(ctx context.Context, id layer.ID) error {
	if err := c.dropCache(ctx, id); err != nil {
		return err
	}
	who, err := c.keeps(ctx, id)
	if err != nil {
		return err
	}
	if len(who) > 0 {
		// Whoever has the same content made again gets that, and not this: it has no diffID any more.
		err := c.s.update(ctx, func(tx *sql.Tx) error {
			_, err := tx.Exec("UPDATE layers SET diff_id='' WHERE id=?", string(id))
			return err
		})
		if err != nil {
			return err
		}
		return fmt.Errorf("it is kept for %s, and nothing that is cached uses it any more: build or pull what it belongs to again", strings.Join(who, ", "))
	}
	return c.takeAway(ctx, []string{c.s.layerDir(id)}, func(o others) (bool, error) {
		if o.useLayer(id) {
			return true, nil
		}
		quoted := `"` + string(id) + `"`
		var named bool // since it was looked at
		err := c.s.db.QueryRowContext(ctx, "SELECT EXISTS(SELECT 1 FROM images WHERE instr(record,?1)) OR EXISTS(SELECT 1 FROM containers WHERE instr(record,?1))", quoted).Scan(&named)
		return named, err
	}, func(tx *sql.Tx) error {
		return deleteRows(tx, "layers", "id", []layer.ID{id})
	})
}

// dropCache forgets the results and memos that name a layer.
func (c *checker) dropCache(ctx context.Context, id layer.ID) error {
	l := &survey{checker: c}
	if err := l.readNames(ctx); err != nil {
		return err
	}
	return c.s.update(ctx, func(tx *sql.Tx) error {
		for table, all := range map[string]map[string][]layer.ID{"results": l.named.results, "memo": l.named.memos} {
			for key, ids := range all {
				if !slices.Contains(ids, id) {
					continue
				}
				if err := deleteRows(tx, table, "key", []string{key}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// dropDir does without the directory of a layer, which is not what it should be, where a blob gives it again;
// otherwise without the layer.
func (c *checker) dropDir(ctx context.Context, id layer.ID) error {
	info, ok := c.inv.layers[id]
	if !ok {
		return nil
	}
	if !slices.ContainsFunc(c.inv.known(info), c.here) {
		return c.dropLayer(ctx, id)
	}
	fs := c.s.layerFS(id)
	over, err := filepath.Glob(filepath.Join(filepath.Dir(fs), "over-*"))
	if err != nil {
		return err
	}
	return c.takeAway(ctx, append(over, fs), func(o others) (bool, error) {
		if o.useLayer(id) {
			return true, nil
		}
		return c.runs(ctx, id)
	}, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE layers SET dir=0 WHERE id=?", string(id))
		return err
	})
}

// runs reports whether a container that runs has a layer.
func (c *checker) runs(ctx context.Context, id layer.ID) (bool, error) {
	containers, err := c.s.Containers(ctx)
	if err != nil {
		return false, err
	}
	for _, ct := range containers {
		if !slices.Contains(ct.layers(), id) {
			continue
		}
		f, err := OpenRegular(filepath.Join(c.s.ContainerDir(ct.ID), "lock"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
		if err := f.Close(); err != nil {
			return false, err
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			return true, nil
		}
	}
	return false, nil
}

// owners says which images, containers and steps findings are about.
func (c *checker) owners(ctx context.Context, found []Finding) error {
	l := &survey{checker: c}
	if len(found) == 0 {
		return nil
	}
	if err := l.readNames(ctx); err != nil {
		return err
	}
	slots, err := c.slots(ctx)
	if err != nil {
		return err
	}
	note := func(name string, has func(kind, subject string) bool) {
		for i := range found {
			if f := &found[i]; has(f.Kind, f.Subject) && !slices.Contains(f.Of, name) {
				f.Of = append(f.Of, name)
			}
		}
	}
	reaches := func(r *reach) func(kind, subject string) bool {
		return func(kind, subject string) bool {
			switch kind {
			case "layer", "index", "implied":
				return r.layers[layer.ID(subject)]
			case "blob", "blob record":
				return r.blobs[digest.Digest(subject)]
			}
			return false
		}
	}
	for _, img := range l.named.images {
		r := c.s.newReach()
		if err := errors.Join(r.addImage(ctx, img), r.close(ctx)); err != nil {
			return err
		}
		note("image "+img.Name, reaches(r))
	}
	for _, ct := range l.named.containers {
		note("container "+ct.Name, func(kind, subject string) bool {
			return (kind == "layer" || kind == "index" || kind == "implied") && slices.Contains(ct.layers(), layer.ID(subject))
		})
	}
	for key, ids := range l.named.results {
		note("step "+slots[key], func(kind, subject string) bool {
			return kind == "layer" && slices.Contains(ids, layer.ID(subject))
		})
	}
	for i := range found {
		if f := &found[i]; f.Kind == "result" && slots[f.Subject] != "" && len(f.Of) == 0 {
			f.Of = append(f.Of, "step "+slots[f.Subject])
		}
	}
	return nil
}

// slots are the places in Dockerfiles that made results.
func (c *checker) slots(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	err := c.each(ctx, func(rows *sql.Rows) error {
		var key, slot string
		err := rows.Scan(&key, &slot)
		dockerfile, place, _ := strings.Cut(slot, "\n")
		all[key] = place + " of " + dockerfile
		return err
	}, "SELECT key,slot FROM results")
	return all, err
}
