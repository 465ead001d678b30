package store

import (
	"context"
	"encoding/json"
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

// childUses uses what no record keeps in the end: the layers of a result and of an image, a blob that was there, a
// layer and a blob of its own. It says which.
func childUses(root string) error {
	ctx := context.Background()
	s, err := Open(root)
	if err != nil {
		return err
	}
	r, found, _, err := s.Result(ctx, "step")
	if err != nil || !found {
		return fmt.Errorf("the result is there: %t, %w", found, err)
	}
	img, err := s.UseImage(ctx, "app:v1")
	if err != nil {
		return err
	}
	there := digest.FromString("there")
	if !s.HasBlob(there) {
		return errors.New("the blob is not there")
	}
	text, _, err := s.Memo(ctx, "pulled")
	if err != nil {
		return err
	}
	var of pulledBlob
	if err := json.Unmarshal([]byte(text), &of); err != nil {
		return err
	}
	blob, err := s.BlobLayer(ctx, of.DiffID, of.Desc)
	if err != nil {
		return err
	}
	desc, err := s.PutBlob(ctx, "", []byte("own"))
	if err != nil {
		return err
	}
	d, err := s.NewLayer()
	if err != nil {
		return err
	}
	own, err := d.Commit(ctx)
	if err != nil {
		return err
	}
	say(r.Outputs[0][0], img.Layers[0], own, there, desc.Digest, img.Manifest.Digest, img.ID, of.Desc.Digest, blob)
	return nil
}

// pulledBlob is what a pull knows of a layer.
type pulledBlob struct {
	DiffID digest.Digest
	Desc   ocispec.Descriptor
}

// What a process uses stays while it lives, whatever is forgotten and collected beside it, and goes after it.
func TestCollectBesideOthers(t *testing.T) {
	ctx := context.Background()
	s := open(t, filepath.Join(shm(t), "of [many] names*", "store"))
	app, step, idle := made(t, s, files("app")), made(t, s, files("step")), made(t, s, files("idle"))
	img := layered(t, s, "app:v1", app)
	result(t, s, "step", step)
	result(t, s, "idle", idle)
	_, err := s.PutBlob(ctx, "", []byte("there"))
	must(t, err)
	must(t, s.PutMemo(ctx, "there", digest.FromString("there").String())) // or it would be gone before
	blob, desc, diff := pulled(t, s, files("pulled"))
	text, err := json.Marshal(pulledBlob{diff, desc})
	must(t, err)
	must(t, s.PutMemo(ctx, "pulled", string(text)))
	user := start(t, "user", s.root)
	if got := layer.ID(user.ready[8]); got != blob {
		t.Fatalf("the child uses layer %s of the blob, want %s", got, blob)
	}

	must(t, s.PruneImages(ctx, img.Name))
	must(t, s.forgetCache(ctx, []rowKey{{"results", "step"}, {"results", "idle"}, {"memo", "there"}, {"memo", "pulled"}}))
	if freed, err := s.Collect(ctx); err != nil || freed < 60_000 || freed > 100_000 {
		t.Errorf("collected %d bytes, %v, want those of the layer that nobody uses", freed, err)
	}
	wantLayers(t, s, app, step, layer.ID(user.ready[2]))
	must(t, s.Check(ctx, layer.Snapshot{blob}))
	for _, d := range user.ready[3:8] {
		if _, err := s.ReadBlob(ctx, digest.Digest(d)); err != nil {
			t.Error(err)
		}
	}

	user.kill()
	_, err = s.Collect(ctx)
	must(t, err)
	wantLayers(t, s)
	if blobs, _ := filepath.Glob(filepath.Join(s.root, "blobs", "*", "*")); len(blobs) != 0 {
		t.Errorf("blobs are left: %q", blobs)
	}
}

// A result is not pruned while somebody uses its layers, and a process that yields uses nothing.
func TestPruneSparesWhatIsUsed(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	used, idle := made(t, s, files("used")), made(t, s, files("idle"))
	result(t, s, "used", used)
	result(t, s, "idle", idle)
	other := open(t, s.root)
	wantResults(t, other, map[string]bool{"used": true})
	prune := func() {
		t.Helper()
		_, err := s.Prune(ctx, Policy{All: true})
		must(t, err)
		_, err = s.Collect(ctx)
		must(t, err)
	}
	prune()
	wantResults(t, s, map[string]bool{"used": true, "idle": false})
	wantLayers(t, s, used)
	resume, err := other.Yield()
	must(t, err)
	prune()
	wantResults(t, s, map[string]bool{"used": false})
	must(t, resume())
	wantLayers(t, s)
}

// A cache mount that is used stays, with its lock; one that nobody uses goes, with its lock, and whoever waited
// for that lock gets another one.
func TestPruneSparesMounts(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	c, err := s.Cache(ctx, "used", SharingLocked, noFill)
	must(t, err)
	idle, err := s.Cache(ctx, "idle", SharingLocked, noFill)
	must(t, err)
	early, err := os.Open(idle.lock.Name()) // as somebody has it who is about to lock it
	must(t, err)
	defer early.Close()
	idle.Release()
	other := open(t, s.root)
	_, err = other.Prune(ctx, Policy{Filters: []string{"type==exec.cachemount"}})
	must(t, err)
	if _, err := os.Lstat(c.Dir); err != nil {
		t.Errorf("a mount that is used: %v", err)
	}
	if _, err := os.Lstat(idle.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a mount that nobody uses: %v", err)
	}
	must(t, flock(early, unix.LOCK_EX|unix.LOCK_NB))
	again, err := other.Cache(ctx, "idle", SharingLocked, noFill) // does not wait for the old lock
	must(t, err)
	defer again.Release()
	if isAt(early) || !isAt(again.lock) {
		t.Error("the lock of a pruned mount is taken for one")
	}
	c.Release()
	again.Release()
	_, err = other.Prune(ctx, Policy{Filters: []string{"type==exec.cachemount"}})
	must(t, err)
	if left, _ := os.ReadDir(filepath.Join(s.root, "caches")); len(left) != 0 {
		t.Errorf("%v is left of the mounts", left)
	}
}

// Builders make, look up and forget the same things while somebody collects all the time: what a builder has seen
// is there until it ends, and nothing is left in the end.
func TestCollectRaces(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	const builders, rounds = 4, 30
	var wg sync.WaitGroup
	for n := range builders {
		wg.Go(func() {
			for i := range rounds {
				if err := buildAndForget(ctx, s.root, fmt.Sprint("step", (n+i)%3)); err != nil {
					t.Errorf("builder %d, round %d: %v", n, i, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for collecting := true; collecting; {
		_, err := s.Collect(ctx)
		must(t, err)
		select {
		case <-done:
			collecting = false
		default:
		}
	}
	_, err := s.Collect(ctx)
	must(t, err)
	wantLayers(t, s)
}

// buildAndForget gets the result of a step, as a directory and as a blob, from the cache or by making it, and looks
// at both again when no record names them any more.
func buildAndForget(ctx context.Context, root, key string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	defer s.Close()
	r, found, _, err := s.Result(ctx, key)
	if err != nil {
		return err
	}
	if !found {
		d, err := s.NewLayer()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d.FS, key), []byte(key), 0o600); err != nil {
			return err
		}
		id, err := d.Commit(ctx)
		if err != nil {
			return err
		}
		r = Result{Outputs: []layer.Snapshot{{id}}, Created: time.Now()}
		if err := s.PutResult(ctx, key, key, r); err != nil {
			return err
		}
	}
	desc, _, err := s.Blob(ctx, r.Outputs[0][0], layer.Encoding{})
	if err != nil {
		return err
	}
	if err := s.forgetCache(ctx, []rowKey{{"results", key}}); err != nil {
		return err
	}
	for range 5 { // others collect meanwhile
		dirs, err := s.Dirs(ctx, r.Outputs[0])
		if err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(dirs[0], key)); err != nil {
			return err
		}
		if _, err := s.ReadBlob(ctx, desc.Digest); err != nil {
			return err
		}
		if _, err := s.PutBlob(ctx, "", []byte(key)); err != nil {
			return err
		}
	}
	return nil
}

// A damaged manifest names nothing, and keeps nobody waiting.
func TestCollectBesideDamage(t *testing.T) {
	s := newStore(t)
	img := layered(t, s, "app:v1", made(t, s, files("a")))
	must(t, os.WriteFile(s.blobPath(img.Manifest.Digest), []byte("{}"), 0o600))
	patient(t, 100*time.Millisecond) // for a lock that this very process has
	_, err := s.Collect(context.Background())
	must(t, err)
	if !s.HasBlob(img.ID) {
		t.Error("the config of the image is gone, which its record names")
	}
}

// An image that was removed and made again, of other layers, since somebody looked it up is not held for it.
func TestHoldStale(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	id, _, _ := pulled(t, s, files("a"))
	stale := layered(t, s, "app:v1", id)
	maker := open(t, s.root)
	must(t, maker.PruneImages(ctx, stale.Name))
	must(t, s.letAllGo())
	_, err := s.Collect(ctx)
	must(t, err)
	again, _, _ := pulled(t, maker, files("a"))
	now := layered(t, maker, "app:v1", again)
	if now.Target().Digest != stale.Target().Digest || again == id {
		t.Fatal("the images are not the same but for their layers")
	}
	user := open(t, s.root)
	if err := user.Hold(ctx, stale); !errors.Is(err, ErrNotFound) {
		t.Errorf("holding what was: %v", err)
	}
	must(t, user.Hold(ctx, now))
	must(t, maker.PruneImages(ctx, now.Name))
	must(t, maker.Close())
	_, err = s.Collect(ctx)
	must(t, err)
	must(t, user.Check(ctx, now.Layers))
	if !user.HasBlob(now.ID) {
		t.Error("the config of an image that is held is gone")
	}
	if _, err := user.UseImage(ctx, "app:v1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("using what is gone: %v", err)
	}
}

// What was said after something that could not be said whole counts.
func TestHoldAfterPart(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	id := made(t, s, files("a"))
	result(t, s, "step", id)
	user := open(t, s.root)
	user.HasBlob(digest.FromString("any")) // takes the lease
	_, err := user.lease.lock.WriteString("layer abcd")
	must(t, err)
	wantResults(t, user, map[string]bool{"step": true})
	must(t, s.forgetCache(ctx, []rowKey{{"results", "step"}}))
	_, err = s.Collect(ctx)
	must(t, err)
	wantLayers(t, s, id)
}

// What another process uses of an image would not be given back with it.
func TestImageUsageBesideOthers(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	id, _, _ := pulled(t, s, files("a"))
	img := layered(t, s, "app:v1", id)
	reclaimable := func() int64 { t.Helper(); u, err := s.ImageUsage(ctx); must(t, err); return u.Reclaimable }
	if n := reclaimable(); n == 0 {
		t.Errorf("%d bytes are reclaimable of what this process alone uses", n)
	}
	user := open(t, s.root)
	must(t, user.Hold(ctx, img))
	if n := reclaimable(); n > 0 {
		t.Errorf("%d bytes are reclaimable of what another process uses", n)
	}
	must(t, user.letAllGo())
	if n := reclaimable(); n == 0 {
		t.Errorf("%d bytes are reclaimable when it has let go", n)
	}
}

// Goroutines of one process may say what they use while another one collects.
func TestHoldWhileCollecting(t *testing.T) {
	s := newStore(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			if _, err := s.hold(fmt.Sprint("blob ", i)); err != nil {
				t.Error(err)
			}
		}
	}()
	for collecting := true; collecting; {
		_, err := s.Collect(context.Background())
		must(t, err)
		select {
		case <-done:
			collecting = false
		default:
		}
	}
}

// The gate opens for nobody who cannot have it alone, and for the next one after that.
func TestGateGivesUp(t *testing.T) {
	s := newStore(t)
	in, err := os.Open(filepath.Join(s.root, "tmp"))
	must(t, err)
	defer in.Close()
	must(t, flock(in, unix.LOCK_SH))
	patient(t, 100*time.Millisecond)
	if _, err := s.Collect(context.Background()); !errors.Is(err, errGate) {
		t.Errorf("with somebody in the gate: %v", err)
	}
	must(t, flock(in, unix.LOCK_UN))
	_, err = s.Collect(context.Background())
	must(t, err)
}

// A mount that lost its lock goes as well.
func TestPruneMountWithoutLock(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	c, err := s.Cache(ctx, "x", SharingShared, noFill)
	must(t, err)
	c.Release()
	must(t, os.Remove(c.Dir+".lock"))
	_, err = s.Prune(ctx, Policy{Filters: []string{"type==exec.cachemount"}})
	must(t, err)
	if left, _ := os.ReadDir(filepath.Join(s.root, "caches")); len(left) != 0 {
		t.Errorf("%v is left of the mounts", left)
	}
}

// What a process that was killed has left of a mount goes as well.
func TestPruneRestOfMount(t *testing.T) {
	ctx := context.Background()
	for _, rest := range []string{".lock", ".size"} {
		s := newStore(t)
		c, err := s.Cache(ctx, "x", SharingShared, noFill)
		must(t, err)
		c.Release()
		must(t, os.RemoveAll(c.Dir))
		must(t, os.Rename(c.Dir+".lock", c.Dir+rest))
		_, err = s.Prune(ctx, Policy{All: true})
		must(t, err)
		if left, err := os.ReadDir(filepath.Dir(c.Dir)); len(left) != 0 {
			t.Errorf("%s: %v is left of the mounts (%v)", rest, left, err)
		}
	}
}

// Whoever takes a mount beside a prune gets that mount, and keeps it.
func TestMountsBesidePrune(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	var wg sync.WaitGroup
	for range 2 {
		user := open(t, s.root)
		wg.Go(func() {
			for range 1500 {
				if err := useMount(ctx, user); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for pruning := true; pruning; {
		_, err := s.Prune(ctx, Policy{Filters: []string{"type==exec.cachemount"}})
		must(t, err)
		select {
		case <-done:
			pruning = false
		default:
		}
	}
}

func useMount(ctx context.Context, s *Store) error {
	c, err := s.Cache(ctx, "x", SharingShared, noFill)
	if err != nil {
		return err
	}
	defer c.Release()
	if strings.Contains(filepath.Base(c.Dir), "-") {
		return fmt.Errorf("a mount that only a prune looked at is taken for one in use: %s", c.Dir)
	}
	for range 3 { // others prune meanwhile
		f, err := os.CreateTemp(c.Dir, "")
		if err != nil {
			return err
		}
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			return err
		}
	}
	return nil
}
