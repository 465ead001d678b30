package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// A process that wrote something looks now and then whether the cache is too large, and at once when the disk is short.
func TestTidy(t *testing.T) {
	ctx := context.Background()
	root := newStore(t).root
	small := Policy{MaxUsedSpace: Space{Bytes: 1}}
	build := func(key string, write bool, p ...Policy) {
		t.Helper()
		s, err := Open(root)
		must(t, err)
		if write {
			result(t, s, key, made(t, s, files(key)))
		} else {
			wantResults(t, s, map[string]bool{key: true})
		}
		must(t, s.Tidy(ctx, Keep{Policies: p}))
		must(t, s.Close())
	}
	look := open(t, root)
	want := func(there map[string]bool) { t.Helper(); wantRows(t, look, there) }
	build("a", true, small) // a new store
	want(map[string]bool{"a": true})
	build("b", true, small) // soon after
	want(map[string]bool{"a": true, "b": true})
	late := time.Now().Add(-tidyEvery)
	must(t, os.Chtimes(look.tidied(), late, late))
	build("a", false, small) // wrote nothing
	want(map[string]bool{"a": true, "b": true})
	build("c", true, Policy{MaxUsedSpace: Space{Bytes: record(t, look, rowsLayer(t, look, "a")).Size + record(t, look, rowsLayer(t, look, "b")).Size + 19_000}})
	want(map[string]bool{"a": true, "b": false, "c": true}) // a was used after b
	build("d", true, small)
	want(map[string]bool{"a": true, "c": true, "d": true})
	early := time.Now().Add(time.Hour) // of a clock that went wrong
	must(t, os.Chtimes(look.tidied(), early, early))
	build("e", true)
	want(map[string]bool{"a": true, "c": true, "d": true, "e": true}) // no policy

	// At once when there is less than there shall be; again when it has become less.
	short := Policy{MinFreeSpace: Space{Percent: 100}}
	must(t, os.WriteFile(look.tidied(), []byte("0"), 0o600))
	build("f", true, short)
	want(map[string]bool{"a": true, "f": true})
	must(t, os.WriteFile(look.tidied(), []byte("999999999999999"), 0o600))
	build("g", true, short)
	want(map[string]bool{"a": false, "f": false, "g": false})
	wantClean(t, look)
}

// wantRows checks which results there are, without using them.
func wantRows(t testing.TB, s *Store, want map[string]bool) {
	t.Helper()
	for key, there := range want {
		var n int
		must(t, s.db.QueryRow("SELECT count(*) FROM results WHERE key=?", key).Scan(&n))
		if (n > 0) != there {
			t.Errorf("result %s is there: %v, want %v", key, n > 0, there)
		}
	}
}

// rowsLayer is the only layer of a result.
func rowsLayer(t testing.TB, s *Store, key string) string {
	t.Helper()
	all, err := s.allResults(context.Background())
	must(t, err)
	return string(all[key].Outputs[0][0])
}

// The defaults choose as BuildKit's do, and take limits of the user's.
func TestDefaultPolicies(t *testing.T) {
	s := newStore(t)
	all, err := s.DefaultPolicies(Policy{})
	must(t, err)
	if len(all) != 4 || !all[3].All || all[2].All || all[1].KeepDuration != 60*24*time.Hour || all[2].MinFreeSpace.Percent != 20 || all[2].ReservedSpace.Bytes == 0 {
		t.Errorf("the policies are %+v", all)
	}
	for _, r := range []CacheRecord{{Type: TypeMount}, {Type: TypeGit}, {Type: TypeLocal}, {Type: TypeRegular}} {
		got, err := FilterCache([]CacheRecord{r}, all[0].Filters...)
		if err != nil || (len(got) == 1) != (r.Type != TypeRegular) {
			t.Errorf("of %+v the first policy takes %+v, %v", r, got, err)
		}
	}
	all, err = s.DefaultPolicies(Policy{MaxUsedSpace: Space{Bytes: 5}})
	must(t, err)
	if want := (Policy{MaxUsedSpace: Space{Bytes: 5}}); all[2].MaxUsedSpace != want.MaxUsedSpace || all[2].MinFreeSpace != want.MinFreeSpace {
		t.Errorf("with a limit the policies are %+v", all)
	}
}

