package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// openLimited opens a store that may hold so many bytes more than it does.
func openLimited(t *testing.T, root string, more int64) *Store {
	t.Helper()
	s := open(t, root)
	held, err := s.Held(context.Background())
	must(t, err)
	must(t, s.Close())
	s, err = Open(root, WithLimit(Space{Bytes: held + more}))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// commit makes a layer of a file with so many bytes.
func commit(t *testing.T, s *Store, name string, bytes int) (layer.ID, error) {
	t.Helper()
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	must(t, os.WriteFile(filepath.Join(d.FS, name), []byte(strings.Repeat("x", bytes)), 0o644))
	return d.Commit(context.Background())
}

func wantPassed(t *testing.T, s *Store, err error) {
	t.Helper()
	var passed *LimitError
	if !errors.As(err, &passed) {
		t.Fatalf("passed the limit: %v, want a LimitError", err)
	}
	if passed.Limit != s.limit.max || passed.Held <= passed.Limit || passed.Root != s.root || IsFull(err) {
		t.Errorf("the error says %+v", passed)
	}
}

// A store with a limit first lets unused cache go, least recently used first, then refuses what would make it larger.
func TestLimit(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	layers := map[string]layer.ID{}
	make := func(name string, bytes int) error {
		id, err := commit(t, s, name, bytes)
		if layers[name] = id; err == nil {
			result(t, s, name, id)
		}
		return err
	}
	must(t, make("old", 2_000_000))
	must(t, make("used", 2_000_000))
	must(t, s.Close())
	s = openLimited(t, s.root, 5_000_000)
	wantResults(t, s, map[string]bool{"used": true})
	must(t, make("one", 3_000_000))
	wantRows(t, s, map[string]bool{"old": true, "used": true, "one": true})
	must(t, make("two", 3_000_000))
	wantRows(t, s, map[string]bool{"old": false, "used": true, "one": true, "two": true})
	wantPassed(t, s, make("three", 16_000_000))
	wantRows(t, s, map[string]bool{"used": true, "one": true, "two": true, "three": false})
	must(t, s.Check(ctx, layer.Snapshot{layers["one"], layers["two"]}))
	must(t, make("four", 4_000)) // what was refused is gone

	// A blob, which is refused before it is whole.
	w, err := s.NewBlob(digest.Canonical)
	must(t, err)
	defer w.Abort()
	for n := 0; err == nil && n < 4*askEvery; n += 1 << 20 {
		_, err = w.Write([]byte(strings.Repeat("y", 1<<20)))
	}
	wantPassed(t, s, err)
	if w.Size() > askEvery {
		t.Errorf("%d bytes were written", w.Size())
	}
	w.Abort()
	_, err = s.PutBlob(ctx, ocispec.MediaTypeImageConfig, []byte(strings.Repeat("z", 5_000_000)))
	wantPassed(t, s, err)
	wantClean(t, s)
}

// What others write counts, also before it is recorded, and whatever becomes free beside the store meanwhile.
func TestLimitOfSeveral(t *testing.T) {
	s := newStore(t)
	_, err := commit(t, s, "first", 1)
	must(t, err)
	must(t, s.Close())
	s = openLimited(t, s.root, 5_000_000)
	other := open(t, s.root)
	_, err = commit(t, s, "own", 1_000_000)
	must(t, err)
	d, err := other.NewLayer()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(d.FS, "f"), []byte(strings.Repeat("x", 3_000_000)), 0o644))
	s.limit.looked = time.Time{} // long ago: what others write is found by a look where others make as much free
	_, err = commit(t, s, "more", 1_500_000)
	wantPassed(t, s, err)
	d.Abort()
	s.limit.free -= 1 << 30 // somebody has deleted that much
	_, err = commit(t, s, "more", 1_500_000)
	must(t, err)
	s.limit.free -= 1 << 30
	_, err = commit(t, s, "even more", 4_000_000)
	wantPassed(t, s, err)
}

