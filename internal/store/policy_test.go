package store

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// usedAt says of a row when it was used last.
func usedAt(t testing.TB, s *Store, table, key string, ago time.Duration) {
	t.Helper()
	_, err := s.db.Exec("UPDATE "+table+" SET used=? WHERE "+keyOf(table)+"=?", time.Now().Add(-ago).UnixNano(), key)
	must(t, err)
}

// record finds a record of the cache by a part of its description, or by its ID.
func record(t testing.TB, s *Store, what string) CacheRecord {
	t.Helper()
	all, err := s.CacheRecords(context.Background())
	must(t, err)
	i := slices.IndexFunc(all, func(r CacheRecord) bool { return r.ID == what || strings.Contains(r.Description, what) })
	if i < 0 {
		t.Fatalf("no record %s among %+v", what, all)
	}
	return all[i]
}

func prune(t testing.TB, s *Store, p ...Policy) Pruned {
	t.Helper()
	got, err := s.Prune(context.Background(), p...)
	must(t, err)
	return got
}

// What a process has used is in the records after it has ended, and counts at once for itself.
func TestLastUse(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	a, b := made(t, s, files("a")), made(t, s, files("b"))
	result(t, s, "a", a)
	result(t, s, "b", a, b)
	must(t, s.PutMemo(ctx, "m", "v"))
	must(t, s.SetRef(ctx, "docker.io/library/x:1", "linux/amd64", digest.FromString("x")))
	keys := []rowKey{{"results", "a"}, {"results", "b"}, {"memo", "m"}, {"refs", refKey("docker.io/library/x:1", "linux/amd64")}}
	for _, k := range keys {
		usedAt(t, s, k.table, k.key, 100*time.Hour)
	}
	want := func(used ...rowKey) {
		t.Helper()
		must(t, s.readUses(ctx))
		all, err := s.lastUses(ctx)
		must(t, err)
		for _, k := range keys {
			if recent := time.Since(all[k].when) < time.Hour; recent != slices.Contains(used, k) || recent != (all[k].times > 1) {
				t.Errorf("%v was used %s ago, %d times", k, time.Since(all[k].when), all[k].times)
			}
		}
	}
	want()
	other, err := Open(s.root)
	must(t, err)
	if _, found, _, err := other.Result(ctx, "b"); !found || err != nil {
		t.Fatal(err)
	}
	_, _, err = other.Memo(ctx, "m")
	must(t, err)
	other.Ref(ctx, "docker.io/library/x:1", "linux/amd64")
	want() // until it has ended
	must(t, other.Close())
	want(keys[1:]...)
	if left, err := os.ReadDir(filepath.Join(s.root, "used")); err != nil || len(left) > 0 {
		t.Errorf("these are left: %v, %v", left, err)
	}
	if _, found, _, err := s.Result(ctx, "a"); !found || err != nil {
		t.Fatal(err)
	}
	want(keys...)

	// What a crash left of such a file says nothing, and goes.
	must(t, os.WriteFile(filepath.Join(s.root, "used", "torn"), []byte(`[["results","a"],["res`), 0o600))
	must(t, s.readUses(ctx))
	if left, err := os.ReadDir(filepath.Join(s.root, "used")); err != nil || len(left) > 0 {
		t.Errorf("these are left: %v, %v", left, err)
	}
}

