package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

func TestDraft(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	d, err := s.NewLayer()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(d.FS, "file"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(d.Work, "rubbish"), nil, 0o600))
	id, err := d.Commit(ctx)
	must(t, err)
	wantClean(t, s)
	d.Abort()
	dir, err := s.Dir(ctx, id)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "x" {
		t.Errorf("the committed layer has %q, %v", got, err)
	}
	info, err := s.Layer(ctx, id)
	must(t, err)
	if !info.Dir || info.DiffID != "" || info.Size != -1 || time.Since(info.Created) > time.Minute {
		t.Errorf("the layer is %+v", info)
	}
	wantClean(t, s)

	d, err = s.NewLayer()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(d.FS, "file"), nil, 0o600))
	d.Abort()
	wantClean(t, s)
}

// A commit that cannot be recorded leaves nothing: the process goes on, and no sweep would find it.
func TestCommitThatFailsLeavesNothing(t *testing.T) {
	s := newStore(t)
	d, err := s.NewLayer()
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Commit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	d.Abort()
	wantClean(t, s)
}

func TestUnknownLayer(t *testing.T) {
	s := newStore(t)
	if _, err := s.Layer(context.Background(), "nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Layer gave %v", err)
	}
	if _, err := s.Dir(context.Background(), "nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Dir gave %v", err)
	}
	if _, err := s.Dirs(context.Background(), layer.Snapshot{made(t, s, nil), "nope"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("Dirs gave %v", err)
	}
	if _, _, err := s.Blob(context.Background(), "nope", layer.Encoding{Compression: layer.Gzip}); !errors.Is(err, ErrNotFound) {
		t.Errorf("Blob gave %v", err)
	}
}

func TestBlobLayerIsOnePerBlob(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	diff := digest.FromBytes(tarOf(map[string]string{"a": "1"}))
	docker := ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: digest.FromString("gz"), Size: 2}
	oci := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("gz"), Size: 2}
	zst := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromString("zst"), Size: 3}
	descs := []ocispec.Descriptor{docker, oci, zst}
	var ids [3]sync.Map
	var wg sync.WaitGroup
	other := open(t, s.root)
	for i := range 18 {
		wg.Go(func() {
			st := s
			if i%2 == 1 {
				st = other
			}
			id, err := st.BlobLayer(ctx, diff, descs[i%3])
			if err != nil {
				t.Error(err)
			}
			ids[i%3].Store(id, true)
		})
	}
	wg.Wait()
	all := map[layer.ID]int{}
	for i := range ids {
		ids[i].Range(func(id, _ any) bool { all[id.(layer.ID)] |= 1 << i; return true })
	}
	var got []int
	for _, of := range all {
		got = append(got, of)
	}
	slices.Sort(got)
	if fmt.Sprint(got) != "[3 4]" {
		t.Errorf("the layers are those of %v, want one of both names of a type, and one of the other blob", all)
	}
	// The blob of a layer that was made here is that layer's, in each compression.
	mine := made(t, s, map[string]string{"b": "2"})
	for _, c := range []layer.Compression{layer.Uncompressed, layer.Gzip} {
		desc, mineDiff, err := s.Blob(ctx, mine, layer.Encoding{Compression: c})
		must(t, err)
		if id, err := s.BlobLayer(ctx, mineDiff, desc); err != nil || id != mine {
			t.Errorf("BlobLayer gave %q, %v, want %q", id, err, mine)
		}
	}
}

