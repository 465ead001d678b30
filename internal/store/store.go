// Package store keeps everything that outlives a build: blobs, layers, results of vertices,
// images, containers and cache mounts.
//
// # Structure
//
//	<root>/oci-layout, index.json, blobs/sha256/   a valid OCI image layout
//	<root>/layers/<id>/fs                          overlay-native directory form of a layer
//	<root>/builds/<id>/                            full log and record of each build
//	<root>/caches/<hash>/                          cache mounts
//	<root>/containers/<id>/                        writable layers of containers
//	<root>/tmp/<lease>/                            everything half-done
//	<root>/used/<lease>                            what a process has used of the cache
//	<root>/seccomp, init/                          what the sandbox starts containers with
//	<root>/meta.db                                 SQLite, WAL: all records
//
// Each concern has a file: blobs.go, layers.go, results.go, images.go, containers.go, caches.go,
// lease.go, hold.go, collect.go, cacherecords.go, cacherows.go, sizes.go, policy.go.
//
// # Invariants
//
// Data first, record last: files are written below tmp/, renamed into place and then recorded in
// one transaction. A process that dies anywhere leaves only files below its own lease, which the
// next process that writes deletes.
//
// A directory form of a layer is there when its record says so, never because a directory is: it is renamed
// and recorded in one transaction, and one that is there without a record is replaced by whoever makes it again.
//
// Many processes may use one store at once. Records are SQLite transactions; a running process is
// known by the flock on its lease.
//
// Records made since the last syncfs carry the boot's id. After a crash of the machine they are
// dropped when the store is opened. [Store.Sync] makes them durable, and an image is named only
// after it.
//
// What neither a record nor a living process needs is deleted by [Store.Collect], at any time (hold.go).
//
// A damaged entry is a miss with a reason, never a failed build.
package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
	"modernc.org/sqlite" // also the database driver

	"github.com/slipway-build/slipway/internal/inflight"
	"github.com/slipway-build/slipway/internal/layer"
)

// maxUnpacking is how many layers are unpacked at the same time at most. Each takes up to 10 MB.
const maxUnpacking = 8

// ErrNotFound marks a name, digest or id that the store does not have.
var ErrNotFound = errors.New("not found")

// ErrDamaged marks an entry whose content is not what its record says. The entry is dropped when
// that is found out, so that whoever tries again makes or fetches it anew.
var ErrDamaged = errors.New("damaged entry in the store")

// Store is an open store. It is safe for concurrent use by any number of goroutines and, through
// the same root, processes.
type Store struct {
	root   string
	flavor layer.Flavor
	// withoutIDs: it is looked into from outside of the user namespace that it was made in.
	withoutIDs bool
	db         *database
	boot       string
	opened     time.Time
	// readOnly is the directory of a copy of the records, where nothing can be written in the store.
	readOnly string
	work     inflight.Group[any] // conversions between forms, by layer and form

	maskKey func() ([]byte, error) // what values in records are masked with; read once

	plans   sync.Map // layer.ID -> *plan: layers that only this process knows
	taps    sync.Map // digest.Digest -> *tap: who reads a blob while it is written
	fetches fetchers // how to get layers that are not here
	digests sync.Map // layer.ID -> *fileDigests: of the layers whose files this process looked at

	verifyForms bool
	unpacking   *semaphore.Weighted // bounds the memory that layers unpacked at the same time take

	limited Space  // what the store may hold, as it was given
	limit   *limit // nil without one

	tookReserve atomic.Bool // to make space, which gave none
	wrote       atomic.Bool // layers, blobs or the record of a build
	used        useLog      // what this process has used
	use         *usage      // held while the store is open
	gate        gate
	mu          sync.Mutex
	lease       *lease // nil until something is used
}

