package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
)

// What a crash of the machine leaves has no record, or one that is older: the tests write it.

// anotherBoot is a store as it is opened after a crash of the machine.
func anotherBoot(t *testing.T, s *Store) *Store {
	t.Helper()
	for _, table := range bootTables {
		_, err := s.db.Exec("UPDATE " + table + " SET boot='another-boot' WHERE boot != ''")
		must(t, err)
	}
	must(t, s.Close())
	return open(t, s.root)
}

// A directory that was renamed into place while its record was lost is nobody's, whoever makes the form again.
func TestTornDirectory(t *testing.T) {
	ctx := context.Background()
	for name, make := range map[string]func(s *Store) layer.ID{
		"pulled": func(s *Store) layer.ID {
			id, _, _ := pulled(t, s, map[string]string{"a": "hello", "b": "world"})
			return id
		},
		"planned": func(s *Store) layer.ID {
			id, err := s.Plan(&planned{entries: []*layer.Entry{regular("a", "hello"), regular("b", "world")}}, planTime)
			must(t, err)
			_, _, err = s.Blob(ctx, id, layer.Encoding{})
			must(t, err)
			t.Cleanup(func() { s.EndPlans(id) })
			return id
		},
	} {
		for _, torn := range []map[string]string{{"a": "", "of another": ""}, nil} {
			s := newStore(t)
			id := make(s)
			must(t, s.Sync(ctx))
			must(t, os.MkdirAll(s.layerFS(id), 0o755))
			for name, content := range torn {
				must(t, os.WriteFile(filepath.Join(s.layerFS(id), name), []byte(content), 0o600))
			}
			dir, err := s.Dir(ctx, id)
			must(t, err)
			for file, want := range map[string]string{"a": "hello", "b": "world"} {
				if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
					t.Errorf("%s: %s is %q, %v, want %q", name, file, got, err, want)
				}
			}
			if _, err := os.Lstat(dir + "/of another"); err == nil {
				t.Errorf("%s: what the crash left is in the layer", name)
			}
			if info, err := s.Layer(ctx, id); err != nil || !info.Dir {
				t.Errorf("%s: the layer is %+v, %v", name, info, err)
			}
			wantClean(t, s)
		}
	}
}

// Of several processes that make the same form, the first that records it has it, and others may use it from then on.
func TestRecordedDirectoryStays(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	other := open(t, s.root)
	id, _, _ := pulled(t, s, map[string]string{"a": "hello"})
	info, err := s.Layer(ctx, id)
	must(t, err)
	info.Dir = true
	fill := func(s *Store) *Draft {
		d, err := s.fillDraft(context.Background(), id, func(sink layer.Sink) error { return sink.Add(regular("a", "hello")) })
		must(t, err)
		return d
	}
	first, second, third := fill(s), fill(other), fill(other)
	must(t, first.record(ctx, info))
	was, err := os.Lstat(s.layerFS(id))
	must(t, err)
	must(t, second.record(ctx, info))
	if now, err := os.Lstat(s.layerFS(id)); err != nil || !os.SameFile(was, now) {
		t.Errorf("a directory that others may use was replaced: %v", err)
	}
	// Whoever placed one, and could not record it, takes back only what is not recorded.
	must(t, third.s.update(ctx, third.takeBack))
	if now, err := os.Lstat(s.layerFS(id)); err != nil || !os.SameFile(was, now) {
		t.Errorf("a directory that others may use was taken away: %v", err)
	}
	third.Abort()
	wantClean(t, s)
}

// A blob that is written again while an image needs it is as durable as it was.
func TestBlobWrittenAgain(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	content := "what an image needs"
	desc := ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
	must(t, s.WriteBlob(ctx, desc, strings.NewReader(content)))
	must(t, s.Sync(ctx))
	was, err := os.Lstat(s.blobPath(desc.Digest))
	must(t, err)
	must(t, s.WriteBlob(ctx, desc, strings.NewReader(content)))
	if now, err := os.Lstat(s.blobPath(desc.Digest)); err != nil || !os.SameFile(was, now) {
		t.Errorf("a file that is on the disk was replaced by one that may not be: %v", err)
	}
	wantClean(t, s)
	s = anotherBoot(t, s)
	if got, err := s.ReadBlob(ctx, desc.Digest); err != nil || string(got) != content {
		t.Errorf("after a crash of the machine the blob is %q, %v", got, err)
	}
	// One whose file is gone is written.
	must(t, os.Remove(s.blobPath(desc.Digest)))
	must(t, s.WriteBlob(ctx, desc, strings.NewReader(content)))
	if got, err := s.ReadBlob(ctx, desc.Digest); err != nil || string(got) != content {
		t.Errorf("written again, the blob is %q, %v", got, err)
	}
}