// What was used least recently goes first, steps before those they stand on; what images, containers and processes
// need stays.
func TestPruneInOrder(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	base, step, old, shared, used, held := made(t, s, files("base")), made(t, s, files("step")), made(t, s, files("old")), made(t, s, files("shared")), made(t, s, files("used")), made(t, s, files("held"))
	result(t, s, "base", base)
	result(t, s, "step", base, step)
	result(t, s, "old", base, old)
	result(t, s, "shared", shared)
	result(t, s, "used", used)
	result(t, s, "held", held)
	layered(t, s, "app:v1", shared)
	must(t, s.AddContainer(ctx, Container{ID: "1", Name: "user", Snapshot: layer.Snapshot{used}}))
	other := open(t, s.root)
	wantResults(t, other, map[string]bool{"held": true})
	for key, ago := range map[string]time.Duration{"base": 10, "step": 1, "old": 5, "shared": 20, "used": 20, "held": 20} {
		usedAt(t, s, "results", key, ago*time.Hour)
	}
	var total int64
	for _, id := range []layer.ID{base, step, old, used, held} { // the image's own does not count
		r := record(t, s, string(id))
		if total += r.Size; r.Size < 60_000 || r.Size > 120_000 || r.InUse != (id == used || id == held) {
			t.Errorf("a layer of 60000 bytes is %+v", r)
		}
	}
	most := func(n int64) Policy { return Policy{MaxUsedSpace: Space{Bytes: n}} }
	prune(t, s, most(total))
	wantLayers(t, s, base, step, old, shared, used, held)
	prune(t, s, Policy{MaxUsedSpace: Space{Bytes: total - 1}, KeepDuration: 6 * time.Hour})
	wantLayers(t, s, base, step, old, shared, used, held)
	got := prune(t, s, most(total-1))
	if len(got.Records) != 1 || got.Records[0].ID != string(old) || got.Freed < 60_000 {
		t.Errorf("pruned %+v", got)
	}
	wantLayers(t, s, base, step, shared, used, held)
	wantResults(t, s, map[string]bool{"base": true, "step": true, "old": false})
	prune(t, s, most(total-got.Records[0].Size-1)) // base was used with step
	wantLayers(t, s, base, shared, used, held)
	prune(t, s, Policy{All: true, MaxUsedSpace: Space{Bytes: 1}})
	wantLayers(t, s, shared, used, held)
	wantResults(t, s, map[string]bool{"shared": true, "used": true, "held": true})
	prune(t, s, Policy{All: true}) // forgets what an image shares, which keeps it
	wantLayers(t, s, shared, used, held)
	wantResults(t, s, map[string]bool{"shared": false, "used": true, "held": true})
}

// Nothing is taken from under something that stays, and filters choose.
func TestPruneFilters(t *testing.T) {
	s := newStore(t)
	base, step := made(t, s, files("base")), made(t, s, files("step"))
	result(t, s, "base", base)
	result(t, s, "step", base, step)
	for _, id := range []string{"a", "b"} {
		c, err := s.Cache(context.Background(), id, SharingShared, noFill)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(c.Dir, "f"), make([]byte, 10_000), 0o600))
		c.Release()
	}
	git, err := s.Cache(context.Background(), GitCache("https://user:secret@host.example/x.git"), SharingLocked, noFill)
	must(t, err)
	git.Release()
	if r := record(t, s, "git repository"); r.Type != TypeGit || strings.Contains(r.Description, "secret") {
		t.Errorf("a repository is %+v", r)
	}
	prune(t, s, Policy{Filters: []string{"id==" + string(base)}})
	wantLayers(t, s, base, step)
	a := record(t, s, "cached mount a")
	if a.Type != TypeMount || a.Size < 10_000 || a.Size > 30_000 || a.InUse {
		t.Errorf("a mount is %+v", a)
	}
	if r := record(t, s, string(step)); !slices.Equal(r.Parents, []string{string(base)}) || r.Type != TypeRegular {
		t.Errorf("a step is %+v", r)
	}
	day := time.Now().Add(-24 * time.Hour)
	must(t, os.Chtimes(filepath.Join(s.root, "caches", a.ID+".lock"), day, day))
	prune(t, s, Policy{Filters: []string{"type==exec.cachemount"}, KeepDuration: time.Hour})
	all, err := s.CacheRecords(context.Background())
	must(t, err)
	if mounts, err := FilterCache(all, "type==exec.cachemount"); err != nil || len(mounts) != 1 || mounts[0].Description != "cached mount b" {
		t.Errorf("these mounts are left: %+v, %v", mounts, err)
	}
	prune(t, s, Policy{Filters: []string{"id~=" + string(step)}})
	wantLayers(t, s, base)
	prune(t, s, Policy{Filters: []string{"type==source.git.checkout,mutable"}})
	if left, _ := os.ReadDir(filepath.Join(s.root, "caches")); len(left) != 3 { // directory, lock, size
		t.Errorf("%v is left of the mounts", left)
	}
	if _, err := s.Prune(context.Background(), Policy{Filters: []string{"type=="}}); err == nil {
		t.Error("a filter that is none does")
	}
}