// Open opens the store at root and creates it when it is missing. The directory must be on a
// filesystem that can hold overlayfs's upper directories; that is found out by the first run.
func Open(root string, opts ...Option) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("opening store: reading boot id: %w", err)
	}
	s := &Store{root: root, boot: strings.TrimSpace(string(boot)), opened: time.Now(), flavor: defaultFlavor(), unpacking: semaphore.NewWeighted(maxUnpacking)}
	s.maskKey = sync.OnceValues(s.readMaskKey)
	for _, o := range opts {
		o(s)
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("opening store %s: %w", root, err)
	}
	if err := s.setLimit(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening store %s: %w", root, err), s.Close())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := s.makePrivate(); err != nil {
		return err
	}
	if s.use, err = useStore(s.root); err != nil {
		return err
	}
	if s.gate.dir, err = os.OpenFile(filepath.Join(s.root, "tmp"), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return errors.Join(err, s.use.dir.Close())
	}
	for {
		err = s.openRecords()
		var database *databaseError // others are not helped by a little space
		if !errors.As(err, &database) || !IsFull(err) || !s.letGo(openSize) {
			break
		}
	}
	if err != nil {
		return errors.Join(notUpgraded(err), s.endLease(), s.use.dir.Close(), s.gate.dir.Close())
	}
	return nil
}

// openRecords opens the database and brings it up to date.
func (s *Store) openRecords() (err error) {
	if s.readOnly, err = s.copyReadOnly(); err != nil {
		return err
	}
	path := s.root
	if s.readOnly != "" {
		path = s.readOnly
	}
	s.db = s.openDatabase(filepath.Join(path, "meta.db"))
	if err = s.bringUpToDate(); err == nil && s.readOnly == "" {
		err = s.dropUnsynced()
	}
	if err != nil {
		return errors.Join(err, s.closeRecords())
	}
	return nil
}

func (s *Store) closeRecords() error {
	err := s.db.Close()
	if s.readOnly != "" {
		err = errors.Join(err, os.RemoveAll(s.readOnly))
	}
	return err
}

// makeDirs creates the directories, the marker file of the OCI layout, and an empty database, whose mode
// SQLite gives to the files that it puts beside it.
func (s *Store) makeDirs() error {
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(s.root, dir), 0o700); err != nil {
			return err
		}
	}
	if err := s.writeLayoutMarker(); err != nil {
		return err
	}
	db, err := os.OpenFile(filepath.Join(s.root, "meta.db"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return db.Close()
}

// layoutMarker is the file that makes the directory an OCI image layout.
func (s *Store) layoutMarker() string { return filepath.Join(s.root, "oci-layout") }

func (s *Store) writeLayoutMarker() error {
	return os.WriteFile(s.layoutMarker(), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)
}

// patience is how long a process waits for others that use the database. Tests have less.
var patience = 20 * time.Second

// patiently calls f again while the database is locked. SQLite waits by itself, but not while some
// process changes the journal's mode, which is when a store is created.
func patiently(f func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := f()
		var failed *sqlite.Error
		if !errors.As(err, &failed) || failed.Code()&0xff != codeBusy || time.Now().After(end) {
			return err
		}
	}
}

// bootTables are the tables whose rows speak of files that may not be on the disk yet.
var bootTables = []string{"blobs", "layers", "results", "memo"}

// unsynced is the condition of rows of an earlier boot, ?1 not being its id, that were never synced. There are indexes
// of the first part.
const unsynced = "boot!='' AND boot!=?1"

// ofBlob is the condition of layers that a blob gives, or gave and can be fetched again.
const ofBlob = "(blob!='' OR EXISTS(SELECT 1 FROM layer_blobs m JOIN blobs USING(digest) WHERE m.diff_id=layers.diff_id))"

var anyUnsynced = "SELECT EXISTS(SELECT 1 FROM results WHERE " + unsynced + ") OR EXISTS(SELECT 1 FROM layers WHERE " + unsynced +
	") OR EXISTS(SELECT 1 FROM blobs WHERE " + unsynced + ") OR EXISTS(SELECT 1 FROM memo WHERE " + unsynced + ")"

// dropUnsynced deletes the records of an earlier boot that were never synced, and with them the
// directories of layers. A layer of which there is a blob stays: it may have been durable before it was unpacked,
// and its directory is made again from the blob.
func (s *Store) dropUnsynced() error {
	var stale bool
	if err := s.db.QueryRow(anyUnsynced, s.boot).Scan(&stale); err != nil || !stale {
		return err
	}
	return s.update(context.Background(), func(tx *sql.Tx) error {
		if err := s.setAside(tx); err != nil {
			return err
		}
		for _, t := range bootTables {
			if t == "layers" { // after blobs
				if _, err := tx.Exec("UPDATE layers SET dir=0, boot='' WHERE diff_id!='' AND "+ofBlob+" AND "+unsynced, s.boot); err != nil {
					return err
				}
			}
			if _, err := tx.Exec("DELETE FROM "+t+" WHERE "+unsynced, s.boot); err != nil {
				return err
			}
		}
		return nil
	})
}

