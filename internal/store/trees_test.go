package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// randomEntries makes a layer of few names, so that layers have much to hide of one another.
// Times are whole seconds, as blobs have them.
func randomEntries(r *rand.Rand) []*layer.Entry {
	var out []*layer.Entry
	var files []*layer.Entry
	var dir func(path string, depth int)
	dir = func(path string, depth int) {
		for _, n := range []string{"a", "b", "c", "d ä"} {
			if r.Intn(3) == 0 {
				continue
			}
			e := &layer.Entry{Path: strings.TrimPrefix(path+"/"+n, "/"), Mode: uint32(r.Intn(0o10000)), UID: uint32(r.Intn(3)), GID: uint32(r.Intn(2) * 100_000), ModTime: time.Unix(r.Int63n(2e9), 0)}
			switch k := r.Intn(12); {
			case k < 4 && depth < 3:
				e.Mode |= unix.S_IFDIR
				e.Opaque = r.Intn(4) == 0
				out = append(out, e)
				dir(e.Path, depth+1)
				continue
			case k == 4:
				e = &layer.Entry{Path: e.Path, Whiteout: true}
			case k == 5:
				e.Mode, e.Link = unix.S_IFLNK|0o777, []string{"a", "/b", "../c"}[r.Intn(3)]
			case k == 6:
				e.Mode |= unix.S_IFIFO
			case k == 7:
				e.Mode, e.Major, e.Minor = e.Mode|unix.S_IFCHR, 1, uint32(r.Intn(7)+1)
			case k < 10 && len(files) > 0:
				f := *files[r.Intn(len(files))]
				f.Path, f.Link, f.Hardlink, f.Size, f.Content = e.Path, f.Path, true, 0, nil
				e = &f
			default:
				b := bytes.Repeat([]byte{byte('a' + r.Intn(26))}, r.Intn(3)*r.Intn(3000))
				e.Mode |= unix.S_IFREG
				if len(b) > 0 {
					e.Content, e.Size = layer.Bytes(b), int64(len(b))
				}
				if r.Intn(3) == 0 {
					e.Xattrs = map[string]string{"trusted.x": "v\x00" + n}
				}
				files = append(files, e)
			}
			out = append(out, e)
		}
	}
	dir("", 0)
	return out
}

func asDir(t testing.TB, s *Store, entries []*layer.Entry) layer.ID {
	t.Helper()
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	w, err := layer.NewDirWriter(d.FS)
	must(t, err)
	must(t, (&planned{entries: entries}).WriteTo(w))
	must(t, w.Close())
	id, err := d.Commit(context.Background())
	must(t, err)
	return id
}

func asPlan(t testing.TB, s *Store, entries []*layer.Entry) layer.ID {
	t.Helper()
	id, err := s.Plan(&planned{entries: entries}, planTime)
	must(t, err)
	t.Cleanup(func() { s.EndPlans(id) })
	return id
}

// asPlain has a layer as a plain blob with its index, as an export makes it of a plan.
func asPlain(t testing.TB, s *Store, entries []*layer.Entry) layer.ID {
	t.Helper()
	id := asPlan(t, s, entries)
	_, _, err := s.Blob(context.Background(), id, layer.Encoding{})
	must(t, err)
	s.EndPlans(id)
	return id
}

func tarOfEntries(t testing.TB, entries []*layer.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := layer.NewTarWriter(&b)
	must(t, (&planned{entries: entries}).WriteTo(w))
	must(t, w.Close())
	return b.Bytes()
}

// asPulled has a layer as it is after a pull: a compressed blob.
func asPulled(c layer.Compression) func(testing.TB, *Store, []*layer.Entry) layer.ID {
	return func(t testing.TB, s *Store, entries []*layer.Entry) layer.ID {
		t.Helper()
		plain := tarOfEntries(t, entries)
		desc, err := s.PutBlob(context.Background(), layerMediaType(c), packed(t, plain, c))
		must(t, err)
		id, err := s.BlobLayer(context.Background(), digest.FromBytes(plain), desc)
		must(t, err)
		return id
	}
}

// listed is everything that a tree says, by ReadDir and by Lstat.
func listed(t testing.TB, tree layer.Tree, contents bool) string {
	t.Helper()
	var out strings.Builder
	type inode struct{ dev, ino uint64 }
	names := map[inode][]string{}
	must(t, layer.Walk(tree, ".", func(e *layer.Entry) error {
		if e.Path == "." {
			return nil
		}
		line := func(e *layer.Entry) string {
			return fmt.Sprintf("%q %o %d:%d %d %d %q %d:%d %q %v%v%v%v", e.Path, e.Mode, e.UID, e.GID, e.Size, e.ModTime.Unix(), e.Link,
				e.Major, e.Minor, e.Xattrs, e.Whiteout, e.Opaque, e.Implied, e.Hardlink)
		}
		single, err := tree.Lstat(e.Path)
		if err != nil {
			return err
		}
		if line(single) != line(e) {
			t.Errorf("Lstat gives %s, ReadDir %s", line(single), line(e))
		}
		out.WriteString(line(e))
		if e.Nlink > 1 && !e.IsDir() {
			id := inode{e.Dev, e.Inode}
			names[id] = append(names[id], e.Path)
		}
		if contents && e.IsRegular() {
			r, err := layer.OpenContent(e)
			if err != nil {
				return err
			}
			defer r.Close()
			data, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %s", digest.FromBytes(data))
		}
		out.WriteString("\n")
		return nil
	}))
	var links []string
	for _, n := range names {
		if len(n) > 1 {
			links = append(links, fmt.Sprintf("links %q\n", n))
		}
	}
	slices.Sort(links)
	return out.String() + strings.Join(links, "")
}