// A mount that is used between the look at it and its deletion stays.
func TestPruneMountUsedMeanwhile(t *testing.T) {
	s := newStore(t)
	c, err := s.Cache(context.Background(), "x", SharingShared, noFill)
	must(t, err)
	c.Release()
	ago := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(c.lock.Name(), ago, ago))
	r := record(t, s, "cached mount x")
	later := r.LastUsed.Add(time.Second)
	must(t, os.Chtimes(c.lock.Name(), later, later))
	trash, err := s.TempDir()
	must(t, err)
	if gone, err := s.pruneMount(r.ID, r.LastUsed, trash); gone || err != nil {
		t.Errorf("it is gone: %v, %v", gone, err)
	}
	if gone, err := s.pruneMount(r.ID, later, trash); !gone || err != nil {
		t.Errorf("it is gone: %v, %v", gone, err)
	}
}

// A clock that went wrong keeps no cache mount.
func TestPruneMountOfTheFuture(t *testing.T) {
	s := newStore(t)
	c, err := s.Cache(context.Background(), "x", SharingShared, noFill)
	must(t, err)
	c.Release()
	future := time.Now().Add(100 * time.Hour)
	must(t, os.Chtimes(c.lock.Name(), future, future))
	prune(t, s, Policy{All: true})
	if left, _ := os.ReadDir(filepath.Join(s.root, "caches")); len(left) > 0 {
		t.Errorf("these are left: %v", left)
	}
}

// Base images and what is known of servers go with All alone.
func TestPruneAll(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	id, desc, _ := pulled(t, s, files("base"))
	img := layered(t, s, "base:v1", id)
	must(t, s.RemoveImages(ctx, img.Name))
	must(t, s.SetRef(ctx, "docker.io/library/base:v1", "linux/amd64", img.Manifest.Digest))
	file, err := s.PutBlob(ctx, "text/plain", []byte("a file of a server"))
	must(t, err)
	must(t, s.PutMemo(ctx, "http", fmt.Sprintf(`{"Digest":%q}`, file.Digest)))
	must(t, s.PutMemo(ctx, "nothing on the disk", "a digest"))
	usedAt(t, s, "memo", "nothing on the disk", -100*time.Hour) // by a clock that went wrong
	prune(t, s, Policy{}, Policy{MaxUsedSpace: Space{Bytes: 1}})
	for _, d := range []digest.Digest{desc.Digest, img.Manifest.Digest, img.ID, file.Digest} {
		if _, err := os.Lstat(s.blobPath(d)); err != nil {
			t.Errorf("blob %s is gone: %v", d, err)
		}
	}
	prune(t, s, Policy{All: true, MaxUsedSpace: Space{Bytes: 1}})
	if left, _ := filepath.Glob(filepath.Join(s.root, "blobs", "*", "*")); len(left) > 0 {
		t.Errorf("these blobs are left: %q", left)
	}
	if all, err := s.CacheRecords(ctx); err != nil || len(all) > 0 {
		t.Errorf("these records are left: %+v, %v", all, err)
	}
	prune(t, s, Policy{All: true})
	if memos, err := s.memos(ctx); err != nil || len(memos) > 0 {
		t.Errorf("these memos are left: %v, %v", memos, err)
	}
}

// Results that have the same layers in another order, or more than once, hold each other no longer than others do.
func TestPruneOrders(t *testing.T) {
	s := newStore(t)
	a, b, c := made(t, s, files("a")), made(t, s, files("b")), made(t, s, files("c"))
	result(t, s, "twice", a, b, a, b)
	result(t, s, "one way", a, b, c)
	result(t, s, "another way", c, b, a)
	all, err := s.CacheRecords(t.Context())
	must(t, err)
	edges := 0
	for _, r := range all {
		edges += len(r.Parents)
	}
	if edges == 0 {
		t.Errorf("no layer stands on another one: %+v", all)
	}
	prune(t, s, Policy{All: true})
	wantLayers(t, s)
	wantResults(t, s, map[string]bool{"twice": false, "one way": false, "another way": false})
}