// What there is no time for to delete is left, and deleted by the next one.
func TestLeftToOthers(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	made(t, s, files("a"))
	past := time.Now().Add(-time.Second)
	freed, err := s.collect(ctx, manner{by: past})
	if err != nil || freed != 0 {
		t.Errorf("freed %d in no time, %v", freed, err)
	}
	left, _ := filepath.Glob(filepath.Join(s.root, "tmp", "*"+trashSuffix))
	if len(left) == 0 {
		t.Fatal("nothing was left")
	}
	other := open(t, s.root)
	_, err = other.Collect(ctx)
	must(t, err)
	wantLayers(t, s)
	if left, _ = filepath.Glob(filepath.Join(s.root, "tmp", "*"+trashSuffix)); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// Nothing outside of a directory is deleted with it.
func TestDeleteTreeLinks(t *testing.T) {
	dir := shm(t)
	must(t, os.MkdirAll(filepath.Join(dir, "tree", "deep", "er"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "outside"), nil, 0o600))
	must(t, os.Symlink(dir, filepath.Join(dir, "tree", "deep", "link")))
	must(t, os.Symlink("../../outside", filepath.Join(dir, "tree", "deep", "file")))
	if _, err := deleteTree(filepath.Join(dir, "tree"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "outside" {
		t.Errorf("%v is left", left)
	}
}

// Space is made of what nobody uses, this process included.
func TestMakeSpace(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	disk := t.TempDir()
	must(t, unix.Mount("none", disk, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	s := open(t, filepath.Join(disk, "store"))
	used, idle := made(t, s, files("used")), made(t, s, files("idle"))
	result(t, s, "used", used)
	result(t, s, "idle", idle)
	must(t, s.Close())
	s = open(t, filepath.Join(disk, "store"))
	wantResults(t, s, map[string]bool{"used": true})
	own := made(t, s, files("own")) // recorded by nobody yet
	_, desc, _ := pulled(t, s, files("pulled"))
	free := func() int64 { _, n, err := s.Disk(); must(t, err); return n }
	fill, err := os.Create(filepath.Join(disk, "fill"))
	must(t, err)
	must(t, unix.Fallocate(int(fill.Fd()), 0, 0, free()-1<<20))
	must(t, fill.Close())
	if freed, err := s.MakeSpace(context.Background()); err != nil || freed < 60_000 {
		t.Errorf("made %d, %v", freed, err)
	}
	wantRows(t, s, map[string]bool{"used": true, "idle": false})
	must(t, s.Check(context.Background(), []layer.ID{used, own}))
	if !s.HasBlob(desc.Digest) {
		t.Error("a blob that was just written is gone")
	}
}

// What a process uses while it works stays when it prunes, and when it tidies.
func TestPruneBeside(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	result(t, s, "a", made(t, s, files("a")))
	all := Policy{All: true}
	_, err := s.PruneBeside(ctx, all)
	must(t, err)
	wantResults(t, s, map[string]bool{"a": true})
	must(t, s.noteTidy())
	late := time.Now().Add(-tidyEvery)
	must(t, os.Chtimes(s.tidied(), late, late))
	looked := func() bool {
		t.Helper()
		must(t, s.Tidy(ctx, Keep{Policies: []Policy{all}, Beside: true}))
		wantResults(t, s, map[string]bool{"a": true})
		fi, err := os.Stat(s.tidied())
		must(t, err)
		return fi.ModTime().After(late.Add(time.Minute))
	}
	if looked() {
		t.Error("it was tidied in the midst of work that has just begun, and will not be when that is over")
	}
	if s.opened = late; !looked() {
		t.Error("who works for long does not tidy")
	}
	_, err = s.Prune(ctx, all)
	must(t, err)
	wantResults(t, s, map[string]bool{"a": false})
}