func TestUnpack(t *testing.T) {
	for _, c := range []layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd} {
		t.Run("compression "+string(c), func(t *testing.T) {
			s := newStore(t)
			ctx := context.Background()
			data := tarOf(map[string]string{"a": "hello", "b": "world!"})
			desc, err := s.PutBlob(ctx, "", packed(t, data, c))
			must(t, err)
			id, err := s.BlobLayer(ctx, digest.FromBytes(data), desc)
			must(t, err)
			dir, err := s.Dir(ctx, id)
			must(t, err)
			if got, _ := os.ReadFile(filepath.Join(dir, "b")); string(got) != "world!" {
				t.Errorf("the file is %q", got)
			}
			if info, _ := s.Layer(ctx, id); !info.Dir || info.Size != 11 {
				t.Errorf("the layer is %+v, want a directory of 11 bytes", info)
			}
			wantClean(t, s)
			// A directory that somebody deleted is made again.
			must(t, os.RemoveAll(dir))
			must(t, s.Check(ctx, layer.Snapshot{id}))
			dir, err = s.Dir(ctx, id)
			must(t, err)
			if _, err := os.Stat(filepath.Join(dir, "b")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnpackRefusesWrongContent(t *testing.T) {
	data := tarOf(map[string]string{"a": "hello"})
	evil := tarOf(map[string]string{"escape": "x", "escape/y": "y"})
	tests := []struct {
		name string
		blob []byte
		diff digest.Digest
		want string
	}{
		{"another diffID", packed(t, data, layer.Gzip), digest.FromString("x"), "expected diffID " + digest.FromString("x").String()},
		{"padding counts", append(append([]byte{}, data...), 0), digest.FromBytes(data), "expected diffID"},
		{"no archive", []byte("this is no archive, whatever the manifest says" + strings.Repeat(".", 1000)), digest.FromString("x"), "unpacking layer"},
		{"cut short", packed(t, data, layer.Gzip)[:40], digest.FromBytes(data), "unexpected EOF"},
		{"escape", evil, digest.FromBytes(evil), "unsafe layer content"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			ctx := context.Background()
			desc, err := s.PutBlob(ctx, "", tt.blob)
			must(t, err)
			id, err := s.BlobLayer(ctx, tt.diff, desc)
			must(t, err)
			_, err = s.Dir(ctx, id)
			wantErr(t, err, tt.want)
			if info, _ := s.Layer(ctx, id); info.Dir || !info.Claimed && info.DiffID != "" {
				t.Errorf("the layer is recorded as unpacked, or seen: %+v", info)
			}
			wantClean(t, s)
			if _, err := os.Stat(filepath.Join(s.root, "layers", string(id))); err == nil {
				t.Error("the layer has a directory")
			}
			// The size is not measured from what is not the layer either.
			if _, err := s.Size(ctx, id); err == nil {
				t.Error("the size of wrong content was measured")
			}
		})
	}
}

func TestUnpackDamagedBlob(t *testing.T) {
	s := newStore(t)
	id, desc, _ := pulled(t, s, map[string]string{"a": "hello"})
	data, err := os.ReadFile(s.blobPath(desc.Digest))
	must(t, err)
	data[len(data)-1] ^= 1 // gzip's own length, which the diffID says nothing of
	must(t, os.WriteFile(s.blobPath(desc.Digest), data, 0o644))
	if _, err := s.Dir(context.Background(), id); err == nil {
		t.Error("a damaged blob was unpacked")
	}
	wantClean(t, s)

	s = newStore(t)
	id, desc, _ = pulled(t, s, map[string]string{"a": "hello"})
	data[len(data)-1] ^= 1
	data[4] ^= 1 // gzip's time stamp, which nobody but the digest sees
	must(t, os.WriteFile(s.blobPath(desc.Digest), data, 0o644))
	if _, err = s.Dir(context.Background(), id); !errors.Is(err, ErrDamaged) {
		t.Errorf("unpacking a damaged blob gave %v, want ErrDamaged", err)
	}
	if s.HasBlob(desc.Digest) {
		t.Error("a blob that was found damaged is still there: it would not be fetched again")
	}
	wantClean(t, s)
}

// Whoever asks at the same time, in one process or several, gets the same directory.
func TestConcurrentUnpack(t *testing.T) {
	s := newStore(t)
	id, _, _ := pulled(t, s, map[string]string{"a": strings.Repeat("x", 1<<20)})
	stores := []*Store{s, open(t, s.root), open(t, s.root)}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			dir, err := stores[i%3].Dir(context.Background(), id)
			if err != nil {
				t.Error(err)
				return
			}
			if fi, err := os.Stat(filepath.Join(dir, "a")); err != nil || fi.Size() != 1<<20 {
				t.Errorf("the file is %v, %v", fi, err)
			}
		}()
	}
	wg.Wait()
	wantClean(t, s)
}

// rich fills a directory with every kind of object, in an order that the test chooses.
func rich(t *testing.T, dir string, backwards bool) {
	t.Helper()
	steps := []func(){
		func() {
			must(t, os.WriteFile(dir+"/a", []byte("first"), 0o4755))
			must(t, os.Chmod(dir+"/a", 0o755|os.ModeSetuid))
		},
		func() { must(t, os.WriteFile(dir+"/z", []byte(strings.Repeat("z", 100_000)), 0o600)) },
		func() { must(t, os.Symlink("a", dir+"/link")) },
		func() {
			must(t, os.Mkdir(dir+"/dir", 0o750))
			must(t, os.WriteFile(dir+"/dir/in", []byte("in"), 0o640))
		},
		func() { must(t, unix.Mknod(dir+"/gone", unix.S_IFCHR, 0)) },
		func() { must(t, unix.Mkfifo(dir+"/fifo", 0o600)) },
	}
	for i := range steps {
		if backwards {
			i = len(steps) - 1 - i
		}
		steps[i]()
	}
	must(t, os.Link(dir+"/a", dir+"/hard"))
	must(t, os.Lchown(dir+"/z", 1000, 2000))
	must(t, unix.Setxattr(dir+"/z", "trusted.key", []byte("value"), 0))
	must(t, unix.Setxattr(dir+"/dir", "trusted.overlay.opaque", []byte("y"), 0))
	for _, n := range []string{"a", "z", "link", "dir/in", "dir", "gone", "fifo"} {
		ts := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, n), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func richLayer(t *testing.T, s *Store, backwards bool) layer.ID {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices and files of other owners")
	}
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	rich(t, d.FS, backwards)
	id, err := d.Commit(context.Background())
	must(t, err)
	return id
}

// blobs are the names of all blob files.
func blobs(t *testing.T, s *Store) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(s.root, "blobs", "sha256", "*"))
	must(t, err)
	return all
}

