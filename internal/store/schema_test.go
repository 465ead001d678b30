package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer/layertest"
)

// version1 is what the first version of slipway made its tables with.
const version1 = `
PRAGMA journal_mode=WAL;
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
PRAGMA user_version=1;
`

// oldStore makes a store of version 1 with the statements given.
func oldStore(t *testing.T, statements ...string) (root string) {
	t.Helper()
	root = filepath.Join(shm(t), "store")
	makeOldStore(t, root, statements...)
	return root
}

func makeOldStore(t *testing.T, root string, statements ...string) {
	t.Helper()
	for _, dir := range []string{"blobs/sha256", "layers", "builds", "caches", "containers", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o711))
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(root, "meta.db"))
	must(t, err)
	defer db.Close()
	for _, q := range append([]string{version1}, statements...) {
		_, err := db.Exec(q)
		must(t, err)
	}
}

// patient gives tests another patience.
func patient(t *testing.T, d time.Duration) {
	was := patience
	patience = d
	t.Cleanup(func() { patience = was })
}

// childUpgrades opens a store and reads what was in it.
func childUpgrades(root string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	if v, found, err := s.Memo(context.Background(), "kept"); err != nil || !found || v != "yes" {
		return fmt.Errorf("the memo is %q, %t, %v", v, found, err)
	}
	return s.Close()
}

func TestOldStoreIsUpgraded(t *testing.T) {
	root := oldStore(t, "INSERT INTO memo VALUES('kept','yes','')")
	atOnce(t, 8, "upgrade", root)
	s := open(t, root)
	if v, _, err := s.version(s.db); err != nil || v != len(steps) {
		t.Errorf("the store has version %d, %v, want %d", v, err, len(steps))
	}
	if got, want := tables(t, s), tables(t, newStore(t)); got != want {
		t.Errorf("the upgraded store has\n%s\nwant what a new one has:\n%s", got, want)
	}
}

// allTables asks for what a store's tables were made with.
const allTables = "SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_schema WHERE sql NOTNULL ORDER BY name)"

// tables is what a store's tables were made with.
func tables(t *testing.T, s *Store) (all string) {
	t.Helper()
	must(t, s.db.QueryRow(allTables).Scan(&all))
	return all
}

// A process of the version before knows the tables as they were, and holds the store's lock.
func TestOldProcessIsWaitedFor(t *testing.T) {
	root := oldStore(t)
	old, err := useStore(root)
	must(t, err)
	patient(t, 0)
	_, err = Open(root)
	wantErr(t, err, "opening store "+root+": it was made by an older slipway (its format is version 1, this program's is")
	patient(t, time.Minute)
	opened := make(chan error)
	go func() {
		s, err := Open(root)
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	must(t, old.lock(unix.LOCK_UN))
	must(t, <-opened)
	must(t, old.dir.Close())
}

// Layers of old stores share the inodes of equal files, which a process can see. Names of one file stay that.
func TestUpgradeUnsharesLayers(t *testing.T) {
	needRoot(t)
	root := oldStore(t)
	at := time.Unix(1e9, 5)
	a, b := filepath.Join(root, "layers/a/fs"), filepath.Join(root, "layers/b/fs")
	must(t, errors.Join(os.MkdirAll(filepath.Join(a, "sub"), 0o755), os.MkdirAll(b, 0o755), os.WriteFile(a+"/x", []byte("content"), 0o640), os.Chown(a+"/x", 3, 4)))
	for _, link := range []string{a + "/sub/y", b + "/z"} {
		must(t, os.Link(a+"/x", link))
	}
	must(t, errors.Join(os.WriteFile(b+"/own", []byte("own"), 0o600), os.Link(b+"/own", b+"/own2")))
	for _, path := range []string{a + "/x", a + "/sub", b} {
		must(t, os.Chtimes(path, at, at))
	}
	unopened := &Store{}
	before := listed(t, unopened.dirTree(a), true) + listed(t, unopened.dirTree(b), true)
	own, err := os.Lstat(b + "/own")
	must(t, err)
	open(t, root)
	if got := listed(t, unopened.dirTree(a), true) + listed(t, unopened.dirTree(b), true); got != before {
		t.Errorf("the layers are\n%s\nand were\n%s", got, before)
	}
	for path, want := range map[string]uint64{a + "/x": 2, a + "/sub/y": 2, b + "/z": 1, b + "/own": 2} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || uint64(st.Nlink) != want {
			t.Errorf("%s has %d names, %v, want %d", path, st.Nlink, err, want)
		}
	}
	if now, err := os.Lstat(b + "/own"); err != nil || !os.SameFile(own, now) {
		t.Errorf("a file of one layer was replaced (%v)", err)
	}
}