// A reference to an index keeps the images of it that are here, each as a stack of layers.
func TestReferenceOfIndex(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	var manifests []ocispec.Descriptor
	var layers []ocispec.Descriptor // by platform, base first
	for _, arch := range []string{"arm64", "amd64"} {
		var snap []layer.ID
		for _, which := range []string{"below", "above"} {
			id, desc, _ := pulled(t, s, files(arch+which))
			snap, layers = append(snap, id), append(layers, desc)
		}
		img := layered(t, s, arch, snap...)
		must(t, s.RemoveImages(ctx, img.Name))
		manifests = append(manifests, img.Manifest)
	}
	manifests = slices.Insert(manifests, 0, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("never here"), Size: 10})
	data, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests})
	must(t, err)
	index, err := s.PutBlob(ctx, ocispec.MediaTypeImageIndex, data)
	must(t, err)
	must(t, s.SetRef(ctx, "docker.io/library/base:v1", "linux/amd64", index.Digest))
	prune(t, s, Policy{})
	for _, d := range append(layers, index, manifests[1], manifests[2]) {
		if _, err := os.Lstat(s.blobPath(d.Digest)); err != nil {
			t.Errorf("blob %s is gone: %v", d.Digest, err)
		}
	}
	all, err := s.CacheRecords(ctx)
	must(t, err)
	var above []CacheRecord
	for _, r := range all {
		if len(r.Parents) > 0 {
			above = append(above, r)
		}
	}
	for _, r := range above {
		if r.Description != "pulled from docker.io/library/base:v1" || len(r.Parents) != 1 {
			t.Errorf("a layer on another one is %+v", r)
		}
	}
	if len(above) != 2 || above[0].Parents[0] == above[1].Parents[0] {
		t.Errorf("%d layers stand on others, want one of each image: %+v", len(above), above)
	}
}

// The words of policies mean what they mean in BuildKit.
func TestPolicyWords(t *testing.T) {
	const gb = 1 << 30
	space := func(n int64) Space { return Space{Bytes: n * gb} }
	for i, c := range []struct {
		p                       Policy
		total, disk, free, keep int64
		all                     bool
	}{
		{Policy{}, 10, 100, 50, 0, true},
		{Policy{MaxUsedSpace: space(5)}, 10, 100, 50, 5, false},
		{Policy{MaxUsedSpace: space(5), MinFreeSpace: space(52)}, 10, 100, 50, 5, false},
		{Policy{MaxUsedSpace: space(9), MinFreeSpace: space(52)}, 10, 100, 50, 8, false},
		{Policy{MinFreeSpace: space(52)}, 10, 100, 50, 8, false},
		{Policy{MinFreeSpace: space(40)}, 10, 100, 50, 10, false},
		{Policy{MinFreeSpace: space(58), ReservedSpace: space(4)}, 10, 100, 50, 4, false},
		{Policy{ReservedSpace: space(4)}, 10, 100, 50, 4, false},
		{Policy{MinFreeSpace: Space{Percent: 52}}, 10, 100, 50, 8, false},
	} {
		keep, all := c.p.keepBytes(c.total*gb, c.disk*gb, c.free*gb)
		if all != c.all || keep-c.keep*gb > 100 || c.keep*gb-keep > 100 {
			t.Errorf("%d: keeps %d, %v, want %d, %v", i, keep/gb, all, c.keep, c.all)
		}
	}
	for text, want := range map[string]Space{"10GB": space(10), "512kb": {Bytes: 512 << 10}, "20%": {Percent: 20}, "0": {}, "7": {Bytes: 7}} {
		var got Space
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "101%", "-1%", "1%%"} {
		if err := new(Space).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is an amount", text)
		}
	}
}