// What has a name is on the disk when the command ends that gave it, also while another process has the database
// open: then nobody writes it out.
func TestNamesAreOnTheDisk(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	image := as(newImage(t, s, "app", 0), "docker.io/library/app:v1")
	var onDisk []string // what a crash right after a sync leaves, each
	defer func(was func(string) error) { syncFile = was }(syncFile)
	syncFile = func(path string) error {
		left := t.TempDir()
		onDisk = append(onDisk, left)
		must(t, (&Store{root: left}).makeDirs())
		for _, file := range []string{strings.TrimSuffix(path, "-wal"), path} {
			data, err := os.ReadFile(file)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(left, filepath.Base(file)), data, 0o600))
		}
		return nil
	}
	left := func() *Store {
		t.Helper()
		if len(onDisk) != 1 {
			t.Fatalf("the records were written to the disk %d times, want 1", len(onDisk))
		}
		s := open(t, onDisk[0])
		onDisk = nil
		return s
	}
	must(t, s.SetImages(ctx, image))
	if _, err := left().imageByName(ctx, image.Name); err != nil {
		t.Errorf("the image's name is lost: %v", err)
	}
	c := Container{ID: "0123456789abcdef", Name: "one"}
	must(t, s.AddContainer(ctx, c))
	if _, err := left().Container(ctx, "one"); err != nil {
		t.Errorf("the container is lost: %v", err)
	}
	must(t, s.RenameContainer(ctx, c, "two"))
	if _, err := left().Container(ctx, "two"); err != nil {
		t.Errorf("the container's name is lost: %v", err)
	}
	must(t, s.RemoveContainer(ctx, c.ID))
	if _, err := left().Container(ctx, "two"); err == nil {
		t.Error("a container comes back whose files are deleted")
	}
	must(t, s.RemoveImages(ctx, image.Name))
	if _, err := left().imageByName(ctx, image.Name); err == nil {
		t.Error("an image comes back that was removed")
	}
	result(t, s, "a result", image.Layers...)
	must(t, s.forgetCache(ctx, []rowKey{{"results", "a result"}}))
	_, err := s.Collect(ctx) // which deletes files
	must(t, err)
	if _, found, _, err := left().Result(ctx, "a result"); err != nil || found {
		t.Errorf("a result comes back whose files are deleted: %v, %v", found, err)
	}
}

// The directories of a container are on the disk before its record is: not every filesystem has what was made before a
// file that is synced.
func TestContainerIsOnTheDisk(t *testing.T) {
	s := newStore(t)
	c := Container{ID: "0123456789abcdef", Name: "one"}
	defer func(was func(string) error) { fsync = was }(fsync)
	defer func(was func(string) error) { syncFile = was }(syncFile)
	var synced []string
	fsync = func(path string) error {
		if _, err := os.Lstat(filepath.Join(path, "fs")); err != nil {
			t.Errorf("when it is synced: %v", err)
		}
		synced = append(synced, path)
		return nil
	}
	syncFile = func(path string) error {
		synced = append(synced, path)
		return nil
	}
	must(t, s.AddContainer(t.Context(), c))
	if want := []string{s.ContainerDir(c.ID), filepath.Join(s.root, "meta.db-wal")}; !slices.Equal(synced, want) {
		t.Errorf("%q were synced, want %q", synced, want)
	}
}

