package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// steps make a store of version 1 out of an empty one, one of version 2 out of version 1, and so on:
// the version of a store is how many of them it has behind it. A new store takes all of them.
//
// A step that was released is never changed. It may not lock out a process of the version before that
// runs a container, which is the only use of a store that [Store.Yield] lets go on during an upgrade:
// what is done to the table of containers, that process must be able to read and write.
var steps = []func(*Store, *sql.Tx) error{toVersion1, toVersion2, toVersion3, toVersion4, toVersion5, toVersion6, toVersion7, toVersion8}

func toVersion1(_ *Store, tx *sql.Tx) error {
	_, err := tx.Exec(`
CREATE TABLE blobs(digest TEXT PRIMARY KEY, size INTEGER NOT NULL, boot TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE layers(id TEXT PRIMARY KEY, diff_id TEXT NOT NULL DEFAULT '', dir INTEGER NOT NULL,
  size INTEGER NOT NULL DEFAULT -1, created INTEGER NOT NULL, boot TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX layers_diff ON layers(diff_id);
CREATE TABLE layer_blobs(diff_id TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
  size INTEGER NOT NULL, level INTEGER NOT NULL, PRIMARY KEY(diff_id, digest)) WITHOUT ROWID;
CREATE TABLE results(key TEXT PRIMARY KEY, slot TEXT NOT NULL, record TEXT NOT NULL,
  created INTEGER NOT NULL, boot TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX results_slot ON results(slot, created);
CREATE TABLE memo(key TEXT PRIMARY KEY, value TEXT NOT NULL, boot TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE refs(ref TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY(ref, platform)) WITHOUT ROWID;
CREATE TABLE images(name TEXT PRIMARY KEY, record TEXT NOT NULL, tagged INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE containers(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) WITHOUT ROWID;
`)
	return err
}

// toVersion2 gives all stores the sources of blobs, which some of version 1 have.
func toVersion2(_ *Store, tx *sql.Tx) error {
	_, err := tx.Exec(`
CREATE TABLE IF NOT EXISTS blob_sources(digest TEXT NOT NULL, repository TEXT NOT NULL,
  PRIMARY KEY(digest, repository)) WITHOUT ROWID;
`)
	return err
}

// toVersion3 gives the files of layers inodes of their own. Layers of version 2 share those of equal files. What
// was done when the space does not do for the rest stays done.
func toVersion3(s *Store, _ *sql.Tx) error {
	dirs, err := filepath.Glob(filepath.Join(s.root, "layers", "*", "fs"))
	if err != nil {
		return err
	}
	for i, dir := range dirs {
		err := s.unshare(dir)
		if IsFull(err) {
			return &noCopies{fullError{s.root}, s.sharedBytes(dirs[i:])}
		}
		if err != nil {
			return fmt.Errorf("giving files of layer %s inodes of their own: %w", filepath.Base(filepath.Dir(dir)), err)
		}
	}
	return nil
}

// noCopies says that there is no space for copies of files that layers share.
type noCopies struct {
	fullError
	bytes int64 // of the files
}

func (e *noCopies) Error() string {
	return fmt.Sprintf("%s for copies of files that its layers share, which take %s", &e.fullError, units.HumanSize(float64(e.bytes)))
}

// sharedBytes is how many bytes the copies take that the directories of layers still need.
func (s *Store) sharedBytes(dirs []string) (n int64) {
	names := map[uint64]int{} // by inode
	for _, dir := range dirs {
		shared, _ := s.sharedFiles(dir) // what cannot be read is not counted
		for _, f := range shared {
			names[f.entry.Inode] += len(f.names)
			if names[f.entry.Inode] < int(f.entry.Nlink) { // the last directory keeps the file
				n += f.entry.Size
			}
		}
	}
	return n
}