// What another version compressed stays, and is not what this version gives.
func TestBlobOfAnotherEncoder(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	id := richLayer(t, s, false)
	encoding := layer.Encoding{Compression: layer.Gzip}
	want, diff, err := s.Blob(ctx, id, encoding)
	must(t, err)
	old, err := s.PutBlob(ctx, want.MediaType, []byte("as another version has compressed it"))
	must(t, err)
	must(t, s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM layer_blobs WHERE digest=?", want.Digest.String())
		return errors.Join(err, putLayerBlob(tx, diff, old, encoding.Level))
	}))
	got, _, err := s.Blob(ctx, id, encoding)
	must(t, err)
	if got.Digest != want.Digest {
		t.Errorf("the blob is %s, want %s, which this version makes", got.Digest, want.Digest)
	}
	if _, err := os.Stat(s.blobPath(old.Digest)); err != nil {
		t.Errorf("the other version's: %v", err)
	}
}

func TestBlobIsMadeOnce(t *testing.T) {
	ctx := context.Background()
	for _, c := range []layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd} {
		t.Run("compression "+string(c), func(t *testing.T) {
			s := newStore(t)
			id := richLayer(t, s, false)
			desc, diff, err := s.Blob(ctx, id, layer.Encoding{Compression: c})
			must(t, err)
			if want := map[layer.Compression]string{"": ocispec.MediaTypeImageLayer, "gzip": ocispec.MediaTypeImageLayerGzip, "zstd": ocispec.MediaTypeImageLayerZstd}[c]; desc.MediaType != want {
				t.Errorf("media type is %s, want %s", desc.MediaType, want)
			}
			r, err := s.OpenBlob(ctx, desc.Digest)
			must(t, err)
			defer r.Close()
			head := make([]byte, 6)
			_, err = io.ReadFull(r, head)
			must(t, err)
			if got := layer.DetectCompression(head); got != c {
				t.Errorf("the blob is compressed with %q, want %q", got, c)
			}
			if fi, _ := os.Stat(s.blobPath(desc.Digest)); fi == nil || fi.Size() != desc.Size {
				t.Errorf("size is %d, the file's is %v", desc.Size, fi)
			}
			if info, _ := s.Layer(ctx, id); info.DiffID != diff || info.Size != 5+100_000+2 {
				t.Errorf("the layer is %+v, expected diffID %s and 100007 bytes", info, diff)
			}
			wantClean(t, s)

			before := blobs(t, s)
			stat, err := os.Stat(s.blobPath(desc.Digest))
			must(t, err)
			again, diffAgain, err := s.Blob(ctx, id, layer.Encoding{Compression: c})
			must(t, err)
			if again.Digest != desc.Digest || again.Size != desc.Size || again.MediaType != desc.MediaType || diffAgain != diff {
				t.Errorf("asked again, the blob is %+v of %s, want %+v of %s", again, diffAgain, desc, diff)
			}
			statAgain, err := os.Stat(s.blobPath(desc.Digest))
			must(t, err)
			if !os.SameFile(stat, statAgain) || len(blobs(t, s)) != len(before) {
				t.Error("asked again, the blob was made again")
			}
		})
	}
}

// A pulled blob is used as it came, whatever is asked for, and whatever was made of it meanwhile.
func TestPulledBlobIsKept(t *testing.T) {
	s := newStore(t)
	id, desc, diff := pulled(t, s, map[string]string{"a": "1"})
	for i, c := range []layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd, layer.Zstd} {
		if i == 3 {
			other, _, err := s.Blob(context.Background(), id, layer.Encoding{Compression: c, Force: true})
			must(t, err)
			if other.Digest == desc.Digest {
				t.Error("another compression was asked for with force, and not made")
			}
		}
		got, gotDiff, err := s.Blob(context.Background(), id, layer.Encoding{Compression: c})
		must(t, err)
		if got.Digest != desc.Digest || gotDiff != diff {
			t.Errorf("asked for %q, the blob is %s of %s, want %s of %s", c, got.Digest, gotDiff, desc.Digest, diff)
		}
	}
	if n, err := s.Size(context.Background(), id); err != nil || n != 1 {
		t.Errorf("size is %d, %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(s.root, "layers", string(id))); err == nil {
		t.Error("the layer was unpacked for nothing")
	}
}