// A directory of a container that was never recorded, or was forgotten, is collected; others are not.
func TestTornContainer(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	must(t, s.AddContainer(ctx, Container{ID: "recorded", Name: "one"}))
	must(t, os.MkdirAll(filepath.Join(s.ContainerDir("torn"), "fs"), 0o755))
	_, err := s.Collect(ctx)
	must(t, err)
	if left, err := os.ReadDir(filepath.Join(s.root, "containers")); err != nil || len(left) != 1 || left[0].Name() != "recorded" {
		t.Errorf("these are left: %v, %v", left, err)
	}
	// One that cannot be made leaves neither a record nor a directory.
	must(t, os.WriteFile(s.ContainerDir("blocked"), nil, 0o600))
	if err := s.AddContainer(ctx, Container{ID: "blocked", Name: "two"}); err == nil {
		t.Error("a container was made without directories")
	}
	if _, err := s.Container(ctx, "two"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a container without directories is recorded: %v", err)
	}
	wantClean(t, s)
}

// What a process cannot delete when it ends the next one deletes.
func TestLeaseThatCannotBeDeleted(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	dir, err := s.TempDir()
	must(t, err)
	stuck := filepath.Join(dir, "mounted")
	must(t, os.Mkdir(stuck, 0o755))
	must(t, unix.Mount("none", stuck, "tmpfs", 0, ""))
	err = s.Close()
	layertest.Unmount(t, stuck)
	if err == nil {
		t.Error("nobody says that something stays behind")
	}
	s = open(t, s.root)
	_, err = s.Collect(ctx)
	must(t, err)
	wantClean(t, s)
}

// What is stacked on a layer has no record: it is that of a boot.
func TestTornOver(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	base := asDir(t, s, []*layer.Entry{regular("x", "content")})
	top := linkLayer(t, s, layer.Gzip, [2]string{"link", "x"})
	snap := layer.Snapshot{base, top}
	dirs, err := s.Dirs(ctx, snap)
	must(t, err)
	must(t, s.Sync(ctx))
	torn := filepath.Join(dirs[2], "link")
	must(t, os.Truncate(torn, 0))
	old := filepath.Join(filepath.Dir(dirs[2]), "over-0123456789abcdef") // as it was named once: a container may have it
	must(t, os.Mkdir(old, 0o755))

	s = anotherBoot(t, s)
	s.boot = "another"
	dirs, err = s.Dirs(ctx, snap)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(dirs[2], "link")); err != nil || string(got) != "content" {
		t.Errorf("the link is %q, %v", got, err)
	}
	if _, err := os.Lstat(torn); err == nil {
		t.Error("what was stacked before the crash is still there")
	}
	if _, err := os.Lstat(old); err != nil {
		t.Error(err)
	}
	again, err := s.Dirs(ctx, snap)
	must(t, err)
	if again[2] != dirs[2] {
		t.Errorf("it is made again in the same boot: %s, %s", dirs[2], again[2])
	}
	wantClean(t, s)
}

// What a layer takes of those below is read again where it was damaged.
func TestDamagedStacking(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	for _, damage := range []string{"", "{", `{"Dirs":["a"`, "\x00\x00\x00", "[", `"x"`} {
		for _, need := range []Need{NeedMetadata, NeedContent} {
			s := newStore(t)
			base := asDir(t, s, []*layer.Entry{regular("x", "content")})
			top := linkLayer(t, s, layer.Gzip, [2]string{"link", "x"})
			snap := layer.Snapshot{base, top}
			tree, err := s.Tree(ctx, snap, need)
			must(t, err)
			want := listed(t, tree, true)
			must(t, os.WriteFile(s.stackingFile(top), []byte(damage), 0o600))
			tree, err = s.Tree(ctx, snap, need)
			must(t, err)
			if got := listed(t, tree, true); got != want {
				t.Errorf("with %q, the tree is\n%s\nwant\n%s", damage, got, want)
			}
			if _, err := s.keptStacking(top); err != nil {
				t.Errorf("the damage is still there: %v", err)
			}
			wantClean(t, s)
		}
	}
}

// Where nothing tells any more what a layer takes of those below, it is not taken for one that takes nothing.
func TestLostStacking(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	top := linkLayer(t, s, layer.Gzip, [2]string{"link", "x"})
	snap := layer.Snapshot{asDir(t, s, []*layer.Entry{regular("x", "content")}), top}
	_, err := s.Dirs(ctx, snap)
	must(t, err)
	must(t, os.WriteFile(s.stackingFile(top), nil, 0o600))
	info, err := s.Layer(ctx, top)
	must(t, err)
	must(t, s.dropBlob(info.Blob.Digest))
	if _, err = s.Dirs(ctx, snap); !errors.Is(err, ErrNotFound) {
		t.Errorf("stacking it gives %v, want ErrNotFound", err)
	}
}

