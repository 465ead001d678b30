package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// claim puts a blob into the store whose content is plain, and has somebody say that it has a diffID.
func claim(t *testing.T, s *Store, plain []byte, c layer.Compression, diff digest.Digest) (layer.ID, ocispec.Descriptor) {
	t.Helper()
	desc, err := s.PutBlob(context.Background(), layerMediaType(c), packed(t, plain, c))
	must(t, err)
	id, err := s.BlobLayer(context.Background(), diff, desc)
	must(t, err)
	return id, desc
}

func wantBlob(t *testing.T, s *Store, what string, id layer.ID, e layer.Encoding, want digest.Digest) {
	t.Helper()
	got, _, err := s.Blob(context.Background(), id, e)
	if err != nil || got.Digest != want {
		t.Errorf("%s: the blob is %s, %v, want %s", what, got.Digest, err, want)
	}
}

// uses are all that make something of a layer's content.
var uses = map[string]func(s *Store, id layer.ID) error{
	"Dir": func(s *Store, id layer.ID) error { _, err := s.Dir(context.Background(), id); return err },
	"metadata": func(s *Store, id layer.ID) error {
		_, err := s.Tree(context.Background(), layer.Snapshot{id}, NeedMetadata)
		return err
	},
	"content": func(s *Store, id layer.ID) error {
		_, err := s.Tree(context.Background(), layer.Snapshot{id}, NeedContent)
		return err
	},
	"Size": func(s *Store, id layer.ID) error { _, err := s.Size(context.Background(), id); return err },
	"compress": func(s *Store, id layer.ID) error {
		_, _, err := s.Blob(context.Background(), id, layer.Encoding{Compression: layer.Zstd, Force: true})
		return err
	},
}

// Whoever comes first, with a blob of whatever digest: nobody gets the blob of another one for a layer.
func TestClaimIsItsMakersAlone(t *testing.T) {
	honest := tarOf(map[string]string{"a": "honest"})
	diff := digest.FromBytes(honest)
	for name, use := range uses {
		for _, first := range []bool{true, false} {
			for i := range 4 { // digests before and after the honest one's
				t.Run(fmt.Sprintf("%s first=%t %d", name, first, i), func(t *testing.T) {
					s := newStore(t)
					ctx := context.Background()
					forged := tarOf(map[string]string{"a": fmt.Sprint("forged", i)})
					var id, evil layer.ID
					var desc, evilDesc ocispec.Descriptor
					for _, f := range []bool{first, !first} {
						if f {
							evil, evilDesc = claim(t, s, forged, layer.Gzip, diff)
						} else {
							id, desc = claim(t, s, honest, layer.Gzip, diff)
						}
					}
					wantBlob(t, s, "honest", id, layer.Encoding{}, desc.Digest)
					wantBlob(t, s, "forged", evil, layer.Encoding{}, evilDesc.Digest)

					var le *LayerError
					if err := use(s, evil); !errors.Is(err, ErrFalse) || !errors.As(err, &le) || le.DiffID != diff || le.Blob != evilDesc.Digest {
						t.Errorf("the forged layer gave %v", err)
					}
					if _, err := s.Layer(ctx, evil); !errors.Is(err, ErrNotFound) {
						t.Errorf("the claim is still there: %v", err)
					}
					must(t, use(s, id))
					if info, err := s.Layer(ctx, id); err != nil || info.Claimed || info.DiffID != diff {
						t.Errorf("the layer is %+v, %v", info, err)
					}
					wantBlob(t, s, "honest", id, layer.Encoding{}, desc.Digest)
					// It is said again, and nothing of what was made of the true one is given for it.
					again, _ := claim(t, s, forged, layer.Gzip, diff)
					if again == id || again == evil {
						t.Errorf("said again, the layer is %s", again)
					}
					wantBlob(t, s, "forged again", again, layer.Encoding{Compression: layer.Zstd}, evilDesc.Digest)
					if err := use(s, again); !errors.Is(err, ErrFalse) {
						t.Errorf("the forged layer gave %v", err)
					}
					dir, err := s.Dir(ctx, id)
					must(t, err)
					if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != "honest" {
						t.Errorf("the file is %q, %v", got, err)
					}
					wantClean(t, s)
				})
			}
		}
	}
}