func TestSameDirectorySameBytes(t *testing.T) {
	ctx := context.Background()
	var first [3]digest.Digest
	for round := range 3 {
		s := newStore(t)
		id := richLayer(t, s, round%2 == 1)
		var got [3]digest.Digest
		for i, c := range []layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd} {
			desc, _, err := s.Blob(ctx, id, layer.Encoding{Compression: c})
			must(t, err)
			got[i] = desc.Digest
		}
		if round == 0 {
			first = got
		}
		if got != first {
			t.Errorf("round %d gave the blobs %v, want %v", round, got, first)
		}
	}
}

func TestDroppedBlobIsMadeAgain(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	id := richLayer(t, s, false)
	desc, diff, err := s.Blob(ctx, id, layer.Encoding{})
	must(t, err)
	for what, drop := range map[string]func() error{
		"file":   func() error { return os.Remove(s.blobPath(desc.Digest)) },
		"bytes":  func() error { return os.Truncate(s.blobPath(desc.Digest), 10) },
		"record": func() error { _, err := s.db.Exec("DELETE FROM blobs"); return err },
	} {
		must(t, drop())
		again, diffAgain, err := s.Blob(ctx, id, layer.Encoding{})
		must(t, err)
		if again.Digest != desc.Digest || diffAgain != diff {
			t.Errorf("without the %s the blob is made again as %s, want %s", what, again.Digest, desc.Digest)
		}
		if _, err := s.ReadBlob(ctx, desc.Digest); err != nil || !s.HasBlob(desc.Digest) {
			t.Errorf("without the %s: %v", what, err)
		}
	}
	// The directory can be made again from the blob, and the blob from that.
	must(t, os.RemoveAll(s.layerFS(id)))
	_, err = s.Dir(ctx, id)
	must(t, err)
	must(t, os.Remove(s.blobPath(desc.Digest)))
	if again, _, err := s.Blob(ctx, id, layer.Encoding{}); err != nil || again.Digest != desc.Digest {
		t.Errorf("through the blob and back the layer is %s, %v, want %s", again.Digest, err, desc.Digest)
	}
}

// endsAfter is a context that ends when it has been looked at some times.
type endsAfter struct {
	context.Context
	left *atomic.Int64
}

func (c endsAfter) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// Wherever a conversion is cancelled, it leaves nothing.
func TestCancelledConversionsLeaveNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("long: are cancelled at each of their calls")
	}
	s := newStore(t)
	noise := make([]byte, 4<<20)
	rand.New(rand.NewSource(1)).Read(noise)
	cancelled := 0
	for n := range int64(12) {
		id, _, _ := pulled(t, s, map[string]string{"a": string(noise), "n": fmt.Sprint(n)})
		mine := made(t, s, map[string]string{"b": string(noise), "n": fmt.Sprint(n)})
		left := &atomic.Int64{}
		left.Store(n)
		if err := s.makeDir(endsAfter{context.Background(), left}, id); errors.Is(err, context.Canceled) {
			cancelled++
		} else if err != nil {
			t.Errorf("Dir gave %v", err)
		}
		left.Store(n)
		if _, err := s.makeBlob(endsAfter{context.Background(), left}, mine, layer.Encoding{Compression: layer.Gzip}); errors.Is(err, context.Canceled) {
			cancelled++
		} else if err != nil {
			t.Errorf("Blob gave %v", err)
		}
		wantClean(t, s)
		// What was cancelled can be done.
		_, err := s.Dir(context.Background(), id)
		must(t, err)
		_, _, err = s.Blob(context.Background(), mine, layer.Encoding{Compression: layer.Gzip})
		must(t, err)
	}
	if cancelled < 6 {
		t.Errorf("only %d conversions were cancelled", cancelled)
	}
}

func TestTree(t *testing.T) {
	s := newStore(t)
	base, _, _ := pulled(t, s, map[string]string{"a": "base", "b": "base"})
	top := made(t, s, map[string]string{"b": "top", "c/d": "top"})
	tree, err := s.Tree(context.Background(), layer.Snapshot{base, top}, NeedContent)
	must(t, err)
	for name, want := range map[string]string{"a": "base", "b": "top", "c/d": "top"} {
		if got, err := layer.ReadFile(tree, name); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
}