// toVersion4 has layer_blobs hold what was made here alone, and layers know the blob that they came as.
// Versions before took each blob for a form of each layer with the diffID that was said of it. Where several
// blobs were said to have one diffID nobody knows which of them it is true of: what stands on such layers is
// built again.
func toVersion4(_ *Store, tx *sql.Tx) error {
	_, err := tx.Exec(`
ALTER TABLE layers ADD COLUMN blob TEXT NOT NULL DEFAULT '';
ALTER TABLE layers ADD COLUMN media_type TEXT NOT NULL DEFAULT '';
ALTER TABLE layers ADD COLUMN blob_size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN claimed INTEGER NOT NULL DEFAULT 0;
CREATE TEMP TABLE said AS SELECT diff_id, count(*) AS blobs, max(digest) AS digest, max(size) AS size, max(media_type) AS media_type,
  EXISTS(SELECT 1 FROM layer_blobs m WHERE m.diff_id=b.diff_id AND m.digest=b.diff_id AND m.level>=0) AS made
  FROM layer_blobs b WHERE level<0 GROUP BY diff_id;
UPDATE said SET media_type=CASE media_type
  WHEN 'application/vnd.docker.image.rootfs.diff.tar' THEN 'application/vnd.oci.image.layer.v1.tar'
  WHEN 'application/vnd.docker.image.rootfs.diff.tar.gzip' THEN 'application/vnd.oci.image.layer.v1.tar+gzip'
  WHEN 'application/vnd.docker.image.rootfs.diff.tar.zstd' THEN 'application/vnd.oci.image.layer.v1.tar+zstd' ELSE media_type END;
UPDATE layers SET blob=digest, media_type=said.media_type, blob_size=said.size, claimed=(dir=0)
  FROM said WHERE said.diff_id=layers.diff_id AND said.blobs=1 AND NOT said.made;
DELETE FROM results WHERE EXISTS(SELECT 1 FROM layers l JOIN said s ON s.diff_id=l.diff_id
  WHERE l.blob='' AND NOT s.made AND instr(results.record, '"'||l.id||'"'));
DELETE FROM layers WHERE blob='' AND dir=0 AND diff_id IN (SELECT diff_id FROM said WHERE NOT made);
DELETE FROM layer_blobs WHERE level<0 OR digest!=diff_id;
DROP TABLE said;
`)
	return err
}

// toVersion5 takes the values of arguments and environments out of what is recorded of keys.
func toVersion5(s *Store, tx *sql.Tx) error {
	if err := s.maskResults(tx); err != nil {
		return fmt.Errorf("taking values out of its results: %w", err)
	}
	if err := s.maskBuilds(); err != nil {
		return fmt.Errorf("taking values out of its builds: %w", err)
	}
	return nil
}

// toVersion6 changes nothing: processes of versions before do not say what they use, so none may be at work when
// somebody collects.
func toVersion6(*Store, *sql.Tx) error { return nil }

// toVersion7 has the records of the cache know when they were used last, and how often, and layers how much of the
// disk their directories take.
func toVersion7(s *Store, tx *sql.Tx) error {
	if err := os.MkdirAll(filepath.Join(s.root, "used"), 0o700); err != nil {
		return err
	}
	_, err := tx.Exec(`
ALTER TABLE results ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE results ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE memo ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE memo ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE refs ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refs ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE layers ADD COLUMN disk INTEGER NOT NULL DEFAULT -1;
UPDATE results SET used=created;
`)
	if err != nil {
		return err
	}
	for _, table := range []string{"memo", "refs"} { // nobody knows when: not as if it were never
		if _, err := tx.Exec("UPDATE "+table+" SET used=?", time.Now().UnixNano()); err != nil {
			return err
		}
	}
	return nil
}

// toVersion8 has what is not synced, which each process asks for when it opens the store, and images with a digest
// found without reading all records.
func toVersion8(_ *Store, tx *sql.Tx) error {
	queries := []string{"CREATE INDEX images_id ON images(" + imageID + ")", "CREATE INDEX images_target ON images(" + imageTarget + ")"}
	for _, t := range []string{"blobs", "layers", "results", "memo"} {
		queries = append(queries, "CREATE INDEX "+t+"_boot ON "+t+"(boot) WHERE boot!=''")
	}
	for _, q := range queries {
		if _, err := tx.Exec(q); err != nil {
			return err
		}
	}
	return nil
}