func unpackedLayers(t testing.TB, s *Store) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(s.root, "layers", "*", "fs*"))
	must(t, err)
	return all
}

// Whatever forms the layers have, their merged tree is that of their directories.
func TestTreeIsTheSameInAllForms(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	forms := map[string]func(testing.TB, *Store, []*layer.Entry) layer.ID{
		"dir": asDir, "plan": asPlan, "plain": asPlain, "gzip": asPulled(layer.Gzip), "zstd": asPulled(layer.Zstd), "pulled plain": asPulled(layer.Uncompressed),
	}
	names := slices.Sorted(maps.Keys(forms))
	for seed := range int64(25) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewSource(seed))
			s := newStore(t)
			var want, mixed layer.Snapshot
			var used []string
			for range r.Intn(4) + 1 {
				entries := randomEntries(r)
				form := names[r.Intn(len(names))]
				used = append(used, form)
				want = append(want, asDir(t, s, entries))
				mixed = append(mixed, forms[form](t, s, entries))
			}
			dirs, err := s.Dirs(ctx, want)
			must(t, err)
			reference := s.stacked(dirs)
			before := unpackedLayers(t, s)
			for range 2 { // the second time with what the first one kept
				tree, err := s.Tree(ctx, mixed, NeedMetadata)
				must(t, err)
				if got, want := listed(t, tree, false), listed(t, reference, false); got != want {
					t.Fatalf("as %q the layers give\n%s\nwant\n%s", used, got, want)
				}
				if after := unpackedLayers(t, s); !slices.Equal(before, after) {
					t.Errorf("looking at metadata unpacked %q, before it was %q", after, before)
				}
			}
			tree, err := s.Tree(ctx, mixed, NeedDigests)
			must(t, err)
			if got, want := listed(t, tree, true), listed(t, reference, true); got != want {
				t.Fatalf("as %q the layers give, with digests,\n%s\nwant\n%s", used, got, want)
			}
			for i, id := range mixed {
				wantDigests(t, s, id, used[i] != "dir" && used[i] != "plan")
			}
			if after := unpackedLayers(t, s); !slices.Equal(before, after) {
				t.Errorf("looking at digests unpacked %q, before it was %q", after, before)
			}
			for _, need := range []Need{NeedContent, NeedMetadata, NeedContent} {
				tree, err := s.Tree(ctx, mixed, need)
				must(t, err)
				if got, want := listed(t, tree, true), listed(t, reference, true); got != want {
					t.Fatalf("as %q the layers give, for need %d,\n%s\nwant\n%s", used, need, got, want)
				}
			}
			for i, id := range mixed {
				_, err := os.Lstat(s.layerFS(id))
				if err == nil && (used[i] == "plan" || used[i] == "plain") {
					t.Errorf("layer %d was unpacked, and it is a %s", i, used[i])
				}
			}
			if _, err := s.Dirs(ctx, mixed); err != nil {
				t.Error(err)
			}
			wantClean(t, s)
		})
	}
}

// wantDigests looks at the digests of a layer's files: of a blob all are known.
func wantDigests(t *testing.T, s *Store, id layer.ID, all bool) {
	t.Helper()
	tree, err := s.OwnTree(context.Background(), id, NeedDigests)
	must(t, err)
	must(t, layer.Walk(tree, ".", func(e *layer.Entry) error {
		if !e.IsRegular() || e.Size == 0 || e.Digest == "" && !all {
			return nil
		}
		r, err := layer.OpenContent(e)
		if err != nil {
			return err
		}
		defer r.Close()
		if d, err := digest.FromReader(r); err != nil || d != e.Digest {
			t.Errorf("%s has the digest %q, which is %q: %v", e.Path, e.Digest, d, err)
		}
		return nil
	}))
}

var treeEntries = []*layer.Entry{
	{Path: "dir", Mode: unix.S_IFDIR | 0o755},
	regular("dir/a", "content of a"), regular("dir/b", strings.Repeat("b", 100_000)),
}