// What another process that has the limit, too, has written is seen at once, whoever gives space of the disk back meanwhile.
func TestLimitOfAnother(t *testing.T) {
	s := newStore(t)
	_, err := commit(t, s, "first", 1)
	must(t, err)
	must(t, s.Close())
	s = openLimited(t, s.root, 5_000_000)
	other, err := Open(s.root, WithLimit(s.limited))
	must(t, err)
	defer other.Close()
	_, err = commit(t, s, "own", 1_000_000)
	must(t, err)
	_, err = commit(t, other, "other", 3_000_000)
	must(t, err)
	s.limit.free -= 1 << 30 // somebody has deleted that much
	_, err = commit(t, s, "more", 1_500_000)
	wantPassed(t, s, err)
}

// What a process writes is seen while it writes.
func TestLimited(t *testing.T) {
	s := newStore(t)
	_, err := commit(t, s, "first", 1)
	must(t, err)
	must(t, s.Close())
	s = openLimited(t, s.root, 1_000_000)
	ctx, within := s.Limited(context.Background())
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	must(t, os.WriteFile(filepath.Join(d.FS, "f"), []byte(strings.Repeat("x", 2_000_000)), 0o644))
	<-ctx.Done()
	wantPassed(t, s, within(context.Canceled))
	ctx, within = open(t, s.root).Limited(context.Background())
	if err := within(context.Canceled); !errors.Is(err, context.Canceled) || ctx.Done() != nil {
		t.Errorf("without a limit: %v", err)
	}
}

// The files of a blob, which may be much larger than it, are watched too, without a build.
func TestLimitedUnpacking(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	_, err := commit(t, s, "first", 1)
	must(t, err)
	must(t, s.Close())
	s = openLimited(t, s.root, 1_000_000)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("blob"), Size: 4}
	id, err := s.BlobLayer(ctx, digest.FromString("diffID"), desc)
	must(t, err)
	watched(t, func(t *testing.T) {
		defer s.SetFetch(id, func(ctx context.Context) error {
			d, err := s.NewLayer()
			if err != nil {
				return err
			}
			defer d.Abort()
			if err := os.WriteFile(filepath.Join(d.FS, "f"), []byte(strings.Repeat("x", 2_000_000)), 0o644); err != nil {
				return err
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})()
		_, err := s.Dir(ctx, id)
		wantPassed(t, s, err)
	})
}

// What a process left that was killed while this one works goes, before the limit is passed and when the disk is full.
func TestMakeSpaceOfKilled(t *testing.T) {
	s := newStore(t)
	_, err := commit(t, s, "first", 1)
	must(t, err)
	must(t, s.Close())
	s = openLimited(t, s.root, 5_000_000)
	_, err = commit(t, s, "own", 1)
	must(t, err)
	killed := func() {
		t.Helper()
		k := open(t, s.root)
		d, err := k.NewLayer()
		must(t, err)
		must(t, os.WriteFile(filepath.Join(d.FS, "f"), []byte(strings.Repeat("x", 4_000_000)), 0o644))
		must(t, k.lease.lock.Close())
		k.lease = nil
	}
	killed()
	_, err = commit(t, s, "more", 3_000_000)
	must(t, err)
	killed()
	if freed, err := s.MakeSpace(context.Background()); err != nil || freed < 4_000_000 {
		t.Errorf("%d bytes were freed, %v", freed, err)
	}
	wantClean(t, s)
}

// What was written to a file or a directory is written again; who reads a pipe would see it twice.
func TestAgain(t *testing.T) {
	s := newStore(t)
	dir := shm(t)
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, unix.Mkfifo(pipe, 0o600))
	for path, want := range map[string]int{file: 2, dir: 2, filepath.Join(dir, "new"): 2, pipe: 1, "/dev/null": 1} {
		id := made(t, s, map[string]string{"f": path})
		result(t, s, path, id)
		must(t, s.letAllGo())
		other := open(t, s.root) // whose lease has made nothing of it
		must(t, s.endLease())
		n := 0
		err := other.Again(context.Background(), path, func() error { n++; return unix.ENOSPC })
		if n != want || !IsFull(err) {
			t.Errorf("%s was written %d times, %v, want %d", path, n, err, want)
		}
	}
}