// version reads the version of the store's format, and its flavor; the version of an empty one is 0.
func (s *Store) version(q interface {
	QueryRow(query string, args ...any) *sql.Row
}) (v int, k kind, err error) {
	err = patiently(func() error { return q.QueryRow("PRAGMA user_version").Scan(&v) })
	if is := kind(v >> flavorShift); is == user || is == oneID {
		v, k = v&(1<<flavorShift-1), is
	}
	return v, k, err
}

// bringUpToDate makes the store one of this program's version. A newer one is refused.
func (s *Store) bringUpToDate() error {
	held := true // the shared lock
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		v, k, err := s.version(s.db)
		current := v == len(steps) && s.fits(k)
		switch {
		case err != nil || current && held:
			return err
		case current: // another process has upgraded it
			if err := s.use.lock(unix.LOCK_SH); err != nil {
				return err
			}
			held = true
			continue
		case v > len(steps):
			return fmt.Errorf("its format is version %d, this program knows version %d: use another --root, or remove it", v, len(steps))
		}
		if v > 0 && !s.fits(k) {
			if err := s.changeFlavorAlone(k); err != nil {
				return err
			}
			continue
		}
		if s.readOnly != "" {
			return fmt.Errorf("its format is version %d, this program's is %d, and it cannot be upgraded: %w", v, len(steps), s.readOnlyError())
		}
		done, err := s.upgradeAlone()
		if done && err == nil && v > 0 {
			s.dropOldPages()
		}
		if err != nil || done {
			return err
		}
		held = false
		if time.Now().After(end) {
			return fmt.Errorf("it was made by an older slipway (its format is version %d, this program's is %d), which still uses it: "+
				"the store is upgraded when that one has ended", v, len(steps))
		}
	}
}

// upgradeAlone upgrades the store when nobody else uses it: a process of an older version would go on
// with what it knows of the tables. It waits for nobody, so that of several processes that start at
// once, one finds itself alone.
func (s *Store) upgradeAlone() (done bool, err error) {
	return s.alone(func() error { return patiently(s.upgrade) })
}

// alone calls fn while nobody else uses the store, unless somebody does.
func (s *Store) alone(fn func() error) (done bool, err error) {
	err = s.use.lock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, s.use.lock(unix.LOCK_UN)
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(fn(), s.use.lock(unix.LOCK_SH))
}

// upgradeError says that a step failed. The store has its old version and can be upgraded another time: the records are
// as they were, and what a step did to files is right for either version and is not done twice.
type upgradeError struct {
	to  int
	err error
}

func (e *upgradeError) Error() string {
	return fmt.Sprintf("upgrading it to version %d: %v", e.to, e.err)
}
func (e *upgradeError) Unwrap() error { return e.err }

// notUpgraded adds to an error of a store that was not upgraded for want of space what gives some. It is no error
// of a full disk any more: what gives space back of other stores would have to upgrade this one first.
func notUpgraded(err error) error {
	var failed *upgradeError
	if !errors.As(err, &failed) || !IsFull(err) {
		return err
	}
	return fmt.Errorf("%v: make room there and try again, nothing of the store is lost; the slipway that made it can prune it", err)
}

// upgrade takes the steps that the store has not behind it, in one transaction.
func (s *Store) upgrade() error {
	if _, err := s.db.Exec("PRAGMA journal_mode=WAL"); err != nil {
		return err
	}
	return s.update(context.Background(), func(tx *sql.Tx) error {
		v, k, err := s.version(tx)
		if err != nil || v >= len(steps) {
			return err
		}
		if v == 0 {
			k = s.kind()
		}
		for i, step := range steps[v:] {
			if err := step(s, tx); err != nil {
				return &upgradeError{v + i + 1, err}
			}
		}
		if v > 0 { // what the steps did to files is not done again
			if err := syncfs(s.root); err != nil {
				return fmt.Errorf("syncing the store: %w", err)
			}
		}
		return s.setVersion(tx, len(steps), k)
	})
}

// dropOldPages takes what was overwritten and deleted out of the database's files. Where there is no space
// for it, that stays until it is overwritten.
func (s *Store) dropOldPages() {
	for _, q := range []string{"VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"} {
		_, _ = s.db.Exec(q)
	}
}