// Nobody gets the content of a layer that was made here by saying that it is that of a blob of theirs.
func TestClaimOfMadeLayer(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	mine := made(t, s, map[string]string{"secret": "mine"})
	desc, diff, err := s.Blob(ctx, mine, layer.Encoding{})
	must(t, err)
	evil, _ := claim(t, s, tarOf(map[string]string{"a": "x"}), layer.Gzip, diff)
	if evil == mine {
		t.Fatal("a blob of somebody else is taken for a form of it")
	}
	for name, use := range uses {
		evil, _ = claim(t, s, tarOf(map[string]string{"a": "x"}), layer.Gzip, diff)
		if err := use(s, evil); !errors.Is(err, ErrFalse) {
			t.Errorf("%s gave %v", name, err)
		}
	}
	// Without the blob there is nothing to be had at all.
	evil, err = s.BlobLayer(ctx, diff, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("none"), Size: 4})
	must(t, err)
	if _, err := s.Dir(ctx, evil); !errors.Is(err, ErrNotFound) {
		t.Errorf("Dir gave %v", err)
	}
	wantBlob(t, s, "mine", mine, layer.Encoding{}, desc.Digest)
	if dir, err := s.Dir(ctx, mine); err != nil || dir != s.layerFS(mine) {
		t.Errorf("the layer's directory is %s, %v", dir, err)
	}
}

// The type and the size that come with a blob are claims as well.
func TestDescriptorIsItsMakersAlone(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	plain := tarOf(map[string]string{"a": "1"})
	diff, data := digest.FromBytes(plain), packed(t, plain, layer.Gzip)
	right := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(data), Size: int64(len(data))}
	for _, wrong := range []ocispec.Descriptor{
		{MediaType: ocispec.MediaTypeImageLayer, Digest: right.Digest, Size: right.Size},
		{MediaType: right.MediaType, Digest: right.Digest, Size: 1 << 40},
	} {
		_, err := s.BlobLayer(ctx, diff, wrong)
		must(t, err)
	}
	id, err := s.BlobLayer(ctx, diff, right)
	must(t, err)
	defer s.SetFetch(id, func(ctx context.Context) error { return s.WriteBlob(ctx, right, bytes.NewReader(data)) })()
	got, _, found, err := s.Elsewhere(ctx, id)
	if err != nil || !found || got.MediaType != right.MediaType || got.Size != right.Size {
		t.Errorf("the blob is described as %+v, %t, %v", got, found, err)
	}
	_, err = s.Dir(ctx, id)
	must(t, err)
	got, _, err = s.Blob(ctx, id, layer.Encoding{})
	if err != nil || got.MediaType != right.MediaType || got.Size != right.Size {
		t.Errorf("the blob is described as %+v, %v", got, err)
	}
}

// Two processes look into one claim at the same time. Neither leaves anything, and what one of them found
// out does not take away what the other one has.
func TestClaimIsSettledOnce(t *testing.T) {
	s := newStore(t)
	other := open(t, s.root)
	ctx := context.Background()
	plain := tarOf(map[string]string{"a": "1"})
	id, desc := claim(t, s, plain, layer.Gzip, digest.FromBytes(plain))
	stale, err := s.Layer(ctx, id)
	must(t, err)
	_, err = other.Dir(ctx, id)
	must(t, err)
	// The blob was read with a broken eye.
	if err := s.settle(ctx, stale, ErrFalse); !errors.Is(err, ErrFalse) {
		t.Errorf("settle gave %v", err)
	}
	wantBlob(t, s, "true after all", id, layer.Encoding{}, desc.Digest)
	must(t, other.Check(ctx, layer.Snapshot{id}))

	bad, _ := claim(t, s, plain, layer.Zstd, digest.FromString("x"))
	done := make(chan error)
	for _, st := range []*Store{s, other, s, other} {
		go func() { _, err := st.Dir(ctx, bad); done <- err }()
	}
	for range 4 {
		if err := <-done; !errors.Is(err, ErrFalse) && !errors.Is(err, ErrNotFound) {
			t.Errorf("Dir gave %v", err)
		}
	}
	wantClean(t, s)
}