// Where there is no space for copies, an upgrade ends with what is needed, and goes on when there is: meanwhile the
// store is what it was.
func TestUpgradeOnFullDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	disk := shm(t)
	must(t, unix.Mount("none", disk, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { layertest.Unmount(t, disk) })
	root := filepath.Join(disk, "store")
	makeOldStore(t, root, "INSERT INTO memo VALUES('kept','yes','')")
	one, two := bytes.Repeat([]byte("1"), 1<<20), bytes.Repeat([]byte("2"), 4<<20)
	for name, data := range map[string][]byte{"a/fs/one": one, "b/fs/two": two} {
		name = filepath.Join(root, "layers", name)
		must(t, errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)))
	}
	c := filepath.Join(root, "layers/c/fs")
	must(t, errors.Join(os.MkdirAll(c, 0o755), os.Link(c+"/../../a/fs/one", c+"/one"), os.Link(c+"/../../b/fs/two", c+"/two"), os.Link(c+"/two", c+"/twice")))
	must(t, os.WriteFile(filepath.Join(root, "reserve"), make([]byte, reserveSize), 0o600))
	filler, err := os.Create(filepath.Join(disk, "filler"))
	must(t, err)
	must(t, unix.Fallocate(int(filler.Fd()), 0, 0, (&Store{root: disk}).free()-3<<20))
	nlink := func(name string, want uint64) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, "layers", name), &st); err != nil || uint64(st.Nlink) != want {
			t.Errorf("%s has %d names, %v, want %d", name, st.Nlink, err, want)
		}
	}
	for range 2 { // trying again changes nothing
		_, err = Open(root)
		wantErr(t, err, "opening store "+root+": upgrading it to version 3: no space left on "+root+" for copies of files that its layers share, which take 4.194MB: make room there and try again")
		if IsFull(err) {
			t.Error("the error has commands suggested that would have to open the store")
		}
		nlink("a/fs/one", 1)
		nlink("b/fs/two", 3)
		if fi, err := os.Lstat(filepath.Join(root, "reserve")); err != nil || fi.Size() != reserveSize {
			t.Errorf("of the reserve was given up what helps nobody: %v, %v", fi.Size(), err)
		}
		if left, _ := os.ReadDir(filepath.Join(root, "tmp")); len(left) > 0 {
			t.Errorf("these were left behind: %v", left)
		}
		db, err := sql.Open("sqlite", "file:"+filepath.Join(root, "meta.db"))
		must(t, err)
		var version, tables int
		must(t, errors.Join(db.QueryRow("PRAGMA user_version").Scan(&version), db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name='blob_sources'").Scan(&tables), db.Close()))
		if version != 1 || tables != 0 {
			t.Errorf("the store has version %d, and %d of the tables of another one", version, tables)
		}
	}
	must(t, errors.Join(filler.Truncate(0), filler.Close()))
	s := open(t, root)
	for name, want := range map[string]uint64{"a/fs/one": 1, "b/fs/two": 1, "c/fs/one": 1, "c/fs/two": 2, "c/fs/twice": 2} {
		nlink(name, want)
	}
	for name, want := range map[string][]byte{"a/fs/one": one, "b/fs/two": two, "c/fs/one": one, "c/fs/twice": two} {
		if got, err := os.ReadFile(filepath.Join(root, "layers", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v, or others than before", name, len(got), err)
		}
	}
	if v, found, err := s.Memo(t.Context(), "kept"); err != nil || !found || v != "yes" {
		t.Errorf("the memo is %q, %t, %v", v, found, err)
	}
	must(t, s.Close())
}

// An upgrade that was killed while it moved copies goes on with them: names of one file stay that.
func TestUpgradeGoesOn(t *testing.T) {
	needRoot(t)
	root := oldStore(t)
	at := func(name string) string { return filepath.Join(root, "layers", name) }
	must(t, errors.Join(os.MkdirAll(at("a/fs/sub"), 0o755), os.MkdirAll(at("b/fs"), 0o755), os.MkdirAll(at("a/unshared/sub"), 0o700)))
	for _, name := range []string{"a/fs/x", "b/fs/x"} { // of a, one name is that of the copy already
		must(t, os.WriteFile(at(name), []byte("content"), 0o644))
	}
	must(t, errors.Join(os.Link(at("b/fs/x"), at("a/fs/sub/y")), os.Link(at("a/fs/x"), at("a/unshared/sub/y"))))
	open(t, root)
	x, err := os.Lstat(at("a/fs/x"))
	y, yerr := os.Lstat(at("a/fs/sub/y"))
	must(t, errors.Join(err, yerr))
	if !os.SameFile(x, y) {
		t.Error("the names of one file are two files")
	}
	var st unix.Stat_t
	if err := unix.Lstat(at("b/fs/x"), &st); err != nil || st.Nlink != 1 {
		t.Errorf("the other layer's file has %d names, %v, want 1", st.Nlink, err)
	}
	if _, err := os.Lstat(at("a/unshared")); err == nil {
		t.Error("the directory of the copies is still there")
	}
}

// The directories of a layer keep their times wherever an upgrade is killed.
func TestUpgradeKeepsTimes(t *testing.T) {
	needRoot(t)
	root := oldStore(t)
	at := func(name string) string { return filepath.Join(root, "layers", name) }
	must(t, errors.Join(os.MkdirAll(at("a/fs/sub"), 0o755), os.MkdirAll(at("b/fs"), 0o755)))
	must(t, os.WriteFile(at("b/fs/x"), []byte("content"), 0o644))
	must(t, errors.Join(os.Link(at("b/fs/x"), at("a/fs/x")), os.Link(at("b/fs/x"), at("a/fs/sub/y"))))
	old := time.Unix(1e9, 0)
	must(t, errors.Join(os.Chtimes(at("a/fs/sub"), old, old), os.Chtimes(at("a/fs"), old, old)))
	was := syncfs
	t.Cleanup(func() { syncfs = was })
	for dies := 1; ; dies++ { // at each sync
		left := dies
		killed := errors.New("killed")
		syncfs = func(path string) error {
			if left--; left == 0 {
				return killed
			}
			return was(path)
		}
		s, err := Open(root)
		if err == nil {
			must(t, s.Close())
			break
		}
		if !errors.Is(err, killed) {
			t.Fatal(err)
		}
		if copies, err := os.ReadDir(at("a/unshared/sub")); err == nil && len(copies) == 1 {
			// One name more is in its place, and no time was set again.
			must(t, os.Link(at("a/unshared/sub/y"), at("a/fs/sub/next")))
			must(t, os.Rename(at("a/fs/sub/next"), at("a/fs/sub/y")))
			_ = os.Remove(at("a/fs/sub/next"))
		}
	}
	for _, dir := range []string{"a/fs", "a/fs/sub"} {
		fi, err := os.Stat(at(dir))
		must(t, err)
		if !fi.ModTime().Equal(old) {
			t.Errorf("%s has the time %v", dir, fi.ModTime())
		}
	}
}

// The copies of a layer's files are on the disk before one of them is in its place.
func TestUpgradeSyncsCopies(t *testing.T) {
	needRoot(t)
	root := oldStore(t)
	names := []string{"layers/a/fs/x", "layers/b/fs/x"}
	for i, name := range names {
		name = filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		if i == 0 {
			must(t, os.WriteFile(name, []byte("content"), 0o644))
		} else {
			must(t, os.Link(filepath.Join(root, names[0]), name))
		}
	}
	was := syncfs
	t.Cleanup(func() { syncfs = was })
	var seen []uint64
	syncfs = func(path string) error {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(root, names[1]), &st))
		seen = append(seen, uint64(st.Nlink))
		return was(path)
	}
	open(t, root)
	if fmt.Sprint(seen) != "[2 1 1]" { // the copies, the copies in their place, the upgrade
		t.Errorf("when the store is synced the file has %v names, want 2, 1 and 1", seen)
	}
}