// What is made while others are synced is not taken for synced.
func TestUnpackedWhileSyncing(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	id, _, _ := pulled(t, s, map[string]string{"a": "hello"})
	was := syncfs
	t.Cleanup(func() { syncfs = was })
	syncfs = func(path string) error {
		_, err := open(t, s.root).Dir(ctx, id)
		return err
	}
	must(t, s.Sync(ctx))
	syncfs = was
	s = anotherBoot(t, s)
	if info, err := s.Layer(ctx, id); err != nil || info.Dir {
		t.Errorf("the layer is %+v, %v, want it without its directory", info, err)
	}
	// It is the other way round with one that was there before.
	_, err := s.Dir(ctx, id)
	must(t, err)
	must(t, s.Sync(ctx))
	s = anotherBoot(t, s)
	if info, err := s.Layer(ctx, id); err != nil || !info.Dir {
		t.Errorf("the layer is %+v, %v, want its directory", info, err)
	}
}

// A directory that is on the disk is not given up because the layer was packed just before the crash.
func TestPackedJustBeforeCrash(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	id := made(t, s, map[string]string{"a": "hello"})
	must(t, s.Sync(ctx))
	_, diff, err := s.Blob(ctx, id, layer.Encoding{})
	must(t, err)
	s = anotherBoot(t, s)
	if s.HasBlob(diff) {
		t.Error("a blob that was not synced is still there")
	}
	must(t, s.Check(ctx, layer.Snapshot{id}))
	if _, again, err := s.Blob(ctx, id, layer.Encoding{}); err != nil || again != diff {
		t.Errorf("packed again it is %s, %v, want %s", again, err, diff)
	}
	// One that was made again is not on the disk, though one before it was.
	id, _, _ = pulled(t, s, map[string]string{"a": "hello"})
	dir, err := s.Dir(ctx, id)
	must(t, err)
	must(t, s.Sync(ctx))
	must(t, os.RemoveAll(dir))
	_, err = s.Dir(ctx, id)
	must(t, err)
	s = anotherBoot(t, s)
	if info, err := s.Layer(ctx, id); err != nil || info.Dir {
		t.Errorf("the layer is %+v, %v, want it without its directory", info, err)
	}
}

// What a process was writing is deleted also when a crash of the machine left its directory, and not its lock.
func TestLeaseWithoutLock(t *testing.T) {
	s := newStore(t)
	dead, err := newLease(filepath.Join(s.root, "tmp"))
	must(t, err)
	must(t, dead.makeDir())
	must(t, errors.Join(os.WriteFile(filepath.Join(dead.dir, "half"), nil, 0o600), dead.lock.Close(), os.Remove(dead.dir+".lock")))
	torn := s.layerFS(layer.ID(dead.id + "-1"))
	must(t, os.MkdirAll(torn, 0o700))
	put(t, s, "writer")
	for _, path := range []string{dead.dir, dead.dir + ".lock", torn} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	wantClean(t, s)
}

// Of a layer that was made and packed before a crash of the machine, and not synced, there is neither a directory nor a
// blob, and so no record.
func TestLostLayerIsForgotten(t *testing.T) {
	s := newStore(t)
	id := made(t, s, map[string]string{"a": "hello"})
	_, _, err := s.Blob(t.Context(), id, layer.Encoding{})
	must(t, err)
	s = anotherBoot(t, s)
	if info, err := s.Layer(t.Context(), id); !errors.Is(err, ErrNotFound) {
		t.Errorf("the layer is %+v, %v", info, err)
	}
	// One that came from elsewhere stays, to be fetched again, and so does one whose blob was synced.
	pull, _, _ := pulled(t, s, map[string]string{"b": "hello"})
	blob := made(t, s, map[string]string{"c": "hello"})
	_, _, err = s.Blob(t.Context(), blob, layer.Encoding{})
	must(t, err)
	must(t, s.Sync(t.Context()))
	must(t, os.RemoveAll(s.layerFS(blob)))
	for _, id := range []layer.ID{pull, blob} {
		_, err := s.Dir(t.Context(), id)
		must(t, err)
	}
	s = anotherBoot(t, s)
	for _, id := range []layer.ID{pull, blob} {
		if info, err := s.Layer(t.Context(), id); err != nil || info.Dir {
			t.Errorf("the layer is %+v, %v, want it without its directory", info, err)
		}
	}
}