// setAside moves the directories of layers of an earlier boot to where the next sweep deletes
// them, as those of a dead process. The transaction keeps other processes from doing the same,
// and no process uses such a layer before it is over.
func (s *Store) setAside(tx *sql.Tx) error {
	ids, err := column(tx, "SELECT id FROM layers WHERE dir=1 AND "+unsynced, s.boot)
	if err != nil || len(ids) == 0 {
		return err
	}
	dead, err := newLease(filepath.Join(s.root, "tmp"))
	if err == nil {
		err = dead.makeDir()
	}
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := os.Rename(s.layerDir(layer.ID(id)), filepath.Join(dead.dir, part(id)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, dead.lock.Close())
		}
	}
	return dead.lock.Close()
}

// column returns the values of a query's only column.
func column(q interface {
	Query(query string, args ...any) (*sql.Rows, error)
}, query string, args ...any) ([]string, error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// toSync are the rows that [Store.Sync] marks.
var toSync = []struct{ table, key, where string }{
	{"blobs", "digest", ""}, {"results", "key", ""}, {"memo", "key", ""},
	{"layers", "id", " AND dir=0"}, {"layers", "id", " AND dir=1"}, // a directory that is made meanwhile is not on the disk
}

// Sync writes everything that was recorded so far to the disk and marks it as durable.
func (s *Store) Sync(ctx context.Context) error {
	pending := map[string][]string{} // keys, by the statement that marks one
	for _, of := range toSync {
		keys, err := column(s.db, "SELECT "+of.key+" FROM "+of.table+" WHERE boot!=''"+of.where)
		if err != nil {
			return fmt.Errorf("syncing store: %w", err)
		}
		if len(keys) > 0 {
			pending["UPDATE "+of.table+" SET boot='' WHERE "+of.key+"=?"+of.where] = keys
		}
	}
	if len(pending) == 0 {
		return nil
	}
	if err := syncfs(s.root); err != nil {
		return fmt.Errorf("syncing store: %w", err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		for mark, keys := range pending {
			for _, k := range keys {
				if _, err := tx.Exec(mark, k); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// syncfs writes what is on a filesystem to the disk. Tests do something at the same time.
var syncfs = func(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return nil
}

// Root returns the absolute path of the store.
func (s *Store) Root() string { return s.root }

// Close ends the use of the store and gives up the lease. What was not committed is deleted.
func (s *Store) Close() error {
	return errors.Join(s.endLease(), s.closeRecords(), s.use.dir.Close(), s.gate.dir.Close())
}

// once does calls with the same key that are made at the same time once. When the context of one who waits ends, it leaves; fn goes on
// as long as another one waits.
func (s *Store) once(ctx context.Context, key string, fn func(context.Context) (any, error)) (any, error) {
	return s.work.Do(ctx, key, fn)
}

// update runs fn in one write transaction.
func (s *Store) update(ctx context.Context, fn func(*sql.Tx) error) error {
	if s.readOnly != "" {
		return fmt.Errorf("writing record: %w", s.readOnlyError())
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	if err := fn(tx); err != nil {
		tx.Rollback() // fn's error says what is wrong
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	return nil
}

// updateOnDisk is update, and the records are on the disk after it: for what users name, images and containers, and
// before files are deleted. SQLite alone writes them there when the last process closes the database, which may be
// long after this one ended.
func (s *Store) updateOnDisk(ctx context.Context, fn func(*sql.Tx) error) error {
	if err := s.update(ctx, fn); err != nil {
		return err
	}
	if err := syncFile(filepath.Join(s.root, "meta.db-wal")); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	return nil
}

// syncFile writes a file to the disk. It must not be one on which SQLite has locks: closing it would end them. Tests
// look at the store at the same time.
var syncFile = func(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// records decodes the JSON records of a query's only column.
func records[T any](ctx context.Context, s *Store, query string, args ...any) ([]T, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var record []byte
		var v T
		if err := rows.Scan(&record); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(record, &v); err != nil {
			return nil, fmt.Errorf("a record in %s is damaged: %w", filepath.Join(s.root, "meta.db"), err)
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