// A cache mount that somebody fills, and what is in a container, count as they are now.
func TestHeld(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	held := func() int64 { t.Helper(); n, err := s.Held(ctx); must(t, err); return n }
	mount, err := s.Cache(ctx, "id", SharingShared, func(string) error { return nil })
	must(t, err)
	before := held()
	must(t, os.WriteFile(filepath.Join(mount.Dir, "f"), []byte(strings.Repeat("x", 100_000)), 0o644))
	if n := held() - before; n < 100_000 || n > 120_000 {
		t.Errorf("a mount in use counts %d", n)
	}
	mount.Release()
	if n := held() - before; n < 100_000 || n > 120_000 {
		t.Errorf("a mount counts %d", n)
	}
	before = held()
	_, desc, _ := pulled(t, s, map[string]string{"f": strings.Repeat("x", 100_000)})
	if n := held() - before; n < desc.Size || n > desc.Size+100_000 {
		t.Errorf("a blob of %d counts %d", desc.Size, n)
	}
	before = held()
	placed := filepath.Join(s.root, "layers", "placed")
	must(t, os.Mkdir(placed, 0o700))
	must(t, os.WriteFile(filepath.Join(placed, "f"), []byte(strings.Repeat("x", 100_000)), 0o644))
	if n := held() - before; n < 100_000 || n > 120_000 {
		t.Errorf("a layer that is not recorded yet counts %d", n)
	}
}

// What somebody is deleting does not count, what he left does.
func TestHeldTrash(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	held := func() int64 { t.Helper(); n, err := s.Held(ctx); must(t, err); return n }
	trash, err := s.tempDir(trashSuffix)
	must(t, err)
	before := held()
	must(t, os.WriteFile(filepath.Join(trash, "f"), []byte(strings.Repeat("x", 100_000)), 0o644))
	if n := held(); n != before {
		t.Errorf("what is being deleted counts %d", n-before)
	}
	s.leave(trash)
	if n := held() - before; n < 100_000 || n > 120_000 {
		t.Errorf("what was left counts %d", n)
	}
}

// A file with several names in one directory gives its space back with the last of them.
func TestDeleteTreeCountsNames(t *testing.T) {
	dir := filepath.Join(shm(t), "tree")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte(strings.Repeat("x", 100_000)), 0o644))
	must(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	want, err := diskUsage(dir)
	must(t, err)
	if freed, err := deleteTree(dir, time.Time{}); err != nil || freed < 100_000 || freed > want {
		t.Errorf("%d bytes were freed, %v, want %d", freed, err, want)
	}
}

// Several processes that write beside each other let unused cache go for as long as there is some: that others have
// filled again what one has made free does not make it fail.
func TestLimitShared(t *testing.T) {
	s := newStore(t)
	_, err := commit(t, s, "first", 1)
	must(t, err)
	must(t, s.Close())
	most := openLimited(t, s.root, 16_000_000).limited
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := range 25 {
				if err := commitAlone(s.root, most, fmt.Sprintf("%d.%d", worker, n), 1_000_000); err != nil {
					t.Errorf("worker %d, layer %d: %v", worker, n, err)
					return
				}
			}
		})
	}
	all.Wait()
	if n, err := diskUsage(s.root); err != nil || n > most.Bytes {
		t.Errorf("%d bytes are held, %v, more than %d", n, err, most.Bytes)
	}
}

// commitAlone makes a layer of a file with so many bytes, and a result of it, as a process that does nothing else.
func commitAlone(root string, most Space, name string, bytes int) error {
	ctx := context.Background()
	s, err := Open(root, WithLimit(most))
	if err != nil {
		return err
	}
	defer s.Close()
	d, err := s.NewLayer()
	if err != nil {
		return err
	}
	defer d.Abort()
	if err := os.WriteFile(filepath.Join(d.FS, name), []byte(strings.Repeat("x", bytes)), 0o644); err != nil {
		return err
	}
	id, err := d.Commit(ctx)
	if err != nil {
		return err
	}
	return s.PutResult(ctx, name, name, Result{Outputs: []layer.Snapshot{{id}}, Created: time.Now()})
}