func readsAs(t *testing.T, s *Store, id layer.ID, need Need) error {
	t.Helper()
	tree, err := s.Tree(context.Background(), layer.Snapshot{id}, need)
	if err != nil {
		return err
	}
	for _, e := range treeEntries[1:] {
		want, _ := e.Content.(layer.Bytes)
		got, err := layer.ReadFile(tree, e.Path)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is %.20q, want %.20q", e.Path, got, want)
		}
	}
	return nil
}

// A damaged index is as none: the tree is right, and the index is made again.
func TestDamagedIndex(t *testing.T) {
	damage := map[string]func(string) error{
		"removed":   os.Remove,
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"truncated": func(p string) error { return os.Truncate(p, 60) },
		"flipped": func(p string) error {
			data, err := os.ReadFile(p)
			if err == nil {
				data[len(data)-1] ^= 1
				err = os.WriteFile(p, data, 0o600)
			}
			return err
		},
	}
	for name, harm := range damage {
		for _, form := range []string{"plain", "gzip"} {
			for _, need := range []Need{NeedContent, NeedMetadata} {
				s := newStore(t)
				make := asPlain
				if form == "gzip" {
					make = asPulled(layer.Gzip)
				}
				id := make(t, s, treeEntries)
				_, err := s.Tree(context.Background(), layer.Snapshot{id}, NeedMetadata)
				must(t, err)
				must(t, harm(s.indexPath(id)))
				if err := readsAs(t, s, id, need); err != nil {
					t.Errorf("%s index of a %s layer: %v", name, form, err)
				}
				if _, err := s.Tree(context.Background(), layer.Snapshot{id}, NeedMetadata); err != nil {
					t.Error(err)
				}
				data, err := os.ReadFile(s.indexPath(id))
				if err == nil {
					_, err = layer.ReadIndex(bytes.NewReader(data), int64(len(data)))
				}
				if need == NeedMetadata && err != nil {
					t.Errorf("%s index of a %s layer was not made again: %v", name, form, err)
				}
				wantClean(t, s)
			}
		}
	}
}

// damaged changes one byte in the middle of a blob.
func damaged(t *testing.T, s *Store, d digest.Digest) {
	t.Helper()
	data, err := os.ReadFile(s.blobPath(d))
	must(t, err)
	data[len(data)/2] ^= 0x40
	must(t, os.WriteFile(s.blobPath(d), data, 0o644))
}

// A damaged blob is found as such, wherever the damage is, dropped, and right when it was brought
// again.
func TestDamagedBlobOfTree(t *testing.T) {
	ctx := context.Background()
	for _, c := range []layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd} {
		for _, need := range []Need{NeedContent, NeedMetadata} {
			s := newStore(t)
			plain := tarOfEntries(t, treeEntries)
			data := packed(t, plain, c)
			id := asPulled(c)(t, s, treeEntries)
			desc := ocispec.Descriptor{MediaType: layerMediaType(c), Digest: digest.FromBytes(data), Size: int64(len(data))}
			damaged(t, s, desc.Digest)
			if err := readsAs(t, s, id, need); !errors.Is(err, ErrDamaged) {
				t.Errorf("compression %q, need %d: error is %v, want ErrDamaged", c, need, err)
			}
			if s.HasBlob(desc.Digest) {
				t.Errorf("compression %q, need %d: the damaged blob is there still", c, need)
			}
			if err := readsAs(t, s, id, need); !errors.Is(err, ErrNotFound) {
				t.Errorf("compression %q, need %d: without a blob the error is %v, want ErrNotFound", c, need, err)
			}
			must(t, s.WriteBlob(ctx, desc, bytes.NewReader(data)))
			if err := readsAs(t, s, id, need); err != nil {
				t.Errorf("compression %q, need %d, blob brought again: %v", c, need, err)
			}
			wantClean(t, s)
		}
	}
}

// A plain blob whose index says where its files are is read in place; what is damaged then shows
// in the file.
func TestDamagedFileInBlob(t *testing.T) {
	for _, size := range []int64{0, 600} { // changed, cut off
		s := newStore(t)
		id := asPlain(t, s, treeEntries)
		info, err := s.Layer(context.Background(), id)
		must(t, err)
		tree, err := s.Tree(context.Background(), layer.Snapshot{id}, NeedContent)
		must(t, err)
		if size == 0 {
			damaged(t, s, info.DiffID)
		} else {
			must(t, os.Truncate(s.blobPath(info.DiffID), size))
		}
		_, err = layer.ReadFile(tree, "dir/b")
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("reading a damaged file gave %v", err)
		}
		if s.HasBlob(info.DiffID) {
			t.Error("the damaged blob is there still")
		}
		if err := s.Check(context.Background(), layer.Snapshot{id}); !errors.Is(err, ErrNotFound) {
			t.Errorf("the layer without its blob is %v, want a miss", err)
		}
		if len(unpackedLayers(t, s)) > 0 {
			t.Error("the layer was unpacked")
		}
	}
}