// The first files of a cache are on the disk before the cache is there; without any there is nothing to wait for.
func TestFilledCacheIsSynced(t *testing.T) {
	s := newStore(t)
	was := syncfs
	t.Cleanup(func() { syncfs = was })
	synced := 0
	syncfs = func(path string) error {
		synced++
		if found, _ := filepath.Glob(filepath.Join(s.root, "caches", "*[^k]")); len(found) > 0 { // no locks
			t.Errorf("before it is synced there is %q", found)
		}
		return was(path)
	}
	for _, fill := range []func(dir string) error{func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600) }, noFill} {
		for range 2 {
			c, err := s.Cache(t.Context(), "filled", SharingShared, fill)
			must(t, err)
			c.Release()
		}
		if synced != 1 {
			t.Errorf("it was synced %d times, want once", synced)
		}
		must(t, os.RemoveAll(filepath.Join(s.root, "caches")))
		must(t, os.Mkdir(filepath.Join(s.root, "caches"), 0o700))
	}
}

// A blob that is written again while the store is synced is as durable as it was.
func TestBlobWhileSyncing(t *testing.T) {
	s := newStore(t)
	other := open(t, s.root)
	put := func(s *Store) {
		must(t, s.WriteBlob(t.Context(), descOf("hello"), strings.NewReader("hello")))
	}
	put(s)
	before, err := os.Lstat(s.blobPath(descOf("hello").Digest))
	must(t, err)
	was := syncfs
	t.Cleanup(func() { syncfs = was })
	syncfs = func(path string) error {
		err := was(path)
		put(other)
		return err
	}
	must(t, s.Sync(t.Context()))
	after, err := os.Lstat(s.blobPath(descOf("hello").Digest))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("a file that came after the sync is recorded as synced")
	}
	wantClean(t, other)
}

func descOf(content string) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
}

// What is set aside after a crash is swept by others also when it cannot all be set aside, or whoever does it is killed.
func TestSettingAsideFails(t *testing.T) {
	s := newStore(t)
	id := layer.ID(strings.Repeat("z", 300)) // no name of a file
	must(t, s.update(t.Context(), func(tx *sql.Tx) error { return s.putLayer(tx, LayerInfo{ID: id, Dir: true}) }))
	torn := made(t, s, map[string]string{"a": "a"})
	_, err := s.db.Exec("UPDATE layers SET boot='another-boot'")
	must(t, err)
	must(t, s.Close())
	_, err = Open(s.root)
	wantErr(t, err, "file name too long")

	db := s.openDatabase(filepath.Join(s.root, "meta.db"))
	_, err = db.Exec("DELETE FROM layers WHERE id=?", string(id))
	must(t, errors.Join(err, db.Close()))
	s = open(t, s.root)
	put(t, s, "writer")
	wantClean(t, s)
	if _, err := os.Lstat(s.layerFS(torn)); err == nil {
		t.Error("the directory of before the crash is still there")
	}
	if left, _ := os.ReadDir(filepath.Join(s.root, "tmp")); len(left) != 2 {
		t.Errorf("there are %v, want the lease of this process", left)
	}
}

// An index.json that a crash has damaged is written again when the same image is named again.
func TestTornIndexIsWritten(t *testing.T) {
	s := newStore(t)
	desc, err := s.PutBlob(t.Context(), "", []byte("{}"))
	must(t, err)
	img := as(Image{ID: desc.Digest, Manifest: desc}, "docker.io/library/app:latest")
	path := filepath.Join(s.root, "index.json")
	must(t, s.SetImages(t.Context(), img))
	want, err := os.ReadFile(path)
	must(t, err)
	for _, torn := range [][]byte{nil, want[:len(want)/2], make([]byte, len(want))} {
		must(t, os.WriteFile(path, torn, 0o600))
		must(t, s.SetImages(t.Context(), img))
		if got, err := os.ReadFile(path); err != nil || string(got) != string(want) {
			t.Errorf("after %q index.json is %q, %v, want %q", torn, got, err, want)
		}
	}
}
