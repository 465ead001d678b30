package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// RemoveImages forgets names. The files stay until [Store.Collect], and what results of builds need
// stays with them: as in BuildKit, removing an image makes no step run again.
func (s *Store) RemoveImages(ctx context.Context, names ...string) error {
	defer s.makeRoom()()
	err := s.updateOnDisk(ctx, func(tx *sql.Tx) error {
		for _, name := range names {
			if err := removeName(tx, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.writeIndex(ctx)
}

func removeName(tx *sql.Tx, name string) error {
	// A base image that was removed is asked for again, as any that is not here.
	for _, q := range []string{"DELETE FROM images WHERE name=?", "DELETE FROM refs WHERE ref=?"} {
		if _, err := tx.Exec(q, name); err != nil {
			return fmt.Errorf("removing image %s: %w", name, err)
		}
	}
	return nil
}

// UntagImage takes its name from an image, which stays without one.
func (s *Store) UntagImage(ctx context.Context, img Image) error {
	defer s.makeRoom()()
	err := s.updateOnDisk(ctx, func(tx *sql.Tx) error {
		if err := removeName(tx, img.Name); err != nil {
			return err
		}
		img.Name = img.ID.String()
		return setImage(tx, img)
	})
	if err != nil {
		return err
	}
	return s.writeIndex(ctx)
}

// PruneImages is [Store.RemoveImages] to give space back: with the last name of an image the results of
// builds go that are nothing but steps of that image, those whose layers are all layers of it, and not all
// layers of what stays.
func (s *Store) PruneImages(ctx context.Context, names ...string) error {
	defer s.makeRoom()()
	images, err := s.Images(ctx)
	if err != nil {
		return err
	}
	stays := map[digest.Digest]bool{} // images that keep a name
	for _, img := range images {
		if !slices.Contains(names, img.Name) {
			stays[img.Target().Digest] = true
		}
	}
	gone := slices.DeleteFunc(images, func(i Image) bool { return stays[i.Target().Digest] })
	if err := s.RemoveImages(ctx, names...); err != nil {
		return err
	}
	return s.dropSteps(ctx, gone)
}

// dropSteps forgets the results that only images which are gone needed.
func (s *Store) dropSteps(ctx context.Context, gone []Image) error {
	was, stays := s.newReach(), s.newReach()
	for _, img := range gone {
		if err := was.addImage(ctx, img); err != nil {
			return err
		}
	}
	if err := errors.Join(stays.addNamed(ctx), was.close(ctx), stays.close(ctx)); err != nil {
		return err
	}
	// unneeded: all of it went with the images, and not all of it is needed.
	unneeded := func(snap layer.Snapshot) bool {
		foreign := slices.ContainsFunc(snap, func(id layer.ID) bool { return !was.layers[id] })
		return !foreign && slices.ContainsFunc(snap, func(id layer.ID) bool { return !stays.hasLayer(id) })
	}
	own, err := s.current()
	if err != nil {
		return err
	}
	if stays.others, err = s.readLeases(own.id); err != nil {
		return err
	}
	results, err := s.allResults(ctx)
	if err != nil {
		return err
	}
	memos, err := s.memos(ctx)
	if err != nil {
		return err
	}
	var rows []rowKey
	for key, r := range results {
		if unneeded(slices.Concat(r.Outputs...)) {
			rows = append(rows, rowKey{"results", key})
		}
	}
	for key, value := range memos {
		var named layer.Snapshot
		for _, id := range layerIn().FindAllString(value, -1) {
			named = append(named, layer.ID(id))
		}
		if unneeded(named) {
			rows = append(rows, rowKey{"memo", key})
		}
	}
	return s.forgetCache(ctx, rows)
}

// rowKey names a row of the cache: of the tables results, memo and refs.
type rowKey struct{ table, key string }

// refKey is the key of a row of refs.
func refKey(ref, platform string) string { return ref + "\t" + platform }

// keyOf is how the key of a table's rows is written in SQL.
func keyOf(table string) string {
	if table == "refs" {
		return "ref||char(9)||platform"
	}
	return "key"
}

// forgetCache deletes rows of the cache, a few at a time: what SQLite needs for that is less than the
// reserve, however many they are.
func (s *Store) forgetCache(ctx context.Context, rows []rowKey) error {
	const part = 250
	for some := range slices.Chunk(rows, part) {
		err := s.update(ctx, func(tx *sql.Tx) error {
			for _, r := range some {
				if err := deleteRows(tx, r.table, keyOf(r.table), []string{r.key}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		_, _ = s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)") // the next part may use the space of this one
	}
	return nil
}

// deleteRows deletes the rows whose key is one of keys.
func deleteRows[T ~string](tx *sql.Tx, table, key string, keys []T) error {
	for _, k := range keys {
		if _, err := tx.Exec("DELETE FROM "+table+" WHERE "+key+"=?", string(k)); err != nil {
			return fmt.Errorf("deleting from %s: %w", table, err)
		}
	}
	return nil
}

// Collect deletes the layers and blobs that no image, no container, no result of a build, no resolved
// reference and no other process needs, and what dead processes left of them; freed is in bytes of the disk. The
// caller must not be using layers or blobs.
func (s *Store) Collect(ctx context.Context) (freed int64, err error) {
	defer s.makeRoom()()
	return s.collect(ctx, manner{})
}

// CollectBeside is [Store.Collect] by a process that works meanwhile: what it uses itself stays as what others use.
func (s *Store) CollectBeside(ctx context.Context) (freed int64, err error) {
	defer s.makeRoom()()
	return s.collect(ctx, manner{working: true})
}

// manner is how something is collected or pruned.
type manner struct {
	by      time.Time // unless zero, files that are not deleted by then are left to the next one
	working bool      // this process uses layers and blobs: they are spared as those of others
}

// sparesBut is the lease of which it does not matter what it uses: this process's own, or none.
func (m manner) sparesBut(own string) string {
	if m.working {
		return ""
	}
	return own
}

// collect is [Store.Collect] in some manner.
func (s *Store) collect(ctx context.Context, how manner) (freed int64, err error) {
	trash, err := s.discard(ctx, how)
	if err != nil {
		return 0, fmt.Errorf("collecting what is not needed: %w", err)
	}
	freed, err = deleteTree(trash, how.by) // which may take long, while others go on
	s.leave(trash)
	return freed + s.deleteLeft(how.by), err
}

// discard forgets what is not needed, and moves its files to the directory that it returns.
func (s *Store) discard(ctx context.Context, how manner) (trash string, err error) {
	own, err := s.current() // sweeps, too
	if err != nil {
		return "", err
	}
	if trash, err = s.tempDir(trashSuffix); err != nil {
		return "", err
	}
	keep := s.newReach()
	if err := keep.addNamed(ctx); err != nil { // reads the manifests, so that nobody waits for that
		return "", err
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := s.discardShut(ctx, how.sparesBut(own.id), keep.again(), trash)
		if !errors.Is(err, errGate) || time.Now().After(end) || ctx.Err() != nil {
			return trash, err
		}
	}
}

// discardShut is discard with the gate shut.
func (s *Store) discardShut(ctx context.Context, own string, keep *reach, trash string) (err error) {
	open := func() error { return nil }
	defer func() { err = errors.Join(err, open()) }()
	err = s.updateOnDisk(ctx, func(tx *sql.Tx) error {
		unlock, err := s.gate.shut()
		if err != nil {
			return err
		}
		open = unlock
		// Processes first: what one has recorded that has ended by then is seen in the records.
		if keep.others, err = s.readLeases(own); err != nil {
			return err
		}
		if err := errors.Join(keep.addNamed(ctx), keep.addResults(ctx), keep.addMemos(ctx), keep.close(ctx)); err != nil {
			return err
		}
		return errors.Join(forget(tx, "layers", "id", keep.hasLayer), forget(tx, "blobs", "digest", keep.hasBlob),
			forget(tx, "layer_blobs", "digest", keep.hasBlob), s.moveTornContainers(tx, trash))
	})
	if err != nil {
		return err
	}
	return s.moveAway(keep, trash)
}

// moveAway moves the files of layers and blobs that are not to be kept.
func (s *Store) moveAway(keep *reach, trash string) error {
	err := moveOthers(filepath.Join(s.root, "layers"), trash, func(name string) bool { return keep.hasLayer(layer.ID(name)) })
	algorithms, rerr := readDir(filepath.Join(s.root, "blobs"))
	for _, a := range algorithms {
		err = errors.Join(err, moveOthers(filepath.Join(s.root, "blobs", a.Name()), trash, func(name string) bool {
			return keep.hasBlob(digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), name))
		}))
	}
	return errors.Join(err, rerr)
}

// forget deletes the rows of a table whose key is not to be kept.
func forget[T ~string](tx *sql.Tx, table, key string, keep func(T) bool) error {
	have, err := column(tx, "SELECT DISTINCT "+key+" FROM "+table)
	if err != nil {
		return fmt.Errorf("reading %s: %w", table, err)
	}
	return deleteRows(tx, table, key, slices.DeleteFunc(have, func(k string) bool { return keep(T(k)) }))
}

// moveOthers moves all that is in a directory, but for what keep names, into another one.
func moveOthers(dir, to string, keep func(name string) bool) error {
	entries, err := readDir(dir)
	for _, e := range entries {
		if keep(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		moved := os.Rename(path, filepath.Join(to, e.Name()))
		if _, err := os.Lstat(path); errors.Is(moved, os.ErrNotExist) && errors.Is(err, os.ErrNotExist) {
			moved = nil // a sweep did it
		}
		err = errors.Join(err, moved)
	}
	return err
}

// diskUsage is how many bytes of the disk a directory takes. What has names elsewhere too is not counted. A process
// may change the directory meanwhile: what is outside of it is not looked at, and what cannot
// be looked at any more is nothing.
func diskUsage(dir string) (int64, error) {
	return diskUsageBut(dir, func(string) bool { return false })
}

// diskUsageBut is [diskUsage] without some directories.
func diskUsageBut(dir string, skip func(name string) bool) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	type links struct{ left, bytes int64 }
	var bytes int64
	shared := map[uint64]links{}
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		var fi fs.FileInfo
		if err == nil {
			fi, err = e.Info()
		}
		if err != nil && name != "." {
			return nil
		}
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if e.IsDir() && skip(name) {
			return fs.SkipDir
		}
		if e.IsDir() || st.Nlink == 1 {
			bytes += diskBytes(fi)
			return nil
		}
		l, ok := shared[st.Ino]
		if !ok {
			l = links{int64(st.Nlink), diskBytes(fi)}
		}
		if l.left--; l.left == 0 {
			bytes += l.bytes
		}
		shared[st.Ino] = l
		return nil
	})
	return bytes, err
}

// diskBytes is how many bytes of the disk a file takes.
func diskBytes(fi fs.FileInfo) int64 { return fi.Sys().(*syscall.Stat_t).Blocks * 512 }

// onlyName reports whether a file has no other names.
func onlyName(fi fs.FileInfo) bool { return fi.Sys().(*syscall.Stat_t).Nlink == 1 }