// A store of version 1 mixed what was said with what was made.
func TestOldClaimsAreSeparated(t *testing.T) {
	root := oldStore(t,
		"INSERT INTO layers VALUES('pulled-1','sha256:pulled',1,5,1,''), ('named-1','sha256:named',0,-1,1,''), ('made-1','sha256:made',1,5,1,''),"+
			" ('two-1','sha256:two',1,5,1,''), ('two-2','sha256:two',0,5,2,''), ('own-1','',1,5,1,'')",
		"INSERT INTO layer_blobs VALUES('sha256:pulled','sha256:p','application/vnd.docker.image.rootfs.diff.tar.gzip',1,-1),"+
			"('sha256:pulled','sha256:recompressed','application/vnd.oci.image.layer.v1.tar+zstd',2,3),"+
			"('sha256:named','sha256:n','application/vnd.oci.image.layer.v1.tar+gzip',3,-1),"+
			"('sha256:made','sha256:made','application/vnd.oci.image.layer.v1.tar',4,0),"+
			"('sha256:made','sha256:said','application/vnd.oci.image.layer.v1.tar+gzip',5,-1),"+
			"('sha256:two','sha256:one','application/vnd.oci.image.layer.v1.tar+gzip',6,-1),"+
			"('sha256:two','sha256:another','application/vnd.oci.image.layer.v1.tar+gzip',7,-1)",
		`INSERT INTO results VALUES('good','','{"outputs":[["pulled-1","made-1","own-1"]]}',1,''), ('bad','','{"outputs":[["two-1","own-1"]]}',1,'')`)
	s := open(t, root)
	ctx := context.Background()
	for id, want := range map[layer.ID]string{
		"pulled-1": "sha256:p application/vnd.oci.image.layer.v1.tar+gzip 1 false",
		"named-1":  "sha256:n application/vnd.oci.image.layer.v1.tar+gzip 3 true",
		"made-1":   "  0 false", "own-1": "  0 false",
		"two-1": "  0 false", // a container may stand on its directory
	} {
		info, err := s.Layer(ctx, id)
		if got := fmt.Sprintf("%s %s %d %t", info.Blob.Digest, info.Blob.MediaType, info.Blob.Size, info.Claimed); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %q", id, got, err, want)
		}
	}
	if _, err := s.Layer(ctx, "two-2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a layer of which nobody knows the blob: %v", err)
	}
	var blobs, results string
	must(t, s.db.QueryRow("SELECT group_concat(digest), (SELECT group_concat(key) FROM results) FROM layer_blobs").Scan(&blobs, &results))
	if blobs != "sha256:made" || results != "good" {
		t.Errorf("made here are %s, results are %s", blobs, results)
	}
}

// Any algorithm that can be verified will do; what is no digest is refused before it is anything.
func TestDigestsOfClaims(t *testing.T) {
	plain := tarOf(map[string]string{"a": "1"})
	for name, use := range uses {
		s := newStore(t)
		id, _ := claim(t, s, plain, layer.Gzip, digest.SHA512.FromBytes(plain))
		if err := use(s, id); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := s.Layer(context.Background(), id); err != nil || info.Claimed {
			t.Errorf("%s: the layer is %+v, %v", name, info, err)
		}
		bad, _ := claim(t, s, plain, layer.Gzip, digest.SHA512.FromString("x"))
		if err := use(s, bad); !errors.Is(err, ErrFalse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newStore(t)
	for _, d := range []digest.Digest{"", "x", "sha256:x", "md5:00000000000000000000000000000000"} {
		if _, err := s.BlobLayer(context.Background(), d, ocispec.Descriptor{Digest: digest.FromString("x")}); err == nil {
			t.Errorf("diffID %q was taken", d)
		}
		if _, err := s.BlobLayer(context.Background(), digest.FromString("x"), ocispec.Descriptor{Digest: d}); err == nil {
			t.Errorf("blob %q was taken", d)
		}
	}
}

// Times tell layers of one blob apart; that of each is seen by itself.
func TestClaimsAtTimes(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	plain := tarOf(map[string]string{"a": "1"})
	id, desc := claim(t, s, plain, layer.Gzip, digest.FromBytes(plain))
	at, err := s.BlobLayerOf(ctx, digest.FromBytes(plain), desc, time.Unix(7, 0))
	must(t, err)
	_, err = s.Dir(ctx, id)
	must(t, err)
	if info, err := s.Layer(ctx, at); err != nil || !info.Claimed || at == id {
		t.Errorf("the layer of another time is %+v, %v", info, err)
	}
	wantBlob(t, s, "at a time", at, layer.Encoding{}, desc.Digest)
}