// Whichever of several processes upgrades a store or makes it, all of them hold its lock afterwards.
func TestOpenedTogetherIsLocked(t *testing.T) {
	for _, root := range []string{oldStore(t), filepath.Join(shm(t), "new")} {
		stores := make([]*Store, 8)
		var wg sync.WaitGroup
		for i := range stores {
			wg.Go(func() {
				s, err := Open(root)
				if err != nil {
					t.Error(err)
					return
				}
				stores[i] = s
			})
		}
		wg.Wait()
		for _, s := range stores {
			if s == nil {
				t.Fatal("a store was not opened")
			}
		}
		for i, s := range stores {
			if info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", s.use.dir.Fd())); err != nil || !strings.Contains(string(info), "FLOCK  ADVISORY  READ") {
				t.Errorf("store %d is open without its lock: %v\n%s", i, err, info)
			}
			must(t, s.Close())
		}
	}
}

// A step that fails leaves the store as it was.
func TestUpgradeFails(t *testing.T) {
	root := oldStore(t)
	was := steps
	steps = append(was[:len(was):len(was)], func(_ *Store, tx *sql.Tx) error {
		_, err := tx.Exec("CREATE TABLE blobs(a)")
		return err
	})
	t.Cleanup(func() { steps = was })
	_, err := Open(root)
	wantErr(t, err, fmt.Sprintf("opening store %s: upgrading it to version %d: ", root, len(steps)))
	steps = was
	s := open(t, root)
	if v, _, err := s.version(s.db); err != nil || v != len(was) {
		t.Errorf("the store has version %d, %v, want %d", v, err, len(was))
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	s := newStore(t)
	_, err := s.db.Exec(fmt.Sprintf("PRAGMA user_version=%d", len(steps)+1))
	must(t, err)
	root := s.root
	must(t, s.Close())
	_, err = Open(root)
	wantErr(t, err, fmt.Sprintf("opening store %s: its format is version %d, this program knows version %d", root, len(steps)+1, len(steps)))
	wantErr(t, err, "use another --root")
}
